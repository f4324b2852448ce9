//! The breakers of a policy, and which one admits a call.

use super::local::Local;
use crate::mode::Mode;
use crate::policy::{Breaker, BreakerMode, Policy};

/// One worker's breakers: one for each upstream that names a pattern, or one for each route to that upstream
/// (`per_route`).
#[derive(Debug)]
pub struct Breakers {
    breakers: Vec<Named>,
    /// For each route and each of its upstreams, the index of the breaker.
    of_routes: Vec<Vec<Option<usize>>>,
}

#[derive(Debug)]
struct Named {
    identity: String,
    local: Local,
}

impl Breakers {
    /// The breakers of this policy, all closed.
    #[must_use]
    pub fn new(policy: &Policy) -> Self {
        let mut set = Self { breakers: Vec::new(), of_routes: Vec::new() };
        let mut shared = Vec::new();
        for (place, upstream) in policy.upstreams().iter().enumerate() {
            let rules = policy.routing.breaker_settings(place).filter(|rules| !rules.per_route);
            shared.push(rules.map(|rules| set.add(upstream.name.as_str().to_owned(), rules, policy)));
        }
        for route in policy.routes() {
            let mut places = Vec::new();
            for place in route.upstreams() {
                let (rules, upstream) = (policy.routing.breaker_settings(*place), policy.upstreams().get(*place));
                places.push(match (rules, upstream) {
                    (Some(rules), Some(upstream)) if rules.per_route => {
                        // Names contain no slash, so this identity is unique.
                        Some(set.add([upstream.name.as_str(), "/", route.name.as_str()].concat(), rules, policy))
                    }
                    _ => shared.get(*place).copied().flatten(),
                });
            }
            set.of_routes.push(places);
        }
        set
    }

    fn add(&mut self, identity: String, rules: &Breaker, policy: &Policy) -> usize {
        let mut rules = rules.clone();
        if policy.mode == Mode::Observe && rules.mode != BreakerMode::Disabled {
            rules.mode = BreakerMode::Observe;
        }
        self.breakers.push(Named { identity, local: Local::new(&rules) });
        self.breakers.len().saturating_sub(1)
    }

    /// The index of the breaker for calls of this route to this upstream. `route` is an index into the policy's routes,
    /// `upstream` an index into the route's upstreams.
    #[must_use]
    pub fn place(&self, route: usize, upstream: usize) -> Option<usize> {
        *self.of_routes.get(route)?.get(upstream)?
    }

    /// The breaker at this index.
    pub fn get(&mut self, place: usize) -> Option<&mut Local> {
        self.breakers.get_mut(place).map(|named| &mut named.local)
    }

    /// The breaker at this index with its name; see [`Breakers::identity`].
    pub fn named(&mut self, place: usize) -> Option<(&str, &mut Local)> {
        self.breakers.get_mut(place).map(|named| (named.identity.as_str(), &mut named.local))
    }

    /// What this worker knows of the breaker at this index.
    #[must_use]
    pub fn local(&self, place: usize) -> Option<&Local> {
        self.breakers.get(place).map(|named| &named.local)
    }

    /// The name under which the state of the breaker at this index is published: `origin`, or `origin/assets` for a
    /// breaker of one route. It is the same in every policy that has this upstream and route.
    #[must_use]
    pub fn identity(&self, place: usize) -> Option<&str> {
        self.breakers.get(place).map(|named| named.identity.as_str())
    }

    /// The number of breakers, at most 4,096.
    #[must_use]
    pub fn len(&self) -> usize {
        self.breakers.len()
    }

    /// Whether there are no breakers.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.breakers.is_empty()
    }
}
