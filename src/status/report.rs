//! The pages, as JSON.

use core::fmt::{self, Write as _};
use std::borrow::Cow;

use super::{Fingerprint, Page, UpstreamsNow, counts, upstreams};
use crate::breaker::State;
use crate::decision::Reply;
use crate::engine::Engine;
use crate::global::{Global, Told};
use crate::health::Health;
use crate::health::monitor::Monitor;
use crate::health::orca::Load;
use crate::metrics::Counters;
use crate::policy::{Algorithm, Limit, Policy, Priority, TierIndex};
use crate::rls::Service;
use crate::units::{BasisPoints, Span, Timestamp};

/// Where what the pages say is taken from.
#[derive(Clone, Copy)]
pub struct Sources<'a> {
    /// The policy in force.
    pub engine: &'a Engine,
    /// That of its document.
    pub fingerprint: Fingerprint,
    /// What this worker knows of the service's health, where the policy asks for it.
    pub monitor: Option<&'a Monitor>,
    /// How the upstreams do, where the host asks several.
    pub upstreams: Option<UpstreamsNow<'a>>,
    /// What this worker knows of limits that many instances share, where the policy has some.
    pub store: Option<&'a Global>,
    /// What this worker knows of the rate-limit service, where the policy has limits that it counts.
    pub service: Option<&'a Service>,
    /// What was counted, where nobody takes the numbers away to export them.
    pub counters: Option<&'a Counters>,
    /// How many keys the table holds.
    pub live_keys: u64,
    /// The time.
    pub now: Timestamp,
}

impl Sources<'_> {
    /// The answer to a request for a page: 200, and for [`Page::Health`] 503 while the service is critical.
    #[must_use]
    pub fn reply(&self, page: Page) -> Reply {
        let policy = self.engine.policy();
        let health = self.monitor.map(|monitor| monitor.standing().health);
        let mut body = String::new();
        // Writing to a string does not fail. Names need no escapes in JSON: `[a-z0-9-]`.
        let _ = match (page, health) {
            (Page::Ready, _) => write!(body, "{{\"ready\":true,\"policy\":\"{}\"}}", self.fingerprint),
            (Page::Health, Some(health)) => write!(body, "{{\"health\":\"{}\"}}", health.as_str()),
            (Page::Health, None) => write!(body, "{{\"health\":null}}"),
            (Page::Status, _) => self.write_status(&mut body, policy),
        };
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

    fn write_status(&self, text: &mut String, policy: &Policy) -> fmt::Result {
        let (fingerprint, mode) = (self.fingerprint, policy.mode.as_str());
        write!(text, "{{\"policy\":\"{fingerprint}\",\"mode\":\"{mode}\",\"health\":")?;
        match self.monitor {
            None => text.push_str("null"),
            Some(monitor) => self.write_health(text, monitor)?,
        }
        text.push_str(",\"shedding\":");
        match self.monitor.filter(|_| policy.shedding.is_some()) {
            None => text.push_str("null"),
            Some(monitor) => {
                let [low, medium, high] = [Priority::Low, Priority::Medium, Priority::High]
                    .map(|priority| Percent(monitor.pressure().share(priority).as_basis_points()));
                write!(text, "{{\"low_percent\":{low},\"medium_percent\":{medium},\"high_percent\":{high}}}")?;
            }
        }
        write!(text, ",\"keys\":{{\"live\":{},\"max\":{}}},\"limits\":", self.live_keys, policy.max_keys)?;
        list(text, &policy.limits, |text, limit| write_limit(text, limit, policy))?;
        if let Some(store) = self.store {
            write_store(text, "store", store.tell(self.now), store.rules().deadline)?;
        }
        if let Some(service) = self.service {
            write_store(text, "rate_limit_service", service.tell(self.now), service.deadline())?;
        }
        upstreams::write(text, policy, self.upstreams.as_ref(), self.now)?;
        if let Some(counters) = self.counters {
            counts::write(text, policy, counters)?;
        }
        text.push('}');
        Ok(())
    }

    fn write_health(&self, text: &mut String, monitor: &Monitor) -> fmt::Result {
        let (standing, recent) = (monitor.standing(), monitor.recent());
        write!(text, "{{\"state\":\"{}\"", standing.health.as_str())?;
        // Before the first change there is no moment since which it is so.
        if standing.since > Timestamp::EPOCH {
            write!(text, ",\"for_ms\":{}", millis(self.now.since(standing.since)))?;
        }
        let (calls, failures) = (recent.calls(), recent.failures());
        let rate = Percent(recent.error_rate().get().into());
        write!(text, ",\"window\":\"{}\",\"calls\":{calls},\"failures\":{failures}", monitor.rules().window)?;
        write!(text, ",\"error_rate_percent\":{rate},\"latency_ms\":")?;
        let quantile = |share| recent.latencies().quantile(BasisPoints::new(share)).map(millis);
        object(text, QUANTILES.map(|(name, share)| (name, quantile(share))))?;
        text.push_str(",\"load_millionths\":");
        object(text, Load::ALL.map(|load| (load.as_str(), recent.load(load))))?;
        text.push('}');
        Ok(())
    }
}

fn write_limit(text: &mut String, limit: &Limit, policy: &Policy) -> fmt::Result {
    write!(text, "{{\"name\":\"{}\",\"algorithm\":\"{}\",", limit.name.as_str(), limit.algorithm.as_str())?;
    text.push_str("\"quotas\":{");
    for (place, quotas) in limit.quotas.iter().enumerate() {
        let tier = TierIndex::new(place).and_then(|tier| policy.tiers.get(tier.get()));
        let comma = if place == 0 { "" } else { "," };
        write!(text, "{comma}\"{}\":", tier.map_or("default", |tier| tier.as_str()))?;
        list(text, quotas, |text, quota| {
            write!(text, "{{\"permits\":{},\"window\":\"{}\"", quota.permits.get(), quota.window)?;
            if limit.algorithm == Algorithm::TokenBucket {
                write!(text, ",\"burst\":{}", quota.burst.get())?;
            }
            text.write_char('}')
        })?;
    }
    text.push('}');
    if limit.by_service {
        text.push_str(",\"scope\":\"global\",\"store\":\"rls\"");
    } else if let Some(sharing) = limit.sharing {
        let how = if sharing.exact { "exact" } else { "lease" };
        write!(text, ",\"scope\":\"global\",\"sharing\":\"{how}\"")?;
    }
    text.push('}');
    Ok(())
}

/// How a store is that others share: whether it is asked, how this worker's breaker around it stands, and what came of asking.
fn write_store(text: &mut String, name: &str, (state, told): (State, Told), deadline: Span) -> fmt::Result {
    let (answers, state, deadline_ms) = (state != State::Open, state.as_str(), millis(deadline));
    let Told { asks, failures, without } = told;
    write!(text, ",\"{name}\":{{\"answers\":{answers},\"breaker\":\"{state}\",\"deadline_ms\":{deadline_ms}")?;
    write!(text, ",\"asks\":{asks},\"failures\":{failures},\"decided_without\":{without}}}")
}

pub(super) fn millis(span: Span) -> u64 {
    span.as_nanos() / 1_000_000
}

pub(super) fn list<T>(
    text: &mut String,
    items: impl IntoIterator<Item = T>,
    write: impl Fn(&mut String, T) -> fmt::Result,
) -> fmt::Result {
    text.push('[');
    for (place, item) in items.into_iter().enumerate() {
        if place > 0 {
            text.push(',');
        }
        write(text, item)?;
    }
    text.push(']');
    Ok(())
}

/// Numbers by name, of those that there are.
fn object<const N: usize>(text: &mut String, fields: [(&str, Option<u64>); N]) -> fmt::Result {
    text.push('{');
    let known = fields.into_iter().filter_map(|(name, value)| Some((name, value?)));
    for (place, (name, value)) in known.enumerate() {
        let comma = if place == 0 { "" } else { "," };
        write!(text, "{comma}\"{name}\":{value}")?;
    }
    text.push('}');
    Ok(())
}

/// Hundredths of a percent, as percent.
pub(super) struct Percent(pub(super) u32);

impl fmt::Display for Percent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{:02}", self.0 / 100, self.0 % 100)
    }
}

const QUANTILES: [(&str, u16); 3] = [("p50", 5_000), ("p95", 9_500), ("p99", 9_900)];
