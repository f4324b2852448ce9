//! What a request's outcome changes: limits that count only certain answers, or whose cost the answer says, are charged
//! when it comes.

use super::holding::Held;
use super::{Charge, Engine, Plan};
use crate::key::KeyHash;
use crate::limiter::Meter;
use crate::metrics::{Counters, Total};
use crate::policy::{Cost, Limit, OnStoreFailure, TierIndex};
use crate::request::{ResponseFacts, is_error};
use crate::store::memory::MemoryStore;
use crate::store::{MAX_ROUNDS, Store, StoreError};
use crate::table::page_of;
use crate::units::{Permits, Span, Timestamp};

/// What is still open about an admitted request: what its answer charges, until it comes or it is known that none will,
/// and what the request holds until it has ended.
#[derive(Debug)]
pub struct Ticket {
    pub(super) tier: TierIndex,
    charges: Vec<Open>,
    pub(super) held: Vec<Held>,
    pub(super) admitted_at: Timestamp,
    /// How the upstream took it, once its answer has come; `None` when that says nothing about it.
    pub(super) reply: Option<Reply>,
    timed: bool,
}

/// How the upstream took a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Reply {
    pub(super) latency: Span,
    pub(super) failed: bool,
}

impl Reply {
    /// How the upstream took the request of `ticket`; `None` when it cannot be told.
    fn of(ticket: &Ticket, answer: &dyn ResponseFacts, now: Timestamp) -> Option<Self> {
        let failed = is_error(answer.status()?);
        let latency = if ticket.timed { Some(now.since(ticket.admitted_at)) } else { answer.upstream_time() };
        // Of a failure the latency does not matter.
        let latency = latency.or(failed.then_some(Span::ZERO))?;
        Some(Self { latency, failed })
    }
}

impl Ticket {
    /// Whether the request holds permits, to be given back by [`Engine::release`] when it has ended.
    #[must_use]
    pub fn holds(&self) -> bool {
        !self.held.is_empty()
    }

    /// Says that the time from here to the answer is not the upstream's alone: the request's body is still to come, and a
    /// client sends it as slowly as it likes. Then only [`ResponseFacts::upstream_time`] counts.
    pub fn leave_untimed(&mut self) {
        self.timed = false;
    }
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
        let leaves_open = self.charges.iter().any(|charge| charge.awaits_answer || charge.holds);
        if leaves_open { self.open_ticket() } else { None }
    }

    #[inline(never)]
    fn open_ticket(&self) -> Option<Ticket> {
        let admitted = || self.charges.iter().filter(|charge| !self.refused || charge.beyond);
        let awaits = |charge: &&Charge| charge.awaits_answer && !charge.is_banned();
        let ticket = Ticket {
            tier: self.tier,
            charges: admitted().filter(awaits).map(Open::from).collect(),
            held: admitted().filter_map(Held::by).collect(),
            admitted_at: self.now,
            reply: None,
            timed: true,
        };
        (!ticket.charges.is_empty() || ticket.holds()).then_some(ticket)
    }
}

impl Engine {
    /// Charges each limit that counts such an answer, by what it costs. What has happened is charged though the client is
    /// over the limit by now, as it may be by as many requests as it had under way at once; see [`Meter::charge`].
    ///
    /// Without an answer nothing is charged to a limit of certain answers (`only_on`), and the default to one whose cost
    /// the answer would have said: going away early is not free.
    ///
    /// What is charged is charged once: of a second answer, or of its absence after it came, nothing is made.
    pub fn observe<S: Store>(
        &self,
        ticket: &mut Ticket,
        answer: &dyn ResponseFacts,
        store: &mut S,
        local: &mut MemoryStore,
        counters: &mut Counters,
        now: Timestamp,
    ) {
        let status = answer.status();
        if ticket.reply.is_none() && ticket.held.iter().any(|held| held.learns()) {
            ticket.reply = Reply::of(ticket, answer, now);
        }
        for open in ticket.charges.drain(..) {
            let Some(limit) = self.policy.limits.get(open.limit as usize) else { continue };
            let meter = self.said_meter(open.limit, ticket.tier, open.quota);
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
