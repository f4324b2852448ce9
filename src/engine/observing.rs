//! What a request's outcome changes: limits that count only certain answers, or whose cost the answer says, are charged
//! when it comes.

use super::{Charge, Engine, Plan};
use crate::key::KeyHash;
use crate::limiter::Meter;
use crate::metrics::{Counters, Total};
use crate::policy::{Cost, Limit, OnStoreFailure, TierIndex};
use crate::request::ResponseFacts;
use crate::store::memory::MemoryStore;
use crate::store::{MAX_ROUNDS, Store, StoreError};
use crate::table::page_of;
use crate::units::{Permits, Timestamp};

/// What is still open about an admitted request, kept until its answer comes, or it is known that none will.
#[derive(Debug)]
pub struct Ticket {
    tier: TierIndex,
    charges: Vec<Open>,
}

/// A charge that awaits the answer.
#[derive(Clone, Copy, Debug)]
struct Open {
    limit: u32,
    quota: u8,
    key: KeyHash,
    /// What the request costs, if the answer does not say.
    cost: Permits,
}

impl From<&Charge> for Open {
    fn from(charge: &Charge) -> Self {
        Self { limit: charge.limit, quota: charge.quota, key: charge.key, cost: charge.cost }
    }
}

impl Plan {
    /// What an admitted request leaves open; `None`, as for nearly all, when its answer changes nothing.
    #[must_use]
    pub fn ticket(&self) -> Option<Ticket> {
        let open = || self.charges.iter().filter(|charge| charge.awaits_answer && !charge.is_banned() && !self.refused);
        open().next()?;
        Some(Ticket { tier: self.tier, charges: open().map(Open::from).collect() })
    }
}

impl Engine {
    /// Charges each limit that counts such an answer, by what it costs. What has happened is charged though the client is
    /// over the limit by now, as it may be by as many requests as it had under way at once; see [`Meter::charge`].
    ///
    /// Without an answer nothing is charged to a limit of certain answers (`only_on`), and the default to one whose cost
    /// the answer would have said: going away early is not free.
    pub fn observe<S: Store>(
        &self,
        ticket: &Ticket,
        answer: &dyn ResponseFacts,
        store: &mut S,
        local: &mut MemoryStore,
        counters: &mut Counters,
        now: Timestamp,
    ) {
        let status = answer.status();
        for open in &ticket.charges {
            let Some(limit) = self.policy.limits.get(open.limit as usize) else { continue };
            let meters = self.limits.get(open.limit as usize).and_then(|limit| limit.meters.get(ticket.tier.get()));
            let meter = meters.and_then(|meters| meters.get(usize::from(open.quota)));
            let (true, Some(meter)) = (counts(limit, status), meter) else { continue };
            let cost = match &limit.cost {
                Cost::Response(header) => header.read(answer.header(&header.name).as_deref()),
                _ => open.cost,
            };
            if cost == Permits::ZERO {
                continue;
            }
            if charge(meter, open.key, cost, store, counters, now).is_err() {
                counters.add(Total::StoreFailures, 1);
                if limit.on_store_failure == OnStoreFailure::Local {
                    // Memory does not fail.
                    let _ = charge(meter, open.key, cost, local, counters, now);
                }
            }
        }
    }
}

/// Whether the limit charges a request that came to this.
fn counts(limit: &Limit, status: Option<u16>) -> bool {
    let counted = |status| limit.only_on.iter().any(|answers| answers.contains(status));
    limit.only_on.is_empty() || status.is_some_and(counted)
}

fn charge<S: Store>(
    meter: &Meter,
    key: KeyHash,
    cost: Permits,
    store: &mut S,
    counters: &mut Counters,
    now: Timestamp,
) -> Result<(), StoreError> {
    let number = page_of(key, store.pages());
    for _ in 0..MAX_ROUNDS {
        store.begin();
        let page = store.write(number)?;
        let probe = page.probe(key, now);
        page.write(&probe, key, meter.charge(probe.state(), cost, now));
        match store.publish(number) {
            Err(StoreError::Conflict) => counters.add(Total::Conflicts, 1),
            published => {
                counters.displaced(probe.displaces());
                return published;
            }
        }
    }
    Err(StoreError::Conflict)
}
