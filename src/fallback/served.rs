//! What clients were served by.

use crate::policy::Policy;

/// What a client was served by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum By {
    /// The upstream at this place of the route, with an answer that is no failure to the route.
    Upstream(usize),
    /// What was kept of an earlier answer.
    Stale,
    /// The policy's static answer.
    Static,
    /// Nothing: 503.
    Unavailable,
    /// The failure of an upstream, as it is.
    Failure,
}

/// How often each route was served by what, since these numbers were last taken.
#[derive(Clone, Debug)]
pub struct Served {
    /// For each route: each of its upstreams, then the others.
    counts: Vec<Vec<u64>>,
}

impl Served {
    /// Nothing was served yet.
    #[must_use]
    pub fn new(policy: &Policy) -> Self {
        let places = |upstreams: usize| vec![0; upstreams.saturating_add(OTHERS.len())];
        Self { counts: policy.routes().iter().map(|route| places(route.upstreams.len())).collect() }
    }

    /// Counts one request.
    pub fn count(&mut self, route: usize, by: By) {
        let Some(counts) = self.counts.get_mut(route) else { return };
        let upstreams = counts.len().saturating_sub(OTHERS.len());
        let place = match by {
            By::Upstream(place) => place,
            by => upstreams.saturating_add(OTHERS.iter().position(|other| *other == by).unwrap_or(0)),
        };
        if let Some(count) = counts.get_mut(place) {
            *count = count.saturating_add(1);
        }
    }

    /// Takes the numbers of one route; from here on they are counted anew.
    pub fn take(&mut self, route: usize) -> impl Iterator<Item = (By, u64)> + '_ {
        let counts = self.counts.get_mut(route).map_or(&mut [][..], Vec::as_mut_slice);
        let upstreams = counts.len().saturating_sub(OTHERS.len());
        let by = (0..upstreams).map(By::Upstream).chain(OTHERS);
        by.zip(counts.iter_mut().map(core::mem::take))
    }
}

const OTHERS: [By; 4] = [By::Stale, By::Static, By::Unavailable, By::Failure];
