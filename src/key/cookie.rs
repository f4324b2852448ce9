//! One cookie of the `Cookie` header. RFC 6265 section 4.2.1.

use crate::lookup::trim_blanks;

/// The value of the cookie `name`, without surrounding blanks and quotes; `None` if it is absent, empty or ambiguous.
///
/// A cookie that is sent twice is ambiguous: services differ in which one they read, so a client could show one to the
/// filter and the other to the service, and appear as a new client with each request. Several `Cookie` headers arrive
/// joined by commas, which RFC 6265 does not allow in values. So a comma ends a cookie like a semicolon. A comma right
/// after the wanted value may be such a joint or part of the value, so that is ambiguous too.
pub(super) fn find<'h>(header: &'h [u8], name: &str) -> Option<&'h [u8]> {
    let mut found = None;
    let mut rest = header;
    loop {
        let end = rest.iter().position(|byte| matches!(byte, b';' | b','));
        let pair = end.and_then(|end| rest.get(..end)).unwrap_or(rest);
        let joint = end.and_then(|end| rest.get(end)) == Some(&b',');
        if let Some(value) = value_of(pair, name) {
            if joint || found.is_some() {
                return None;
            }
            found = Some(value);
        }
        match end.and_then(|end| rest.get(end.saturating_add(1)..)) {
            Some(after) => rest = after,
            None => return found.filter(|value| !value.is_empty()),
        }
    }
}

fn value_of<'h>(pair: &'h [u8], name: &str) -> Option<&'h [u8]> {
    let pair = trim_blanks(pair);
    let equals = pair.iter().position(|&byte| byte == b'=')?;
    let (named, value) = pair.split_at_checked(equals)?;
    if trim_blanks(named) != name.as_bytes() {
        return None;
    }
    let value = trim_blanks(value.strip_prefix(b"=")?);
    // Most services treat `a="b"` and `a=b` as one value. If they were two here, each client could count as two.
    let quoted = value.strip_prefix(b"\"").and_then(|value| value.strip_suffix(b"\""));
    Some(quoted.unwrap_or(value))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_cookie_is_found_when_it_stands_once() {
        for (header, value) in [
            ("sid=1", Some("1")),
            ("a=b; sid=1; c=d", Some("1")),
            ("a=b;sid = 1 ;c=d", Some("1")),
            ("sid=\"1\"", Some("1")),
            ("sid=a=b==", Some("a=b==")),
            ("xsid=2; sidx=3; SID=4; sid=1", Some("1")),
            ("sid=\"", Some("\"")),
            ("prefs=a,b; sid=1", Some("1")),
            ("a=b,sid=1", Some("1")),
            ("", None),
            ("sid", None),
            ("sid=", None),
            ("sid=\"\"", None),
            ("a=sid=1", None),
            ("sid=1; sid=1", None),
            ("sid=1; sid=", None),
            ("sid=1,sid=2", None),
            ("sid=1; a=b,sid=2", None),
            ("sid=1,a=b", None),
            (";;;,,,===", None),
        ] {
            assert_eq!(find(header.as_bytes(), "sid"), value.map(str::as_bytes), "{header}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(4_000))]

        #[test]
        fn no_header_is_too_strange(
            header in prop::collection::vec(prop::sample::select(b";;,==a \t\"b\x00\xff".to_vec()), 0..48),
        ) {
            if let Some(value) = find(&header, "a") {
                prop_assert!(!value.is_empty() && !value.contains(&b';') && !value.contains(&b','));
            }
        }
    }
}
