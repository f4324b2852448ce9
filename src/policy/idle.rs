//! What of a policy can never act though each part of it is right: told to whoever checks it, and no error. In an emergency a
//! policy is not to be refused for it.

use core::net::IpAddr;

use super::{Name, Policy};

/// A part of a policy that can never act.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Idle<'p> {
    /// A route for requests all of which take an earlier one.
    Route {
        /// That route.
        route: &'p Name,
        /// The one that they take.
        taken: &'p Name,
    },
    /// Addresses on the list `allow`, all of which are on `deny`: the first and the last.
    Addresses(IpAddr, IpAddr),
    /// Values of this header on the list `allow` that are on `deny`. Which ones is not told: such a value is a secret.
    Header(&'p str),
    /// API keys on the list `allow` that are on `deny`.
    ApiKeys,
}

impl Policy {
    /// What can never act, as far as that is certain.
    pub fn idle(&self) -> impl Iterator<Item = Idle<'_>> {
        let routes = self.routes().iter().enumerate().filter_map(|(at, route)| {
            let mut earlier = self.routes().iter().take(at);
            let taken = earlier.find(|earlier| earlier.matches.covers(&route.matches))?;
            Some(Idle::Route { route: &route.name, taken: &taken.name })
        });
        let addresses = self.allow.addresses.within(&self.deny.addresses);
        let headers = self.allow.headers_in(&self.deny).map(Idle::Header);
        let keys = self.allow.api_keys.meet(&self.deny.api_keys).then_some(Idle::ApiKeys);
        routes.chain(addresses.map(|(first, last)| Idle::Addresses(first, last))).chain(headers).chain(keys)
    }
}
