//! Records the core's results in a scenario, as the expectations for every host.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde_json::{Map, Value, json};

use super::super::document::{self, Decision, FIELDS, Scenario, Step};
use super::super::native::{self, Played};
use super::super::seen::Seen;
use super::fitting::{agrees, is_routed, shares};
use super::policy::remove;

/// A scenario whose document is complete.
#[derive(Clone, Debug)]
pub struct Recorded {
    /// The document, as in a file.
    pub document: Value,
    pub scenario: Arc<Scenario>,
    pub on: Caller,
}

/// Which host a scenario is recorded for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Caller {
    /// It calls a rate-limit service.
    Envoy,
    /// It cannot call one: for a Worker the service has failed.
    Worker,
}

impl Recorded {
    /// Plays it again; returns the differences.
    pub fn again(&self) -> Option<String> {
        native::play(&self.scenario, self.on.has_service()).map_or_else(Some, |played| played.report.complaint())
    }

    /// The result of each step of another document on the same host.
    pub fn play(&self, document: &Value) -> Option<BTreeMap<usize, Seen>> {
        let open = scenario(&self.scenario.name, &left_open(document)).ok()?;
        Some(native::play(&open, self.on.has_service()).ok()?.report.seen)
    }
}

impl Caller {
    fn has_service(self) -> bool {
        self == Self::Envoy
    }
}

/// Plays the scenario in the core, and records the result of each request.
///
/// # Errors
/// Why it is not a valid scenario: its policy is refused, or a request has no result.
pub fn record(name: &str, document: &Value, on: Caller) -> Result<Recorded, String> {
    let mut document = document.clone();
    own(&mut document, name)?;
    // What hosts are known to differ in (see README) is removed, which may change the remaining results.
    for _ in 0..MOST_ROUNDS {
        let open = scenario(name, &left_open(&document))?;
        if !is_routed(&open.policy) && document.to_string().contains("\"fails\"") {
            return Err("what an upstream fails to answer without a route, each host says in its own words".to_owned());
        }
        let played = native::play(&open, on.has_service())?;
        if shares(&open.policy) != played.has_asked {
            return Err("a limit is shared, and nobody is asked".to_owned());
        }
        if leave_out_differences(&mut document, &played) {
            continue;
        }
        if document["policy"].to_string().contains("\"fallback\"")
            && open.numbered().any(|(number, step)| is_empty(step, played.report.seen.get(&number)))
        {
            return Err("Envoy gives an empty answer of a further upstream no type".to_owned());
        }
        if are_two_due_at_once(&open, &played) {
            return Err("two go on at one moment, and neither comes before the other".to_owned());
        }
        expect(&mut document, &played)?;
        let scenario = Arc::new(scenario(name, &document)?);
        return Ok(Recorded { document, scenario, on });
    }
    Err("hosts differ in it, whatever is left out".to_owned())
}

/// The scenario of this document.
pub fn scenario(name: &str, document: &Value) -> Result<Scenario, String> {
    document::parse(&document.to_string(), name.to_owned())
}

/// Scenarios share a store and a service, so keys of shared limits and breakers also contain the scenario's name.
fn own(document: &mut Value, name: &str) -> Result<(), String> {
    let own = |it: &str| format!("{}-{name}", it.split('-').next().unwrap_or_default());
    let policy = &mut document["policy"];
    if (shares(policy) || agrees(policy)) && policy.pointer("/stores/redis/cluster").is_none() {
        return Err("Envoy has no store of its own".to_owned());
    }
    for limit in policy.get_mut("limits").and_then(Value::as_array_mut).into_iter().flatten() {
        if limit["scope"] == "global" {
            limit["name"] = json!(limit["name"].as_str().map(own));
        }
    }
    if agrees(policy) {
        // The store identifies shared breakers by their upstreams' names.
        let upstreams = policy.get_mut("upstreams").and_then(Value::as_object_mut).into_iter();
        upstreams.for_each(|all| *all = std::mem::take(all).into_iter().map(|(name, it)| (own(&name), it)).collect());
        for route in policy.get_mut("routes").and_then(Value::as_array_mut).into_iter().flatten() {
            let names = route["upstreams"].as_array_mut().into_iter().flatten();
            names.for_each(|it| *it = json!(it.as_str().map(own)));
        }
    }
    Ok(())
}

/// With a placeholder wherever an expectation is required.
pub fn left_open(document: &Value) -> Value {
    let mut open = document.clone();
    for step in steps(&mut open).filter(|step| step.get("send").is_some()) {
        step["expect"] = json!({ "decision": "admitted", "status": 200 });
    }
    open
}

fn steps(document: &mut Value) -> impl Iterator<Item = &mut Value> {
    document["steps"].as_array_mut().into_iter().flatten()
}

/// Removes from requests what hosts treat differently. `false` if there is nothing of that kind.
fn leave_out_differences(document: &mut Value, played: &Played<'_>) -> bool {
    let mut has_any = false;
    for (number, step) in (1..).zip(steps(document)) {
        let Some(seen) = played.report.seen.get(&number) else { continue };
        let reason = seen.reason.as_deref().unwrap_or_default();
        let path = step["send"].as_str().and_then(|send| send.split(['?', ' ']).nth(1)).unwrap_or_default();
        let is = |name: &str, value: &str| step["headers"][name].as_str().is_some_and(|it| it.starts_with(value));
        let place = match reason {
            // Envoy converts any response of a filter to a gRPC client into gRPC's own form.
            "tidegate_static" if is("content-type", "application/grpc") => "/headers/content-type",
            // Envoy shows request headers to the filter only in the request's own phase.
            "tidegate_unavailable" if is("accept", "application/") => "/headers/accept",
            // A Worker does not see when a client has sent the whole body, so it cannot tell that the upstream gave no
            // response.
            "tidegate_static" | "tidegate_stale" | "tidegate_unavailable" if step.get("body").is_some() => "/body",
            // Only in a Worker an operator's request purges kept responses.
            _ if path.ends_with("/purge") && is("authorization", "") => "/headers/authorization",
            _ => continue,
        };
        remove(step, place);
        has_any = true;
    }
    has_any
}

/// Whether an upstream has sent an empty body in a response that could have had one.
fn is_empty(step: &Step, seen: Option<&Seen>) -> bool {
    let is_head = step.send.as_ref().is_some_and(|send| send.starts_with("HEAD "));
    !is_head && seen.is_some_and(|seen| seen.reason.is_none() && seen.body.is_empty())
}

/// Whether two waiting requests became due at the same time.
fn are_two_due_at_once(scenario: &Scenario, played: &Played<'_>) -> bool {
    let due = |number: &usize| Some(scenario.steps[number - 1].at + played.report.seen.get(number)?.after_ms);
    let moments: BTreeSet<u64> = played.waited.iter().filter_map(due).collect();
    moments.len() < played.waited.len()
}

fn expect(document: &mut Value, played: &Played<'_>) -> Result<(), String> {
    for (number, step) in (1..).zip(steps(document)).filter(|(_, step)| step.get("send").is_some()) {
        let seen = played.report.seen.get(&number).ok_or_else(|| format!("step {number}: nothing came of it"))?;
        step["expect"] = expected(seen, played.waited.contains(&number));
    }
    Ok(())
}

fn expected(seen: &Seen, has_waited: bool) -> Value {
    let decision = match seen.decision() {
        Decision::Admitted => "admitted",
        Decision::Delayed => "delayed",
        Decision::Refused => "refused",
        Decision::Answered => "answered",
    };
    let fields: Map<String, Value> =
        FIELDS.iter().map(|name| ((*name).to_owned(), json!(seen.fields.get(*name)))).collect();
    let mut expected = json!({ "decision": decision, "status": seen.status, "asked": seen.asked, "fields": fields });
    if let Some(reason) = &seen.reason {
        expected["reason"] = json!(reason);
    }
    if has_waited {
        expected["after"] = json!(format!("{}ms", seen.after_ms));
    }
    match page(seen) {
        Some(says) => expected["says"] = says,
        None => expected["body"] = json!(seen.body),
    }
    expected
}

/// The part of a status page that is the same on every host.
fn page(seen: &Seen) -> Option<Value> {
    let body: Value =
        serde_json::from_str(&seen.body).ok().filter(|_| seen.reason.as_deref() == Some("tidegate_status"))?;
    let said = body.as_object()?.iter().filter(|(name, _)| SAID_EVERYWHERE.contains(&name.as_str()));
    let said: Map<String, Value> = said.map(|(name, value)| (name.clone(), value.clone())).collect();
    (!said.is_empty()).then(|| said.into())
}

const SAID_EVERYWHERE: [&str; 5] = ["ready", "mode", "health", "shedding", "limits"];

/// One part is removed from a step at a time; there are a few dozen.
const MOST_ROUNDS: usize = 30;
