//! The combined result of a plan's charges: whether they refuse the request, with which refusal, and how it is counted.

use super::plan::Stage;
use super::{Charge, Engine, Plan};
use crate::decision::{Cause, Decision, Refusal};
use crate::limiter::Verdict;
use crate::metrics::{Counters, Fate};
use crate::mode::Mode;
use crate::policy::{OnExceed, TierIndex};
use crate::units::Span;

impl Engine {
    pub(super) fn refuses(&self, charges: &[Charge]) -> bool {
        charges.iter().any(|charge| self.declines(charge))
    }

    /// Whether this charge alone refuses the request.
    pub(super) fn declines(&self, charge: &Charge) -> bool {
        charge.stage == Stage::Denied || (charge.exceeds() && !self.observes(charge))
    }

    pub(super) fn observes(&self, charge: &Charge) -> bool {
        self.policy.limits.get(charge.limit()).is_some_and(|limit| limit.on_exceed == OnExceed::Observe)
    }

    pub(super) fn decline(&self, charges: &[Charge], tier: TierIndex) -> Decision {
        let refusal = self.refusal_by(charges, tier, |charge| self.declines(charge));
        refusal.map_or(Decision::admit(), |refusal| self.refuse(refusal))
    }

    /// The refusal by the charges for which `refuses` is true: a ban, or else the quota with the longest wait. The
    /// client is always told the longest wait of all, because waiting must suffice for every limit.
    pub(super) fn refusal_by(
        &self,
        charges: &[Charge],
        tier: TierIndex,
        refuses: impl Fn(&Charge) -> bool,
    ) -> Option<Refusal> {
        let refusals = charges.iter().filter(|charge| refuses(charge)).map(|charge| {
            if let Stage::Over { retry_after } = charge.stage {
                return Refusal { limit: Some(charge.limit()), window: None, cause: Cause::Exceeded, retry_after };
            }
            let (cause, retry_after) = match (charge.ban(), charge.outcome.map(|outcome| outcome.verdict)) {
                // A ban may end before the quota has room again: waiting must suffice for both.
                (Some(rest), Some(Verdict::Refuse { retry_after })) => {
                    (Cause::Banned, retry_after.map(|wait| wait.max(rest)))
                }
                (Some(rest), _) => (Cause::Banned, Some(rest)),
                (None, Some(Verdict::Refuse { retry_after })) => (Cause::Exceeded, retry_after),
                _ => (Cause::StoreFailed, Some(STORE_RETRY)),
            };
            Refusal { limit: Some(charge.limit()), window: self.window(charge, tier), cause, retry_after }
        });
        // `None` means never, the longest wait of all.
        let wait = |refusal: &Refusal| refusal.retry_after.map_or(u64::MAX, Span::as_nanos);
        let longest = refusals.clone().max_by_key(wait)?;
        let said = refusals.max_by_key(|refusal| (refusal.cause == Cause::Banned, wait(refusal)))?;
        Some(Refusal { retry_after: longest.retry_after, ..said })
    }

    /// Counts the request once at each limit, even if the limit has several quotas.
    pub(super) fn count(&self, plan: &Plan, counters: &mut Counters, refused: bool) {
        let is_banned = |charge: &Charge| charge.is_banned() && self.declines(charge);
        let banned = plan.charges.iter().any(is_banned);
        for charges in plan.charges.chunk_by(|one, other| one.limit == other.limit) {
            let Some(first) = charges.first() else { continue };
            let fate = if self.policy.mode == Mode::Observe && charges.iter().any(|charge| self.declines(charge)) {
                Fate::Observed
            } else if banned {
                if !charges.iter().any(is_banned) {
                    // Another limit has banned the client, so this limit's verdict does not matter.
                    continue;
                }
                Fate::Banned
            } else if charges.iter().any(|charge| self.declines(charge)) {
                Fate::Refused
            } else if charges.iter().any(Charge::exceeds) {
                Fate::Observed
            } else if refused {
                // Another limit refused the request: nothing was charged here.
                continue;
            } else if charges.iter().any(|charge| charge.wait().is_some()) {
                if self.policy.mode == Mode::Observe { Fate::Observed } else { Fate::Delayed }
            } else {
                Fate::Admitted
            };
            counters.count(first.limit(), plan.tier, fate);
        }
    }
}

/// How soon a client may retry if it was refused because the state was unavailable.
const STORE_RETRY: Span = Span::from_secs(1);
