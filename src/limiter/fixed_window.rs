//! The fixed window: one counter per window, windows aligned to the Unix epoch.
//!
//! Cheap and familiar, and exact within a window; across a boundary a client may have up to twice the quota within
//! one window's length, which is what the sliding window is for.

use super::{Outcome, ShareScale, Standing, State, Verdict};
use crate::policy::Quota;
use crate::units::{Permits, Timestamp};

/// A quota made ready for the fixed window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    permits: Permits,
    length_ms: u64,
    shares: ShareScale,
}

impl Window {
    /// The window of `quota`.
    #[must_use]
    pub fn new(quota: &Quota) -> Self {
        Self {
            permits: quota.permits,
            length_ms: (quota.window.as_nanos() / NANOS_PER_MILLI).max(1),
            shares: ShareScale::new(u64::from(quota.permits.get())),
        }
    }

    /// The quota's permits.
    #[must_use]
    pub const fn permits(&self) -> Permits {
        self.permits
    }

    /// What this quota says of a request of `cost` at `now`.
    #[must_use]
    pub fn check(&self, state: Option<State>, cost: Permits, now: Timestamp) -> Outcome {
        let index = self.index(now);
        let (used, moved) = self.used_at(state, index);
        let wanted = used.get().saturating_add(cost.get());
        let (verdict, used) = if wanted <= self.permits.get() {
            (Verdict::Admit, Permits::new(wanted))
        } else {
            let retry_after = (cost <= self.permits).then_some(self.boundary(index, 1).since(now));
            (Verdict::Refuse { retry_after }, used)
        };
        Outcome { verdict, state: self.state(index, used), moved }
    }

    /// The state with `cost` charged, room or not.
    #[must_use]
    pub fn charge(&self, state: Option<State>, cost: Permits, now: Timestamp) -> State {
        let index = self.index(now);
        let (used, _) = self.used_at(state, index);
        self.state(index, used.plus(cost))
    }

    /// How a client of this `state` stands at `now`.
    #[must_use]
    pub fn standing(&self, state: Option<State>, now: Timestamp) -> Standing {
        let index = self.index(now);
        let (used, _) = self.used_at(state, index);
        Standing { remaining: self.permits.minus(used), reset_after: self.boundary(index, 1).since(now) }
    }

    /// When the window of `now` ends.
    #[must_use]
    pub fn ends_at(&self, now: Timestamp) -> Timestamp {
        self.boundary(self.index(now), 1)
    }

    /// The state with a charge of `cost` made at `charged_at` taken back.
    #[must_use]
    pub fn refund(&self, state: State, cost: Permits, charged_at: Timestamp) -> State {
        let (index, used) = self.stored(state);
        // The charge of another window is gone with it.
        if index == self.index(charged_at) { self.state(index, used.minus(cost)) } else { state }
    }

    /// What was used in the window numbered `index`, and whether the clock had stepped back behind it.
    fn used_at(&self, state: Option<State>, index: u64) -> (Permits, bool) {
        let Some(state) = state else {
            return (Permits::ZERO, false);
        };
        // Nearly always this window: told without dividing.
        let (stored, used) = if state.fresh_at_ticks() == State::ticks_after(self.boundary(index, 1)) {
            (index, used_of(state))
        } else {
            self.stored(state)
        };
        match stored.cmp(&index) {
            core::cmp::Ordering::Less => (Permits::ZERO, false),
            core::cmp::Ordering::Equal => (used, false),
            core::cmp::Ordering::Greater => (used.min(self.permits), true),
        }
    }

    fn stored(&self, state: State) -> (u64, Permits) {
        // A state is fresh when its window ends; the rounding of `fresh_at` is shorter than a window.
        let index = self.index(state.fresh_at()).saturating_sub(1);
        (index, used_of(state))
    }

    fn state(&self, index: u64, used: Permits) -> State {
        let used = u64::from(used.get());
        State::new(self.boundary(index, 1), self.shares.of(used), used)
    }

    fn index(&self, at: Timestamp) -> u64 {
        (at.as_nanos() / NANOS_PER_MILLI).checked_div(self.length_ms).unwrap_or(0)
    }

    /// When the window `ahead` windows after the one numbered `index` begins.
    fn boundary(&self, index: u64, ahead: u64) -> Timestamp {
        Timestamp::from_millis(index.saturating_add(ahead).saturating_mul(self.length_ms))
    }
}

fn used_of(state: State) -> Permits {
    Permits::new(u32::try_from(state.payload()).unwrap_or(u32::MAX))
}

const NANOS_PER_MILLI: u64 = 1_000_000;
