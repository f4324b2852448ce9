//! Cookies, queries and costs: lists of names and values, and the format of a value.

use super::dice::Dice;
use super::{Raw, cases, key, keyed_by};
use tidegate::engine::Plan;
use tidegate::key::KeyHash;

const PIECES: [&str; 16] = [
    "sid=1",
    "sid=\"1\"",
    "sid = 2 ",
    "sid=",
    "sid",
    "SID=3",
    "xsid=4",
    "sid=a=b",
    "sid=%31",
    "s%69d=5",
    "sid=a+b",
    "a=b",
    "a=sid=6",
    "",
    "=",
    "sid=\"",
];
const TOKENS: [&str; 14] = ["sid=", "sid", ";", ",", "&", "=", "\"", " ", "\t", "%", "%3d", "+", "%00", "\u{e9}"];

/// The function from an input to its key, and the key of a client that cannot be identified.
struct Sent<F>(F, KeyHash);

impl<F: Fn(&[u8]) -> KeyHash> Sent<F> {
    /// Checks what is true of any list of pairs with `separator` between them. Returns whether the pair was found.
    fn assert_holds(&self, text: &[u8], separator: &str) -> bool {
        let Self(key, nobody) = self;
        let found = key(text);
        let shown = text.escape_ascii();
        let separator = separator.as_bytes();
        assert_eq!(key(&[text, separator, b"zz=1"].concat()), found, "{shown} and another behind it");
        assert_eq!(key(&[b"zz=1", separator, text].concat()), found, "{shown} and another before it");
        if found != *nobody {
            // A name that occurs twice identifies no client.
            assert_eq!(key(&[text, separator, b"sid=9"].concat()), *nobody, "{shown}");
            assert_eq!(key(&[b"sid=9", separator, text].concat()), *nobody, "{shown}");
        }
        found != *nobody
    }
}

fn text(dice: &mut Dice, separators: &[&str]) -> Vec<u8> {
    let mut text = dice.list(&PIECES, separators, 5);
    dice.mutate(&mut text, &TOKENS);
    text
}

#[test]
fn cookie_is_found_at_any_position_if_it_occurs_once() {
    let engine = keyed_by("cookie:sid");
    let of = |header: &[u8]| key(&engine, &Raw::default().with("cookie", header));
    let sent = Sent(of, key(&engine, &Raw::default()));
    let mut found = 0;
    cases("cookies", |dice| {
        let header = text(dice, &["; ", ";", ",", " ;"]);
        if sent.assert_holds(&header, ";") {
            found += 1;
            let alone = |pair: &[u8]| [pair, b";"].concat();
            let pairs = header.split(|byte| matches!(byte, b';' | b','));
            let of_one = pairs.filter(|pair| sent.0(&alone(pair)) == sent.0(&header)).count();
            assert_eq!(of_one, 1, "{}", header.escape_ascii());
        }
    });
    assert!(found > 100, "{found}");
}

#[test]
fn query_parameter_is_found_at_any_position_and_encoding_if_it_occurs_once() {
    let engine = keyed_by("query:sid");
    let of = |query: &[u8]| key(&engine, &Raw { path: [b"/?", query].concat(), ..Raw::default() });
    let sent = Sent(of, key(&engine, &Raw::default()));
    let mut found = 0;
    cases("queries", |dice| {
        let mut query = text(dice, &["&"]);
        // A fragment is not part of a query, and ends it.
        query.retain(|byte| *byte != b'#');
        if !sent.assert_holds(&query, "&") {
            return;
        }
        found += 1;
        // The parameter with all bytes percent-encoded is the same.
        let written = |text: &[u8]| decoded(text).iter().map(|byte| format!("%{byte:02X}")).collect::<String>();
        let pair = |pair: &[u8]| {
            let equals = pair.iter().position(|byte| *byte == b'=').unwrap_or(pair.len());
            let value = pair.get(equals + 1..).unwrap_or_default();
            [written(&pair[..equals]), written(value)].join("=")
        };
        let anew = query.split(|byte| *byte == b'&').map(pair).collect::<Vec<_>>().join("&");
        assert_eq!(sent.0(anew.as_bytes()), sent.0(&query), "{} and {anew}", query.escape_ascii());
    });
    assert!(found > 100, "{found}");
}

/// A decoded form value; the standard library reads the hexadecimal digits.
fn decoded(text: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut at = 0;
    while at < text.len() {
        let digits = text.get(at + 1..at + 3).filter(|digits| digits.iter().all(u8::is_ascii_hexdigit));
        match (text[at], digits.and_then(|digits| u8::from_str_radix(str::from_utf8(digits).ok()?, 16).ok())) {
            (b'%', Some(byte)) => {
                bytes.push(byte);
                at += 2;
            }
            (b'+', _) => bytes.push(b' '),
            (byte, _) => bytes.push(byte),
        }
        at += 1;
    }
    bytes
}

#[test]
fn cost_is_a_whole_number_within_its_bounds() {
    let engine = crate::harness::engine(
        r#"{ "version": 1, "client": { "trusted_headers": ["x-cost"] }, "limits": [{ "name": "api", "quota": { "permits": 100,
        "window": "1s" }, "cost": { "request_header": "x-cost", "default": 7, "min": 2, "max": 50 } }] }"#,
    );
    cases("costs", |dice| {
        let mut header = dice
            .pick(&["1", "12", "007", "4294967296", "18446744073709551616", "-1", "1e3", " 9\t"])
            .as_bytes()
            .to_vec();
        dice.mutate(&mut header, &["0", "9", "99999999999999999999", "+", "-", ".", ",", " ", "\t", "\u{663}", "0x"]);
        let mut plan = Plan::new();
        engine.plan(&Raw::default().with("x-cost", &header), &mut plan);
        let text = String::from_utf8_lossy(&header);
        let digits = text.trim_matches([' ', '\t']);
        let is_number = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
        // A number with more digits than any integer type is above all bounds.
        let cost = if is_number { digits.parse().unwrap_or(u128::MAX).clamp(2, 50) } else { 7 };
        assert_eq!(u128::from(plan.charges()[0].cost().get()), cost, "{}", header.escape_ascii());
    });
}
