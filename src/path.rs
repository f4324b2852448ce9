//! The path that rules match: one spelling for each resource, so that no other spelling evades a rule.

use std::borrow::Cow;

/// The path of a request target in its normal form: without query and fragment, each byte spelt in one way.
///
/// - A byte that may stand unescaped in a segment (RFC 3986 section 3.3: letters, digits, `-._~`, `!$&'()*+,;=`, `:`
///   and `@`) is unescaped: `%61` is `a`. RFC 3986 section 6.2.2.2 decodes only the first three groups. But services
///   hardly ever distinguish `/%40me` from `/@me`, and a rule that does can be evaded.
/// - Every other byte is an escape with upper-case digits, including raw bytes outside ASCII. A percent sign that
///   begins no escape is `%25`. `%2F` stays `%2F`, because some services read it as a slash and others do not.
/// - Repeated slashes are one. Then dot segments are removed, including `%2e%2e`. A trailing slash is kept: `/a` and
///   `/a/` are two paths. Case is kept.
/// - A path that is empty or does not begin with a slash (`*`, the target of `CONNECT`) gets a slash in front, so that
///   `/**` matches every path.
///
/// Borrowed if `raw` is normal up to its query. At most one byte, and two for each byte that is escaped, longer than
/// `raw`. Never an error. Normalising twice is the same as normalising once.
#[must_use]
pub fn normalise(raw: &[u8]) -> Cow<'_, [u8]> {
    match form(raw) {
        Form::Prefix(len) => Cow::Borrowed(raw.get(..len).unwrap_or(raw)),
        Form::Rewritten(path) => Cow::Owned(path),
    }
}

/// How to get the normal form of a target.
#[derive(Debug)]
pub(crate) enum Form {
    /// It is this many bytes at the start of the target.
    Prefix(usize),
    /// It is another text.
    Rewritten(Vec<u8>),
}

/// The normal form of `raw`, without borrowing from it.
pub(crate) fn form(raw: &[u8]) -> Form {
    match normal_prefix(raw) {
        Some(len) => Form::Prefix(len),
        None => Form::Rewritten(rewrite(raw)),
    }
}

/// A URL or its target, made safe for parsers that follow the rules of browsers (<https://url.spec.whatwg.org>). These
/// read a backslash as a slash, and drop control characters and trailing blanks, so the request would reach a different
/// path from the one that rules have matched. Here such characters are escaped, as in the normal form.
#[must_use]
pub fn escaped_for_parsers(url: &str) -> Cow<'_, str> {
    let is_misread = |byte: u8| byte == b'\\' || byte <= b' ';
    if !url.bytes().any(is_misread) {
        return Cow::Borrowed(url);
    }
    let mut out = String::with_capacity(url.len().saturating_add(8));
    for char in url.chars() {
        match u8::try_from(char) {
            Ok(byte) if is_misread(byte) => out.push_str(&format!("%{byte:02X}")),
            _ => out.push(char),
        }
    }
    Cow::Owned(out)
}

/// The query of a request target, without its `?`; `None` if it has none.
pub(crate) fn query(raw: &[u8]) -> Option<&[u8]> {
    let target = raw.split(|&byte| byte == b'#').next()?;
    let start = target.iter().position(|&byte| byte == b'?')?;
    target.get(start.saturating_add(1)..)
}

/// The text of one segment of a path or of a path's glob, each byte in its normal spelling.
pub(crate) fn normalise_segment(text: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((&byte, after)) = rest.split_first() {
        rest = push_next(&mut out, byte, after);
    }
    out
}

/// The length of the path in `raw`, if it is normal already.
fn normal_prefix(raw: &[u8]) -> Option<usize> {
    let mut before = 0;
    let mut rest = raw;
    while let Some((&byte, after)) = rest.split_first() {
        match byte {
            b'?' | b'#' => break,
            b'/' if before == b'/' => return None,
            b'/' => {}
            b'.' if before == b'/' && begins_with_dot_segment(rest) => return None,
            b'%' if is_normal_escape(after) => {}
            _ if is_plain(byte) => {}
            _ => return None,
        }
        before = byte;
        rest = after;
    }
    (raw.first() == Some(&b'/')).then(|| raw.len().saturating_sub(rest.len()))
}

fn begins_with_dot_segment(rest: &[u8]) -> bool {
    let after = rest.strip_prefix(b"..").or_else(|| rest.strip_prefix(b"."));
    after.is_some_and(|after| matches!(after.first(), None | Some(b'/' | b'?' | b'#')))
}

/// Whether `after` begins with the digits of an escape in its normal spelling.
fn is_normal_escape(after: &[u8]) -> bool {
    escaped_byte(after).is_some_and(|byte| !is_plain(byte)) && !after.iter().take(2).any(u8::is_ascii_lowercase)
}

fn rewrite(raw: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(raw.len().saturating_add(1));
    out.push(b'/');
    // Where the segment being written begins in `out`. The byte before it is always a slash.
    let mut segment = 1;
    let mut rest = raw;
    while let Some((&byte, after)) = rest.split_first() {
        rest = match byte {
            b'?' | b'#' => break,
            b'/' => {
                segment = close_segment(&mut out, segment, b"/");
                after
            }
            _ => push_next(&mut out, byte, after),
        };
    }
    close_segment(&mut out, segment, b"");
    out
}

/// Ends the segment that begins at `segment` with `end`, and returns where the next one begins.
fn close_segment(out: &mut Vec<u8>, segment: usize, end: &[u8]) -> usize {
    match out.get(segment..) {
        Some(b"") => {}
        Some(b".") => out.truncate(segment),
        Some(b"..") => {
            let parents = out.get(..segment.saturating_sub(1)).unwrap_or_default();
            let parent = parents.iter().rposition(|&byte| byte == b'/').unwrap_or(0);
            out.truncate(parent.saturating_add(1));
        }
        _ => out.extend_from_slice(end),
    }
    out.len()
}

/// Writes `byte`, or the byte of the escape that it begins, and returns the rest.
fn push_next<'t>(out: &mut Vec<u8>, byte: u8, after: &'t [u8]) -> &'t [u8] {
    let (value, after) = match escaped_byte(after).filter(|_| byte == b'%') {
        Some(value) => (value, after.get(2..).unwrap_or_default()),
        None => (byte, after),
    };
    if is_plain(value) {
        out.push(value);
    } else {
        out.extend_from_slice(&[b'%', hex_digit(value >> 4), hex_digit(value & 15)]);
    }
    after
}

fn hex_digit(nibble: u8) -> u8 {
    char::from_digit(u32::from(nibble), 16).map_or(b'0', |digit| digit.to_ascii_uppercase() as u8)
}

/// The byte for the two hexadecimal digits that `after` begins with.
pub(crate) fn escaped_byte(after: &[u8]) -> Option<u8> {
    let (&[high, low], _) = after.split_first_chunk()?;
    let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    Some((digit(high)? << 4) | digit(low)?)
}

/// Whether this byte may stand unescaped in a segment: `pchar` of RFC 3986 section 3.3, without escapes.
fn is_plain(byte: u8) -> bool {
    let unreserved = byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~');
    // The range is `& ' ( ) * + ,`.
    unreserved || matches!(byte, b'!' | b'$' | b'&'..=b',' | b';' | b'=' | b':' | b'@')
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn each_spelling_has_one_normal_form() {
        for (raw, normal) in [
            ("/", "/"),
            ("", "/"),
            ("*", "/*"),
            ("example.com:443", "/example.com:443"),
            ("?a=b", "/"),
            ("/a?b/../c", "/a"),
            ("/a#b?c", "/a"),
            ("/a/", "/a/"),
            ("//a///b//", "/a/b/"),
            ("/./a/./b/.", "/a/b/"),
            ("/a/b/../c", "/a/c"),
            ("/a/b/..", "/a/"),
            ("/a//../b", "/b"),
            ("/../../a", "/a"),
            ("/..", "/"),
            ("/.a/..b/...", "/.a/..b/..."),
            ("/a/%2e%2E/b", "/b"),
            ("/a/.%2e?x", "/"),
            ("/%61%7E%41", "/a~A"),
            ("/%2f%2F%c3%a4", "/%2F%2F%C3%A4"),
            ("/a%2Fb", "/a%2Fb"),
            ("/a/%40me%3b%2A", "/a/@me;*"),
            ("/\u{e4} \"\\", "/%C3%A4%20%22%5C"),
            ("/%", "/%25"),
            ("/%4", "/%254"),
            ("/%25", "/%25"),
            ("/%zz%61", "/%25zza"),
            ("/%%341", "/%2541"),
            ("/%2%35", "/%2525"),
            ("/A/b", "/A/b"),
        ] {
            assert_eq!(normalise(raw.as_bytes()), normal.as_bytes(), "{raw}");
        }
    }

    #[test]
    fn a_normal_path_is_borrowed() {
        for raw in ["/", "/api/users/17?page=2", "/a%2Fb/.c/..d", "/a/", "/%C3%A4@:!*,'"] {
            assert!(matches!(normalise(raw.as_bytes()), Cow::Borrowed(_)), "{raw}");
        }
    }

    #[test]
    fn what_parsers_would_misread_is_escaped_as_in_the_normal_form() {
        for (url, escaped) in [
            ("http://a.example/x\\..\\api?q=\\", "http://a.example/x%5C..%5Capi?q=%5C"),
            ("/api\u{1}\t ", "/api%01%09%20"),
            ("/api/%5c\u{e4}#x", "/api/%5c\u{e4}#x"),
        ] {
            assert_eq!(escaped_for_parsers(url), escaped);
            assert_eq!(normalise(escaped.as_bytes()), normalise(url.as_bytes()));
        }
        assert!(matches!(escaped_for_parsers("/api?q#x"), Cow::Borrowed(_)));
    }

    #[test]
    fn the_query_ends_at_the_fragment() {
        assert_eq!(query(b"/a?b=c#d?e"), Some(b"b=c".as_slice()));
        assert_eq!(query(b"/a?"), Some(b"".as_slice()));
        assert_eq!(query(b"/a#b?c"), None);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(10_000))]

        #[test]
        fn normalising_twice_is_normalising_once(raw in tricky_path()) {
            let once = normalise(&raw).into_owned();
            prop_assert_eq!(normalise(&once), once.as_slice());
            prop_assert!(matches!(once.first(), Some(b'/')));
            prop_assert!(once.len() <= 3 * raw.len() + 1);
            prop_assert!(!once.windows(2).any(|two| two == b"//"));
            prop_assert!(!once.split(|&byte| byte == b'/').any(|segment| segment == b"." || segment == b".."));
        }

        #[test]
        fn a_path_that_needs_no_change_is_its_own_normal_form(raw in tricky_path()) {
            if let Form::Prefix(len) = form(&raw) {
                prop_assert_eq!(rewrite(&raw), &raw[..len]);
            }
        }
    }

    #[test]
    fn every_spelling_of_a_byte_is_the_same() {
        for byte in 0..=u8::MAX {
            if matches!(byte, b'/' | b'?' | b'#' | b'%') {
                continue;
            }
            let raw = [b"/x".as_slice(), &[byte]].concat();
            for escape in [format!("/x%{byte:02x}"), format!("/x%{byte:02X}")] {
                assert_eq!(normalise(escape.as_bytes()), normalise(&raw), "{byte}");
            }
            assert_eq!(normalise_segment(&raw[1..]), &normalise(&raw)[1..], "{byte}");
        }
    }

    fn tricky_path() -> impl Strategy<Value = Vec<u8>> {
        let tricky =
            ["/", ".", "..", "%", "%2", "%2e", "%2F", "%34", "%41", "4", "1", "a", "?", "#", "@", "%40", "\u{e4}"];
        let piece = prop_oneof![
            8 => prop::sample::select(tricky.to_vec()).prop_map(|piece| piece.as_bytes().to_vec()),
            1 => prop::collection::vec(any::<u8>(), 0..4),
        ];
        prop::collection::vec(piece, 0..24).prop_map(|pieces| pieces.concat())
    }
}
