//! A number of a JSON document, to six decimals.
//!
//! Parsers give an `f64` for a number that is not a 64-bit integer, but nothing here counts in floats. The standard
//! library's formatting of floats would make up a twentieth of the filter, for a few error messages and rare claims.

use core::fmt;

/// A number to six decimals.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Number {
    negative: bool,
    /// At most `MAX_EXACT + 1`, which stands for everything above [`MAX_EXACT`].
    whole: u64,
    /// Millionths, below one million.
    micros: u32,
    /// Whether the number has no more decimals than these six.
    exact: bool,
}

impl Number {
    /// The whole number of this size.
    pub(crate) const fn whole(negative: bool, size: u64) -> Self {
        let whole = if size > MAX_EXACT { TOO_LARGE } else { size };
        Self { negative, whole, micros: 0, exact: true }
    }

    /// A number of hundredths.
    pub(crate) fn hundredths(hundredths: u32) -> Self {
        let micros = (hundredths % 100).saturating_mul(10_000);
        Self { micros, ..Self::whole(false, u64::from(hundredths / 100)) }
    }

    /// The number that a parser read as `value`.
    #[must_use]
    pub fn nearest(value: f64) -> Self {
        let (negative, size) = (value < 0.0, value.abs());
        let micros = (size - size.trunc()) * MICROS;
        let rounded = micros.round_ties_even();
        // Most decimals have no exact double. The number meant is the decimal whose double this is, or the next double,
        // because parsers may be off by that.
        let exact = (size.trunc() + rounded / MICROS - size).abs() <= size * (2.0 * f64::EPSILON);
        let micros = if exact { rounded } else { micros } as u32;
        let (carry, micros) = if micros < MICROS_PER_ONE { (0, micros) } else { (1, 0) };
        // Larger values saturate at the largest `u64`.
        Self { micros, exact, ..Self::whole(negative, (size as u64).saturating_add(carry)) }
    }

    /// Whether this is exactly the number in the document, and at most 2^53.
    pub(crate) fn is_exact(self) -> bool {
        self.exact && self.whole < TOO_LARGE
    }

    /// The number in millionths, rounded down; `None` if it is negative. Saturates at the largest `u64`.
    pub(crate) fn in_micros(self) -> Option<u64> {
        let micros = self.whole.saturating_mul(u64::from(MICROS_PER_ONE)).saturating_add(u64::from(self.micros));
        (!self.negative || micros == 0).then_some(micros)
    }

    /// The number as an integer; `None` if it has decimals, is negative, or is above 2^53.
    pub(crate) fn as_integer(self) -> Option<u64> {
        let is_integer = !self.negative && self.micros == 0 && self.is_exact();
        is_integer.then_some(self.whole)
    }

    /// JSON text that [`Number::nearest`] turns into this number again.
    #[must_use]
    pub fn to_json(self) -> String {
        match (self.whole, self.exact) {
            (TOO_LARGE, _) if self.negative => "-1e300".to_owned(),
            (TOO_LARGE, _) => "1e300".to_owned(),
            (_, true) => self.to_string(),
            // A seventh decimal stands for the unknown ones.
            (whole, false) => format!("{}{whole}.{:06}1", if self.negative { "-" } else { "" }, self.micros),
        }
    }

    /// The number as a float, for JSON writers.
    pub(crate) fn as_f64(self) -> f64 {
        let size = self.whole as f64 + f64::from(self.micros) / MICROS;
        if self.negative { -size } else { size }
    }
}

/// Writes `12`, `-0.5`, or `0.333333…` if there are more decimals. Beyond the sizes up to which every integer is known it
/// writes `a number above 2^53` or `a number below -2^53`.
impl fmt::Display for Number {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.whole == TOO_LARGE {
            return f.write_str(if self.negative { "a number below -2^53" } else { "a number above 2^53" });
        }
        let sign = if self.negative { "-" } else { "" };
        write!(f, "{sign}{}", self.whole)?;
        let (mut micros, mut digits) = (self.micros, 6_usize);
        while digits > 1 && micros.is_multiple_of(10) {
            (micros, digits) = (micros / 10, digits.saturating_sub(1));
        }
        match (micros, self.exact) {
            (0, true) => Ok(()),
            (_, exact) => write!(f, ".{micros:0digits$}{}", if exact { "" } else { "…" }),
        }
    }
}

/// Up to here, 2^53, a double holds every integer exactly.
const MAX_EXACT: u64 = 1 << 53;
const TOO_LARGE: u64 = MAX_EXACT + 1;

const MICROS: f64 = 1e6;
const MICROS_PER_ONE: u32 = 1_000_000;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_number_is_written_as_a_person_would() {
        for (value, text) in [
            (12.0, "12"),
            (-0.5, "-0.5"),
            (0.0, "0"),
            (0.1 + 0.2, "0.3"),
            (2.000_001, "2.000001"),
            (0.05, "0.05"),
            (0.999_999_999_999_999_9, "1"),
            (0.999_999_9, "0.999999…"),
            (1.0 / 3.0, "0.333333…"),
            (1e-9, "0.0…"),
            (-1e300, "a number below -2^53"),
            (f64::INFINITY, "a number above 2^53"),
            (9_007_199_254_740_992.0, "9007199254740992"),
        ] {
            assert_eq!(Number::nearest(value).to_string(), text);
        }
    }

    #[test]
    fn json_stays_the_same_number() {
        for value in [0.0, -0.5, 12.0, 0.07, 1.0 / 3.0, -1e-9, 1e300, -1e300, 4_503_599_627_370_495.5] {
            let number = Number::nearest(value);
            assert_eq!(Number::nearest(number.to_json().parse().unwrap()), number, "{value}");
        }
    }

    #[test]
    fn hundredths_are_a_number() {
        assert_eq!(Number::hundredths(1_250), Number::nearest(12.5));
        assert_eq!(Number::hundredths(7).as_f64(), 0.07);
    }

    proptest! {
        #[test]
        fn a_number_of_six_decimals_is_itself(whole in 0_u32..1_000_000_000, micros in 0_u64..1_000_000) {
            let text = format!("{whole}.{micros:06}");
            let number = Number::nearest(text.parse().unwrap());
            prop_assert!(number.is_exact());
            prop_assert_eq!(number.in_micros(), Some(u64::from(whole) * 1_000_000 + micros));
            prop_assert_eq!(number.as_f64().to_string(), text.parse::<f64>().unwrap().to_string());
        }
    }
}
