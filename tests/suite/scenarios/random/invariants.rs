//! What must be true of every scenario, whatever the policy.

use serde_json::{Value, json};
use sfv::{List, ListEntry, Parameters, Parser};

use super::super::document::{Decision, Step};
use super::super::seen::Seen;
use super::fitting::{consults, list, may_wait, shares};
use super::recording::Recorded;

/// What is wrong with the core's results for a scenario, if anything.
pub fn violated(recorded: &Recorded) -> Option<String> {
    let Recorded { scenario: it, .. } = recorded;
    let again = recorded.again();
    if again.is_some() {
        return again.map(|differs| format!("the same comes to something else: {differs}"));
    }
    let all = recorded.play(&recorded.document)?;
    for (number, step) in it.numbered() {
        let Some(seen) = all.get(&number) else { continue };
        let wrong = answer(&it.policy, step, seen).or_else(|| returning(recorded, number, seen));
        if wrong.is_some() {
            return wrong.map(|wrong| format!("step {number} ({:?}): {wrong}: {seen:?}", step.send));
        }
    }
    None
}

/// What is wrong with a response by itself.
fn answer(policy: &Value, step: &Step, seen: &Seen) -> Option<String> {
    let field = |name: &str| seen.fields.get(name).map(String::as_str);
    if !(200..600).contains(&seen.status) {
        return Some("there is no status".to_owned());
    }
    let is_refused = seen.decision() == Decision::Refused;
    let reason = seen.reason.as_deref().unwrap_or_default();
    if policy["mode"] == "observe" && is_refused {
        return Some("a policy that only observes refuses".to_owned());
    }
    if is_refused && !seen.asked.is_empty() {
        return Some("an upstream was asked".to_owned());
    }
    let wait = field("retry-after").map(|it| it.parse::<u64>().ok().filter(|secs| (1..=MOST_SECS).contains(secs)));
    if seen.reason.is_some() && reason != "tidegate_static" && reason != "tidegate_stale" && wait == Some(None) {
        return Some("Retry-After is no number of seconds that could be".to_owned());
    }
    // A request that costs more than its quota never passes, nor does a denied client.
    if is_refused && wait.is_none() && reason != "tidegate_denied" && !costs(policy) && field("grpc-status").is_none() {
        return Some("who is refused is not told when to come back".to_owned());
    }
    let is_json = field("content-type").is_some_and(|it| matches!(it, "application/json" | "application/problem+json"));
    if is_refused
        && is_json
        && !step.send.as_ref()?.starts_with("HEAD")
        && serde_json::from_str::<Value>(&seen.body).is_err()
    {
        return Some("the body is no JSON".to_owned());
    }
    // An upstream may send anything.
    let is_own = seen.reason.is_some() && !matches!(reason, "tidegate_static" | "tidegate_stale");
    is_own.then(|| rate_limits(policy, field("ratelimit"), field("ratelimit-policy")).err()).flatten()
}

/// What is wrong with the limit fields, by RFC 9651 and draft-ietf-httpapi-ratelimit-headers.
fn rate_limits(policy: &Value, left: Option<&str>, quotas: Option<&str>) -> Result<(), String> {
    let quotas = items(quotas.unwrap_or_default())?;
    for (name, told) in items(left.unwrap_or_default())? {
        let (_, quota) = quotas.iter().find(|(other, _)| *other == name).ok_or(format!("{name} has no policy"))?;
        let (r, q) = (number(&told, "r")?, number(quota, "q")?);
        let limit = list(policy, "limits").iter().find(|limit| name.split('/').next() == limit["name"].as_str());
        // A bucket may hold more than one window brings.
        if r > limit.map_or(0, burst).max(q) || r < 0 {
            return Err(format!("{r} are left of {q}"));
        }
    }
    Ok(())
}

/// The items of a list, each a string with parameters.
fn items(text: &str) -> Result<Vec<(String, Parameters)>, String> {
    let list: List = Parser::new(text).parse().map_err(|error| format!("{text} is no list: {error}"))?;
    let item = |entry| match entry {
        ListEntry::Item(item) => {
            let name = item.bare_item.as_string().ok_or(format!("{text} has a name that is no text"))?;
            Ok((name.as_str().to_owned(), item.params))
        }
        ListEntry::InnerList(_) => Err(format!("{text} has a list within")),
    };
    list.into_iter().map(item).collect()
}

fn number(of: &Parameters, name: &str) -> Result<i64, String> {
    let value = of.iter().find(|(key, _)| key.as_str() == name).and_then(|(_, value)| value.as_integer());
    value.map(i64::from).ok_or(format!("there is no {name}"))
}

/// The largest burst in a part of the policy.
fn burst(of: &Value) -> i64 {
    let own = of.get("burst").and_then(Value::as_i64).unwrap_or(0);
    let inner = of.as_object().into_iter().flat_map(|fields| fields.values());
    inner.chain(of.as_array().into_iter().flatten()).map(burst).max().unwrap_or(0).max(own)
}

/// Whether requests can have a cost, and therefore exceed their whole quota.
fn costs(policy: &Value) -> bool {
    list(policy, "limits").iter().any(|limit| limit.get("cost").is_some())
}

/// What is wrong if a refused client comes back after the announced wait, with nothing in between.
fn returning(recorded: &Recorded, number: usize, seen: &Seen) -> Option<String> {
    let reason = seen.reason.as_deref()?;
    let name = reason.strip_prefix("tidegate_limit_").or_else(|| reason.strip_prefix("tidegate_ban_"))?;
    let secs: u64 = seen.fields.get("retry-after")?.parse().ok()?;
    let policy = &recorded.scenario.policy;
    if has_in_flight(policy) || policy.get("shedding").is_some() || shares(policy) || consults(policy) {
        // The end of a request in flight and the recovery of the service are unknown. For a request that a local limit
        // refuses, neither the store nor the rate-limit service is asked, and the service has its own clock.
        return None;
    }
    let is_charged_late =
        |limit: &Value| limit.get("only_on").is_some() || limit["cost"].get("response_header").is_some();
    if may_wait(policy) && list(policy, "limits").iter().any(is_charged_late) {
        // A waiting request is charged when its response arrives, which is in between.
        return None;
    }
    let mut document = recorded.document.clone();
    let steps = document["steps"].as_array_mut()?;
    steps.truncate(number);
    let mut back = steps.last()?.clone();
    let at = recorded.scenario.steps[number - 1].at + seen.after_ms + secs * 1_000;
    back["at"] = json!(format!("{at}ms"));
    back["steps_back"] = json!(false);
    steps.push(back);
    let all = recorded.play(&document)?;
    let again = all.get(&(number + 1))?;
    let is_limited = |reason: &str| reason.starts_with("tidegate_limit_") || reason.starts_with("tidegate_ban_");
    again
        .reason
        .as_deref()
        .is_some_and(is_limited)
        .then(|| format!("after {secs} s of {name} it is refused: {again:?}"))
}

fn has_in_flight(policy: &Value) -> bool {
    list(policy, "limits").iter().any(|limit| limit["algorithm"] == "concurrency")
}

/// Two of the longest windows, and the longest ban.
const MOST_SECS: u64 = 93 * 86_400;
