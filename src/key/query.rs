//! One parameter of the query, in the encoding of forms (`application/x-www-form-urlencoded`).

use std::borrow::Cow;

use crate::path::escaped_byte;

/// The decoded value of the parameter `name`; `None` if it is absent, empty or given twice.
///
/// Names and values are compared decoded, with `+` as a blank; an invalid escape stays as it is. A parameter that is
/// given twice is ambiguous: services differ in which one they read, so a client could show one to the filter and the
/// other to the service, and appear as a new client with each request.
pub(super) fn find<'q>(query: &'q [u8], name: &str) -> Option<Cow<'q, [u8]>> {
    let mut found = None;
    for pair in query.split(|&byte| byte == b'&') {
        let equals = pair.iter().position(|&byte| byte == b'=').unwrap_or(pair.len());
        let (named, value) = pair.split_at_checked(equals)?;
        if !Decoded(named).eq(name.bytes()) {
            continue;
        }
        if found.is_some() {
            return None;
        }
        found = Some(value.strip_prefix(b"=").unwrap_or_default());
    }
    found.filter(|value| !value.is_empty()).map(decode)
}

fn decode(text: &[u8]) -> Cow<'_, [u8]> {
    if text.iter().any(|byte| matches!(byte, b'%' | b'+')) {
        Cow::Owned(Decoded(text).collect())
    } else {
        Cow::Borrowed(text)
    }
}

/// The decoded bytes of a text, one by one.
struct Decoded<'t>(&'t [u8]);

impl Iterator for Decoded<'_> {
    type Item = u8;

    fn next(&mut self) -> Option<u8> {
        let (&byte, after) = self.0.split_first()?;
        self.0 = after;
        match byte {
            b'+' => Some(b' '),
            b'%' => match escaped_byte(after) {
                Some(value) => {
                    self.0 = after.get(2..).unwrap_or_default();
                    Some(value)
                }
                None => Some(byte),
            },
            _ => Some(byte),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_parameter_is_found_decoded_when_it_stands_once() {
        for (query, value) in [
            ("api_key=1", Some("1")),
            ("a=b&api_key=1&c", Some("1")),
            ("api%5fkey=%31", Some("1")),
            ("api%5Fkey=a+b%2Bc", Some("a b+c")),
            ("api_key=a=b", Some("a=b")),
            ("api_key=%&x", Some("%")),
            ("api_key=%f", Some("%f")),
            ("api_key=1;api_key=2", Some("1;api_key=2")),
            ("", None),
            ("api_key", None),
            ("api_key=", None),
            ("API_KEY=1", None),
            ("xapi_key=1", None),
            ("api_key=1&api_key=1", None),
            ("api_key=1&api%5fkey=2", None),
            ("api_key=1&api_key", None),
            ("&&&===", None),
        ] {
            let found = find(query.as_bytes(), "api_key");
            assert_eq!(found.as_deref(), value.map(str::as_bytes), "{query}");
        }
    }

    #[test]
    fn a_plain_value_is_borrowed() {
        assert!(matches!(find(b"a=b&c=d", "c"), Some(Cow::Borrowed(b"d"))));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(4_000))]

        #[test]
        fn what_was_encoded_is_found_again(
            name in "[a-z &=%+]{1,8}",
            value in prop::collection::vec(any::<u8>(), 1..16),
        ) {
            let encode = |bytes: &[u8]| bytes.iter().map(|byte| format!("%{byte:02x}")).collect::<String>();
            let query = format!("!=1&{}={}&~=2", encode(name.as_bytes()), encode(&value));
            let found = find(query.as_bytes(), &name);
            prop_assert_eq!(found.as_deref(), Some(value.as_slice()));
        }

        #[test]
        fn no_query_is_too_strange(
            query in prop::collection::vec(prop::sample::select(b"&&==%a61+\x00\xff".to_vec()), 0..48),
        ) {
            let value = find(&query, "a");
            prop_assert!(value.is_none_or(|value| !value.is_empty() && value.len() <= query.len()));
        }
    }
}
