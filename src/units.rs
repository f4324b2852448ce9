//! The quantities of the core, each with a type of its own, so that milliseconds are never mistaken for permits.

use core::fmt;

/// A moment, in nanoseconds since the Unix epoch. Valid until the year 2554.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(u64);

impl Timestamp {
    /// The Unix epoch.
    pub const EPOCH: Self = Self(0);

    /// The moment `ns` nanoseconds after the Unix epoch.
    #[must_use]
    pub const fn from_nanos(ns: u64) -> Self {
        Self(ns)
    }

    /// The moment `ms` milliseconds after the Unix epoch, at most the last one that fits.
    #[must_use]
    pub const fn from_millis(ms: u64) -> Self {
        Self(ms.saturating_mul(NANOS_PER_MILLI))
    }

    /// Nanoseconds since the Unix epoch.
    #[must_use]
    pub const fn as_nanos(self) -> u64 {
        self.0
    }

    /// The span from `earlier` to this moment; zero if `earlier` is not earlier.
    #[must_use]
    pub const fn since(self, earlier: Self) -> Span {
        Span(self.0.saturating_sub(earlier.0))
    }

    /// The moment `span` later, at most the last one that fits.
    #[must_use]
    pub const fn after(self, span: Span) -> Self {
        Self(self.0.saturating_add(span.0))
    }

    /// The moment `span` earlier, at the earliest the Unix epoch.
    #[must_use]
    pub const fn before(self, span: Span) -> Self {
        Self(self.0.saturating_sub(span.0))
    }
}

/// A length of time, in nanoseconds, never negative.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Span(u64);

impl Span {
    /// No time at all.
    pub const ZERO: Self = Self(0);

    /// A span of `ns` nanoseconds.
    #[must_use]
    pub const fn from_nanos(ns: u64) -> Self {
        Self(ns)
    }

    /// A span of `ms` milliseconds, at most the longest that fits.
    #[must_use]
    pub const fn from_millis(ms: u64) -> Self {
        Self(ms.saturating_mul(NANOS_PER_MILLI))
    }

    /// A span of `s` seconds, at most the longest that fits.
    #[must_use]
    pub const fn from_secs(s: u64) -> Self {
        Self(s.saturating_mul(NANOS_PER_SEC))
    }

    /// The span less another, at least zero.
    #[must_use]
    pub const fn minus(self, other: Self) -> Self {
        Self(self.0.saturating_sub(other.0))
    }

    /// The span in nanoseconds.
    #[must_use]
    pub const fn as_nanos(self) -> u64 {
        self.0
    }

    /// Whole seconds, rounded down.
    #[must_use]
    pub const fn as_secs(self) -> u64 {
        self.0 / NANOS_PER_SEC
    }

    /// The sum of both spans, at most the longest that fits.
    #[must_use]
    pub const fn plus(self, other: Self) -> Self {
        Self(self.0.saturating_add(other.0))
    }

    /// Whole seconds, rounded up, so that waiting that long always suffices.
    #[must_use]
    pub const fn as_secs_ceil(self) -> u64 {
        self.0.div_ceil(NANOS_PER_SEC)
    }
}

/// In the policy's notation: the largest unit that divides the span, as in `90s` or `1500ms`.
impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (unit, ns) in SPAN_UNITS.iter().rev() {
            if self.0.is_multiple_of(*ns) && (self.0 != 0 || *unit == "s") {
                return write!(f, "{}{unit}", self.0.checked_div(*ns).unwrap_or(0));
            }
        }
        write!(f, "{}ns", self.0)
    }
}

/// The units that a span in the policy document may carry, with their length in nanoseconds, shortest first.
pub const SPAN_UNITS: [(&str, u64); 5] = [
    ("ms", NANOS_PER_MILLI),
    ("s", NANOS_PER_SEC),
    ("m", 60 * NANOS_PER_SEC),
    ("h", 3_600 * NANOS_PER_SEC),
    ("d", 86_400 * NANOS_PER_SEC),
];

/// A number of permits: what a request costs and what a quota grants. A plain request costs one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Permits(u32);

impl Permits {
    /// No permits.
    pub const ZERO: Self = Self(0);
    /// What a plain request costs.
    pub const ONE: Self = Self(1);
    /// The most that a quota may grant and a slot of the key table can count: 28 bits.
    pub const MAX: Self = Self((1 << 28) - 1);

    /// `n` permits, at most [`Permits::MAX`].
    #[must_use]
    pub const fn new(n: u32) -> Self {
        if n > Self::MAX.0 { Self::MAX } else { Self(n) }
    }

    /// The number.
    #[must_use]
    pub const fn get(self) -> u32 {
        self.0
    }

    /// The sum, at most [`Permits::MAX`].
    #[must_use]
    pub const fn plus(self, other: Self) -> Self {
        Self::new(self.0.saturating_add(other.0))
    }

    /// What is left after taking `other` away, at least none.
    #[must_use]
    pub const fn minus(self, other: Self) -> Self {
        Self(self.0.saturating_sub(other.0))
    }
}

/// A share in hundredths of a percent, `0..=10_000`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BasisPoints(u16);

impl BasisPoints {
    /// The whole.
    pub const ALL: Self = Self(10_000);

    /// `n` hundredths of a percent, at most the whole.
    #[must_use]
    pub const fn new(n: u16) -> Self {
        if n > Self::ALL.0 { Self::ALL } else { Self(n) }
    }

    /// The share in hundredths of a percent.
    #[must_use]
    pub const fn get(self) -> u16 {
        self.0
    }
}

/// A random number, uniform over all of `u64`, drawn by the adapter once per request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Draw(pub u64);

const NANOS_PER_MILLI: u64 = 1_000_000;
const NANOS_PER_SEC: u64 = 1_000_000_000;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_span_is_written_in_its_largest_whole_unit() {
        for (span, text) in [
            (Span::from_secs(60), "1m"),
            (Span::from_secs(90), "90s"),
            (Span::from_millis(1_500), "1500ms"),
            (Span::from_secs(86_400), "1d"),
            (Span::from_nanos(7), "7ns"),
            (Span::ZERO, "0s"),
        ] {
            assert_eq!(span.to_string(), text);
        }
    }

    #[test]
    fn retry_seconds_round_up() {
        assert_eq!(Span::ZERO.as_secs_ceil(), 0);
        assert_eq!(Span::from_nanos(1).as_secs_ceil(), 1);
        assert_eq!(Span::from_millis(1_001).as_secs_ceil(), 2);
    }

    #[test]
    fn arithmetic_stops_at_its_bounds() {
        assert_eq!(Timestamp::EPOCH.before(Span::from_secs(1)), Timestamp::EPOCH);
        assert_eq!(Timestamp::from_nanos(5).since(Timestamp::from_nanos(9)), Span::ZERO);
        assert_eq!(Permits::MAX.plus(Permits::ONE), Permits::MAX);
        assert_eq!(Permits::ONE.minus(Permits::MAX), Permits::ZERO);
    }
}
