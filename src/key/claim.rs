//! One claim of a verified JWT payload, as a proxy forwards it in a header (base64url JSON, Envoy's `jwt_authn`).

use core::fmt;

use base64ct::{Base64UrlUnpadded, Encoding};
use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};

use crate::number::Number;

/// The value of a claim.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Scalar {
    /// A string.
    Text(String),
    /// A number or a boolean, in its JSON form.
    Other(String),
}

/// The payload in `header`, with or without padding; `None` if the header is no base64url or longer than 16 KiB.
pub(super) fn decode(header: &[u8]) -> Option<Vec<u8>> {
    if header.len() > HEADER_MAX_LEN {
        return None;
    }
    let header = core::str::from_utf8(header).ok()?;
    Base64UrlUnpadded::decode_vec(header.trim_end_matches('=')).ok()
}

/// The claim `name` of `payload`: the member with exactly this name, or else the one that `name` leads to as a path of
/// names separated by dots. The exact name comes first, because claim names are often URLs.
///
/// `None` if there is no such claim, if it is empty, or neither a string, a number nor a boolean, if a name on its path
/// is duplicated (RFC 7519 section 4 leaves open which one counts), or if `payload` is not JSON. A number that is too
/// large for a 64-bit integer, or has more than six decimals, counts as absent: it would be rounded, and two clients
/// could get the same number.
pub(super) fn find(payload: &[u8], name: &str) -> Option<Scalar> {
    let mut json = serde_json::Deserializer::from_slice(payload);
    let found = Claim { whole: Some(name), path: Some(name) }.deserialize(&mut json).ok()?;
    json.end().ok()?;
    match found {
        Found::One(Scalar::Text(text)) if text.is_empty() => None,
        Found::One(scalar) => Some(scalar),
        Found::None | Found::Twice => None,
    }
}

/// What to look for in a JSON value.
#[derive(Clone, Copy)]
struct Claim<'n> {
    /// In an object, the member of this name.
    whole: Option<&'n str>,
    /// In an object, the member at this path; the value itself if there is no path.
    path: Option<&'n str>,
}

enum Found {
    None,
    One(Scalar),
    Twice,
}

impl Claim<'_> {
    /// The value itself, if the path ends here.
    fn scalar(self, scalar: impl FnOnce() -> Scalar) -> Found {
        if self.path.is_none() { Found::One(scalar()) } else { Found::None }
    }
}

impl<'de> DeserializeSeed<'de> for Claim<'_> {
    type Value = Found;

    fn deserialize<D: Deserializer<'de>>(self, json: D) -> Result<Found, D::Error> {
        json.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Claim<'_> {
    type Value = Found;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_unit<E>(self) -> Result<Found, E> {
        Ok(Found::None)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Found, E> {
        Ok(self.scalar(|| Scalar::Other(value.to_string())))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Found, E> {
        Ok(self.scalar(|| Scalar::Other(value.to_string())))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Found, E> {
        Ok(self.scalar(|| Scalar::Other(value.to_string())))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Found, E> {
        let number = Number::nearest(value);
        Ok(if number.is_exact() { self.scalar(|| Scalar::Other(number.to_string())) } else { Found::None })
    }

    fn visit_str<E>(self, value: &str) -> Result<Found, E> {
        Ok(self.scalar(|| Scalar::Text(value.to_owned())))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Found, A::Error> {
        while list.next_element::<IgnoredAny>()?.is_some() {}
        Ok(Found::None)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut object: A) -> Result<Found, A::Error> {
        let (first, rest) = match self.path.map(|path| path.split_once('.')) {
            Some(Some((first, rest))) => (Some(first), Some(rest)),
            // A path of one name. At the top level that is the whole name, which is looked for anyway.
            Some(None) if self.whole.is_none() => (self.path, None),
            _ => (None, None),
        };
        let (mut whole, mut below) = (None, None);
        while let Some(name) = object.next_key::<String>()? {
            if self.whole == Some(&name) {
                let value = object.next_value_seed(Claim { whole: None, path: None })?;
                whole = Some(if whole.is_some() { Found::Twice } else { value });
            } else if first == Some(&name) {
                let value = object.next_value_seed(Claim { whole: None, path: rest })?;
                below = Some(if below.is_some() { Found::Twice } else { value });
            } else {
                object.next_value::<IgnoredAny>()?;
            }
        }
        Ok(whole.or(below).unwrap_or(Found::None))
    }
}

/// The longest header that is read. It is far above any token that proxies carry in a header, and bounds the work.
const HEADER_MAX_LEN: usize = 16 * 1024;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_claim_is_found_by_its_name_or_its_path() {
        for (payload, name, value) in [
            (r#"{"sub":"u1"}"#, "sub", text("u1")),
            (r#"{"iss":"x","sub":"u1","aud":["a",{"sub":1}]}"#, "sub", text("u1")),
            (r#"{"org":{"id":7}}"#, "org.id", other("7")),
            (r#"{"org":{"unit":{"id":"x","id2":1}}}"#, "org.unit.id", text("x")),
            (r#"{"https://example.com/org.id":"x"}"#, "https://example.com/org.id", text("x")),
            (r#"{"a":{"b":1},"a.b":2}"#, "a.b", other("2")),
            (r#"{"a.b":2,"a":{"b":1}}"#, "a.b", other("2")),
            (r#"{"a":1,"a.b":2}"#, "a.b", other("2")),
            (r#"{"n":-5,"x":{}}"#, "n", other("-5")),
            (r#"{"n":1.5}"#, "n", other("1.5")),
            (r#"{"n":1.0}"#, "n", other("1")),
            (r#"{"n":0.1234567}"#, "n", None),
            (r#"{"n":18446744073709551615}"#, "n", other("18446744073709551615")),
            (r#"{"n":true}"#, "n", other("true")),
            (r#"{"n":"true"}"#, "n", text("true")),
            (r#"{"s\u0075b":"u1"}"#, "sub", text("u1")),
            (r#"{"n":18446744073709551616}"#, "n", None),
            (r#"{"n":1e300}"#, "n", None),
            (r#"{"n":null}"#, "n", None),
            (r#"{"n":""}"#, "n", None),
            (r#"{"n":["x"]}"#, "n", None),
            (r#"{"n":{"n":"x"}}"#, "n", None),
            (r#"{"org":{"id":7}}"#, "org", None),
            (r#"{"org":{"id":7}}"#, "id", None),
            (r#"{"org":{"id":7}}"#, "org.id.x", None),
            (r#"{"org":"x"}"#, "org.id", None),
            (r#"{"sub":"a","sub":"a"}"#, "sub", None),
            (r#"{"org":{"id":1,"id":2}}"#, "org.id", None),
            (r#"{"org":{"id":1},"org":{}}"#, "org.id", None),
            (r#"{"sub":"a"} x"#, "sub", None),
            (r#"{"sub":"a""#, "sub", None),
            (r#"["sub"]"#, "sub", None),
            (r#""sub""#, "sub", None),
            ("", "sub", None),
        ] {
            assert_eq!(find(payload.as_bytes(), name), value, "{payload} {name}");
        }
    }

    #[test]
    fn the_header_is_base64url_of_bounded_length() {
        assert_eq!(decode(b"eyJhIjoxfQ").as_deref(), Some(br#"{"a":1}"#.as_slice()));
        assert_eq!(decode(b"eyJhIjoxfQ==").as_deref(), Some(br#"{"a":1}"#.as_slice()));
        assert_eq!(decode(b"_-8=").as_deref(), Some([0xff, 0xef].as_slice()));
        assert_eq!(decode(b"/+8="), None);
        assert_eq!(decode(b"eyJhIjoxfQ,eyJhIjoxfQ"), None);
        assert_eq!(decode(&vec![b'A'; HEADER_MAX_LEN]).map(|json| json.len()), Some(HEADER_MAX_LEN / 4 * 3));
        assert_eq!(decode(&vec![b'A'; HEADER_MAX_LEN + 4]), None);
    }

    #[test]
    fn deep_nesting_is_no_danger() {
        for (open, close) in [("[", "]"), (r#"{"a":"#, "}")] {
            let payload = format!(r#"{{"x":{}1{},"sub":"u"}}"#, open.repeat(3_000), close.repeat(3_000));
            // Whether the parser accepts this does not matter; it must return.
            let _ = find(payload.as_bytes(), "sub");
            let _ = find(payload.as_bytes(), &format!("x{}", ".a".repeat(3_000)));
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(3_000))]

        #[test]
        fn no_header_is_too_strange(
            header in prop::collection::vec(any::<u8>(), 0..64),
            json in r#"[{}\[\]",:.a1 ]{0,32}"#,
        ) {
            let payload = decode(&header).unwrap_or_default();
            let _ = find(&payload, "a");
            let _ = find(json.as_bytes(), "a.a");
        }
    }

    fn text(text: &str) -> Option<Scalar> {
        Some(Scalar::Text(text.to_owned()))
    }

    fn other(text: &str) -> Option<Scalar> {
        Some(Scalar::Other(text.to_owned()))
    }
}
