//! Path patterns: `/api/**`, `/users/*/posts`, `/assets/v*`.

use super::hint::hint;
use super::shapes::Text;
use super::value::Value;
use super::{PathGlob, SegmentGlob};
use crate::path::{escaped_byte, normalise_segment};

impl Text for PathGlob {
    const WHAT: &str = "a path pattern";
    const PATTERN: Option<&str> = Some(concat!(
        r"^(?=/)(/(?!(\.|%2[Ee]){1,2}(/|$))",
        r"([^/?#%*\x00-\x20\x7f]|%[0-9A-Fa-f]{2})*(\*([^/?#%*\x00-\x20\x7f]|%[0-9A-Fa-f]{2})*)?)*(/\*\*)?$"
    ));
    const CHARS: (u32, u32) = (1, 1_024);
    const HINT: &str = "write a path that begins with \"/\", as in \"/api/**\" or \"/users/*/posts\"";

    type Parsed = Self;

    fn parse(text: &str) -> Result<Value, Option<String>> {
        let path = text.strip_prefix('/').ok_or(None)?;
        if path.contains(['?', '#']) {
            return Err(hint(|| "a pattern is for the path alone: write it without a query or fragment".to_owned()));
        }
        let (path, deep) = match path.strip_suffix("**") {
            Some("") => return Ok(Value::Path(Self { segments: Vec::new(), deep: true })),
            Some(path) => (path.strip_suffix('/').ok_or_else(deep_hint)?, true),
            None => (path, false),
        };
        let last = path.split('/').count().saturating_sub(1);
        let segments = path
            .split('/')
            .enumerate()
            // A normalised path has no repeated slashes. Its last segment is empty if it ends with a slash.
            .filter(|(index, text)| !text.is_empty() || (*index == last && !deep))
            .map(|(_, text)| segment(text))
            .collect::<Result<_, _>>()?;
        Ok(Value::Path(Self { segments, deep }))
    }
}

fn segment(text: &str) -> Result<SegmentGlob, Option<String>> {
    match text.split_once('*') {
        None => match normalised(text)? {
            dots if dots == b"." || dots == b".." => Err(hint(|| {
                "no normalised path has the segments \".\" and \"..\": write the path they lead to".to_owned()
            })),
            text => Ok(SegmentGlob::Literal(text)),
        },
        Some((_, suffix)) if suffix.starts_with('*') => Err(deep_hint()),
        Some((_, suffix)) if suffix.contains('*') => {
            Err(hint(|| "write at most one \"*\" in a segment, as in \"/assets/v*\"".to_owned()))
        }
        Some((prefix, suffix)) => Ok(SegmentGlob::Star { prefix: normalised(prefix)?, suffix: normalised(suffix)? }),
    }
}

fn deep_hint() -> Option<String> {
    hint(|| "\"**\" can only be the whole last segment, as in \"/api/**\"".to_owned())
}

/// The bytes of a segment in a normalised path, see [`normalise_segment`].
fn normalised(text: &str) -> Result<Vec<u8>, Option<String>> {
    let mut rest = text.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        match byte {
            b'%' if escaped_byte(after).is_none() => return Err(percent_hint()),
            0..=b' ' | 127 => return Err(hint(|| "write spaces and control characters as %20 and so on".to_owned())),
            _ => rest = after,
        }
    }
    Ok(normalise_segment(text.as_bytes()))
}

fn percent_hint() -> Option<String> {
    hint(|| "write two hexadecimal digits after \"%\", and \"%25\" for the character itself".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lookup::Lookup;
    use crate::lookup::recorded::Recorded;
    use crate::matching::mismatch;
    use crate::policy::Match;
    use proptest::prelude::*;

    fn literal(text: &str) -> SegmentGlob {
        SegmentGlob::Literal(text.into())
    }

    fn star(prefix: &str, suffix: &str) -> SegmentGlob {
        SegmentGlob::Star { prefix: prefix.into(), suffix: suffix.into() }
    }

    #[test]
    fn patterns_are_segments_as_a_normalised_path_has_them() {
        for (text, segments, deep) in [
            ("/", vec![literal("")], false),
            ("/**", vec![], true),
            ("//**", vec![], true),
            ("/api/**", vec![literal("api")], true),
            ("/api/", vec![literal("api"), literal("")], false),
            ("//api///x", vec![literal("api"), literal("x")], false),
            ("/users/*/posts", vec![literal("users"), star("", ""), literal("posts")], false),
            ("/v*/a*b.js", vec![star("v", ""), star("a", "b.js")], false),
            ("/%7euser/%c3%a4%2f/ä", vec![literal("~user"), literal("%C3%A4%2F"), literal("%C3%A4")], false),
            ("/a%2A/%40me", vec![literal("a*"), literal("@me")], false),
        ] {
            assert_eq!(PathGlob::parse(text), Ok(Value::Path(PathGlob { segments, deep })), "{text}");
        }
    }

    #[test]
    fn what_no_normalised_path_could_match_is_refused() {
        for text in [
            "", "api", "/a?b", "/a#b", "/**/a", "/a**", "/**a", "/a/b**", "/*a*", "/a/../b", "/.", "/%2e", "/a b",
            "/%", "/%zz", "/a%2",
        ] {
            assert!(PathGlob::parse(text).is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn a_path_written_as_a_pattern_matches_each_spelling_of_itself(path in "(/[a-z.@;%\u{e4}]{1,3}){1,3}/?") {
            let spelt: String = path.bytes().map(|byte| match byte {
                b'/' => "/".to_owned(),
                _ => format!("%{byte:02x}"),
            }).collect();
            // A literal percent sign is escaped in a pattern, and a pattern with dot segments is refused.
            if let Ok(Value::Path(glob)) = PathGlob::parse(&path.replace('%', "%25")) {
                let rule = Match { path: Some(glob), ..Match::default() };
                for raw in [path.replace('%', "%25"), spelt] {
                    let request = Recorded::get(&raw);
                    prop_assert_eq!(mismatch(&rule, &Lookup::new(&request)), None, "{}", raw);
                }
            }
        }
    }
}
