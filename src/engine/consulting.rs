//! Charges of limits that a rate-limit service counts: see [`crate::rls`].

use super::charging::Charging;
use super::plan::{Counted, Plan, Stage};
use super::{Charge, Engine};
use crate::key::Client;
use crate::lookup::Lookup;
use crate::metrics::Total;
use crate::policy::OnStoreFailure;
use crate::request::RequestFacts;
use crate::rls::{Service, ServiceOutcome};
use crate::store::Store;
use crate::store::rls::{Descriptor, NAME_KEY, request};
use crate::units::{Permits, Span};

impl Engine {
    /// What a worker needs to ask the rate-limit service; `None` if no limit of the policy uses one. `seed` must be
    /// random. `deadline` is the host's, for a policy that sets none.
    #[must_use]
    pub fn service(&self, seed: u64, deadline: Span) -> Option<Service> {
        self.policy.limits_by_service().next()?;
        let service = self.policy.stores().rls()?;
        Some(Service::new(seed, service.deadline().unwrap_or(deadline)))
    }

    /// The message that asks the service about the request of a decided plan: see [`crate::store::rls`].
    #[must_use]
    pub fn question(&self, plan: &Plan, facts: &dyn RequestFacts) -> Vec<u8> {
        let lookup = Lookup::new(facts);
        let client = Client::new(&lookup, &self.policy);
        let mut descriptors = Vec::new();
        for charges in plan.charges.chunk_by(|one, other| one.limit == other.limit) {
            let asked = charges.first().filter(|charge| charge.stage == Stage::Consulting);
            let Some((charge, limit)) = asked.and_then(|it| Some((it, self.policy.limits.get(it.limit())?))) else {
                continue;
            };
            let mut descriptor = Descriptor::new(charge.cost);
            descriptor.push(NAME_KEY, limit.name.as_str().as_bytes());
            client.describe(&limit.key, &mut descriptor);
            descriptors.push(descriptor);
        }
        request(self.policy.stores().rls().map_or("", |service| service.domain()), &descriptors)
    }
}

impl<S: Store> Charging<'_, S> {
    /// Applies the service's answer to the limits that it counts, or marks them to be asked. The service is not asked
    /// about a request that costs nothing.
    pub(super) fn consult(&mut self, charges: &mut [Charge], service_outcome: &ServiceOutcome) {
        if charges.iter().any(|charge| charge.counted == Counted::ByService) {
            self.consult_each(charges, service_outcome);
        }
    }

    #[cold]
    #[inline(never)]
    fn consult_each(&mut self, charges: &mut [Charge], service_outcome: &ServiceOutcome) {
        let mut descriptor = 0_usize;
        for charges in charges.chunk_by_mut(|one, other| one.limit == other.limit) {
            if !charges.first().is_some_and(|charge| charge.counted == Counted::ByService) {
                continue;
            }
            if charges.first().is_some_and(|charge| charge.cost == Permits::ZERO) {
                charges.iter_mut().for_each(|charge| charge.stage = Stage::Settled);
                continue;
            }
            for charge in charges {
                charge.stage = match service_outcome {
                    ServiceOutcome::NotAsked => Stage::Consulting,
                    ServiceOutcome::Decided(verdict) => match verdict.over(descriptor) {
                        Some(retry_after) => Stage::Over { retry_after },
                        None => Stage::Settled,
                    },
                    ServiceOutcome::Failed => self.count_here(charge),
                };
            }
            descriptor = descriptor.saturating_add(1);
        }
    }

    /// The service has failed. By default this instance counts the quota itself, across all its workers; the policy's
    /// `on_store_failure` may say otherwise.
    fn count_here(&mut self, charge: &mut Charge) -> Stage {
        self.counters.add(Total::StoreFailures, 1);
        let limit = self.engine.policy.limits.get(charge.limit());
        match limit.map(|limit| limit.on_store_failure) {
            Some(OnStoreFailure::Deny) => Stage::Denied,
            Some(OnStoreFailure::Allow) | None => Stage::Waived,
            Some(OnStoreFailure::Local) => {
                charge.counted = Counted::Here;
                Stage::Open
            }
        }
    }
}
