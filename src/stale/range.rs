//! Byte ranges of a body (RFC 9110 section 14).

use crate::lookup::trim_blanks;
use core::ops::Range;

/// The part of a body that a request asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Part {
    /// The whole body: the request has no range, an invalid one, or several, which are not supported.
    Whole,
    /// These bytes, at least one.
    Bytes(Range<usize>),
    /// No byte: the range begins after the end.
    Unsatisfiable,
}

/// The part of a body of `len` bytes that the value of `Range` asks for.
pub(super) fn part(value: &[u8], len: usize) -> Part {
    wanted(value, len).unwrap_or(Part::Whole)
}

fn wanted(value: &[u8], len: usize) -> Option<Part> {
    let (unit, range) = value.split_at_checked(6)?;
    if !unit.eq_ignore_ascii_case(b"bytes=") {
        return None;
    }
    let range = str::from_utf8(trim_blanks(range)).ok()?;
    let (first, last) = range.split_once('-')?;
    let number = |text: &str| {
        let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        // A number too large to parse is after the end of any body.
        digits.then(|| text.parse().unwrap_or(usize::MAX))
    };
    let (start, end) = match (first, last) {
        ("", last) => (len.saturating_sub(number(last)?), len),
        (first, "") => (number(first)?, len),
        (first, last) => {
            let (first, last) = (number(first)?, number(last)?);
            if last < first {
                return None;
            }
            (first, last.saturating_add(1).min(len))
        }
    };
    Some(if start < end { Part::Bytes(start..end) } else { Part::Unsatisfiable })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn one_range_is_a_part_and_anything_else_is_the_whole() {
        for (value, expected) in [
            ("bytes=0-0", Part::Bytes(0..1)),
            ("Bytes=2-4", Part::Bytes(2..5)),
            ("bytes=2-", Part::Bytes(2..10)),
            ("bytes=-3", Part::Bytes(7..10)),
            ("bytes=-30", Part::Bytes(0..10)),
            ("bytes=9-99999999999999999999", Part::Bytes(9..10)),
            ("bytes=10-", Part::Unsatisfiable),
            ("bytes=99999999999999999999-", Part::Unsatisfiable),
            ("bytes=-0", Part::Unsatisfiable),
            ("bytes=0-1,4-5", Part::Whole),
            ("bytes=4-2", Part::Whole),
            ("bytes=+1-2", Part::Whole),
            ("bytes=a-b", Part::Whole),
            ("bytes=-", Part::Whole),
            ("bytes=", Part::Whole),
            ("items=0-1", Part::Whole),
            ("bytes 0-1", Part::Whole),
            ("", Part::Whole),
        ] {
            assert_eq!(part(value.as_bytes(), 10), expected, "{value}");
        }
        assert_eq!(part(b"bytes=0-", 0), Part::Unsatisfiable);
        assert_eq!(part(b"bytes=-5", 0), Part::Unsatisfiable);
    }

    proptest! {
        /// Compares with testing each byte by itself.
        #[test]
        fn a_range_has_the_bytes_that_are_meant(len in 0..40_usize, first in 0..50_usize, last in 0..50_usize, kind in 0..3) {
            let body: Vec<usize> = (0..len).collect();
            let (value, is_meant): (_, Box<dyn Fn(usize) -> bool>) = match kind {
                0 => (format!("bytes={first}-{last}"), Box::new(move |at| first <= at && at <= last)),
                1 => (format!("bytes={first}-"), Box::new(move |at| first <= at)),
                _ => (format!("bytes=-{last}"), Box::new(move |at| at + last >= len)),
            };
            let meant: Vec<usize> = body.iter().copied().filter(|at| is_meant(*at)).collect();
            match part(value.as_bytes(), len) {
                Part::Bytes(range) => prop_assert_eq!(&body[range], meant.as_slice()),
                Part::Unsatisfiable => prop_assert!(meant.is_empty()),
                Part::Whole => prop_assert!(kind == 0 && last < first),
            }
        }
    }
}
