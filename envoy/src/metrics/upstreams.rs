//! What clients were served by, and how breakers stand.

use super::add;
use crate::host::{self, MetricId, MetricKind};
use tidegate::breaker::State;
use tidegate::fallback::{By, Upstreams};
use tidegate::policy::Policy;
use tidegate::units::Timestamp;

/// The metrics of one policy's upstreams, defined as they are first needed.
#[derive(Default)]
pub struct UpstreamMetrics {
    /// By place: what each route was served by, then what each breaker has to tell.
    ids: Vec<Option<MetricId>>,
}

impl UpstreamMetrics {
    /// Adds what was counted since the last time, and says how breakers stand that are in use.
    pub fn export(&mut self, policy: &Policy, upstreams: &mut Upstreams, now: Timestamp) {
        let mut place = 0_usize;
        for (index, route) in policy.routes().iter().enumerate() {
            for (by, count) in upstreams.served().take(index) {
                if count > 0 {
                    self.add(place, count, || {
                        let upstream = |at: usize| policy.upstreams().get(*route.upstreams().get(at)?);
                        let by = match by {
                            By::Upstream(at) => upstream(at).map_or("", |upstream| upstream.name().as_str()),
                            By::Stale => "stale",
                            By::Static => "static",
                            By::Unavailable => "unavailable",
                            By::Failure => "failure",
                        };
                        format!("tidegate_served_total.route={}.by={by}", route.name().as_str())
                    });
                }
                place = place.saturating_add(1);
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
                for (offset, (name, value)) in
                    (place..).zip([("tidegate_breaker_state", state), ("tidegate_breaker_since_seconds", since)])
                {
                    if let Some(id) = self.id(offset, MetricKind::Gauge, || named(name, identity)) {
                        let _ = host::record(id, value);
                    }
                }
                for (offset, (name, count)) in (place.saturating_add(GAUGES)..).zip([
                    ("tidegate_breaker_calls_total", counted.calls),
                    ("tidegate_breaker_failures_total", counted.failures),
                    ("tidegate_breaker_slow_total", counted.slow),
                    ("tidegate_breaker_rejected_total", counted.rejected),
                    ("tidegate_breaker_observed_total", counted.observed),
                    ("tidegate_breaker_probes_total", counted.probes),
                    ("tidegate_breaker_opened_total", counted.opened),
                ]) {
                    self.add(offset, count, || named(name, identity));
                }
            }
            place = place.saturating_add(OF_BREAKER);
        }
    }

    fn add(&mut self, place: usize, count: u64, name: impl FnOnce() -> String) {
        add(self.id(place, MetricKind::Counter, name), count);
    }

    fn id(&mut self, place: usize, kind: MetricKind, name: impl FnOnce() -> String) -> Option<MetricId> {
        super::id(&mut self.ids, place, kind, name)
    }
}

fn named(metric: &str, identity: &str) -> String {
    [metric, ".breaker=", identity].concat()
}

const GAUGES: usize = 2;

/// How many metrics a breaker has.
const OF_BREAKER: usize = GAUGES + 7;

const NANOS_PER_SEC: u64 = 1_000_000_000;
