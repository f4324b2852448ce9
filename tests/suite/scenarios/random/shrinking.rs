//! What is left of a scenario that fails when all is taken out of it that need not be there.

use serde_json::Value;

use super::policy::{problems, remove};
use super::recording::{Recorded, record};

/// The smallest scenario that is found and still fails. `failing` plays scenarios on a host, and answers with the names of those that
/// fail: many at once, since to start a host takes longer than to play one.
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

/// Scenarios that lack something of this one, those first that lack the most.
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
    // Without it nobody knows where that is.
    places.retain(|place| !place.ends_with("/cluster"));
    // What holds much goes before what it holds.
    places.sort_by_key(|place| place.split('/').count());
    documents.extend(places.iter().map(|place| {
        let mut without = of.document.clone();
        remove(&mut without, place);
        without
    }));
    let recorded = documents.iter().filter(|document| problems(&document["policy"]).is_none()).enumerate();
    let name = &of.scenario.name;
    // Each under a name of its own, by which its upstreams know it.
    let name = name.split_once("--").map_or(name.as_str(), |(name, _)| name);
    recorded
        .filter_map(|(at, document)| record(&format!("{name}--{at}"), document, of.on).ok())
        .take(MOST_AT_ONCE)
        .collect()
}

/// All places within a value, as JSON pointers.
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

/// So often something is taken out at most.
const MOST_ROUNDS: usize = 40;

/// So many candidates are played at once: by one process of a host.
const MOST_AT_ONCE: usize = 48;
