//! Any policy that the parser accepts.

use std::sync::LazyLock;

use serde_json::Value;
use tidegate::policy::{Policy, PolicyErrors};

use super::growth::grow;
use super::linking::link;
use crate::fuzz::dice::Dice;

/// A random policy. The schema cannot express how parts must fit each other, so the policy is changed at the parser's
/// errors until there are none.
pub fn policy(dice: &mut Dice) -> Value {
    for _ in 0..MOST_TRIES {
        let mut policy = grow(&SCHEMA, "", dice);
        link(&mut policy, dice);
        if mended(&mut policy, dice) {
            return policy;
        }
    }
    panic!("of {MOST_TRIES} policies none could be mended");
}

/// The JSON Schema of the document.
pub static SCHEMA: LazyLock<Value> =
    LazyLock::new(|| serde_json::from_str(&Policy::json_schema()).expect("the schema is JSON"));

/// The parser's errors.
pub fn problems(policy: &Value) -> Option<PolicyErrors> {
    Policy::parse(&policy.to_string()).err()
}

/// Changes the policy where the parser reports errors. `false` if that does not succeed.
pub fn mended(policy: &mut Value, dice: &mut Dice) -> bool {
    for _ in 0..MOST_MENDS {
        let Some(problems) = problems(policy) else { return true };
        let problems: Vec<_> = problems.iter().collect();
        change(policy, &dice.any(&problems).path, dice);
    }
    false
}

/// Regenerates the value at this place, or removes it, or the value that contains it.
fn change(policy: &mut Value, path: &str, dice: &mut Dice) {
    let (holder, name) = path.rsplit_once('/').unwrap_or(("", ""));
    let is_there = policy.pointer(path).is_some();
    // A missing field is mostly added; seldom is its object removed.
    match (is_there, dice.below(32)) {
        (true, 0..16) | (false, 0..30) => {
            let Some((of, place)) = schema_of(policy, path) else { return remove(policy, path) };
            let grown = grow(of, &place, dice);
            match policy.pointer_mut(holder) {
                _ if path.is_empty() => *policy = grown,
                Some(Value::Array(items)) => {
                    if let Some(item) = name.parse().ok().and_then(|at: usize| items.get_mut(at)) {
                        *item = grown;
                    }
                }
                Some(Value::Object(fields)) => drop(fields.insert(unescaped(name), grown)),
                _ => {}
            }
        }
        (true, 16..31) => remove(policy, path),
        _ => remove(policy, holder),
    }
}

/// Removes the value at this place.
pub fn remove(policy: &mut Value, path: &str) {
    let Some((holder, name)) = path.rsplit_once('/') else { return };
    match policy.pointer_mut(holder) {
        Some(Value::Array(items)) => {
            if let Some(at) = name.parse().ok().filter(|at: &usize| *at < items.len()) {
                items.remove(at);
            }
        }
        Some(Value::Object(fields)) => drop(fields.remove(&unescaped(name))),
        _ => {}
    }
}

/// The schema of the actual or possible value at this path of the document, and its place; `None` if there can be none.
fn schema_of(policy: &Value, path: &str) -> Option<(&'static Value, String)> {
    let (mut schema, mut place, mut value) = (&*SCHEMA, String::new(), Some(policy));
    for name in path.split('/').skip(1).map(unescaped) {
        schema = of_kind(schema, value);
        let named = schema.get("properties").and_then(|fields| fields.get(&name));
        schema = named.or_else(|| schema.get("additionalProperties")).or_else(|| schema.get("items"))?;
        place = format!("{place}/{}", if named.is_some() { name.as_str() } else { "*" });
        value = value.and_then(|value| match value {
            Value::Array(items) => items.get(name.parse::<usize>().ok()?),
            value => value.get(&name),
        });
    }
    schema.is_object().then_some((schema, place))
}

/// Of a schema with two alternatives, the one that the value matches.
pub fn of_kind<'s>(schema: &'s Value, value: Option<&Value>) -> &'s Value {
    let (Some(one), Some(other)) = (schema.get("then"), schema.get("else")) else { return schema };
    let is_one = match value {
        Some(Value::Array(_)) => one["type"] == "array",
        Some(Value::Object(_)) => one["type"] == "object",
        _ => false,
    };
    if is_one { one } else { other }
}

/// One token of a JSON pointer, RFC 6901 section 3.
fn unescaped(name: &str) -> String {
    name.replace("~1", "/").replace("~0", "~")
}

/// The number of changes before a policy is given up.
const MOST_MENDS: usize = 200;
const MOST_TRIES: usize = 50;
