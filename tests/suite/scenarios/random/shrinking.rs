//! Reduces a failing scenario to the parts that are needed for the failure.

use serde_json::Value;

use super::policy::{problems, remove};
use super::recording::{Recorded, record};

/// The smallest failing scenario that is found. `failing` plays scenarios on a host and returns the names of those that
/// fail: many at once, because starting a host takes longer than playing a scenario.
pub async fn shrink(failed: &Recorded, failing: impl AsyncFn(&[Recorded]) -> Vec<String>) -> Recorded {
    let mut small = failed.clone();
    for _ in 0..MOST_ROUNDS {
        let candidates = smaller(&small);
        let fails = failing(&candidates).await;
        // The first ones lack the most.
        let Some(next) = candidates.into_iter().find(|it| fails.contains(&it.scenario.name)) else { break };
        small = next;
    }
    small
}

/// Scenarios that lack a part of this one, the largest parts first.
pub fn smaller(of: &Recorded) -> Vec<Recorded> {
    let mut documents = Vec::new();
    let steps = of.document["steps"].as_array().map_or(0, Vec::len);
    let mut part = steps.div_ceil(2);
    while part > 0 {
        for begin in (0..steps).step_by(part) {
            let mut without = of.document.clone();
            if let Some(steps) = without["steps"].as_array_mut() {
                steps.drain(begin..(begin + part).min(steps.len()));
            }
            documents.push(without);
        }
        part /= 2;
    }
    let mut places = Vec::new();
    pointers(&of.document["policy"], "/policy", &mut places);
    pointers(&of.document["upstreams"], "/upstreams", &mut places);
    for (at, step) in of.document["steps"].as_array().into_iter().flatten().enumerate() {
        for name in ["upstreams", "headers", "from", "host", "body", "holds", "draw_percent"] {
            if let Some(value) = step.get(name) {
                places.push(format!("/steps/{at}/{name}"));
                pointers(value, &format!("/steps/{at}/{name}"), &mut places);
            }
        }
    }
    // Without a cluster the upstream's address is unknown.
    places.retain(|place| !place.ends_with("/cluster"));
    // Large values are tried before the values inside them.
    places.sort_by_key(|place| place.split('/').count());
    documents.extend(places.iter().map(|place| {
        let mut without = of.document.clone();
        remove(&mut without, place);
        without
    }));
    let recorded = documents.iter().filter(|document| problems(&document["policy"]).is_none()).enumerate();
    let name = &of.scenario.name;
    // Each has its own name, by which its upstreams know it.
    let name = name.split_once("--").map_or(name.as_str(), |(name, _)| name);
    recorded
        .filter_map(|(at, document)| record(&format!("{name}--{at}"), document, of.on).ok())
        .take(MOST_AT_ONCE)
        .collect()
}

/// All places in a value, as JSON pointers.
fn pointers(value: &Value, place: &str, found: &mut Vec<String>) {
    let mut inner = |name: &str, value: &Value| {
        let place = format!("{place}/{}", name.replace('~', "~0").replace('/', "~1"));
        found.push(place.clone());
        pointers(value, &place, found);
    };
    match value {
        Value::Object(fields) => fields.iter().for_each(|(name, value)| inner(name, value)),
        Value::Array(items) => items.iter().enumerate().for_each(|(at, value)| inner(&at.to_string(), value)),
        _ => {}
    }
}

/// The maximum number of removals.
const MOST_ROUNDS: usize = 40;

/// The number of candidates that one process of a host plays at once.
const MOST_AT_ONCE: usize = 48;
