//! The fixed window: one counter per window, windows aligned to the Unix epoch.
//!
//! Cheap and familiar, and exact within a window. Across a boundary, a client may get up to twice the quota within one
//! window's length; the sliding window avoids that.

use super::{Outcome, ShareScale, Standing, State, Verdict};
use crate::policy::Quota;
use crate::units::{Permits, Span, Timestamp};
use core::hint::select_unpredictable;

/// A quota, prepared for the fixed window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    permits: Permits,
    /// Whole milliseconds, in nanoseconds.
    length_ns: u64,
    shares: ShareScale,
}

/// The window that a moment lies in.
struct Moment {
    ends: Timestamp,
    /// The tick at which a state of this window is fresh.
    ends_tick: u64,
}

impl Window {
    /// The window of `quota`.
    #[must_use]
    pub fn new(quota: &Quota) -> Self {
        Self {
            permits: quota.permits,
            length_ns: (quota.window.as_nanos() / NANOS_PER_MILLI).max(1).saturating_mul(NANOS_PER_MILLI),
            shares: ShareScale::new(u64::from(quota.permits.get())),
        }
    }

    /// The quota's permits.
    #[must_use]
    pub const fn permits(&self) -> Permits {
        self.permits
    }

    /// This quota's result for a request of `cost` at `now`.
    #[must_use]
    pub fn check(&self, state: Option<State>, cost: Permits, now: Timestamp) -> Outcome {
        let moment = self.moment(now);
        let (used, moved) = self.used_at(state, &moment);
        let wanted = used.get().saturating_add(cost.get());
        let (verdict, used) = if wanted <= self.permits.get() {
            (Verdict::Admit, Permits::new(wanted))
        } else {
            let retry_after = (cost <= self.permits).then_some(moment.ends.since(now));
            (Verdict::Refuse { retry_after }, used)
        };
        Outcome { verdict, state: self.state(moment.ends_tick, used), moved }
    }

    /// The state with `cost` charged, whether or not there is room.
    #[must_use]
    pub fn charge(&self, state: Option<State>, cost: Permits, now: Timestamp) -> State {
        let moment = self.moment(now);
        let (used, _) = self.used_at(state, &moment);
        self.state(moment.ends_tick, used.plus(cost))
    }

    /// How a client with this `state` stands at `now`.
    #[must_use]
    pub fn standing(&self, state: Option<State>, now: Timestamp) -> Standing {
        let moment = self.moment(now);
        let (used, _) = self.used_at(state, &moment);
        Standing { remaining: self.permits.minus(used), reset_after: moment.ends.since(now) }
    }

    /// When the window of `now` ends.
    #[must_use]
    pub fn ends_at(&self, now: Timestamp) -> Timestamp {
        self.moment(now).ends
    }

    /// The state with a charge of `cost` made at `charged_at` taken back.
    #[must_use]
    pub fn refund(&self, state: State, cost: Permits, charged_at: Timestamp) -> State {
        // A charge of another window has expired with it.
        if state.fresh_at_ticks() == self.moment(charged_at).ends_tick {
            self.state(state.fresh_at_ticks(), used_of(state).minus(cost))
        } else {
            state
        }
    }

    /// What was used in the window of `moment`, and whether the clock had stepped back behind it.
    fn used_at(&self, state: Option<State>, moment: &Moment) -> (Permits, bool) {
        let Some(state) = state else { return (Permits::ZERO, false) };
        // Windows are longer than ticks, so no two windows end in the same tick. Selected without a branch, because a
        // processor cannot predict whether a client returns within its window.
        let (ends_tick, used) = (state.fresh_at_ticks(), used_of(state));
        let moved = ends_tick > moment.ends_tick;
        let counted = select_unpredictable(moved, used.min(self.permits), used);
        (select_unpredictable(ends_tick >= moment.ends_tick, counted, Permits::ZERO), moved)
    }

    fn state(&self, ends_tick: u64, used: Permits) -> State {
        let used = u64::from(used.get());
        State::at_ticks(ends_tick, self.shares.of(used), used)
    }

    fn moment(&self, at: Timestamp) -> Moment {
        let index = at.as_nanos().checked_div(self.length_ns).unwrap_or(0);
        // Does not overflow: at most `at`, because the division rounds down.
        let ends = Timestamp::from_nanos(index.wrapping_mul(self.length_ns)).after(Span::from_nanos(self.length_ns));
        Moment { ends, ends_tick: State::ticks_after(ends) }
    }
}

fn used_of(state: State) -> Permits {
    Permits::new(state.payload() as u32)
}

const NANOS_PER_MILLI: u64 = 1_000_000;
