//! How fast requests of a key come to this instance.
//!
//! The mean of the gaps between them, in which the last few count most. It predicts how many permits will be used
//! before they expire. What is drawn beyond that is lost to all instances.

use crate::units::{Span, Timestamp};

/// The pace of one key.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pace {
    last: Timestamp,
    mean: Span,
    gaps: u64,
}

impl Pace {
    /// The pace of a key whose first request comes now.
    pub(super) const fn new(now: Timestamp) -> Self {
        Self { last: now, mean: LONGEST, gaps: 0 }
    }

    /// Counts a request.
    pub(super) fn note(&mut self, now: Timestamp) {
        let gap = now.since(self.last).as_nanos().min(LONGEST.as_nanos());
        self.last = now;
        // The first few gaps weigh equally: there are no others yet.
        self.gaps = self.gaps.saturating_add(1).min(REMEMBERED);
        let mean = self.mean.as_nanos();
        let (grows, by) = (gap > mean, gap.abs_diff(mean).checked_div(self.gaps).unwrap_or(0));
        self.mean = Span::from_nanos(if grows { mean.saturating_add(by) } else { mean.saturating_sub(by) });
    }

    /// Whether enough requests have come to estimate a pace.
    pub(super) const fn is_known(&self) -> bool {
        self.gaps >= ENOUGH
    }

    /// When the last request came.
    pub(super) const fn last(&self) -> Timestamp {
        self.last
    }

    /// How many requests to expect within this span if they keep coming at the same pace. Fewer if the key has been
    /// quiet for more than two mean gaps.
    pub(super) fn expects(&self, within: Span, now: Timestamp) -> u64 {
        let gap = self.mean.max(Span::from_nanos(now.since(self.last).as_nanos() >> 1)).as_nanos().max(1);
        within.as_nanos().checked_div(gap).unwrap_or(0)
    }

    /// Whether no request has come for several times the mean gap, and for `at_least`.
    pub(super) fn has_ceased(&self, at_least: Span, now: Timestamp) -> bool {
        let patience = Span::from_nanos(self.mean.as_nanos().saturating_mul(QUIET_GAPS));
        self.last.after(patience.max(at_least)) <= now
    }
}

/// The longest gap that counts. A key with longer gaps is treated as new each time.
const LONGEST: Span = Span::from_secs(5);
/// How many gaps make an estimate.
const ENOUGH: u64 = 2;
/// How many gaps make up the mean.
const REMEMBERED: u64 = 8;
/// How many mean gaps without a request end a key's activity. If gaps are distributed exponentially, one in fifty is as
/// long.
const QUIET_GAPS: u64 = 4;

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64) -> Timestamp {
        Timestamp::from_millis(1_000_000 + ms)
    }

    #[test]
    fn it_expects_as_many_as_have_come() {
        let mut pace = Pace::new(at(0));
        assert_eq!(pace.expects(Span::from_millis(1_000), at(0)), 0, "one request says nothing");
        for request in 1..=40 {
            pace.note(at(request * 50));
        }
        assert_eq!(pace.expects(Span::from_millis(1_000), at(2_000)), 20);
        assert_eq!(pace.expects(Span::from_millis(1_000), at(3_000)), 2, "it has been quiet for a second");
        assert!(!pace.has_ceased(Span::ZERO, at(2_199)));
        assert!(pace.has_ceased(Span::ZERO, at(2_200)));
        assert!(!pace.has_ceased(Span::from_secs(1), at(2_200)));
    }

    #[test]
    fn it_follows_a_client_that_becomes_quicker_or_slower() {
        let mut pace = Pace::new(at(0));
        for request in 1..=10 {
            pace.note(at(request * 1_000));
        }
        for request in 1..=80 {
            pace.note(at(10_000 + request * 10));
        }
        assert_eq!(pace.expects(Span::from_millis(1_000), at(10_800)), 99);
        for request in 1..=80 {
            pace.note(at(10_800 + request * 500));
        }
        assert!((1..=2).contains(&pace.expects(Span::from_millis(1_000), at(50_800))));
    }
}
