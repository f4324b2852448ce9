//! The sliding window: a two-bucket weighted counter.
//!
//! Windows of the quota's length are aligned to the Unix epoch. The permits used now are all of the current window,
//! plus those of the previous one weighted by how much of it the sliding window still covers. The weight is computed in
//! whole milliseconds, rounded so that nothing is admitted early:
//!
//! ```text
//! used = current + previous * (window - elapsed) / window
//! ```
//!
//! A request passes if `used + cost <= permits`. Cloudflare describes this counter in "How we built rate limiting
//! capable of scaling to millions of domains" (2017); there 0.003% of decisions differed from an exact log.

use super::{Outcome, ShareScale, Standing, State, Verdict};
use crate::policy::Quota;
use crate::units::{Permits, Span, Timestamp};
use core::hint::select_unpredictable;

/// A quota, prepared for the sliding window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    permits: u64,
    /// Whole milliseconds, in nanoseconds.
    length_ns: u64,
    length_ms: u64,
    /// `1 / length_ms`, in 64 bits of fraction.
    reciprocal: u64,
    shares: ShareScale,
}

/// What one client has used, and in which window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Counts {
    /// The window's number since the Unix epoch.
    index: u64,
    /// The tick at which nothing of it counts any more.
    fresh_at: u64,
    current: u64,
    previous: u64,
}

/// The window that a moment lies in.
#[derive(Clone, Copy)]
struct Moment {
    /// The window's number since the Unix epoch.
    index: u64,
    /// The tick at which permits used in this window no longer count.
    fresh_at: u64,
    /// The same for the window before.
    last_fresh_at: u64,
    /// Milliseconds left of the window, rounded up: at least one, at most the whole window.
    left_ms: u64,
}

impl Window {
    /// The window of `quota`. Its length is clamped to between 1 and 2^32 - 1 milliseconds; a policy asks for 31 days
    /// at most.
    #[must_use]
    pub fn new(quota: &Quota) -> Self {
        let permits = u64::from(quota.permits.get());
        let length_ms = (quota.window.as_nanos() / NANOS_PER_MILLI).clamp(1, u64::from(u32::MAX));
        let reciprocal = u64::MAX.checked_div(length_ms).unwrap_or(0);
        let length_ns = length_ms.saturating_mul(NANOS_PER_MILLI);
        Self { permits, length_ns, length_ms, reciprocal, shares: ShareScale::new(permits) }
    }

    /// The quota's permits.
    #[must_use]
    pub fn permits(&self) -> Permits {
        Permits::new(u32::try_from(self.permits).unwrap_or(u32::MAX))
    }

    /// This quota's result for a request of `cost` at `now`.
    #[must_use]
    pub fn check(&self, state: Option<State>, cost: Permits, now: Timestamp) -> Outcome {
        let moment = self.moment(now);
        let (mut counts, moved) = self.counts_at(state, &moment);
        let cost = u64::from(cost.get());
        let verdict = self.verdict(&counts, cost, moment.left_ms, now);
        if verdict == Verdict::Admit {
            counts.current = counts.current.saturating_add(cost);
        }
        let used = counts.current.saturating_add(self.roughly_weighted(counts.previous, moment.left_ms));
        Outcome { verdict, state: self.state(&counts, used), moved }
    }

    /// The state with `cost` charged, whether or not there is room.
    #[must_use]
    pub fn charge(&self, state: Option<State>, cost: Permits, now: Timestamp) -> State {
        let moment = self.moment(now);
        let (mut counts, _) = self.counts_at(state, &moment);
        counts.current = counts.current.saturating_add(u64::from(cost.get()));
        let used = counts.current.saturating_add(self.roughly_weighted(counts.previous, moment.left_ms));
        self.state(&counts, used)
    }

    /// How a client with this `state` stands at `now`.
    #[must_use]
    pub fn standing(&self, state: Option<State>, now: Timestamp) -> Standing {
        let moment = self.moment(now);
        let (counts, _) = self.counts_at(state, &moment);
        let used = counts.current.saturating_add(self.weighted(counts.previous, moment.left_ms));
        let remaining = u32::try_from(self.permits.saturating_sub(used)).unwrap_or(u32::MAX);
        Standing { remaining: Permits::new(remaining), reset_after: self.boundary(moment.index, 1).since(now) }
    }

    /// When the window of `now` ends.
    #[must_use]
    pub fn ends_at(&self, now: Timestamp) -> Timestamp {
        self.boundary(self.moment(now).index, 1)
    }

    /// The state with a charge of `cost` made at `charged_at` taken back.
    #[must_use]
    pub fn refund(&self, state: State, cost: Permits, charged_at: Timestamp) -> State {
        let mut counts = self.stored(state);
        let cost = u64::from(cost.get());
        match counts.index.checked_sub(self.moment(charged_at).index) {
            Some(0) => counts.current = counts.current.saturating_sub(cost),
            Some(1) => counts.previous = counts.previous.saturating_sub(cost),
            // The charge has expired with its window.
            _ => return state,
        }
        self.state(&counts, counts.current.saturating_add(counts.previous))
    }

    fn verdict(&self, counts: &Counts, cost: u64, left_ms: u64, now: Timestamp) -> Verdict {
        if cost > self.permits {
            return Verdict::Refuse { retry_after: None };
        }
        let wanted = counts.current.saturating_add(cost);
        let (base, bucket, room) = if wanted <= self.permits {
            let room = self.permits.saturating_sub(wanted);
            // The products fit: counts have 28 bits, a window has 32 bits of milliseconds.
            if counts.previous.wrapping_mul(left_ms) <= room.wrapping_mul(self.length_ms) {
                return Verdict::Admit;
            }
            (self.boundary(counts.index, 0), counts.previous, room)
        } else {
            // It cannot pass within this window. In the next one, this window's count becomes the previous one, and
            // fades.
            (self.boundary(counts.index, 1), counts.current, self.permits.saturating_sub(cost))
        };
        // The most milliseconds that may be left of the window for `bucket` to have faded to `room`. Floor, because one
        // more would be too early.
        let may_be_left = room.saturating_mul(self.length_ms).checked_div(bucket).unwrap_or(self.length_ms);
        let fade_ms = self.length_ms.saturating_sub(may_be_left);
        Verdict::Refuse { retry_after: Some(base.after(Span::from_millis(fade_ms)).since(now)) }
    }

    /// The counts as of the window of `moment`, and whether the clock had stepped back behind them.
    fn counts_at(&self, state: Option<State>, moment: &Moment) -> (Counts, bool) {
        let Moment { index, fresh_at, .. } = *moment;
        let Some(state) = state else { return (Counts { index, fresh_at, current: 0, previous: 0 }, false) };
        let (current, previous) = counts_of(state);
        if state.fresh_at_ticks() > fresh_at {
            // All that counted moves to the clock's new window, at most the whole quota.
            let current = current.saturating_add(previous).min(self.permits);
            return (Counts { index, fresh_at, current, previous: 0 }, true);
        }
        // Selected without a branch, because a processor cannot predict whether a client returns within its window.
        let (is_this, is_last) = (state.fresh_at_ticks() == fresh_at, state.fresh_at_ticks() == moment.last_fresh_at);
        let previous = select_unpredictable(is_this, previous, select_unpredictable(is_last, current, 0));
        (Counts { index, fresh_at, current: select_unpredictable(is_this, current, 0), previous }, false)
    }

    fn stored(&self, state: State) -> Counts {
        let (current, previous) = counts_of(state);
        Counts { index: self.index(state), fresh_at: state.fresh_at_ticks(), current, previous }
    }

    /// The number of the window that a state was written in. The state is fresh two windows after that one began, and
    /// the rounding of `fresh_at` is shorter than a window.
    fn index(&self, state: State) -> u64 {
        self.moment(state.fresh_at()).index.saturating_sub(2)
    }

    fn state(&self, counts: &Counts, used: u64) -> State {
        let payload = (counts.previous.min(COUNT_MASK) << COUNT_BITS) | counts.current.min(COUNT_MASK);
        State::at_ticks(counts.fresh_at, self.shares.of(used), payload)
    }

    /// The weighted count of the previous window with `left_ms` of the current one to come, rounded up.
    fn weighted(&self, previous: u64, left_ms: u64) -> u64 {
        if previous == 0 {
            return 0;
        }
        previous.saturating_mul(left_ms).div_ceil(self.length_ms)
    }

    /// The same to within one permit, without dividing: exact enough to rank entries by.
    fn roughly_weighted(&self, previous: u64, left_ms: u64) -> u64 {
        // `left_ms / length_ms` in 32 bits of fraction: a window has at most 32 bits of milliseconds.
        let weight = (u128::from(left_ms << 32).saturating_mul(u128::from(self.reciprocal)) >> 64) as u64;
        previous.wrapping_mul(weight) >> 32
    }

    fn moment(&self, at: Timestamp) -> Moment {
        let ns = at.as_nanos();
        let index = ns.checked_div(self.length_ns).unwrap_or(0);
        // At most `ns`, because the division rounds down.
        let begins_ns = index.wrapping_mul(self.length_ns);
        let elapsed_ms = ns.wrapping_sub(begins_ns) / NANOS_PER_MILLI;
        let ends_ns = begins_ns.saturating_add(self.length_ns);
        Moment {
            index,
            fresh_at: State::ticks_after(Timestamp::from_nanos(ends_ns.saturating_add(self.length_ns))),
            last_fresh_at: State::ticks_after(Timestamp::from_nanos(ends_ns)),
            left_ms: self.length_ms.wrapping_sub(elapsed_ms),
        }
    }

    /// When the window begins that is `ahead` windows after the one numbered `index`.
    fn boundary(&self, index: u64, ahead: u64) -> Timestamp {
        Timestamp::from_nanos(index.saturating_add(ahead).saturating_mul(self.length_ns))
    }
}

/// The current and the previous window's counts.
fn counts_of(state: State) -> (u64, u64) {
    (state.payload() & COUNT_MASK, (state.payload() >> COUNT_BITS) & COUNT_MASK)
}

const NANOS_PER_MILLI: u64 = 1_000_000;
/// As many bits as [`Permits::MAX`] has; two counts fill a state's payload.
const COUNT_BITS: u32 = 28;
const COUNT_MASK: u64 = (1 << COUNT_BITS) - 1;
