//! Parts of a valid policy that can never take effect, because another part comes first. `tidegate check` warns about
//! them. They are not errors: in an emergency, a policy must not be refused for a useless entry.

use core::net::IpAddr;

use super::{Name, Policy};

/// A part of a policy that can never take effect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Shadowed<'p> {
    /// A route whose requests all take an earlier route.
    Route {
        /// The shadowed route.
        route: &'p Name,
        /// The earlier route.
        by: &'p Name,
    },
    /// A range of addresses on `allow` that is also on `deny`: its first and its last address.
    Addresses(IpAddr, IpAddr),
    /// A header of which a value on `allow` is also on `deny`. The value is not shown, because it may be a secret.
    Header(&'p str),
    /// An API key on `allow` that is also on `deny`.
    ApiKeys,
}

impl Policy {
    /// The parts that can certainly never take effect. Routes that only several earlier ones shadow together are not
    /// found.
    pub fn shadowed(&self) -> impl Iterator<Item = Shadowed<'_>> {
        let routes = self.routes().iter().enumerate().filter_map(|(at, route)| {
            let mut earlier = self.routes().iter().take(at);
            let by = earlier.find(|earlier| earlier.matches.covers(&route.matches))?;
            Some(Shadowed::Route { route: &route.name, by: &by.name })
        });
        let addresses = self.allow.addresses.ranges_within(&self.deny.addresses);
        let headers = self.allow.headers_shared_with(&self.deny).map(Shadowed::Header);
        let keys = self.allow.api_keys.shares_key_with(&self.deny.api_keys).then_some(Shadowed::ApiKeys);
        routes.chain(addresses.map(|(first, last)| Shadowed::Addresses(first, last))).chain(headers).chain(keys)
    }
}
