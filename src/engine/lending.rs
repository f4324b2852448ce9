//! Requests in flight at shared limits: see `crate::global::flights`.
//!
//! Only this worker knows the permits that it holds from the authority, so nothing is published and no conflict is
//! possible. They are looked up when the limits are checked, and taken once all limits agree.

use super::charging::Charging;
use super::holding::Load;
use super::plan::{Counted, Stage};
use super::{Charge, Engine};
use crate::global::Missing;
use crate::lease::Leases;
use crate::limiter::concurrency::RETRY_AFTER;
use crate::limiter::{Outcome, State, Verdict};
use crate::policy::TierIndex;
use crate::store::Store;
use crate::units::{Span, Timestamp};

impl<S: Store> Charging<'_, S> {
    /// Looks up whether the permits held here leave room for the request.
    pub(super) fn look_up_held(&mut self, charge: &mut Charge) {
        let (true, Some(of), Some(global)) = (
            charge.counted == Counted::Held && charge.stage == Stage::Open,
            self.engine.shared(charge, self.tier),
            self.leases.global(),
        ) else {
            return;
        };
        match global.room(&of, charge.cost, self.since, self.now) {
            Ok(()) => charge.outcome = Some(outcome(Verdict::Admit)),
            Err(Missing::Refused { retry_after }) => charge.outcome = Some(refused(retry_after)),
            // A banned client is refused anyway: no need to ask the authority.
            Err(_) if charge.is_banned() => charge.outcome = Some(refused(Some(RETRY_AFTER))),
            Err(Missing::Unknown) => (charge.stage, charge.outcome) = (Stage::Awaiting, None),
            Err(Missing::Failed) => self.fall_back(charge),
        }
    }

    /// The authority has failed: this instance uses its own share of the permits.
    pub(super) fn hold_alone(&mut self, charge: &mut Charge) {
        let of = self.engine.shared(charge, self.tier);
        if let (Some(of), Some(global)) = (of, self.leases.global()) {
            let has_room = global.room_alone(&of, charge.cost, self.now);
            charge.outcome = Some(if has_room { outcome(Verdict::Admit) } else { refused(Some(RETRY_AFTER)) });
        }
        charge.stage = Stage::Known;
    }

    /// Records the decision on the request for its shared key.
    pub(super) fn settle_held(&mut self, charge: &mut Charge, awaits: bool, refused: bool) {
        let (Some(of), Some(global)) = (self.engine.shared(charge, self.tier), self.leases.global()) else { return };
        match charge.stage {
            Stage::Awaiting if awaits => global.ask_to_hold(&of, charge.cost, self.now),
            Stage::Known if charge.pays() && !refused => global.hold(&of, charge.cost, self.now),
            _ => {}
        }
        charge.shared_standing = global.standing_in_flight(of.key, self.now);
    }
}

/// Gives back what a charge holds for a request that does not go on. A second call does nothing.
pub(super) fn release(charge: &mut Charge, leases: &mut Leases, now: Timestamp) {
    if let (Stage::Known, true, Some(key), Some(global)) =
        (charge.stage, charge.pays(), charge.shared_key, leases.global())
    {
        global.release(key, charge.cost, charge.charged_at, now);
    }
    charge.stage = Stage::Settled;
}

impl Engine {
    /// The load of a shared limit whose key does not depend on the client: what this worker has in flight.
    pub(super) fn shared_load(
        &self,
        limit: usize,
        tier: Option<TierIndex>,
        leases: &Leases,
        now: Timestamp,
    ) -> Option<Load> {
        let (global, ready) = (leases.global_ref()?, self.limits.get(limit)?);
        let (place, name) = match tier {
            Some(tier) => (tier, Some(self.policy.tiers.get(tier.get())?.as_str())),
            None => (TierIndex::default(), None),
        };
        let keys = ready.sharing.as_ref()?.keys(self.shared_seed, ready.keys.first()?.identity(), place, 0);
        let in_flight = global.in_flight(keys.of_all(name), now);
        let permits = self.policy.limits.get(limit)?.quotas(place).first()?.permits;
        Some(Load { limit, tier, in_flight, permits, of_worker: true })
    }
}

/// No state is written for these permits.
fn outcome(verdict: Verdict) -> Outcome {
    Outcome { verdict, state: State::default(), moved: false }
}

fn refused(retry_after: Option<Span>) -> Outcome {
    outcome(Verdict::Refuse { retry_after })
}
