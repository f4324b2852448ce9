//! The calls of a recent span of time, in thirty buckets of equal length. The oldest bucket is dropped as a whole.

use super::{Call, Tally};
use crate::breaker::bytes::Reader;
use crate::units::{Span, Timestamp};

/// A ring of buckets: the current one and the 29 before it. So the window covers at most its length, and at least 29/30
/// of it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct TimeWindow {
    bucket_ns: u64,
    /// The number of the newest bucket since the Unix epoch. It is in the ring at this number modulo the ring's size.
    head: u64,
    buckets: Box<[Tally; BUCKETS]>,
    /// The sum of all buckets.
    total: Tally,
}

impl TimeWindow {
    /// An empty window of this length.
    pub(crate) fn new(length: Span) -> Self {
        let bucket_ns = (length.as_nanos() / RING_SIZE).max(1);
        Self { bucket_ns, head: 0, buckets: Box::new([Tally::default(); BUCKETS]), total: Tally::default() }
    }

    pub(crate) fn clear(&mut self) {
        self.head = 0;
        *self.buckets = [Tally::default(); BUCKETS];
        self.total = Tally::default();
    }

    pub(crate) fn record(&mut self, call: Call, now: Timestamp) {
        self.advance(now);
        if let Some(bucket) = self.buckets.get_mut(place(self.head)) {
            bucket.add(call.into());
        }
        self.total.add(call.into());
    }

    /// Makes the bucket that contains `now` the newest.
    pub(crate) fn advance(&mut self, now: Timestamp) {
        let index = now.as_nanos().checked_div(self.bucket_ns).unwrap_or(0);
        if index != self.head {
            self.move_to(index);
        }
    }

    fn move_to(&mut self, index: u64) {
        if index < self.head {
            let back_ns = self.head.saturating_sub(index).saturating_mul(self.bucket_ns);
            // Workers read the clock at slightly different times: a small step back counts as now.
            if back_ns > SKEW.as_nanos().max(self.bucket_ns) {
                self.relabel(index);
            }
            return;
        }
        let steps = index.saturating_sub(self.head).min(RING_SIZE);
        for step in 1..=steps {
            if let Some(bucket) = self.buckets.get_mut(place(self.head.wrapping_add(step))) {
                *bucket = Tally::default();
            }
        }
        self.head = index;
        // If the jump was longer than the ring, every bucket has been cleared.
        self.sum();
    }

    /// Handles a clock that was set back: all buckets move back by the same time and age from there. Otherwise they
    /// would stay until the clock reaches its old time again.
    fn relabel(&mut self, index: u64) {
        let shift = usize::try_from(self.head.wrapping_sub(index) % RING_SIZE).unwrap_or(0);
        self.buckets.rotate_left(shift);
        self.head = index;
    }

    fn sum(&mut self) {
        self.total = Tally::default();
        for bucket in self.buckets.iter() {
            self.total.add(*bucket);
        }
    }

    /// Adds each bucket of another window to the bucket of the same time. Buckets that are too old here are left out.
    pub(crate) fn merge(&mut self, other: &Self) {
        if other.bucket_ns != self.bucket_ns {
            return;
        }
        if other.head > self.head {
            self.move_to(other.head);
        }
        for age in 0..RING_SIZE {
            let Some(index) = other.head.checked_sub(age) else { break };
            if self.head.saturating_sub(index) >= RING_SIZE {
                break;
            }
            if let (Some(bucket), Some(more)) = (self.buckets.get_mut(place(index)), other.buckets.get(place(index))) {
                bucket.add(*more);
                self.total.add(*more);
            }
        }
    }

    pub(crate) fn tally(&self) -> Tally {
        self.total
    }

    /// Writes the length of a bucket, the number of the newest, and all buckets in ring order.
    pub(crate) fn encode(&self, bytes: &mut Vec<u8>) {
        bytes.push(KIND);
        bytes.extend_from_slice(&self.bucket_ns.to_le_bytes());
        bytes.extend_from_slice(&self.head.to_le_bytes());
        for bucket in self.buckets.iter() {
            for number in [bucket.calls, bucket.failures, bucket.slow] {
                bytes.extend_from_slice(&number.to_le_bytes());
            }
        }
    }

    pub(crate) fn decode(&mut self, reader: &mut Reader<'_>) -> Option<()> {
        if reader.byte()? != KIND || reader.u64()? != self.bucket_ns {
            return None;
        }
        self.head = reader.u64()?;
        for bucket in self.buckets.iter_mut() {
            let [calls, failures, slow] = [reader.u32()?, reader.u32()?, reader.u32()?];
            // A call cannot fail, or be slow, more than once: higher numbers are capped.
            *bucket = Tally { calls, failures: failures.min(calls), slow: slow.min(calls) };
        }
        self.sum();
        reader.is_empty().then_some(())
    }
}

fn place(index: u64) -> usize {
    usize::try_from(index % RING_SIZE).unwrap_or(0)
}

/// One second per bucket for the usual window of 30 s, and 12 bytes per bucket: few enough for a host to copy at once.
const BUCKETS: usize = 30;
const RING_SIZE: u64 = BUCKETS as u64;

/// The largest expected difference between two workers' readings of one clock, or between the clocks of two instances.
const SKEW: Span = crate::breaker::SKEW;

const KIND: u8 = 1;

#[cfg(test)]
mod tests {
    use super::*;

    const FAILED: Call = Call { failed: true, slow: false };

    fn at(ms: u64) -> Timestamp {
        Timestamp::from_millis(1_800_000_000_000 + ms)
    }

    #[test]
    fn a_call_leaves_within_the_last_thirtieth_of_the_window() {
        for offset in [0, 1, 500, 999] {
            let mut window = TimeWindow::new(Span::from_secs(30));
            window.record(FAILED, at(offset));
            window.advance(at(29_999));
            assert_eq!(window.tally().calls, 1, "{offset}");
            window.advance(at(30_000));
            assert_eq!(window.tally().calls, 0, "{offset}");
        }
    }

    #[test]
    fn a_clock_set_back_keeps_what_was_counted_for_one_more_window() {
        let mut window = TimeWindow::new(Span::from_secs(30));
        window.record(FAILED, at(10_000_000));
        window.record(FAILED, at(10_005_000));
        window.advance(at(0));
        assert_eq!(window.tally().calls, 2);
        window.advance(at(25_000));
        assert_eq!(window.tally().calls, 1);
        window.advance(at(30_000));
        assert_eq!(window.tally().calls, 0);
    }

    #[test]
    fn a_merge_puts_calls_where_their_time_is() {
        let [mut window, mut late] = [TimeWindow::new(Span::from_secs(30)), TimeWindow::new(Span::from_secs(30))];
        window.record(FAILED, at(40_000));
        late.record(FAILED, at(5_000));
        late.record(FAILED, at(20_000));
        window.merge(&late);
        assert_eq!(window.tally().calls, 2);
        window.advance(at(50_000));
        assert_eq!(window.tally().calls, 1);
    }
}
