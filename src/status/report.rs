//! The status pages, as JSON.

use core::fmt;
use std::borrow::Cow;

use super::json::Json;
use super::{Fingerprint, Page, UpstreamsNow, counts, upstreams};
use crate::breaker::State;
use crate::decision::Reply;
use crate::engine::Engine;
use crate::global::{Global, StoreCounts};
use crate::health::Health;
use crate::health::monitor::Monitor;
use crate::health::orca::Load;
use crate::metrics::Counters;
use crate::policy::{Algorithm, Limit, Policy, Priority, Quota, TierIndex};
use crate::rls::Service;
use crate::units::{BasisPoints, Span, Timestamp};

/// The sources of the pages' content.
#[derive(Clone, Copy)]
pub struct Sources<'a> {
    /// The policy in force.
    pub engine: &'a Engine,
    /// The fingerprint of the policy's document.
    pub fingerprint: Fingerprint,
    /// What this worker knows of the service's health, if the policy has health rules.
    pub monitor: Option<&'a Monitor>,
    /// The upstreams, if the host chooses among several.
    pub upstreams: Option<UpstreamsNow<'a>>,
    /// What this worker knows of shared limits, if the policy has any.
    pub store: Option<&'a Global>,
    /// What this worker knows of the rate-limit service, if the policy has limits that it counts.
    pub service: Option<&'a Service>,
    /// The counters, if the host does not export them.
    pub counters: Option<&'a Counters>,
    /// The number of live keys in the table.
    pub live_keys: u64,
    /// The time.
    pub now: Timestamp,
}

impl Sources<'_> {
    /// The response to a request for a page: 200, and for [`Page::Health`] 503 while the service is critical.
    #[must_use]
    pub fn reply(&self, page: Page) -> Reply {
        let policy = self.engine.policy();
        let health = self.monitor.map(|monitor| monitor.standing().health);
        let mut body = Json::object_of(|json| match page {
            Page::Ready => {
                json.plain("ready", &true);
                json.text("policy", &self.fingerprint.to_string());
            }
            Page::Health => match health {
                Some(health) => json.text("health", health.as_str()),
                None => json.null("health"),
            },
            Page::Status => self.write_status(json, policy),
        });
        body.push('\n');
        let fails = page == Page::Health && health == Some(Health::Critical);
        let (status, grpc_status) = if fails { (503, 14) } else { (200, 0) };
        Reply {
            status,
            grpc_status,
            for_grpc: false,
            details: "tidegate_status".to_owned(),
            content_type: Cow::Borrowed("application/json"),
            body,
            retry_after_secs: None,
        }
    }

    fn write_status(&self, json: &mut Json, policy: &Policy) {
        json.text("policy", &self.fingerprint.to_string());
        json.text("mode", policy.mode.as_str());
        match self.monitor {
            None => json.null("health"),
            Some(monitor) => json.object("health", |json| self.write_health(json, monitor)),
        }
        match self.monitor.filter(|_| policy.shedding.is_some()) {
            None => json.null("shedding"),
            Some(monitor) => json.object("shedding", |json| {
                for (name, priority) in SHARES {
                    json.plain(name, &Percent(monitor.pressure().share(priority).as_basis_points()));
                }
            }),
        }
        json.object("keys", |json| {
            json.number("live", self.live_keys);
            json.number("max", policy.max_keys.into());
        });
        json.list("limits", |json| {
            policy.limits.iter().for_each(|limit| json.item(|json| write_limit(json, limit, policy)));
        });
        if let Some(store) = self.store {
            json.object("store", |json| write_store(json, store.state_and_counts(self.now), store.rules().deadline));
        }
        if let Some(service) = self.service {
            json.object("rate_limit_service", |json| {
                write_store(json, service.state_and_counts(self.now), service.deadline())
            });
        }
        upstreams::write(json, policy, self.upstreams.as_ref(), self.now);
        if let Some(counters) = self.counters {
            counts::write(json, policy, counters);
        }
    }

    fn write_health(&self, json: &mut Json, monitor: &Monitor) {
        let (standing, recent) = (monitor.standing(), monitor.recent());
        json.text("state", standing.health.as_str());
        // Before the first change, the start of the state is unknown.
        if standing.since > Timestamp::EPOCH {
            json.number("for_ms", millis(self.now.since(standing.since)));
        }
        json.text("window", &monitor.rules().window.to_string());
        json.number("calls", recent.calls().into());
        json.number("failures", recent.failures().into());
        json.plain("error_rate_percent", &Percent(recent.error_rate().get().into()));
        json.object("latency_ms", |json| {
            for (name, share) in QUANTILES {
                if let Some(span) = recent.latencies().quantile(BasisPoints::new(share)) {
                    json.number(name, millis(span));
                }
            }
        });
        json.object("load_millionths", |json| {
            for load in Load::ALL {
                if let Some(share) = recent.load(load) {
                    json.number(load.as_str(), share);
                }
            }
        });
    }
}

fn write_limit(json: &mut Json, limit: &Limit, policy: &Policy) {
    json.text("name", limit.name.as_str());
    json.text("algorithm", limit.algorithm.as_str());
    json.object("quotas", |json| {
        for (place, quotas) in limit.quotas.iter().enumerate() {
            let tier = TierIndex::new(place).and_then(|tier| policy.tiers.get(tier.get()));
            json.list(tier.map_or("default", |tier| tier.as_str()), |json| {
                quotas.iter().for_each(|quota| json.item(|json| write_quota(json, quota, limit.algorithm)));
            });
        }
    });
    if limit.by_service {
        json.text("scope", "global");
        json.text("store", "rls");
    } else if let Some(sharing) = limit.sharing {
        json.text("scope", "global");
        json.text("sharing", if sharing.exact { "exact" } else { "lease" });
    }
}

fn write_quota(json: &mut Json, quota: &Quota, algorithm: Algorithm) {
    json.number("permits", quota.permits.get().into());
    json.text("window", &quota.window.to_string());
    if algorithm == Algorithm::TokenBucket {
        json.number("burst", quota.burst.get().into());
    }
}

/// Writes the state of a shared store: whether it is asked, the state of this worker's breaker around it, and the
/// results of asking.
fn write_store(json: &mut Json, (state, counts): (State, StoreCounts), deadline: Span) {
    json.plain("answers", &(state != State::Open));
    json.text("breaker", state.as_str());
    json.number("deadline_ms", millis(deadline));
    json.number("asks", counts.asks);
    json.number("failures", counts.failures);
    json.number("decided_without", counts.decided_without);
}

pub(super) fn millis(span: Span) -> u64 {
    span.as_nanos() / 1_000_000
}

/// Hundredths of a percent, displayed as percent.
pub(super) struct Percent(pub(super) u32);

impl fmt::Display for Percent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{:02}", self.0 / 100, self.0 % 100)
    }
}

const SHARES: [(&str, Priority); 3] =
    [("low_percent", Priority::Low), ("medium_percent", Priority::Medium), ("high_percent", Priority::High)];
const QUANTILES: [(&str, u16); 3] = [("p50", 5_000), ("p95", 9_500), ("p99", 9_900)];
