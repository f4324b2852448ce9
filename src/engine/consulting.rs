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
    /// What a worker has to know of the rate-limit service; `None` where the policy has none ask it. `seed` is to be random;
    /// the deadline is the host's, where the policy says none.
    #[must_use]
    pub fn service(&self, seed: u64, deadline: Span) -> Option<Service> {
        self.policy.limits_by_service().next()?;
        let service = self.policy.stores().rls()?;
        Some(Service::new(seed, service.deadline().unwrap_or(deadline)))
    }

    /// What the service is to be asked of the request of a decided plan: see [`crate::store::rls`].
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
    /// Takes over what the service has said of the limits that it counts, or notes that it is to be asked. It is not asked
    /// about what is free.
    pub(super) fn consult(&mut self, charges: &mut [Charge], heard: &ServiceOutcome) {
        if charges.iter().any(|charge| charge.counted == Counted::Elsewhere) {
            self.consult_each(charges, heard);
        }
    }

    #[cold]
    #[inline(never)]
    fn consult_each(&mut self, charges: &mut [Charge], heard: &ServiceOutcome) {
        let mut descriptor = 0_usize;
        for charges in charges.chunk_by_mut(|one, other| one.limit == other.limit) {
            if !charges.first().is_some_and(|charge| charge.counted == Counted::Elsewhere) {
                continue;
            }
            if charges.first().is_some_and(|charge| charge.cost == Permits::ZERO) {
                charges.iter_mut().for_each(|charge| charge.stage = Stage::Settled);
                continue;
            }
            for charge in charges {
                charge.stage = match heard {
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

    /// The service has failed: this instance counts its own quota, among all its workers, or the policy says what else.
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
