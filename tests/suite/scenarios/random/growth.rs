//! Generates a value from its JSON Schema, so that new parts of the policy format are tested without changes here.

use serde_json::{Map, Value, json};

use super::words;
use crate::fuzz::dice::Dice;

/// Any value of this schema, at this place of the document: fields by their names, `*` for items and for names that the
/// author chooses.
///
/// It is valid by the schema. Only the parser checks whether its parts fit each other.
pub fn grow(schema: &Value, place: &str, dice: &mut Dice) -> Value {
    if let (Some(one), Some(other)) = (schema.get("then"), schema.get("else")) {
        return grow(if dice.one_in(2) { one } else { other }, place, dice);
    }
    if let Some(any) = schema.get("enum").or_else(|| schema.get("anyOf")).and_then(Value::as_array) {
        let one = dice.any(any);
        return if schema.get("enum").is_some() { one.clone() } else { grow(one, place, dice) };
    }
    match schema["type"].as_str().expect("a type") {
        "object" if schema.get("properties").is_some() => object(schema, place, dice),
        "object" => map(schema, place, dice),
        "array" => list(schema, place, dice),
        "boolean" => json!(dice.one_in(2)),
        "null" => Value::Null,
        kind => plain(schema, kind, place, dice),
    }
}

fn object(schema: &Value, place: &str, dice: &mut Dice) -> Value {
    let choices: Vec<&str> =
        schema.get("oneOf").and_then(Value::as_array).into_iter().flatten().filter_map(needed).collect();
    let chosen = (!choices.is_empty()).then(|| *dice.any(&choices));
    let required = schema["required"].as_array().expect("names");
    let mut object = Map::new();
    for (name, of) in schema["properties"].as_object().expect("properties") {
        let inner = format!("{place}/{name}");
        let is_there = if choices.contains(&name.as_str()) {
            chosen == Some(name)
        } else {
            required.contains(&json!(name)) || dice.chance(words::percent(&inner))
        };
        if is_there {
            object.insert(name.clone(), grow(of, &inner, dice));
        }
    }
    Value::Object(object)
}

/// The field that this alternative requires.
fn needed(choice: &Value) -> Option<&str> {
    choice["required"][0].as_str()
}

fn map(schema: &Value, place: &str, dice: &mut Dice) -> Value {
    let count = dice.below(words::most(place).min(4) + 1);
    let name = |dice: &mut Dice| {
        let name = plain(&schema["propertyNames"], "string", &format!("{place}{{}}"), dice);
        name.as_str().expect("a name").to_owned()
    };
    let inner = format!("{place}/*");
    (0..count).map(|_| (name(dice), grow(&schema["additionalProperties"], &inner, dice))).collect::<Map<_, _>>().into()
}

fn list(schema: &Value, place: &str, dice: &mut Dice) -> Value {
    let bound = |name: &str| schema[name].as_u64().expect("a bound") as usize;
    let (least, most) = (bound("minItems"), bound("maxItems").min(words::most(place)));
    let count = least + dice.below(most.saturating_sub(least) + 1);
    let inner = format!("{place}/*");
    (0..count).map(|_| grow(&schema["items"], &inner, dice)).collect()
}

/// A number or text: one that is meaningful in the scenarios, or else the extremes of what is allowed.
fn plain(schema: &Value, kind: &str, place: &str, dice: &mut Dice) -> Value {
    if let Some(known) = words::of(place) {
        return dice.any(known).clone();
    }
    if let (Some(least), Some(most)) = (schema["minimum"].as_f64(), schema["maximum"].as_f64()) {
        let number = *dice.any(&[least, least, (least + 1.0).min(most), 10_f64.clamp(least, most), most]);
        return if kind == "integer" { json!(number as u64) } else { json!(number) };
    }
    let is_span = schema["pattern"].as_str() == Some(SPAN);
    assert!(is_span, "{place} is a text of which `words.rs` knows none: {schema}");
    json!(*dice.any(&["10ms", "100ms", "1s", "10s", "1m", "1h", "1d"]))
}

/// The pattern by which the schema marks a span.
const SPAN: &str = "^[0-9]{1,12}(ms|s|m|h|d)$";
