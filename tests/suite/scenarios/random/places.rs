//! The places of the policy document, to compare what random policies contain with all that is possible.

use std::collections::BTreeSet;

use serde_json::Value;

use super::policy::of_kind;

/// All places of a schema and their enumerated words, written as for documents: `/limits/*/algorithm=concurrency`.
pub fn sayable(schema: &Value, place: &str, found: &mut BTreeSet<String>) {
    found.insert(place.to_owned());
    let mut words =
        |of: &[Value]| found.extend(of.iter().filter_map(|word| Some(format!("{place}={}", word.as_str()?))));
    words(schema.get("enum").and_then(Value::as_array).map_or(&[], Vec::as_slice));
    if schema["type"] == "boolean" {
        found.extend([true, false].map(|is_so| format!("{place}={is_so}")));
    }
    for (name, of) in schema.get("properties").and_then(Value::as_object).into_iter().flatten() {
        sayable(of, &format!("{place}/{name}"), found);
    }
    for of in ["additionalProperties", "items"].iter().filter_map(|name| schema.get(name)).filter(|of| of.is_object()) {
        sayable(of, &format!("{place}/*"), found);
    }
    ["then", "else"].iter().filter_map(|name| schema.get(name)).for_each(|of| sayable(of, place, found));
}

/// The places of a document, with `*` for items and for names that the author chooses, and its enumerated words:
/// `/limits/*/algorithm=concurrency`.
pub fn said(schema: &Value, value: &Value, place: &str, found: &mut BTreeSet<String>) {
    let schema = of_kind(schema, Some(value));
    found.insert(place.to_owned());
    match value {
        Value::Object(fields) => {
            for (name, value) in fields {
                let own = schema.get("properties").and_then(|properties| properties.get(name));
                let inner = format!("{place}/{}", if own.is_some() { name } else { "*" });
                said(own.unwrap_or(&schema["additionalProperties"]), value, &inner, found);
            }
        }
        Value::Array(items) => items.iter().for_each(|item| said(&schema["items"], item, &format!("{place}/*"), found)),
        Value::String(word) if schema.get("enum").is_some() => drop(found.insert(format!("{place}={word}"))),
        Value::Bool(is_so) => drop(found.insert(format!("{place}={is_so}"))),
        _ => {}
    }
}

/// What random policies never contain, and why.
pub const ELSEWHERE: [(&str, &str); 16] = [
    ("/limits/*/by_tier/*/*/adaptive", ALONE),
    ("/limits/*/by_tier/*/*/adaptive/max", ALONE),
    ("/limits/*/by_tier/*/*/adaptive/min", ALONE),
    ("/limits/*/quotas/*/adaptive", ALONE),
    ("/limits/*/quotas/*/adaptive/max", ALONE),
    ("/limits/*/quotas/*/adaptive/min", ALONE),
    ("/routes/*/variants/cf_image", IMAGES),
    ("/routes/*/variants/cf_image=false", IMAGES),
    ("/routes/*/variants/cf_image=true", IMAGES),
    ("/state/kept/max_bytes", ROOM),
    ("/stores/local_share_percent", FAILS),
    ("/stores/redis/path", STORE),
    ("/stores/redis/protocol=upstash", STORE),
    ("/stores/redis/token", STORE),
    ("/stores/redis/token_env", STORE),
    ("/stores/redis/url", STORE),
];
const ALONE: &str = "A quota that is found out is the only one of its limit.";
const IMAGES: &str = "Cloudflare's own service of images is in no workerd.";
const ROOM: &str = "What goes first when there is no room for more, a cache decides by itself.";
const FAILS: &str = "The store of scenarios does not fail.";
const STORE: &str = "Scenarios have one store.";
