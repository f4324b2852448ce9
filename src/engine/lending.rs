//! Requests in flight whose permits many instances share: see [`crate::global::flights`].
//!
//! What is held of the authority is known to this worker alone, so nothing is published and nobody can be in the way: it is looked
//! up when the limits are checked, and taken when all of them agree.

use super::charging::Charging;
use super::holding::Load;
use super::plan::{Counted, Stage};
use super::{Charge, Engine};
use crate::global::Missing;
use crate::key;
use crate::lease::Leases;
use crate::limiter::concurrency::RETRY_AFTER;
use crate::limiter::{Outcome, State, Verdict};
use crate::policy::TierIndex;
use crate::store::Store;
use crate::units::{Span, Timestamp};

impl<S: Store> Charging<'_, S> {
    /// Looks up whether a request may be in flight by what is held here.
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
            // Who is banned need not ask.
            Err(_) if charge.is_banned() => charge.outcome = Some(refused(Some(RETRY_AFTER))),
            Err(Missing::Unknown) => (charge.stage, charge.outcome) = (Stage::Awaiting, None),
            Err(Missing::Failed) => self.fall_back(charge),
        }
    }

    /// The authority has failed: this instance lends its own share of the permits.
    pub(super) fn hold_alone(&mut self, charge: &mut Charge) {
        let of = self.engine.shared(charge, self.tier);
        if let (Some(of), Some(global)) = (of, self.leases.global()) {
            let has_room = global.room_alone(&of, charge.cost, self.now);
            charge.outcome = Some(if has_room { outcome(Verdict::Admit) } else { refused(Some(RETRY_AFTER)) });
        }
        charge.stage = Stage::Known;
    }

    /// Tells what is known of a shared key what became of the request.
    pub(super) fn settle_held(&mut self, charge: &mut Charge, awaits: bool, refused: bool) {
        let (Some(of), Some(global)) = (self.engine.shared(charge, self.tier), self.leases.global()) else { return };
        match charge.stage {
            Stage::Awaiting if awaits => global.ask_to_hold(&of, charge.cost, self.now),
            Stage::Known if charge.pays() && !refused => global.hold(&of, charge.cost, self.now),
            _ => {}
        }
        charge.told = global.standing_in_flight(of.key, self.now);
    }
}

/// Gives back what a charge has held, and is not to hold after all. What was given back once is not again.
pub(super) fn release(charge: &mut Charge, leases: &mut Leases, now: Timestamp) {
    if let (Stage::Known, true, Some(key), Some(global)) =
        (charge.stage, charge.pays(), charge.shared_key, leases.global())
    {
        global.release(key, charge.cost, charge.charged_at, now);
    }
    charge.stage = Stage::Settled;
}

impl Engine {
    /// The load of a shared limit whose key has no part of a client: what this worker has in flight of it.
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
        let identity = ready.sharing.as_ref()?.identity(*ready.identities.first()?, place, 0);
        let in_flight = global.in_flight(key::of_all(self.shared_seed, identity, name), now);
        let permits = self.policy.limits.get(limit)?.quotas(place).first()?.permits;
        Some(Load { limit, tier, in_flight, permits, of_worker: true })
    }
}

/// Nothing is written for it.
fn outcome(verdict: Verdict) -> Outcome {
    Outcome { verdict, state: State::default(), moved: false }
}

fn refused(retry_after: Option<Span>) -> Outcome {
    outcome(Verdict::Refuse { retry_after })
}
