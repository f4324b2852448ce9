//! JWT payloads, checked against serde_json.

use base64ct::{Base64Url, Base64UrlUnpadded, Encoding};
use serde::de::IgnoredAny;
use serde_json::{Map, Value, json};

use super::dice::Dice;
use super::{Raw, cases, key, keyed_by};
use tidegate::engine::Engine;

const NAMES: [&str; 8] = ["sub", "org", "id", "org.id", "org.id.sub", "a.b", "", "s\u{fc}b"];
const ASKED: [&str; 5] = ["sub", "org.id", "org.id.sub", "id", "s\u{fc}b"];
const TOKENS: [&str; 16] = [
    "{",
    "}",
    "[",
    "]",
    ",",
    ":",
    "\"sub\":",
    "\"org\":{",
    "\\u0073",
    "\\ud800",
    "1e999",
    "-0",
    "null",
    "\"",
    "\\",
    "\u{0}",
];

fn payload(dice: &mut Dice, depth: usize) -> Value {
    match dice.below(if depth == 0 { 8 } else { 12 }) {
        0 => Value::Null,
        1 => json!(dice.one_in(2)),
        2 => json!(dice.next()),
        3 => json!(dice.next() as i64),
        4 => json!(f64::from_bits(dice.next())),
        5 => json!(dice.below(1_000) as f64 / 8.0),
        6 => json!(String::from_utf8_lossy(&dice.bytes(6))),
        7 => json!(dice.pick(&["", "x", "0", "true", "premium"])),
        8 => Value::Array((0..dice.below(3)).map(|_| payload(dice, depth - 1)).collect()),
        _ => Value::Object(
            (0..dice.below(4)).map(|_| (dice.pick(&NAMES).to_owned(), payload(dice, depth - 1))).collect::<Map<_, _>>(),
        ),
    }
}

/// The claim in serde_json's own tree.
fn naive<'v>(payload: &'v Value, name: &str) -> Option<&'v Value> {
    fn by_path<'v>(object: &'v Map<String, Value>, path: &str) -> Option<&'v Value> {
        match path.split_once('.') {
            Some((first, rest)) => by_path(object.get(first)?.as_object()?, rest),
            None => object.get(path),
        }
    }
    let object = payload.as_object()?;
    let found = object.get(name).or_else(|| by_path(object, name))?;
    let is_one = found.is_number() || found.is_boolean() || found.as_str().is_some_and(|text| !text.is_empty());
    is_one.then_some(found)
}

fn sent(engine: &Engine, payload: &[u8], padded: bool) -> tidegate::key::KeyHash {
    let header = if padded { Base64Url::encode_string(payload) } else { Base64UrlUnpadded::encode_string(payload) };
    key(engine, &Raw::default().with("x-claims", header))
}

#[test]
fn claims_are_those_that_serde_json_finds() {
    let engines = ASKED.map(|name| (name, keyed_by(&format!("claim:{name}"))));
    let nobody = engines.each_ref().map(|(_, engine)| key(engine, &Raw::default()));
    let mut found = 0;
    cases("claims", |dice| {
        let place = dice.below(ASKED.len());
        let ((name, engine), nobody) = (&engines[place], nobody[place]);
        let value = Value::Object((0..4).map(|_| (dice.pick(&NAMES).to_owned(), payload(dice, 3))).collect());
        let mut text = value.to_string().into_bytes();
        let by_core = sent(engine, &text, dice.one_in(2));
        // A number that is no short decimal does not identify a client. No other scalar may fail to.
        match naive(&value, name) {
            None => assert_eq!(by_core, nobody, "{name} of {value}"),
            Some(claim) if by_core == nobody => assert!(claim.is_f64(), "{name} of {value}"),
            Some(claim) => {
                found += 1;
                let alone = json!({ *name: claim }).to_string();
                assert_eq!(by_core, sent(engine, alone.as_bytes(), true), "{name} of {value}");
            }
        }
        // A claim that is found in a mutated text is in that text, as serde_json reads it.
        dice.mutate(&mut text, &TOKENS);
        let by_core = sent(engine, &text, dice.one_in(2));
        if by_core != nobody {
            let shown = text.escape_ascii();
            let Ok(value) = serde_json::from_slice::<Value>(&text) else {
                // The core skips over invalid Unicode in texts that it does not use, as any skipping parser may.
                assert!(serde_json::from_slice::<IgnoredAny>(&text).is_ok(), "{shown}");
                return;
            };
            let claim = naive(&value, name).unwrap_or_else(|| panic!("{name} of {shown}"));
            assert_eq!(
                by_core,
                sent(engine, json!({ *name: claim }).to_string().as_bytes(), false),
                "{name} of {shown}"
            );
        }
    });
    assert!(found > 100, "only {found} claims were found: nothing was tried");
}

#[test]
fn headers_that_are_no_payload_identify_no_client() {
    let engine = keyed_by("claim:sub");
    let (nobody, somebody) = (key(&engine, &Raw::default()), sent(&engine, br#"{"sub":"u1"}"#, false));
    assert_ne!(nobody, somebody);
    cases("claims: headers", |dice| {
        let mut header = Base64UrlUnpadded::encode_string(br#"{"sub":"u1"}"#).into_bytes();
        dice.mutate(&mut header, &["=", "==", ".", ",", "+", "/", "-", "_", " ", "e30", "\u{e9}"]);
        let by_core = key(&engine, &Raw::default().with("x-claims", &header));
        let trimmed: Vec<u8> = header.trim_ascii().to_vec();
        let bare = trimmed.iter().rposition(|byte| *byte != b'=').map_or(&[][..], |last| &trimmed[..=last]);
        if by_core != nobody {
            let decoded = str::from_utf8(bare).ok().and_then(|bare| Base64UrlUnpadded::decode_vec(bare).ok());
            let payload = decoded.unwrap_or_else(|| panic!("{}", header.escape_ascii()));
            assert_eq!(by_core, sent(&engine, &payload, true), "{}", header.escape_ascii());
        }
    });
    // Depth and length up to what a header can have: the core answers without a stack overflow.
    for deep in ["[", "{\"sub\":", "[{\"a\":"] {
        let text = deep.repeat(12_000 / deep.len());
        assert_eq!(sent(&engine, text.as_bytes(), false), nobody);
    }
    assert_eq!(sent(&engine, format!("{{\"x\":\"{}\",\"sub\":\"u1\"}}", "y".repeat(60_000)).as_bytes(), true), nobody);
}
