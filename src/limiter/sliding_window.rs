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
use core::num::NonZeroU64;

/// A quota, prepared for the sliding window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    permits: u64,
    /// Whole milliseconds, in nanoseconds.
    length_ns: NonZeroU64,
    length_ms: u64,
    /// The whole quota, for as long as the window: permits times milliseconds.
    whole: u64,
    /// Shares of `whole`.
    shares: ShareScale,
}

/// What one client has used, and in which window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Counts {
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
        let length_ns = NANOS_PER_MILLI.saturating_mul(NonZeroU64::new(length_ms).unwrap_or(NonZeroU64::MIN));
        let whole = permits.saturating_mul(length_ms);
        Self { permits, length_ns, length_ms, whole, shares: ShareScale::new(whole) }
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
        let (counts, moved) = self.counts_at(state, &moment);
        let charged = counts.with(cost);
        let used = self.used(&charged, moment.left_ms);
        let (verdict, counts, used) = if used <= self.whole {
            (Verdict::Admit, charged, used)
        } else {
            let retry_after = self.retry_after(counts.current, counts.previous, cost, now);
            (Verdict::Refuse { retry_after }, counts, self.used(&counts, moment.left_ms))
        };
        Outcome { verdict, state: self.state(&counts, used), moved }
    }

    /// The state with `cost` charged, whether or not there is room.
    #[must_use]
    pub fn charge(&self, state: Option<State>, cost: Permits, now: Timestamp) -> State {
        let moment = self.moment(now);
        let mut charged = self.counts_at(state, &moment).0.with(cost);
        charged.current = charged.current.min(COUNT_MASK);
        self.state(&charged, self.used(&charged, moment.left_ms))
    }

    /// How a client with this `state` stands at `now`.
    #[must_use]
    pub fn standing(&self, state: Option<State>, now: Timestamp) -> Standing {
        let moment = self.moment(now);
        let (counts, _) = self.counts_at(state, &moment);
        // Rounded up: a permit that is partly faded cannot be used yet.
        let used = self.used(&counts, moment.left_ms).div_ceil(self.length_ms);
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
        let mut counts = Counts::of(state);
        let cost = u64::from(cost.get());
        match self.index(state).checked_sub(self.moment(charged_at).index) {
            Some(0) => counts.current = counts.current.saturating_sub(cost),
            Some(1) => counts.previous = counts.previous.saturating_sub(cost),
            // The charge has expired with its window.
            _ => return state,
        }
        self.state(&counts, self.used(&counts, self.length_ms))
    }

    /// How long after `now`, when there is no room for `cost`, there is room. `None` if there never is.
    #[cold]
    #[inline(never)]
    fn retry_after(&self, current: u64, previous: u64, cost: Permits, now: Timestamp) -> Option<Span> {
        let cost = u64::from(cost.get());
        if cost > self.permits {
            return None;
        }
        let wanted = current.saturating_add(cost);
        let (ahead, bucket, room) = if wanted <= self.permits {
            (0, previous, self.permits.saturating_sub(wanted))
        } else {
            // It cannot pass within this window. In the next one, this window's count becomes the previous one, and
            // fades.
            (1, current, self.permits.saturating_sub(cost))
        };
        // The most milliseconds that may be left of the window for `bucket` to have faded to `room`. Floor, because one
        // more would be too early.
        let may_be_left = room.saturating_mul(self.length_ms).checked_div(bucket).unwrap_or(self.length_ms);
        let fade_ms = self.length_ms.saturating_sub(may_be_left);
        let begins = self.boundary(self.moment(now).index, ahead);
        Some(begins.after(Span::from_millis(fade_ms)).since(now))
    }

    /// The counts as of the window of `moment`, and whether the clock had stepped back behind them.
    fn counts_at(&self, state: Option<State>, moment: &Moment) -> (Counts, bool) {
        let fresh_at = moment.fresh_at;
        let Some(state) = state else { return (Counts { fresh_at, current: 0, previous: 0 }, false) };
        let Counts { fresh_at: written_for, current, previous } = Counts::of(state);
        if written_for > fresh_at {
            // All that counted moves to the clock's new window, at most the whole quota.
            let current = current.saturating_add(previous).min(self.permits);
            return (Counts { fresh_at, current, previous: 0 }, true);
        }
        // Selected without a branch, because a processor cannot predict whether a client returns within its window.
        let (is_this, is_last) = (written_for == fresh_at, written_for == moment.last_fresh_at);
        let previous = select_unpredictable(is_this, previous, select_unpredictable(is_last, current, 0));
        (Counts { fresh_at, current: select_unpredictable(is_this, current, 0), previous }, false)
    }

    /// The number of the window that a state was written in. The state is fresh two windows after that one began, and
    /// the rounding of `fresh_at` is shorter than a window.
    fn index(&self, state: State) -> u64 {
        self.moment(state.fresh_at()).index.saturating_sub(2)
    }

    /// What is used of `whole` with `left_ms` of the window to come.
    fn used(&self, counts: &Counts, left_ms: u64) -> u64 {
        // The products fit: counts have 28 bits, and one more with a cost, and a window has 32 bits of milliseconds.
        counts.current.wrapping_mul(self.length_ms).wrapping_add(counts.previous.wrapping_mul(left_ms))
    }

    fn state(&self, counts: &Counts, used: u64) -> State {
        State::at_ticks(counts.fresh_at, self.shares.of(used), (counts.previous << COUNT_BITS) | counts.current)
    }

    fn moment(&self, at: Timestamp) -> Moment {
        let (ns, length_ns) = (at.as_nanos(), self.length_ns);
        let elapsed_ns = ns % length_ns;
        let begins_ns = ns.wrapping_sub(elapsed_ns);
        let ends_ns = begins_ns.saturating_add(length_ns.get());
        Moment {
            index: ns / length_ns,
            fresh_at: State::ticks_after(Timestamp::from_nanos(ends_ns.saturating_add(length_ns.get()))),
            last_fresh_at: State::ticks_after(Timestamp::from_nanos(ends_ns)),
            left_ms: self.length_ms.wrapping_sub(elapsed_ns / NANOS_PER_MILLI),
        }
    }

    /// When the window begins that is `ahead` windows after the one numbered `index`.
    fn boundary(&self, index: u64, ahead: u64) -> Timestamp {
        Timestamp::from_nanos(index.saturating_add(ahead).saturating_mul(self.length_ns.get()))
    }
}

impl Counts {
    fn of(state: State) -> Self {
        let (current, previous) = (state.payload() & COUNT_MASK, (state.payload() >> COUNT_BITS) & COUNT_MASK);
        Self { fresh_at: state.fresh_at_ticks(), current, previous }
    }

    /// The counts with this cost charged.
    fn with(self, cost: Permits) -> Self {
        // Does not overflow: both have 28 bits.
        Self { current: self.current.wrapping_add(u64::from(cost.get())), ..self }
    }
}

const NANOS_PER_MILLI: NonZeroU64 = NonZeroU64::new(1_000_000).unwrap();
/// As many bits as [`Permits::MAX`] has; two counts fill a state's payload.
const COUNT_BITS: u32 = 28;
const COUNT_MASK: u64 = (1 << COUNT_BITS) - 1;
