//! Whether a request is shed, before any limit is asked.

use super::{Engine, Plan, Precheck};
use crate::decision::{Cause, Decision, Refusal};
use crate::key;
use crate::metrics::{Counters, Total};
use crate::policy::{Limit, Policy, Priority, TierIndex};
use crate::units::Draw;

impl Engine {
    /// Sheds a request whose matching limits are found, if the pressure and the request's draw say so. Without
    /// pressure, this asks nothing of the host.
    pub(super) fn sheds(&self, plan: &mut Plan, client: &key::Client<'_, '_>) -> bool {
        if plan.pressure.is_none() {
            return false;
        }
        let limits = plan.found.iter().filter_map(|index| self.policy.limits.get(*index as usize));
        let priority = priority(&self.policy, limits, || client.tier());
        let sheds = plan.pressure.sheds(priority, plan.draw);
        if sheds {
            plan.precheck = Precheck::Shed(priority);
        }
        sheds
    }

    /// The refusal of a request that was shed.
    pub(super) fn shed(&self, priority: Priority, draw: Draw, counters: &mut Counters) -> Decision {
        counters.add(Total::shed(priority), 1);
        let retry_after = self.policy.shedding.map(|rules| rules.retry_after(draw));
        self.refuse(Refusal { limit: None, window: None, cause: Cause::Shed, retry_after })
    }
}

/// The priority of a request: the most important of those that the policy gives to the matching limits and to the
/// client's tier.
pub(crate) fn priority<'p>(
    policy: &Policy,
    limits: impl Iterator<Item = &'p Limit>,
    tier: impl FnOnce() -> TierIndex,
) -> Priority {
    let of_tier = || policy.priorities.get(tier().get()).copied().flatten();
    let of_tier = if policy.priorities.iter().any(Option::is_some) { of_tier() } else { None };
    // Priorities are ordered from the most to the least important, so the minimum is the most important.
    limits.filter_map(|limit| limit.priority).chain(of_tier).min().unwrap_or_default()
}
