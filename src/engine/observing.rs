//! Charges that depend on the response: limits that count only certain responses, or whose cost the response
//! determines, are charged when it arrives.

use super::holding::HeldPermits;
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

/// What an admitted request leaves open: the charges that depend on its response, until that arrives or is known not to
/// come, and the permits that it holds until it ends.
#[derive(Debug)]
pub struct Ticket {
    pub(super) tier: TierIndex,
    charges: Vec<Open>,
    pub(super) held: Vec<HeldPermits>,
    pub(super) admitted_at: Timestamp,
    /// The upstream's response, once it has arrived; `None` if it says nothing about the upstream's capacity.
    pub(super) reply: Option<Reply>,
    timed: bool,
}

/// How the upstream responded to a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Reply {
    pub(super) latency: Span,
    pub(super) failed: bool,
}

impl Reply {
    /// How the upstream responded to the request of `ticket`; `None` if that is unknown.
    fn of(ticket: &Ticket, answer: &dyn ResponseFacts, now: Timestamp) -> Option<Self> {
        let failed = is_error(answer.status()?);
        let latency = if ticket.timed { Some(now.since(ticket.admitted_at)) } else { answer.upstream_time() };
        // The latency of a failure does not matter.
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

    /// Excludes the time from here to the response from latencies: the request's body is still to come, and clients may
    /// send it slowly. Only [`ResponseFacts::upstream_time`] then counts.
    pub fn leave_untimed(&mut self) {
        self.timed = false;
    }
}

/// A charge that awaits the response.
#[derive(Clone, Copy, Debug)]
struct Open {
    limit: u32,
    quota: u8,
    key: KeyHash,
    /// What the request costs, if the response does not say.
    cost: Permits,
}

impl From<&Charge> for Open {
    fn from(charge: &Charge) -> Self {
        Self { limit: charge.limit, quota: charge.quota, key: charge.key, cost: charge.cost }
    }
}

impl Plan {
    /// What an admitted request leaves open; `None` if its response changes nothing, which is the usual case.
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
            held: admitted().filter_map(HeldPermits::by).collect(),
            admitted_at: self.now,
            reply: None,
            timed: true,
        };
        (!ticket.charges.is_empty() || ticket.holds()).then_some(ticket)
    }
}

impl Engine {
    /// Charges each limit that counts this response, with the cost that it states. The charge is made even if the
    /// client is over the limit by now. It can exceed the limit by as many requests as it had under way at once; see
    /// [`Meter::charge`].
    ///
    /// Without a response, a limit of certain responses (`only_on`) charges nothing, and a limit whose cost the
    /// response would have stated charges the default: leaving early is not free.
    ///
    /// Each request is charged once. A second call, with or without a response, changes nothing.
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
            let meter = self.policy_meter(open.limit, ticket.tier, open.quota);
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
                    // Memory never fails.
                    let _ = charge(meter, open.key, cost, local, counters, now);
                }
            }
        }
    }
}

/// Whether the limit charges a request that ended with this status.
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
