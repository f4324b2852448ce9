//! Decisions that need no store, because a lease or a remembered refusal suffices, and how these come about: see
//! [`crate::lease`].
//!
//! A single instance decides with leases exactly as without them: when a lease does not serve a request, the state that
//! the request is checked against no longer includes what is left of the lease.

use super::charging::{Charging, take_back};
use super::plan::Counted;
use super::{Charge, Engine, Stage};
use crate::lease::{Account, Known, LEASE_LASTS, Lease, Leases};
use crate::limiter::{State, Verdict};
use crate::metrics::{Counters, Fate};
use crate::policy::{Limit, TierIndex};
use crate::store::Store;
use crate::units::{Permits, Span, Timestamp};

impl Engine {
    /// Gives back every lease that has ended, or whose key had no request for `idle`; all leases if `idle` is zero.
    /// Call it about every [`LEASE_IDLE`](crate::lease::LEASE_IDLE) while leases are out.
    pub fn end_leases<S: Store>(
        &self,
        leases: &mut Leases,
        idle: Span,
        store: &mut S,
        counters: &mut Counters,
        now: Timestamp,
    ) {
        for (account, lease) in leases.take_ended(idle, now) {
            if let Some(meter) = self.policy_meter(account.limit, account.tier, account.quota)
                && lease.left > Permits::ZERO
            {
                take_back(store, counters, meter, (account.key, lease.left), lease.state, (lease.drawn_at, now));
            }
        }
    }
}

impl Engine {
    /// A key's state without what is left of this lease.
    pub(super) fn without_lease(&self, state: State, lease: Option<(Account, Lease)>) -> State {
        let Some((account, lease)) = lease else { return state };
        let meter = self.policy_meter(account.limit, account.tier, account.quota);
        meter.map_or(state, |meter| meter.refund(state, lease.left, lease.drawn_at))
    }

    /// Whether the charge may be decided without the store. A charge that awaits the response charges nothing now, and
    /// a request without cost is never charged.
    fn is_leasable(&self, charge: &Charge) -> bool {
        let here = charge.counted == Counted::Here && !charge.awaits_answer && charge.cost > Permits::ZERO;
        here && self.limits.get(charge.limit()).is_none_or(|limit| limit.is_leasable)
    }
}

/// Whether requests to this limit may be decided without the store. Limits with a ban, a penalty or delays, and
/// concurrency limits, have to see every request.
pub(super) fn is_leasable(limit: &Limit) -> bool {
    let asks = limit.ban.is_some() || limit.penalty.is_some() || limit.delays.is_some() || limit.holds();
    !asks
}

impl<S: Store> Charging<'_, S> {
    /// Decides the charges that leases and remembered refusals suffice for. Returns whether leases alone admit the
    /// request.
    pub(super) fn decide_by_leases(&mut self, charges: &mut [Charge]) -> bool {
        let mut admitted = true;
        for charge in charges {
            if self.engine.is_leasable(charge) && self.knows(charge) {
                charge.stage = Stage::Known;
            }
            admitted &= charge.stage == Stage::Known && charge.admits();
        }
        admitted
    }

    /// Takes the permits of a request that leases admit, and counts the request once at each limit.
    pub(super) fn spend(&mut self, charges: &[Charge]) {
        let mut last = None;
        for charge in charges {
            if let Some(outcome) = charge.outcome {
                self.leases.spend(charge.key, charge.cost, outcome.state);
            }
            if last != Some(charge.limit) {
                self.counters.count(charge.limit(), self.tier, Fate::Admitted);
            }
            last = Some(charge.limit);
        }
    }

    fn knows(&mut self, charge: &mut Charge) -> bool {
        match self.leases.ask(account(charge, self.tier), charge.cost, self.now) {
            Some(Known::Refused(outcome)) => charge.outcome = Some(outcome),
            Some(Known::Lease(lease)) => {
                // A charge that may use leases always has the policy's meter.
                let meter = self.engine.policy_meter(charge.limit, self.tier, charge.quota);
                let outcome = meter.map(|meter| meter.check(Some(lease.state), charge.cost, self.now));
                let admitted = outcome.filter(|outcome| outcome.verdict == Verdict::Admit && !outcome.moved);
                if admitted.is_none() {
                    return false;
                }
                charge.outcome = admitted;
                charge.before = Some(lease.state);
            }
            None => return false,
        }
        true
    }

    /// How many permits to charge ahead, in addition to those of a request that the store has admitted.
    pub(super) fn worth_drawing(&self, charge: &Charge) -> Permits {
        let account = account(charge, self.tier);
        // Asked first, because almost no client is that busy.
        if !self.leases.is_busy(account.key) || !charge.pays() {
            return Permits::ZERO;
        }
        let (Some(outcome), Some(meter)) = (charge.outcome, self.engine.meter(charge, self.tier)) else {
            return Permits::ZERO;
        };
        if meter.charge_lasts_until(self.now).is_none() {
            return Permits::ZERO;
        }
        let remaining = meter.standing(Some(outcome.state), self.now).remaining;
        self.leases.worth_drawing(account.key, charge.cost, remaining)
    }

    /// Records what a decided charge has shown: a new lease, permits spent of one, or that there is no room.
    pub(super) fn learn(&mut self, charge: &Charge, refused: bool) {
        let Some(outcome) = charge.outcome else { return };
        match charge.stage {
            Stage::Known if charge.counted == Counted::Here && charge.pays() && !refused => {
                self.leases.spend(charge.key, charge.cost, outcome.state)
            }
            Stage::Charged if charge.ahead > Permits::ZERO => {
                let Some(end) =
                    self.engine.meter(charge, self.tier).and_then(|meter| meter.charge_lasts_until(self.now))
                else {
                    return;
                };
                let ends_at = end.min(self.now.after(LEASE_LASTS));
                let lease = Lease { left: charge.ahead, state: outcome.state, drawn_at: self.now, ends_at };
                self.leases.grant(account(charge, self.tier), lease);
            }
            Stage::Open | Stage::Settled if charge.exceeds() && !outcome.moved && self.engine.is_leasable(charge) => {
                self.leases.refuse(account(charge, self.tier), charge.cost, outcome, self.now);
            }
            _ => {}
        }
    }
}

fn account(charge: &Charge, tier: TierIndex) -> Account {
    Account { key: charge.key, limit: charge.limit, quota: charge.quota, tier }
}
