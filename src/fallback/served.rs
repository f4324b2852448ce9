//! What served the clients.

use crate::policy::Policy;

/// What served a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ServedBy {
    /// The upstream at this index of the route, with a response that the route does not count as a failure.
    Upstream(usize),
    /// A kept response.
    Stale,
    /// The policy's static response.
    Static,
    /// Nothing: 503 from Tidegate.
    Unavailable,
    /// The failure of an upstream, passed on unchanged.
    Failure,
}

impl ServedBy {
    /// All variants other than upstreams, in the order of their numbers.
    pub const OTHERS: [Self; 4] = [Self::Stale, Self::Static, Self::Unavailable, Self::Failure];

    /// Whether the client got neither a good response of an upstream nor a kept one.
    #[must_use]
    pub const fn is_failed(self) -> bool {
        matches!(self, Self::Static | Self::Unavailable | Self::Failure)
    }

    /// The variant's number in a route with this many upstreams, which come first.
    #[must_use]
    pub const fn number(self, upstreams: usize) -> usize {
        match self {
            Self::Upstream(place) => place,
            Self::Stale => upstreams,
            Self::Static => upstreams.saturating_add(1),
            Self::Unavailable => upstreams.saturating_add(2),
            Self::Failure => upstreams.saturating_add(3),
        }
    }
}

/// How often each route was served by what, since these numbers were last taken.
#[derive(Clone, Debug)]
pub struct Served {
    routes: Vec<OfRoute>,
}

#[derive(Clone, Debug)]
struct OfRoute {
    /// By [`ServedBy::number`].
    counts: Vec<u64>,
    /// Requests for which no kept response was found.
    misses: u64,
}

impl Served {
    /// Counts of zero.
    #[must_use]
    pub fn new(policy: &Policy) -> Self {
        let of_route = |upstreams: usize| OfRoute { counts: vec![0; numbers(upstreams)], misses: 0 };
        Self { routes: policy.routes().iter().map(|route| of_route(route.upstreams.len())).collect() }
    }

    /// Counts one request.
    pub fn count(&mut self, route: usize, by: ServedBy) {
        let Some(OfRoute { counts, .. }) = self.routes.get_mut(route) else { return };
        let number = by.number(counts.len().saturating_sub(ServedBy::OTHERS.len()));
        if let Some(count) = counts.get_mut(number) {
            *count = count.saturating_add(1);
        }
    }

    /// Counts one request without a kept response.
    pub fn miss(&mut self, route: usize) {
        if let Some(OfRoute { misses, .. }) = self.routes.get_mut(route) {
            *misses = misses.saturating_add(1);
        }
    }

    /// How often this served the route, since that number was last taken.
    #[must_use]
    pub fn get(&self, route: usize, by: ServedBy) -> u64 {
        let of_route = self.routes.get(route);
        let upstreams = of_route.map_or(0, |it| it.counts.len().saturating_sub(ServedBy::OTHERS.len()));
        of_route.and_then(|it| it.counts.get(by.number(upstreams))).copied().unwrap_or(0)
    }

    /// How often there was no kept response for a request of the route, since that number was last taken.
    #[must_use]
    pub fn misses(&self, route: usize) -> u64 {
        self.routes.get(route).map_or(0, |it| it.misses)
    }

    /// Takes the numbers of one route and resets them to zero.
    pub fn take(&mut self, route: usize) -> impl Iterator<Item = (ServedBy, u64)> + '_ {
        let counts = self.routes.get_mut(route).map_or(&mut [][..], |of_route| &mut of_route.counts);
        let upstreams = counts.len().saturating_sub(ServedBy::OTHERS.len());
        let by = (0..upstreams).map(ServedBy::Upstream).chain(ServedBy::OTHERS);
        by.zip(counts.iter_mut().map(core::mem::take))
    }

    /// Takes the number of the route's requests without a kept response.
    pub fn take_misses(&mut self, route: usize) -> u64 {
        self.routes.get_mut(route).map_or(0, |of_route| core::mem::take(&mut of_route.misses))
    }
}

/// The number of counts for this many upstreams.
const fn numbers(upstreams: usize) -> usize {
    upstreams.saturating_add(ServedBy::OTHERS.len())
}
