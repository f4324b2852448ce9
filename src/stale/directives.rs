//! The directives of `Cache-Control` (RFC 9111 section 5.2).

use crate::lookup::trim_blanks;

/// One directive: its name as written, its argument without quotes, and the whole of it.
pub(crate) struct Directive<'v> {
    name: &'v [u8],
    argument: Option<&'v [u8]>,
    /// The directive as it was written.
    pub(crate) whole: &'v [u8],
}

impl Directive<'_> {
    /// Whether the directive has this name.
    pub(crate) fn is(&self, name: &str) -> bool {
        self.name.eq_ignore_ascii_case(name.as_bytes())
    }

    /// Its argument in seconds; 0 if it is unreadable, because such a response is better not kept.
    pub(super) fn seconds(&self) -> u64 {
        let digits = self.argument.filter(|text| !text.is_empty() && text.iter().all(u8::is_ascii_digit));
        let number = digits.and_then(|text| str::from_utf8(text).ok());
        // A number too large to parse means a time that never ends.
        number.map_or(0, |number| number.parse().unwrap_or(u64::MAX)).min(FOREVER_SECS)
    }
}

/// The directives of one line.
pub(crate) fn directives(line: &[u8]) -> impl Iterator<Item = Directive<'_>> {
    let mut quoted = false;
    let at_comma = move |byte: &u8| {
        quoted ^= *byte == b'"';
        *byte == b',' && !quoted
    };
    line.split(at_comma).map(trim_blanks).filter(|whole| !whole.is_empty()).map(|whole| {
        let equals = whole.iter().position(|byte| *byte == b'=').unwrap_or(whole.len());
        let (name, argument) = whole.split_at_checked(equals).unwrap_or((whole, b""));
        let argument = argument.strip_prefix(b"=").map(trim_blanks);
        let unquoted =
            argument.map(|text| text.strip_prefix(b"\"").and_then(|text| text.strip_suffix(b"\"")).unwrap_or(text));
        Directive { name: trim_blanks(name), argument: unquoted, whole }
    })
}

/// 2^31: RFC 9111 section 1.2.2 uses it for any longer time.
const FOREVER_SECS: u64 = 2_147_483_648;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directives_are_split_at_commas_outside_quotes() {
        let line = br#"max-age=60 , no-cache="a, b",Public,, s-maxage="7",x=,max-stale"#;
        let found: Vec<_> = directives(line).map(|it| (it.name.to_vec(), it.seconds())).collect();
        let expected: [(&[u8], u64); 6] =
            [(b"max-age", 60), (b"no-cache", 0), (b"Public", 0), (b"s-maxage", 7), (b"x", 0), (b"max-stale", 0)];
        assert_eq!(found, expected.map(|(name, seconds)| (name.to_vec(), seconds)));
        assert!(directives(b"PUBLIC").all(|it| it.is("public")));
        assert_eq!(directives(b"max-age=99999999999999999999").next().unwrap().seconds(), FOREVER_SECS);
        assert_eq!(directives(b"max-age=-1").next().unwrap().seconds(), 0);
    }
}
