//! How one decision charges its quotas: all or none, whatever the store does meanwhile.

use super::plan::Counted;
use super::refusing::BanStatus;
use super::{Charge, Engine, Stage};
use crate::key::KeyHash;
use crate::lease::{Account, Lease, Leases};
use crate::limiter::{Meter, Outcome, State, Verdict};
use crate::metrics::{Counters, Total};
use crate::policy::{OnStoreFailure, TierIndex};
use crate::store::memory::MemoryStore;
use crate::store::{MAX_ROUNDS, Store, StoreError};
use crate::table::{Page, page_of};
use crate::units::{Permits, Timestamp};

/// Everything that one decision needs to check and charge its quotas.
pub(super) struct Charging<'a, S> {
    pub(super) engine: &'a Engine,
    pub(super) tier: TierIndex,
    pub(super) store: &'a mut S,
    pub(super) local: &'a mut MemoryStore,
    pub(super) leases: &'a mut Leases,
    pub(super) counters: &'a mut Counters,
    pub(super) now: Timestamp,
    /// See [`Plan::resume`](super::Plan::resume).
    pub(super) since: Option<Timestamp>,
}

impl<S: Store> Charging<'_, S> {
    /// Begins a round: later reads see what other workers have published.
    pub(super) fn begin(&mut self) {
        self.store.begin();
    }

    /// Counts a round that has to be repeated.
    pub(super) fn conflict(&mut self) {
        self.counters.add(Total::Conflicts, 1);
    }

    /// Checks every quota that is still open.
    pub(super) fn check(&mut self, charges: &mut [Charge]) {
        let mut banned = false;
        for charge in charges.iter_mut().filter(|charge| charge.stage == Stage::Open) {
            if banned && charge.counted != Counted::Here {
                // The ban refuses the request, so no authority or service needs to be asked. The quotas counted here
                // are still checked, because the client is told when all limits have room again.
                continue;
            }
            match self.store.read(charge.page) {
                Ok(page) => {
                    self.engine.ask(charge, page, self.leases.held(charge.key), self.tier, self.now);
                    self.look_up(charge);
                    self.look_up_held(charge);
                    charge.ahead = self.worth_drawing(charge);
                }
                Err(_) => self.fall_back(charge),
            }
            banned |= charge.is_banned() && !self.engine.observes(charge);
        }
        one_takes_over(charges);
        mark_exceeded_siblings(charges);
    }

    /// Charges every open quota, page by page, and returns whether none is left open. All charges on a page that
    /// another worker has published first stay open.
    pub(super) fn charge(&mut self, charges: &mut [Charge]) -> bool {
        let alone = charges.len() == 1;
        let writes = |charge: &&Charge| charge.stage == Stage::Open && charge.pays() && charge.counted != Counted::Held;
        for charge in charges.iter().filter(writes) {
            // An earlier charge on the same page may have taken the slot that the probe found.
            let again = if alone { charge.probe } else { None };
            let (Some(outcome), Ok(page)) = (charge.outcome, self.store.write(charge.page)) else { continue };
            let probe = again.unwrap_or_else(|| page.probe(charge.key, self.now));
            page.write(&probe, charge.key, self.engine.with_lease(charge, &outcome, self.tier, self.now));
            self.counters.displaced(probe.displaces());
        }
        let mut settled = true;
        for charge in charges.iter_mut().filter(|charge| charge.stage == Stage::Open) {
            if !charge.pays() {
                charge.stage = Stage::Settled;
                continue;
            }
            if charge.counted == Counted::Held {
                // `settle` takes the permits once every limit has agreed. Nobody else can take them before, because
                // only this worker knows of them.
                charge.stage = Stage::Known;
                continue;
            }
            match self.store.publish(charge.page) {
                Ok(()) => {
                    charge.stage = Stage::Charged;
                    self.leases.settle(charge.key);
                }
                Err(StoreError::Conflict) => settled = false,
                Err(_) => self.fall_back(charge),
            }
        }
        settled
    }

    /// Ends the decision: makes the charges that are counted in local memory, or takes back those already made. Returns
    /// whether the limits refuse the request, or whether it has to wait for an authority or a service.
    pub(super) fn settle(&mut self, charges: &mut [Charge]) -> bool {
        if charges.iter().all(Charge::is_charged_here) {
            // Nearly every request: there is nothing to take back, and nobody else to tell.
            charges.iter().for_each(|charge| self.learn(charge, false));
            return false;
        }
        self.settle_mixed(charges)
    }

    /// The same when the charges are not all made, or not all by this instance alone.
    #[inline(never)]
    fn settle_mixed(&mut self, charges: &mut [Charge]) -> bool {
        let awaits = self.awaits(charges);
        if !awaits && !self.engine.refuses(charges) {
            for charge in charges.iter_mut().filter(|charge| charge.stage == Stage::Open) {
                self.fall_back(charge);
            }
        }
        mark_exceeded_siblings(charges);
        // A request that waits is charged nothing meanwhile, like a refused one.
        let refused = awaits || self.engine.refuses(charges);
        if refused {
            charges.iter_mut().for_each(Charge::decline_turn);
        }
        for charge in charges.iter().filter(|charge| charge.outcome.is_some()) {
            // Only if the quota itself refuses. If a ban refuses what the quota would admit, the outcome's state
            // includes the charge.
            let moved = charge
                .outcome
                .is_some_and(|outcome| outcome.moved && matches!(outcome.verdict, Verdict::Refuse { .. }));
            match charge.stage {
                Stage::Local if moved || (charge.pays() && !refused) => self.charge_locally(charge),
                Stage::Open if moved => self.move_with_clock(charge),
                _ => {}
            }
        }
        for charge in charges.iter() {
            if charge.stage == Stage::Charged && (refused || charge.sibling_exceeded) {
                let permits = charge.cost.plus(charge.ahead);
                if let (Some(meter), Some(outcome)) = (self.engine.meter(charge, self.tier), charge.outcome) {
                    let of = (charge.key, permits);
                    take_back(self.store, self.counters, &meter, of, outcome.state, (self.now, self.now));
                }
            } else {
                self.learn(charge, refused);
            }
        }
        self.settle_shared(charges, awaits, refused);
        if !awaits {
            self.note_refusals(charges);
        }
        refused
    }

    /// Applies the policy's `on_store_failure` to a charge whose store failed.
    pub(super) fn fall_back(&mut self, charge: &mut Charge) {
        self.counters.add(Total::StoreFailures, 1);
        (charge.outcome, charge.ban_status, charge.ahead) = (None, BanStatus::NotBanned, Permits::ZERO);
        let limit = self.engine.policy.limits.get(charge.limit());
        if charge.counted == Counted::Held && limit.is_some_and(|it| it.on_store_failure == OnStoreFailure::Local) {
            self.hold_alone(charge);
            return;
        }
        charge.stage = match limit.map(|limit| limit.on_store_failure) {
            Some(OnStoreFailure::Deny) => Stage::Denied,
            Some(OnStoreFailure::Allow) | None => Stage::Waived,
            Some(OnStoreFailure::Local) => {
                charge.page = page_of(charge.key, self.local.pages());
                self.take_share(charge);
                if let Ok(page) = self.local.read(charge.page) {
                    self.engine.ask(charge, page, None, self.tier, self.now);
                }
                Stage::Local
            }
        };
    }

    fn charge_locally(&mut self, charge: &Charge) {
        if let (Some(outcome), Ok(page)) = (charge.outcome, self.local.write(charge.page)) {
            let probe = page.probe(charge.key, self.now);
            page.write(&probe, charge.key, outcome.state);
            self.counters.displaced(probe.displaces());
        }
        self.owe(charge);
    }

    /// Writes a refused client's state after a backward step of the clock has moved it. If another worker publishes
    /// first, the older state stays: it refuses too, and the client's next request moves it.
    fn move_with_clock(&mut self, charge: &Charge) {
        if let (Some(outcome), Ok(page)) = (charge.outcome, self.store.write(charge.page)) {
            let probe = page.probe(charge.key, self.now);
            page.write(&probe, charge.key, outcome.state);
            if self.store.publish(charge.page).is_ok() {
                self.leases.settle(charge.key);
            }
        }
    }
}

/// Takes back `permits` of a key whose charge led to the state `charged`, and retries when another worker publishes the
/// page first, up to [`MAX_ROUNDS`] times. A refund that fails is lost, and counted. The times are when the permits
/// were charged, and now.
pub(super) fn take_back<S: Store>(
    store: &mut S,
    counters: &mut Counters,
    meter: &Meter,
    (key, permits): (KeyHash, Permits),
    charged: State,
    (charged_at, now): (Timestamp, Timestamp),
) {
    let number = page_of(key, store.pages());
    for _ in 0..MAX_ROUNDS {
        store.begin();
        let Ok(page) = store.write(number) else { break };
        let probe = page.probe(key, now);
        // Without an entry, the charge is already forgotten.
        let Some(state) = probe.state() else { return };
        // Other requests were promised later permits since.
        let Some(state) = meter.give_back(state, permits, charged, charged_at, now) else { break };
        page.write(&probe, key, state);
        match store.publish(number) {
            Ok(()) => return,
            Err(StoreError::Conflict) => counters.add(Total::Conflicts, 1),
            Err(_) => break,
        }
    }
    counters.add(Total::RefundsLost, 1);
}

impl Engine {
    /// Checks the charge's quota, and whether the client is banned. Permits left in a lease that did not serve the
    /// request count as not charged: the state that this check returns no longer includes them.
    fn ask(&self, charge: &mut Charge, page: &Page, lease: Option<(Account, Lease)>, tier: TierIndex, now: Timestamp) {
        let probe = page.probe(charge.key, now);
        charge.before = probe.state().map(|state| self.without_lease(state, lease));
        charge.adaptive = self.adaptive_limit(charge, page, tier, now);
        charge.outcome = self.meter(charge, tier).map(|meter| {
            let outcome = meter.check(charge.before, charge.cost, now);
            self.with_room(charge, &meter, outcome, now)
        });
        charge.probe = Some(probe);
        let refusals = self.limits.get(charge.limit()).map(|limit| &limit.refusals);
        charge.ban_status = refusals.map_or(BanStatus::NotBanned, |refusals| refusals.ban_status(charge, page, now));
    }

    /// The state to publish: with the charge, and with the permits drawn for a lease.
    fn with_lease(&self, charge: &Charge, outcome: &Outcome, tier: TierIndex, now: Timestamp) -> State {
        let drawn = charge.ahead > Permits::ZERO;
        let meter = if drawn { self.meter(charge, tier) } else { None };
        meter.map_or(outcome.state, |meter| meter.charge(Some(outcome.state), charge.ahead, now))
    }
}

/// Marks the charges to skip because another quota of their limit is exceeded. If that refuses the request, nothing is
/// charged anyway; a limit that only observes counts in the same way.
fn mark_exceeded_siblings(charges: &mut [Charge]) {
    if charges.len() == 1 {
        return;
    }
    for charges in charges.chunk_by_mut(|one, other| one.limit == other.limit) {
        let exceeded = charges.iter().any(Charge::exceeds);
        for charge in charges {
            charge.sibling_exceeded = exceeded && !charge.exceeds();
        }
    }
}

/// A request takes over at most one turn, so that only one other request has to leave. If two quotas have no turn for
/// it, it is refused.
fn one_takes_over(charges: &mut [Charge]) {
    let taking = |charge: &&mut Charge| charge.wait_offer.taken_over;
    for charge in charges.iter_mut().filter(taking).skip(1) {
        charge.decline_turn();
    }
}
