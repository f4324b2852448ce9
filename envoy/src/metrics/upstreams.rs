//! Metrics of upstreams: what clients were served by, and the states of breakers.

use super::add;
use crate::host::{self, MetricId, MetricKind};
use core::cell::RefCell;
use tidegate::breaker::{State, Statistics};
use tidegate::fallback::{ServedBy, Upstreams};
use tidegate::policy::{Policy, Route};
use tidegate::status::Counted;
use tidegate::units::Timestamp;

/// The metrics of one policy's upstreams, defined when first needed.
#[derive(Default)]
pub struct UpstreamMetrics {
    /// Metric ids by place: for each route what it was served by, the failures, and the requests for which nothing was
    /// kept; then the metrics of each breaker.
    ids: RefCell<Vec<Option<MetricId>>>,
    /// The first place of each route, then that of the breakers.
    first: Vec<usize>,
}

/// Reads the metrics back: Envoy has the sums over all workers.
pub struct Totals<'a> {
    pub metrics: &'a UpstreamMetrics,
    pub policy: &'a Policy,
    pub upstreams: &'a Upstreams,
}

impl UpstreamMetrics {
    /// The metrics of this policy. None is defined yet.
    pub fn new(policy: &Policy) -> Self {
        let mut next = 0_usize;
        let mut first = Vec::with_capacity(policy.routes().len().saturating_add(1));
        for route in policy.routes() {
            first.push(next);
            next = next.saturating_add(served_by_count(route)).saturating_add(2);
        }
        first.push(next);
        Self { ids: RefCell::default(), first }
    }

    /// Adds the counts since the last export, and sets the gauges of the breakers in use.
    pub fn export(&self, policy: &Policy, upstreams: &mut Upstreams, now: Timestamp) {
        for (index, route) in policy.routes().iter().enumerate() {
            let mut failed = 0_u64;
            for (by, count) in upstreams.served().take(index).filter(|(_, count)| *count > 0) {
                failed = failed.saturating_add(if by.is_failed() { count } else { 0 });
                add(self.served(policy, index, by), count);
            }
            // Defined only when first counted, because there may be thousands of routes.
            let misses = upstreams.served().take_misses(index);
            if failed > 0 {
                add(self.of_route(index, route, 0, "tidegate_failed_total"), failed);
            }
            if misses > 0 {
                add(self.misses(policy, index), misses);
            }
        }
        for at in 0..upstreams.breakers().len() {
            if upstreams.is_used(at, now)
                && let Some((identity, breaker)) = upstreams.breakers().named(at)
            {
                let state = match breaker.state(now) {
                    State::Closed => 0,
                    State::Ramping => 1,
                    State::HalfOpen => 2,
                    State::Open => 3,
                };
                let since = breaker.shared().since().map_or(0, |since| since.as_nanos() / NANOS_PER_SEC);
                let counted = breaker.statistics().take();
                for (offset, (name, value)) in (0..).zip(GAUGES.into_iter().zip([state, since])) {
                    if let Some(id) = self.of_breaker(at, offset, MetricKind::Gauge, name, identity) {
                        let _ = host::record(id, value);
                    }
                }
                for (id, count) in self.counters(at, identity).zip(counted.values()) {
                    add(id, count);
                }
            }
        }
    }

    /// Zeroes the gauges of breakers that do not stay.
    pub fn clear(&self, upstreams: &Upstreams, stays: impl Fn(&str) -> bool) {
        let breakers = upstreams.breakers_known();
        let first = self.first.last().copied().unwrap_or(0);
        for at in 0..breakers.len() {
            let place = first.saturating_add(at.saturating_mul(METRICS_PER_BREAKER));
            let ids = self.ids.borrow();
            // A breaker that was never used has no gauges.
            let gauges = ids.get(place..).unwrap_or_default().iter().take(GAUGES.len()).flatten();
            if gauges.clone().next().is_some() && !breakers.identity(at).is_some_and(&stays) {
                for id in gauges {
                    let _ = host::record(*id, 0);
                }
            }
        }
    }

    fn served(&self, policy: &Policy, index: usize, by: ServedBy) -> Option<MetricId> {
        let route = policy.routes().get(index)?;
        let place = self.first.get(index)?.saturating_add(by.number(route.upstreams().len()));
        self.id(place, MetricKind::Counter, || {
            let upstream = |at: usize| policy.upstreams().get(*route.upstreams().get(at)?);
            let by = match by {
                ServedBy::Upstream(at) => upstream(at).map_or("", |upstream| upstream.name().as_str()),
                ServedBy::Stale => "stale",
                ServedBy::Static => "static",
                ServedBy::Unavailable => "unavailable",
                ServedBy::Failure => "failure",
            };
            format!("tidegate_served_total.route={}.by={by}", route.name().as_str())
        })
    }

    fn misses(&self, policy: &Policy, index: usize) -> Option<MetricId> {
        self.of_route(index, policy.routes().get(index)?, 1, "tidegate_kept_misses_total")
    }

    fn of_route(&self, index: usize, route: &Route, offset: usize, metric: &str) -> Option<MetricId> {
        let place = self.first.get(index)?.saturating_add(served_by_count(route)).saturating_add(offset);
        self.id(place, MetricKind::Counter, || [metric, ".route=", route.name().as_str()].concat())
    }

    /// The counters of a breaker, in the order of [`Statistics::NAMES`].
    fn counters(&self, at: usize, identity: &str) -> impl Iterator<Item = Option<MetricId>> {
        (GAUGES.len()..)
            .zip(COUNTERS)
            .map(move |(offset, name)| self.of_breaker(at, offset, MetricKind::Counter, name, identity))
    }

    fn of_breaker(&self, at: usize, offset: usize, kind: MetricKind, name: &str, identity: &str) -> Option<MetricId> {
        let place = self.first.last()?.saturating_add(at.saturating_mul(METRICS_PER_BREAKER)).saturating_add(offset);
        self.id(place, kind, || [name, ".breaker=", identity].concat())
    }

    fn id(&self, place: usize, kind: MetricKind, name: impl FnOnce() -> String) -> Option<MetricId> {
        super::id(&mut self.ids.borrow_mut(), place, kind, name)
    }
}

impl Counted for Totals<'_> {
    fn served(&self, route: usize, by: ServedBy) -> u64 {
        read(self.metrics.served(self.policy, route, by))
    }

    fn misses(&self, route: usize) -> u64 {
        read(self.metrics.misses(self.policy, route))
    }

    fn breaker(&self, place: usize) -> [u64; Statistics::NAMES.len()] {
        let mut counts = [0; Statistics::NAMES.len()];
        if let Some(identity) = self.upstreams.breakers_known().identity(place) {
            counts.iter_mut().zip(self.metrics.counters(place, identity)).for_each(|(count, id)| *count = read(id));
        }
        counts
    }
}

impl core::fmt::Debug for Totals<'_> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Totals").finish_non_exhaustive()
    }
}

fn read(id: Option<MetricId>) -> u64 {
    id.and_then(|id| host::metric(id).ok()).unwrap_or(0)
}

/// The number of things that a route may be served by.
fn served_by_count(route: &Route) -> usize {
    route.upstreams().len().saturating_add(ServedBy::OTHERS.len())
}

const GAUGES: [&str; 2] = ["tidegate_breaker_state", "tidegate_breaker_since_seconds"];

/// In the order of [`Statistics::NAMES`].
const COUNTERS: [&str; Statistics::NAMES.len()] = [
    "tidegate_breaker_calls_total",
    "tidegate_breaker_failures_total",
    "tidegate_breaker_slow_total",
    "tidegate_breaker_rejected_total",
    "tidegate_breaker_observed_total",
    "tidegate_breaker_probes_total",
    "tidegate_breaker_opened_total",
];

/// The number of metrics of a breaker.
const METRICS_PER_BREAKER: usize = GAUGES.len() + COUNTERS.len();

const NANOS_PER_SEC: u64 = 1_000_000_000;
