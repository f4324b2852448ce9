//! The samples for the next estimate, as a state of the key table.

use super::{KEPT, Sample, State, pinned};
use crate::units::{Permits, Span, Timestamp};

/// The samples of a window: the sum of their latencies in microseconds (35 bits), how many there are (10), how many of
/// them were dropped (10), and whether the limit was at least half used (1). `fresh_at` encodes when the window began.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Window {
    pub(super) began: Timestamp,
    sum_us: u64,
    pub(super) count: u64,
    pub(super) dropped: u64,
    pub(super) reached: bool,
}

impl Window {
    pub(super) fn beginning(now: Timestamp) -> Self {
        Self { began: now, sum_us: 0, count: 0, dropped: 0, reached: false }
    }

    pub(super) fn of(state: State) -> Self {
        let payload = state.payload();
        Self {
            began: state.fresh_at().before(KEPT),
            sum_us: payload >> 21,
            count: (payload >> 11) & COUNT_MASK,
            dropped: (payload >> 1) & COUNT_MASK,
            reached: payload & 1 == 1,
        }
    }

    pub(super) fn state(&self) -> State {
        let payload = (self.sum_us.min(SUM_MAX) << 21)
            | (self.count.min(COUNT_MASK) << 11)
            | (self.dropped.min(COUNT_MASK) << 1)
            | u64::from(self.reached);
        pinned(self.began.after(KEPT), payload)
    }

    /// Whether the window is neither too old nor, because a clock has stepped back, from the future.
    pub(super) fn is_usable(&self, now: Timestamp) -> bool {
        now.since(self.began) < OLDEST && self.began.since(now) < JITTER
    }

    pub(super) fn add(&mut self, sample: &Sample, limit: Permits) {
        self.count = self.count.saturating_add(1);
        if sample.dropped {
            self.dropped = self.dropped.saturating_add(1);
        } else {
            self.sum_us = self.sum_us.saturating_add(sample.latency.as_nanos() / 1_000);
        }
        self.reached |= u64::from(sample.in_flight.get()).saturating_mul(2) >= u64::from(limit.get());
    }

    pub(super) fn mean_us(&self) -> f64 {
        self.sum_us as f64 / (self.count.saturating_sub(self.dropped).max(1) as f64)
    }
}

/// A window that is not full by then starts again, because its first samples are out of date.
const OLDEST: Span = Span::from_secs(600);
/// How far in the future a window may begin: the resolution of `fresh_at`, and clocks of different threads.
const JITTER: Span = Span::from_millis(100);

const COUNT_MASK: u64 = (1 << 10) - 1;
const SUM_MAX: u64 = (1 << 35) - 1;
