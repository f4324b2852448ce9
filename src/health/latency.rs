//! Durations of calls, counted in a fixed number of buckets.
//!
//! There are eight buckets for each doubling of the duration, as in HdrHistogram with three bits. So a quantile is at
//! most a sixteenth off (63 us for durations below a millisecond), in 640 bytes, and counting a call is one addition.

use crate::units::{BasisPoints, Span};

/// Numbers of calls by duration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Latencies {
    counts: [u32; BUCKETS],
}

impl Default for Latencies {
    fn default() -> Self {
        Self { counts: [0; BUCKETS] }
    }
}

impl Latencies {
    /// Counts a call that took `span`. Durations above 8.7 min count in the last bucket.
    pub fn count(&mut self, span: Span) {
        if let Some(count) = self.counts.get_mut(bucket(span)) {
            *count = count.saturating_add(1);
        }
    }

    /// Adds the counts of another worker or slot.
    pub fn add(&mut self, others: &Self) {
        for (count, other) in self.counts.iter_mut().zip(&others.counts) {
            *count = count.saturating_add(*other);
        }
    }

    /// The duration that this share of the calls did not exceed; `None` without calls.
    #[must_use]
    pub fn quantile(&self, share: BasisPoints) -> Option<Span> {
        let calls = self.counts.iter().fold(0_u64, |sum, count| sum.saturating_add(u64::from(*count)));
        // Rounded up: the median of three calls is the second one. A share of zero gives the first.
        let rank = calls.saturating_mul(share.get().into()).div_ceil(BasisPoints::ALL.get().into()).max(1);
        let mut seen = 0_u64;
        for (bucket, count) in self.counts.iter().enumerate() {
            seen = seen.saturating_add(u64::from(*count));
            if seen >= rank {
                return Some(middle(bucket));
            }
        }
        None
    }

    /// The counts, from the shortest duration to the longest.
    pub(super) fn counts(&self) -> &[u32; BUCKETS] {
        &self.counts
    }

    /// The counts, for decoding.
    pub(super) fn counts_mut(&mut self) -> &mut [u32; BUCKETS] {
        &mut self.counts
    }
}

fn bucket(span: Span) -> usize {
    let units = span.as_nanos() / UNIT_NS;
    let bucket = match units.checked_ilog2() {
        // The first eight buckets hold one unit each.
        None | Some(..PART_BITS) => units,
        Some(doubling) => {
            let shift = doubling.saturating_sub(PART_BITS);
            let part = (units >> shift) & (PARTS - 1);
            u64::from(shift).saturating_add(1).saturating_mul(PARTS).saturating_add(part)
        }
    };
    usize::try_from(bucket).unwrap_or(usize::MAX).min(BUCKETS - 1)
}

/// The middle of a bucket's range.
fn middle(bucket: usize) -> Span {
    let bucket = bucket as u64;
    let (doublings, part) = (bucket / PARTS, bucket % PARTS);
    // The start and the width of the range, in units.
    let (from, width) = match doublings.checked_sub(1) {
        None => (part, 1),
        Some(shift) => (PARTS.saturating_add(part) << shift, 1_u64 << shift),
    };
    Span::from_nanos(from.saturating_mul(UNIT_NS).saturating_add(width.saturating_mul(UNIT_NS) / 2))
}

/// The width of the finest buckets: an eighth of a millisecond, which is finer than any threshold needs.
const UNIT_NS: u64 = 125_000;
const PART_BITS: u32 = 3;
const PARTS: u64 = 1 << PART_BITS;

/// From 125 us to 8.7 min in twenty groups of eight.
pub(super) const BUCKETS: usize = 160;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn nothing_has_no_quantile_and_one_call_is_every_quantile() {
        let mut latencies = Latencies::default();
        assert_eq!(latencies.quantile(BasisPoints::new(5_000)), None);
        latencies.count(Span::from_millis(100));
        for share in [0, 1, 5_000, 10_000] {
            let found = latencies.quantile(BasisPoints::new(share)).unwrap();
            assert!((96..=104).contains(&(found.as_nanos() / 1_000_000)), "{share}: {found}");
        }
    }

    #[test]
    fn every_bucket_follows_the_one_before_it_and_holds_its_own_middle() {
        for number in 0..BUCKETS {
            assert_eq!(bucket(middle(number)), number);
            assert!(number == 0 || middle(number) > middle(number - 1));
        }
        assert_eq!(bucket(Span::from_nanos(u64::MAX)), BUCKETS - 1);
        assert_eq!(bucket(Span::ZERO), 0);
    }

    proptest! {
        #[test]
        fn a_quantile_is_within_a_sixteenth_of_the_exact_one(
            mut spans in prop::collection::vec(0_u64..400_000_000_000, 1..300),
            shift in 0_u32..24,
            share in 1_u16..=10_000,
        ) {
            let mut latencies = Latencies::default();
            spans.iter_mut().for_each(|span| *span >>= shift);
            spans.iter().for_each(|span| latencies.count(Span::from_nanos(*span)));
            spans.sort_unstable();
            let exact = spans[(spans.len() * usize::from(share)).div_ceil(10_000) - 1];
            let found = latencies.quantile(BasisPoints::new(share)).unwrap().as_nanos();
            prop_assert!(found.abs_diff(exact) <= (exact / 16).max(UNIT_NS / 2), "{found} for {exact}");
        }
    }
}
