//! Changes a policy to what scenarios can show on every host: there are four upstreams, waits follow the scenario's
//! clock, and the store of shared limits has its own clock.

use serde_json::{Map, Value, json};

use super::policy::remove;
use crate::fuzz::dice::Dice;

/// Changes a policy to what scenarios can show. It may have to be mended afterwards.
pub fn fit(policy: &mut Value, dice: &mut Dice) {
    upstreams(policy, dice);
    shared(policy);
    agreed(policy);
    stores(policy);
    // Room for all kept responses: which of them a full cache evicts is its own decision.
    remove(policy, "/state/kept/max_bytes");
    let waits = may_wait(policy);
    for limit in items(policy, "limits") {
        if limit["algorithm"] == "concurrency" && waits {
            // If a request ends when another's turn is due, the order of the two depends on the host.
            limit["algorithm"] = json!("fixed-window");
        }
        // A cost above what can be in flight would refuse every request.
        if limit["algorithm"] == "concurrency" && limit["cost"]["max"].as_u64().is_some_and(|max| max > 2) {
            limit["cost"]["max"] = json!(2);
        }
    }
}

/// Whether a request may have to wait for its turn.
pub fn may_wait(policy: &Value) -> bool {
    list(policy, "limits").iter().any(|limit| limit["on_exceed"] == "delay" || limit.get("slow_down").is_some())
}

/// Whether a store counts limits for several instances.
pub fn shares(policy: &Value) -> bool {
    list(policy, "limits").iter().any(is_shared)
}

/// Whether a rate-limit service counts limits.
pub fn consults(policy: &Value) -> bool {
    list(policy, "limits").iter().any(|limit| limit["store"] == "rls")
}

/// Whether several instances share breakers.
pub fn agrees(policy: &Value) -> bool {
    entries(policy, "breakers").any(|(_, breaker)| breaker["scope"] == "global")
}

fn is_shared(limit: &Value) -> bool {
    limit["scope"] == "global" && limit["store"] != "rls"
}

/// Whether every request follows a route, so that the filter decides about each response.
pub fn is_routed(policy: &Value) -> bool {
    let all = list(policy, "routes").iter().any(|route| route.get("match").is_none_or(|it| it == &json!({})));
    all && policy["mode"] != "observe"
}

/// The items of one of the document's lists.
pub fn list<'p>(policy: &'p Value, name: &str) -> &'p [Value] {
    policy.get(name).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

/// The entries of one of the document's maps.
pub fn entries<'p>(policy: &'p Value, name: &str) -> impl Iterator<Item = (&'p String, &'p Value)> {
    policy.get(name).and_then(Value::as_object).into_iter().flatten()
}

fn items<'p>(policy: &'p mut Value, name: &str) -> impl Iterator<Item = &'p mut Value> {
    policy.get_mut(name).and_then(Value::as_array_mut).into_iter().flatten()
}

/// Gives upstreams the clusters and URLs of the scenarios' upstreams.
fn upstreams(policy: &mut Value, dice: &mut Dice) {
    // In observe mode the host itself reports that no server listens.
    if policy["mode"] == "observe" && policy.pointer("/upstreams/nowhere").is_some() {
        policy["mode"] = json!("strict");
    }
    for (name, upstream) in policy.get_mut("upstreams").and_then(Value::as_object_mut).into_iter().flatten() {
        upstream["cluster"] = json!(name);
        // Without a URL it is the zone's own origin.
        if name != "origin" || upstream.get("url").is_some() {
            upstream["url"] = json!(format!("http://{name}.example.net"));
        }
    }
    for route in items(policy, "routes") {
        if let Some(fallback) = route.get_mut("fallback") {
            // Backoff uses the host's own clock, which scenarios do not control.
            let wait = *dice.any(&["0ms", "1ms"]);
            let has_one = [json!("0ms"), json!("1ms")].contains(&fallback["backoff"]["max"]);
            if !has_one || fallback["backoff"]["initial"] != fallback["backoff"]["max"] {
                fallback["backoff"] = json!({ "initial": wait, "max": wait });
            }
        }
        // Only for zones with Cloudflare's image service.
        remove(route, "/variants/cf_image");
        cut_is_refused(route.pointer_mut("/fallback/on"));
    }
    for (_, breaker) in policy.get_mut("breakers").and_then(Value::as_object_mut).into_iter().flatten() {
        cut_is_refused(breaker.get_mut("failures"));
    }
}

/// workerd cannot distinguish a refused connection from a reset one: count both or neither.
fn cut_is_refused(failures: Option<&mut Value>) {
    let Some(failures) = failures.and_then(Value::as_array_mut) else { return };
    let both = ["connect", "reset"].map(|failure| json!(failure));
    if both.iter().any(|failure| failures.contains(failure)) {
        failures.retain(|failure| !both.contains(failure));
        failures.extend(both);
    }
}

/// The stores of scenarios, with deadlines that suit a busy machine.
fn stores(policy: &mut Value) {
    let mut stores = Map::new();
    if shares(policy) || agrees(policy) {
        stores.insert("redis".to_owned(), json!({ "protocol": "webdis", "cluster": "redis" }));
        stores.insert("deadline".to_owned(), json!("5s"));
    }
    if consults(policy) {
        stores.insert("rls".to_owned(), json!({ "cluster": "rls", "domain": "shop", "deadline": "10s" }));
    }
    if stores.is_empty() {
        remove(policy, "/stores");
    } else {
        policy["stores"] = stores.into();
    }
}

/// The store elects, by its own clock, the instance that probes a shared breaker. Shared breakers therefore stay open
/// for longer than a scenario lasts.
fn agreed(policy: &mut Value) {
    for (_, breaker) in policy.get_mut("breakers").and_then(Value::as_object_mut).into_iter().flatten() {
        if breaker["scope"] == "global" {
            breaker["open"] = json!({ "initial": "1d", "max": "1d", "jitter_percent": 0 });
        }
    }
}

/// The windows of shared limits outlast a scenario. The store computes the remaining time by its own clock. A ban
/// therefore gives the wait, and `RateLimit` fields are off.
fn shared(policy: &mut Value) {
    if !shares(policy) {
        return;
    }
    policy["response"] = json!({ "ratelimit": false });
    for limit in items(policy, "limits") {
        for wait in ["/slow_down", "/on_exceed", "/max_delay", "/max_waiting"] {
            remove(limit, wait);
        }
        if !is_shared(limit) {
            continue;
        }
        for own in ["/penalty", "/only_on", "/cost", "/quotas", "/lease"] {
            remove(limit, own);
        }
        limit["on_store_failure"] = json!("deny");
        if limit["algorithm"] == "concurrency" {
            remove(limit, "/quota/adaptive");
            continue;
        }
        let quota = |permits: &Value| json!({ "permits": permits.as_u64().unwrap_or(2).clamp(1, 40), "window": "7d" });
        limit["quota"] = quota(&limit["quota"]["permits"]);
        for (_, of_tier) in limit.get_mut("by_tier").and_then(Value::as_object_mut).into_iter().flatten() {
            *of_tier = quota(&of_tier["permits"]);
        }
        limit["key"] = json!(["address"]);
        limit["ban"] = json!({ "after": 1, "within": "1m", "for": "31d" });
    }
}
