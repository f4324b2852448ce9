//! The calls over which a breaker's rates are taken: those of a recent span of time, or a number of most recent ones.
//!
//! Counts are exact and unweighted: a call is in the window or it is not. (resilience4j calls the two kinds time-based
//! and count-based.)

mod count;
mod time;

pub(crate) use count::CountWindow;
pub(crate) use time::TimeWindow;

use super::Outcome;
use super::bytes::Reader;
use crate::policy::{Breaker, CallWindow};
use crate::units::{BasisPoints, Timestamp};

/// Numbers of calls by result.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// All calls.
    pub calls: u32,
    /// Calls that failed.
    pub failures: u32,
    /// Slow calls, whether they failed or not.
    pub slow: u32,
}

/// The result of one call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Call {
    pub(crate) failed: bool,
    pub(crate) slow: bool,
}

impl Tally {
    fn add(&mut self, other: Self) {
        self.calls = self.calls.saturating_add(other.calls);
        self.failures = self.failures.saturating_add(other.failures);
        self.slow = self.slow.saturating_add(other.slow);
    }

    fn subtract(&mut self, other: Self) {
        self.calls = self.calls.saturating_sub(other.calls);
        self.failures = self.failures.saturating_sub(other.failures);
        self.slow = self.slow.saturating_sub(other.slow);
    }
}

impl From<Call> for Tally {
    fn from(call: Call) -> Self {
        Self { calls: 1, failures: call.failed.into(), slow: call.slow.into() }
    }
}

/// A window of calls, and the number of consecutive failures at its end.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Window {
    calls: Calls,
    /// Failures since the last success, or since the window began.
    run: u32,
    /// Whether a success was counted since the window began. If so, merging this window ends the run of failures before
    /// it.
    succeeded: bool,
}

#[derive(Debug, PartialEq, Eq)]
enum Calls {
    Time(TimeWindow),
    Count(CountWindow),
}

impl Window {
    /// An empty window.
    pub(crate) fn new(of: CallWindow) -> Self {
        let calls = match of {
            CallWindow::Time(length) => Calls::Time(TimeWindow::new(length)),
            CallWindow::Count(count) => Calls::Count(CountWindow::new(count)),
        };
        Self { calls, run: 0, succeeded: false }
    }

    /// Forgets all calls.
    pub(crate) fn clear(&mut self) {
        match &mut self.calls {
            Calls::Time(window) => window.clear(),
            Calls::Count(window) => window.clear(),
        }
        (self.run, self.succeeded) = (0, false);
    }

    /// Counts a call that ended at `now`.
    pub(crate) fn record(&mut self, outcome: Outcome, slow: bool, now: Timestamp) {
        let call = Call { failed: outcome == Outcome::Failure, slow };
        match &mut self.calls {
            Calls::Time(window) => window.record(call, now),
            Calls::Count(window) => window.record(call),
        }
        match outcome {
            Outcome::Success => (self.run, self.succeeded) = (0, true),
            Outcome::Failure => self.run = self.run.saturating_add(1),
            Outcome::Ignored => {}
        }
    }

    /// Drops the calls that are too old at `now`.
    pub(crate) fn advance(&mut self, now: Timestamp) {
        if let Calls::Time(window) = &mut self.calls {
            window.advance(now);
        }
    }

    /// Adds the calls of a window of the same kind, as if they followed the calls of this one.
    pub(crate) fn merge(&mut self, later: &Self) {
        match (&mut self.calls, &later.calls) {
            (Calls::Time(window), Calls::Time(later)) => window.merge(later),
            (Calls::Count(window), Calls::Count(later)) => window.merge(later),
            _ => return,
        }
        self.run = if later.succeeded { later.run } else { self.run.saturating_add(later.run) };
        self.succeeded |= later.succeeded;
    }

    /// The calls in the window.
    pub(crate) fn tally(&self) -> Tally {
        match &self.calls {
            Calls::Time(window) => window.tally(),
            Calls::Count(window) => window.tally(),
        }
    }

    /// Whether nothing has been counted.
    pub(crate) fn is_empty(&self) -> bool {
        self.tally().calls == 0 && self.run == 0 && !self.succeeded
    }

    /// Whether these calls open a breaker with these rules.
    pub(crate) fn opens(&self, rules: &Breaker) -> bool {
        let tally = self.tally();
        let counts = tally.calls >= rules.min_calls;
        rules.consecutive_failures.is_some_and(|most| self.run >= most)
            || (counts && reaches(tally.failures, tally.calls, rules.failure_rate))
            || (counts && rules.slow.is_some_and(|slow| reaches(tally.slow, tally.calls, slow.rate)))
    }

    /// Appends the window to `bytes`.
    pub(crate) fn encode(&self, bytes: &mut Vec<u8>) {
        bytes.extend_from_slice(&self.run.to_le_bytes());
        bytes.push(self.succeeded.into());
        match &self.calls {
            Calls::Time(window) => window.encode(bytes),
            Calls::Count(window) => window.encode(bytes),
        }
    }

    /// Replaces this window by one of the same kind and length, read from `reader`. Returns `false` if the bytes are
    /// invalid; the window is then empty.
    pub(crate) fn decode(&mut self, reader: &mut Reader<'_>) -> bool {
        self.clear();
        let read = self.try_decode(reader).is_some();
        if !read {
            self.clear();
        }
        read
    }

    fn try_decode(&mut self, reader: &mut Reader<'_>) -> Option<()> {
        self.run = reader.u32()?;
        self.succeeded = reader.byte()? != 0;
        match &mut self.calls {
            Calls::Time(window) => window.decode(reader),
            Calls::Count(window) => window.decode(reader),
        }
    }
}

/// Whether `part` is at least this share of `whole`.
fn reaches(part: u32, whole: u32, share: BasisPoints) -> bool {
    u64::from(part).saturating_mul(BasisPoints::ALL.get().into()) >= u64::from(whole).saturating_mul(share.get().into())
}
