//! The scripts that make Redis an authority: one for each algorithm and one for breakers. Tests hold them equal to
//! [`crate::authority`].
//!
//! A script that counts is made of four parts: the clock, the ask and what is stored, the algorithm, and the account
//! that joins them. The one for requests in flight stores only who holds what, and has no fourth part. Comments are for
//! the reader; they are neither compiled in nor sent.

use crate::authority::Shared;

/// A script that answers one ask, or a round of reports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Script {
    parts: [&'static str; 4],
    sha1: &'static str,
    suffix: &'static str,
}

impl Script {
    /// The script of an algorithm.
    #[must_use]
    pub const fn of(algorithm: Shared) -> Self {
        match algorithm {
            Shared::FixedWindow => Self::counting(FIXED_WINDOW, "39efe5788481b69e665a28d16d846a6f98b5743c", "f1"),
            Shared::SlidingWindow => Self::counting(SLIDING_WINDOW, "9f009fecb9b10d618b1c69c943380080690901e6", "s1"),
            Shared::TokenBucket => Self::counting(TOKEN_BUCKET, "349d7a9c3016b89335ba090e173853dd8ff4f591", "t1"),
            Shared::InFlight => Self {
                parts: [CLOCK, ASK, IN_FLIGHT, ""],
                sha1: "c99830740d442cb176352dc383bc6c3f63d2a8d2",
                suffix: "c1",
            },
        }
    }

    const fn counting(algorithm: &'static str, sha1: &'static str, suffix: &'static str) -> Self {
        Self { parts: [CLOCK, ASK, algorithm, ACCOUNT], sha1, suffix }
    }

    /// The script that answers reports on breakers: see [`crate::breaker::global`].
    #[must_use]
    pub const fn of_breakers() -> Self {
        Self { parts: [CLOCK, BREAKERS, "", ""], sha1: "ae488bcd19e79b64a31e648f5d50629faf1e3df9", suffix: "b1" }
    }

    /// The whole text, as Redis runs it.
    #[must_use]
    pub fn source(&self) -> String {
        self.parts.concat()
    }

    /// The SHA-1 of [`Script::source`], by which Redis finds a script that it has seen: 40 hexadecimal digits, lower
    /// case.
    #[must_use]
    pub const fn sha1(&self) -> &'static str {
        self.sha1
    }

    /// The end of the name of a key that this script writes: the algorithm, and the version of what it stores. While a
    /// limit changes from one algorithm to another, instances of either count apart and do not undo each other's
    /// counts.
    #[must_use]
    pub const fn suffix(&self) -> &'static str {
        self.suffix
    }
}

/// The lines of a file that are code, without their indentation, computed at build time.
macro_rules! code {
    ($file:literal) => {{
        const TEXT: &[u8] = include_bytes!($file);
        const CODE: [u8; code_len(TEXT)] = code(TEXT);
        match core::str::from_utf8(&CODE) {
            Ok(code) => code,
            Err(_) => panic!("the script is not UTF-8"),
        }
    }};
}

const CLOCK: &str = code!("clock.lua");
const ASK: &str = code!("ask.lua");
const FIXED_WINDOW: &str = code!("fixed_window.lua");
const SLIDING_WINDOW: &str = code!("sliding_window.lua");
const TOKEN_BUCKET: &str = code!("token_bucket.lua");
const IN_FLIGHT: &str = code!("in_flight.lua");
const ACCOUNT: &str = code!("account.lua");
const BREAKERS: &str = code!("breakers.lua");

/// How many bytes of the text are code.
const fn code_len(text: &[u8]) -> usize {
    code_into(text, &mut [0; MAX_CODE_BYTES])
}

const fn code<const N: usize>(text: &[u8]) -> [u8; N] {
    let mut code = [0; N];
    code_into(text, &mut code);
    code
}

/// Writes the code in `text` to `code`, and returns its length. A line is a comment if it begins like one; no string in
/// the scripts spans several lines.
#[expect(
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    reason = "runs at build time, where a panic is an error"
)]
const fn code_into(text: &[u8], code: &mut [u8]) -> usize {
    let (mut at, mut len) = (0, 0);
    while at < text.len() {
        while at < text.len() && (text[at] == b' ' || text[at] == b'\n') {
            at += 1;
        }
        let is_comment = at + 1 < text.len() && text[at] == b'-' && text[at + 1] == b'-';
        while at < text.len() {
            if !is_comment {
                code[len] = text[at];
                len += 1;
            }
            at += 1;
            if text[at - 1] == b'\n' {
                break;
            }
        }
    }
    len
}

/// More than the longest file.
const MAX_CODE_BYTES: usize = 8 * 1024;

#[cfg(test)]
mod tests {
    use super::*;

    fn all() -> [Script; 5] {
        let counting = [Shared::FixedWindow, Shared::SlidingWindow, Shared::TokenBucket, Shared::InFlight];
        let [fixed, sliding, bucket, in_flight] = counting.map(Script::of);
        [fixed, sliding, bucket, in_flight, Script::of_breakers()]
    }

    #[test]
    fn the_sha1_is_that_of_the_source() {
        let scripts = all();
        let computed = scripts.map(|script| redis::Script::new(&script.source()).get_hash().to_owned());
        assert_eq!(scripts.map(|script| script.sha1().to_owned()), computed);
    }

    #[test]
    fn comments_and_indentation_are_left_out_and_nothing_else() {
        const TEXT: &[u8] = b"-- why\nlocal a = 1\n\n  if a - 1 then\n    -- so\n    return '--'\n  end";
        const CODE: [u8; code_len(TEXT)] = code(TEXT);
        assert_eq!(CODE.escape_ascii().to_string(), r"local a = 1\nif a - 1 then\nreturn \'--\'\nend");
    }

    #[test]
    fn a_script_is_plain_text_and_reads_no_other_clock() {
        for script in all() {
            let source = script.source();
            // So neither JSON nor percent-encoding needs more than a few escapes.
            assert!(source.bytes().all(|byte| matches!(byte, b' '..=b'~' | b'\n')), "{source}");
            assert!(source.starts_with(CLOCK) && source.matches("TIME").count() == 1, "{source}");
        }
    }
}
