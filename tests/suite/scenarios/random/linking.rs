//! Adds the parts that other parts of a policy refer to, so that a newly generated policy keeps most of its content and
//! is not mended until nothing is left.

use serde_json::{Value, json};

use super::growth::grow;
use super::policy::{SCHEMA, remove};
use crate::fuzz::dice::Dice;

/// Adds the parts that the policy refers to, and removes from limits what does not fit their algorithm.
pub fn link(policy: &mut Value, dice: &mut Dice) {
    distinct(policy);
    upstreams(policy, dice);
    if policy.get("shedding").is_some() && policy.get("health").is_none() {
        policy["health"] = grow(&SCHEMA["properties"]["health"], "/health", dice);
    }
    tiers(policy);
    client(policy);
    for limit in policy.get_mut("limits").and_then(Value::as_array_mut).into_iter().flatten() {
        count(limit, dice);
    }
}

/// Removes duplicates from lists, and items with the same name.
fn distinct(value: &mut Value) {
    if let Value::Array(items) = value {
        let mut kept: Vec<Value> = Vec::new();
        for item in std::mem::take(items) {
            let name = item.get("name");
            if !kept.contains(&item) && (name.is_none() || kept.iter().all(|other| other.get("name") != name)) {
                kept.push(item);
            }
        }
        *items = kept;
    }
    match value {
        Value::Array(items) => items.iter_mut().for_each(distinct),
        Value::Object(fields) => fields.values_mut().for_each(distinct),
        _ => {}
    }
}

/// Routes need upstreams, and upstreams need their breakers.
fn upstreams(policy: &mut Value, dice: &mut Dice) {
    let named = |value: &Value| value.as_str().map(str::to_owned);
    let routes = policy.get("routes").and_then(Value::as_array).into_iter().flatten();
    let led: Vec<String> =
        routes.flat_map(|route| route["upstreams"].as_array().into_iter().flatten().filter_map(named)).collect();
    for name in led {
        give(policy, "upstreams", &name, dice);
    }
    let all = policy.get("upstreams").and_then(Value::as_object).into_iter().flatten();
    let guards: Vec<String> = all.filter_map(|(_, upstream)| named(upstream.get("breaker")?)).collect();
    for name in guards {
        give(policy, "breakers", &name, dice);
    }
}

/// Adds an entry of this name to one of the document's maps, unless it is there.
fn give(policy: &mut Value, map: &str, name: &str, dice: &mut Dice) {
    if policy.get(map).is_none_or(|it| it.get(name).is_none()) {
        policy[map][name] = grow(&SCHEMA["properties"][map]["additionalProperties"], &format!("/{map}/*"), dice);
    }
}

/// Every tier that is referred to must be one of the policy's.
fn tiers(policy: &mut Value) {
    let mut named: Vec<String> = Vec::new();
    let keys = |value: Option<&Value>| {
        value.and_then(Value::as_object).into_iter().flatten().map(|(name, _)| name.clone()).collect()
    };
    let limits = policy.get("limits").and_then(Value::as_array).into_iter().flatten();
    let speaking: Vec<Vec<String>> = limits.map(|limit| keys(limit.get("by_tier"))).collect();
    named.extend(speaking.into_iter().flatten());
    named.extend(keys(policy.get("priorities")));
    if let Some(tier) = policy.pointer("/client/tier") {
        let of_keys = tier.get("api_keys").and_then(Value::as_object).into_iter().flatten().map(|(_, tier)| tier);
        named.extend(of_keys.chain(tier.get("default")).filter_map(|it| it.as_str().map(str::to_owned)));
    }
    for name in named {
        match policy.get_mut("tiers").and_then(Value::as_array_mut) {
            Some(tiers) if tiers.contains(&json!(name)) => {}
            Some(tiers) => tiers.push(json!(name)),
            None => policy["tiers"] = json!([name]),
        }
    }
    let ways = ["header", "claim", "api_keys"];
    let tier = policy.pointer("/client/tier");
    if policy.get("tiers").is_some()
        && tier.is_none_or(|tier| ways.iter().filter(|way| tier.get(**way).is_some()).count() != 1)
    {
        policy["client"]["tier"] = json!({ "header": "x-plan" });
    }
}

/// Sources of client facts must be configured, and trusted if a client could forge them.
fn client(policy: &mut Value) {
    let said = policy.to_string();
    if said.contains("claim") {
        policy["client"]["claims"] = json!({ "header": "x-jwt-payload" });
    }
    if said.contains("api_keys") {
        policy["client"]["api_key"] = json!({ "header": "x-api-key" });
    }
    let trusted = ["x-plan", "x-jwt-payload", "x-cost"].into_iter().filter(|name| policy.to_string().contains(name));
    let trusted: Vec<&str> = trusted.collect();
    if !trusted.is_empty() {
        policy["client"]["trusted_headers"] = json!(trusted);
    }
    let address = policy.pointer("/client/address");
    if let Some(has) = address
        .map(|it| it.get("header").is_some())
        .filter(|has| *has != address.is_some_and(|it| it.get("trusted_hops").is_some()))
    {
        if has {
            policy["client"]["address"]["trusted_hops"] = json!(1);
        } else {
            remove(policy, "/client/address/trusted_hops");
        }
    }
}

/// Makes the fields of a limit fit its algorithm.
fn count(limit: &mut Value, dice: &mut Dice) {
    let is_found_out = limit["quota"].get("adaptive").is_some();
    if is_found_out {
        limit["algorithm"] = json!("concurrency");
        limit["key"] = if dice.one_in(2) { json!([]) } else { json!(["tier"]) };
    }
    if limit["algorithm"] == "concurrency" {
        for other in ["quotas", "only_on", "penalty", "quota/window", "quota/burst"] {
            remove(limit, &format!("/{other}"));
        }
        if limit.get("quota").is_none() {
            limit["quota"] = json!({ "permits": *dice.any(&[1, 2, 3]) });
        }
        return;
    }
    remove(limit, "/lease");
    if limit["on_exceed"] == "delay" {
        limit["algorithm"] = json!("token-bucket");
        for other in ["slow_down", "only_on", "penalty", "ban"] {
            remove(limit, &format!("/{other}"));
        }
        if limit["cost"].get("response_header").is_some() {
            limit["cost"] = json!(1);
        }
    } else if limit.get("slow_down").is_none() {
        remove(limit, "/max_delay");
        remove(limit, "/max_waiting");
    }
}
