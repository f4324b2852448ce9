//! How a client stands with the quotas of a plan, and which meter reads each of them.

use super::plan::Counted;
use super::{Charge, Engine, Plan};
use crate::decision::QuotaItem;
use crate::limiter::{Meter, Standing};
use crate::mode::Mode;
use crate::policy::TierIndex;
use crate::units::{Permits, Span};
use std::borrow::Cow;

impl Engine {
    /// How the client of a decided plan stands with one of its quotas; `None` if the state was not available.
    #[must_use]
    pub fn standing(&self, plan: &Plan, charge: &Charge) -> Option<Standing> {
        if charge.shared_standing.is_some() {
            return charge.shared_standing;
        }
        let outcome = charge.outcome?;
        // A quota with room was not charged if another one refused the request, or if it charges by the response.
        let uncharged = charge.admits() && (plan.refused || charge.sibling_exceeded || charge.awaits_answer);
        let state = if uncharged { charge.before } else { Some(outcome.state) };
        let standing = match (charge.counted, charge.adaptive) {
            // The usual case, without asking which meter it is.
            (Counted::Here, None) => {
                self.policy_meter(charge.limit, plan.tier, charge.quota)?.standing(state, plan.now)
            }
            _ => self.meter(charge, plan.tier)?.standing(state, plan.now),
        };
        Some(match charge.ban() {
            Some(rest) => Standing { remaining: Permits::ZERO, reset_after: rest },
            None => standing,
        })
    }

    /// Whether responses tell clients of any limits.
    #[must_use]
    pub fn tells_limits(&self) -> bool {
        let response = &self.policy.response;
        self.policy.mode != Mode::Observe && (response.ratelimit || response.x_ratelimit)
    }

    /// The quota as it is described to clients.
    pub(crate) fn quota_item(&self, charge: &Charge, tier: TierIndex) -> Option<&QuotaItem> {
        self.limits.get(charge.limit())?.items.get(tier.get())?.get(charge.quota())
    }

    /// The meter of a charge, as it was when the charge was checked: almost always the policy's own.
    pub(super) fn meter(&self, charge: &Charge, tier: TierIndex) -> Option<Cow<'_, Meter>> {
        if charge.counted != Counted::Here {
            return self.shared_meter(charge, tier).map(Cow::Owned);
        }
        let meter = self.policy_meter(charge.limit, tier, charge.quota)?;
        Some(match charge.adaptive {
            None => Cow::Borrowed(meter),
            Some(adaptive) => Cow::Owned(meter.with_permits(adaptive.permits)),
        })
    }

    /// The meter of a quota as the policy defines it.
    pub(super) fn policy_meter(&self, limit: u32, tier: TierIndex, quota: u8) -> Option<&Meter> {
        self.limits.get(limit as usize)?.meters.get(tier.get())?.get(usize::from(quota))
    }

    /// The window that tells clients which quota it is, if the limit has several.
    pub(crate) fn window(&self, charge: &Charge, tier: TierIndex) -> Option<Span> {
        match self.policy.limits.get(charge.limit())?.quotas(tier) {
            [_] => None,
            quotas => quotas.get(charge.quota()).map(|quota| quota.window),
        }
    }
}
