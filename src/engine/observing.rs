//! What a request's outcome changes: limits that count only certain answers are charged when the answer comes.

use super::{Engine, Plan};
use crate::key::KeyHash;
use crate::limiter::Meter;
use crate::metrics::{Counters, Total};
use crate::policy::{OnStoreFailure, TierIndex};
use crate::store::memory::MemoryStore;
use crate::store::{MAX_ROUNDS, Store, StoreError};
use crate::table::page_of;
use crate::units::{Permits, Timestamp};

/// What is still open about an admitted request, kept until its answer comes. A request that never gets one (its
/// client went away) drops it, and is charged nothing.
#[derive(Debug)]
pub struct Ticket {
    tier: TierIndex,
    charges: Vec<(u32, KeyHash)>,
}

impl Plan {
    /// What an admitted request leaves open; `None`, as for nearly all, when its answer changes nothing.
    #[must_use]
    pub fn ticket(&self) -> Option<Ticket> {
        let open = || self.charges.iter().filter(|charge| charge.awaits_answer && !self.refused);
        open().next()?;
        Some(Ticket { tier: self.tier, charges: open().map(|charge| (charge.limit, charge.key)).collect() })
    }
}

impl Engine {
    /// Charges each limit that counts answers of this `status`. What has happened is charged though the client is over
    /// the limit by now, as it may be by as many requests as it had under way at once; see [`Meter::charge`].
    pub fn observe<S: Store>(
        &self,
        ticket: &Ticket,
        status: u16,
        store: &mut S,
        local: &mut MemoryStore,
        counters: &mut Counters,
        now: Timestamp,
    ) {
        for &(index, key) in &ticket.charges {
            let Some(limit) = self.policy.limits.get(index as usize) else { continue };
            let meter = self.limits.get(index as usize).and_then(|limit| limit.meters.get(ticket.tier.get()));
            let (true, Some(meter)) = (limit.only_on.iter().any(|answers| answers.contains(status)), meter) else {
                continue;
            };
            if charge(meter, key, store, counters, now).is_err() {
                counters.add(Total::StoreFailures, 1);
                if limit.on_store_failure == OnStoreFailure::Local {
                    // Memory does not fail.
                    let _ = charge(meter, key, local, counters, now);
                }
            }
        }
    }
}

fn charge<S: Store>(
    meter: &Meter,
    key: KeyHash,
    store: &mut S,
    counters: &mut Counters,
    now: Timestamp,
) -> Result<(), StoreError> {
    let number = page_of(key, store.pages());
    for _ in 0..MAX_ROUNDS {
        store.begin();
        let page = store.write(number)?;
        let probe = page.probe(key, now);
        page.write(&probe, key, meter.charge(probe.state(), Permits::ONE, now));
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
