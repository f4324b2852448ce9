//! The parser handles any text, and a policy that it accepts is accepted in every spelling.

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::time::{Duration, Instant};

use proptest::prelude::*;
use serde_json::{Map, Value, json};
use tidegate::policy::Policy;

use super::policies;

/// Valid policies with random changes never crash the parser. If it accepts one, a JSON library may rewrite it, which
/// changes the order of fields and the spelling of numbers: the policy stays the same, and the JSON Schema accepts it
/// too.
#[test]
fn mutated_policies_are_refused_or_mean_the_same_when_written_anew() {
    let mut dice = Dice::new();
    let good: Vec<Value> = policies("good").iter().map(super::Sample::value).collect();
    let validator = jsonschema::draft202012::new(&super::schema()).expect("a schema");
    let (mut accepted, mut refused) = (0_u32, 0_u32);
    // One second, or on a busy machine as long as it takes to see enough of both results.
    let (begun, enough) = (Instant::now(), |accepted, refused| accepted > 20 && refused > 20);
    let spent = |secs| begun.elapsed() >= Duration::from_secs(secs);
    while !spent(1) || (!enough(accepted, refused) && !spent(30)) {
        let mut document = good[dice.below(good.len())].clone();
        for _ in 0..=dice.below(3) {
            mutate(&mut document, &mut dice);
        }
        match parse(&serde_json::to_string_pretty(&document).expect("text")) {
            Some(policy) => {
                accepted += 1;
                let wrong = validator.iter_errors(&document).map(|error| error.to_string()).next();
                assert_eq!(wrong, None, "{document}");
                let anew = parse(&with_doubles(document).to_string());
                assert_eq!(anew.as_ref(), Some(&policy));
            }
            None => refused += 1,
        }
    }
    // Both must occur: a mutation that always, or never, breaks a document tests nothing.
    assert!(enough(accepted, refused), "accepted {accepted}, refused {refused}");
}

#[test]
fn texts_cut_and_changed_byte_by_byte_are_answered() {
    let mut dice = Dice::new();
    let good: Vec<_> = policies("good").into_iter().map(|policy| policy.text.into_bytes()).collect();
    let end = Instant::now() + Duration::from_secs(1);
    while Instant::now() < end {
        let mut text = good[dice.below(good.len())].clone();
        for _ in 0..=dice.below(8) {
            let at = dice.below(text.len());
            match dice.below(4) {
                0 => text.truncate(at.max(1)),
                1 => text[at] = BYTES[dice.below(BYTES.len())],
                2 => text.insert(at, BYTES[dice.below(BYTES.len())]),
                _ => drop(text.splice(at..at, good[0].clone())),
            }
        }
        let _ = parse(&String::from_utf8_lossy(&text));
    }
}

proptest! {
    #[test]
    fn any_text_is_answered(text in any::<String>()) {
        let _ = parse(&text);
    }

    #[test]
    fn any_value_anywhere_is_answered(texts in prop::collection::vec(any::<String>(), 8)) {
        let [a, b, c, d, e, f, g, h] = texts.try_into().expect("eight");
        let document = json!({
            "version": 1,
            "client": { "address": { "header": a } },
            "limits": [{
                "name": b,
                "match": { "path": format!("/{c}"), "methods": [d], "hosts": [e], "headers": { f: "*" } },
                "key": [g],
                "quota": { "permits": 1, "window": h },
            }],
        });
        let _ = parse(&document.to_string());
    }
}

/// Parses, and checks that each error is a single line of limited length.
fn parse(text: &str) -> Option<Policy> {
    let errors = match Policy::parse(text) {
        Ok(policy) => return Some(policy),
        Err(errors) => errors,
    };
    assert!(errors.iter().count() > 0, "refused without an error: {text}");
    for error in &errors {
        let line = error.to_string();
        assert!(!line.contains('\n') && line.len() < 2_000, "{line}");
    }
    None
}

/// Every number as a double, as Envoy's `Struct` has them.
fn with_doubles(value: Value) -> Value {
    match value {
        Value::Number(number) => number.as_f64().map_or(Value::Null, Value::from),
        Value::Array(items) => items.into_iter().map(with_doubles).collect(),
        Value::Object(fields) => fields.into_iter().map(|(name, value)| (name, with_doubles(value))).collect(),
        value => value,
    }
}

/// Changes one place of the document: replaces, removes or duplicates it.
fn mutate(place: &mut Value, dice: &mut Dice) {
    let deeper = dice.below(5) > 0;
    match place {
        Value::Array(items) if deeper && !items.is_empty() => {
            let index = dice.below(items.len());
            mutate(&mut items[index], dice);
        }
        Value::Object(fields) if deeper && !fields.is_empty() => {
            let index = dice.below(fields.len());
            mutate(fields.values_mut().nth(index).expect("a field"), dice);
        }
        _ => change(place, dice),
    }
}

fn change(place: &mut Value, dice: &mut Dice) {
    match place {
        Value::Array(items) if !items.is_empty() && dice.below(2) == 0 => {
            let item = items[dice.below(items.len())].clone();
            items.push(item);
        }
        Value::Array(items) => drop(items.pop()),
        Value::Object(fields) if dice.below(2) == 0 => {
            let name = fields.keys().nth(dice.below(fields.len().max(1))).cloned();
            name.and_then(|name| fields.remove(&name));
        }
        Value::Object(fields) => {
            let name = NAMES[dice.below(NAMES.len())];
            fields.insert(name.to_owned(), value(dice));
        }
        place => *place = value(dice),
    }
}

fn value(dice: &mut Dice) -> Value {
    match dice.below(8) {
        0 => Value::Null,
        1 => json!(dice.below(2) == 0),
        2 => json!(dice.below(2_000)),
        3 => json!(dice.below(2_000) as f64 / 8.0 - 20.0),
        4 => json!([WORDS[dice.below(WORDS.len())]]),
        5 => Value::Object(Map::new()),
        _ => json!(WORDS[dice.below(WORDS.len())]),
    }
}

/// Bytes with a meaning in JSON, and a few without.
const BYTES: &[u8] = b"{}[]\",:\\0123456789.eE+- \n\ttrufalsn*/\x00\x7f\xc3\xff";

const NAMES: [&str; 8] = ["name", "key", "match", "burst", "tier", "headers", "fallback", "new"];

const WORDS: [&str; 20] = [
    "",
    "1s",
    "90m",
    "1d",
    "31d",
    "api",
    "free",
    "premium",
    "origin",
    "address",
    "header:x-a",
    "token-bucket",
    "observe",
    "/a/*",
    "/**",
    "*.example.com",
    "GET",
    "https://a.example/",
    "default",
    "\u{1f30a} tide \u{0}",
];

/// Random numbers (SplitMix64). The seed is printed when a test fails, and can be set in the environment to repeat it.
struct Dice {
    seed: u64,
    state: u64,
}

impl Dice {
    fn new() -> Self {
        let given = std::env::var(SEED_VARIABLE).ok().and_then(|seed| seed.parse().ok());
        let seed = given.unwrap_or_else(|| RandomState::new().hash_one(()));
        Self { seed, state: seed }
    }

    /// A number below `end`, which is not zero.
    fn below(&mut self, end: usize) -> usize {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.state ^ (self.state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((mixed ^ (mixed >> 31)) % end as u64) as usize
    }
}

impl Drop for Dice {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{SEED_VARIABLE}={}", self.seed);
        }
    }
}

const SEED_VARIABLE: &str = "TIDEGATE_SEED";
