//! One client against one quota: pure functions of state, quota, cost and time.
//!
//! Every algorithm answers the same three questions from the same small [`State`]: may this request pass, what is the
//! state once it is charged, and after how long would a refused request pass. Nothing is charged here; the engine
//! writes the state once every limit of a request agrees.
//!
//! A clock that steps back neither admits more nor locks anyone out: what was used stays used, and is moved to the
//! clock's new time ([`Outcome::moved`]). Only a step of more than 140 days may forget it. A clock that steps forward
//! counts as time that has passed.

pub mod adaptive;
pub mod ban;
pub mod concurrency;
pub mod drawn;
pub mod fixed_window;
pub mod sliding_window;
pub mod token_bucket;

use crate::policy::{Algorithm, Quota};
use crate::units::{Permits, Span, Timestamp};

/// What one client has used of one limit. The key table stores it in 12 bytes.
///
/// The time at which it equals a fresh state, and the share of the quota in use, are the same for every algorithm. So
/// the key table can rank an entry without knowing its limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct State {
    fresh_at_ticks: u64,
    used: UsedShare,
    payload: u64,
}

impl State {
    /// A state that equals a fresh one from `fresh_at` on, rounded up to a whole tick; `payload` is the
    /// algorithm's own, 56 bits.
    #[must_use]
    pub const fn new(fresh_at: Timestamp, used: UsedShare, payload: u64) -> Self {
        Self::at_ticks(Self::ticks_after(fresh_at), used, payload)
    }

    /// The same, `fresh_at` in whole ticks since the Unix epoch.
    #[must_use]
    pub const fn at_ticks(fresh_at_ticks: u64, used: UsedShare, payload: u64) -> Self {
        Self { fresh_at_ticks, used, payload: payload & Self::PAYLOAD_MASK }
    }

    /// The whole tick from which on this state equals a fresh one.
    #[must_use]
    pub const fn fresh_at(&self) -> Timestamp {
        Self::from_ticks(self.fresh_at_ticks)
    }

    /// The same, in ticks since the Unix epoch.
    #[must_use]
    pub const fn fresh_at_ticks(&self) -> u64 {
        self.fresh_at_ticks
    }

    /// The share of the quota in use when the state was last charged.
    #[must_use]
    pub const fn used(&self) -> UsedShare {
        self.used
    }

    /// The algorithm's own 56 bits.
    #[must_use]
    pub const fn payload(&self) -> u64 {
        self.payload
    }

    /// Whole ticks of the resolution of `fresh_at` from the Unix epoch to `at`, rounded down.
    #[must_use]
    pub const fn ticks(at: Timestamp) -> u64 {
        at.as_nanos() >> Self::RESOLUTION_BITS
    }

    /// The same, rounded up.
    #[must_use]
    pub const fn ticks_after(at: Timestamp) -> u64 {
        at.as_nanos().div_ceil(1 << Self::RESOLUTION_BITS)
    }

    /// How much [`Self::ticks_after`] adds by rounding.
    #[must_use]
    pub const fn rounding(at: Timestamp) -> Span {
        Span::from_nanos(at.as_nanos().wrapping_neg() & ((1 << Self::RESOLUTION_BITS) - 1))
    }

    /// The first tick at or after `at`.
    #[must_use]
    pub const fn tick_after(at: Timestamp) -> Timestamp {
        Self::from_ticks(Self::ticks_after(at))
    }

    /// The moment `ticks` ticks after the Unix epoch.
    #[must_use]
    pub const fn from_ticks(ticks: u64) -> Timestamp {
        Timestamp::from_nanos(ticks.saturating_mul(1 << Self::RESOLUTION_BITS))
    }

    /// `fresh_at` is kept in ticks of 2^23 ns, about 8.4 ms. That is below the shortest window (10 ms), so a window's
    /// index follows from it.
    pub(crate) const RESOLUTION_BITS: u32 = 23;

    const PAYLOAD_MASK: u64 = (1 << 56) - 1;
}

/// How much of a quota is in use, in 255ths, rounded up: anything in use is at least one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct UsedShare(u8);

impl UsedShare {
    /// The share from its stored byte.
    #[must_use]
    pub const fn from_byte(byte: u8) -> Self {
        Self(byte)
    }

    /// The share in 255ths.
    #[must_use]
    pub const fn get(self) -> u8 {
        self.0
    }
}

/// Computes the [`UsedShare`] for one quota, without dividing. For a quota of 2^n it may be a 2^(64 - n)th too small,
/// which matters only for the largest quotas over the longest windows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ShareScale {
    quota: u64,
    /// 255 divided by the quota, in fixed point.
    factor: u64,
}

impl ShareScale {
    /// The scale for `quota`, in the unit that `of` is called with; at least one.
    #[must_use]
    pub const fn new(quota: u64) -> Self {
        let quota = if quota == 0 { 1 } else { quota };
        // Fits, and so does the product in `of`: it is at most `255 << 56`.
        let factor = match (255_u64 << Self::POINT).checked_div(quota) {
            Some(factor) => factor,
            None => 0,
        };
        Self { quota, factor }
    }

    /// The share that `used` is of the quota; the whole if it is more.
    #[must_use]
    pub const fn of(&self, used: u64) -> UsedShare {
        if used >= self.quota {
            return UsedShare(u8::MAX);
        }
        // Stays within 64 bits, because less than the quota is used. So the share is at most 254 before it is rounded
        // up.
        let share = used.wrapping_mul(self.factor) >> Self::POINT;
        UsedShare((share as u8).wrapping_add((used != 0) as u8))
    }

    const POINT: u32 = 56;
}

/// Whether a request may pass one limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It may.
    Admit,
    /// It may, after a delay.
    Delay {
        /// How long.
        wait: Span,
    },
    /// It may not.
    Refuse {
        /// After this time, and not a nanosecond sooner, the same request would pass or get a turn to wait for, if
        /// nothing else were charged meanwhile. `None` if it costs more than the whole quota and never passes. For
        /// requests in flight, a time to try again, because it is unknown when one of them ends.
        retry_after: Option<Span>,
    },
}

/// One limit's result for one request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// Whether the request may pass.
    pub verdict: Verdict,
    /// The state to write: charged if the request may pass, otherwise as it was.
    pub state: State,
    /// The clock had stepped back and the state was moved to the clock's new time. It must be written even if the
    /// request is refused, because the wait counts from there.
    pub moved: bool,
}

/// How a client stands with one limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Standing {
    /// Permits left.
    pub remaining: Permits,
    /// How long until the quota is next renewed: the end of the window, or when the bucket is full again.
    pub reset_after: Span,
}

/// A quota, prepared for its algorithm.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Meter {
    /// See [`sliding_window`].
    SlidingWindow(sliding_window::Window),
    /// See [`token_bucket`].
    TokenBucket(token_bucket::Bucket),
    /// See [`fixed_window`].
    FixedWindow(fixed_window::Window),
    /// See [`concurrency`].
    Concurrency(concurrency::Slots),
    /// Permits drawn from the authority of a shared limit: see [`drawn`].
    Drawn(drawn::Drawn),
}

impl Meter {
    /// The meter of `quota` under `algorithm`.
    #[must_use]
    pub fn new(algorithm: Algorithm, quota: &Quota) -> Self {
        match algorithm {
            Algorithm::SlidingWindow => Self::SlidingWindow(sliding_window::Window::new(quota)),
            Algorithm::TokenBucket => Self::TokenBucket(token_bucket::Bucket::new(quota)),
            Algorithm::FixedWindow => Self::FixedWindow(fixed_window::Window::new(quota)),
            Algorithm::Concurrency => Self::Concurrency(concurrency::Slots::new(quota)),
        }
    }

    /// The same meter, promising permits up to `ahead` before they are refilled. Only a token bucket can.
    #[must_use]
    pub fn running_ahead(self, ahead: Span) -> Self {
        match self {
            Self::TokenBucket(bucket) => Self::TokenBucket(bucket.running_ahead(ahead)),
            other => other,
        }
    }

    /// The same meter; `observes`: for a limit that only observes, from which [`adaptive`] has to learn differently.
    #[must_use]
    pub fn observing(self, observes: bool) -> Self {
        match self {
            Self::Concurrency(slots) => Self::Concurrency(slots.observing(observes)),
            other => other,
        }
    }

    /// This quota's result for a request of `cost` at `now`, given the client's `state` (`None` if fresh).
    #[must_use]
    pub fn check(&self, state: Option<State>, cost: Permits, now: Timestamp) -> Outcome {
        match self {
            Self::SlidingWindow(window) => window.check(state, cost, now),
            Self::TokenBucket(bucket) => bucket.check(state, cost, now),
            Self::FixedWindow(window) => window.check(state, cost, now),
            Self::Concurrency(slots) => slots.check(state, cost, now),
            Self::Drawn(drawn) => drawn.check(state, cost, now),
        }
    }

    /// The state with `cost` charged whether or not there is room for it, as for a charge after the fact. A token
    /// bucket is then at most empty. A window's count may exceed its quota, until the window has passed.
    #[must_use]
    pub fn charge(&self, state: Option<State>, cost: Permits, now: Timestamp) -> State {
        match self {
            Self::SlidingWindow(window) => window.charge(state, cost, now),
            Self::TokenBucket(bucket) => bucket.charge(state, cost, now),
            Self::FixedWindow(window) => window.charge(state, cost, now),
            Self::Concurrency(slots) => slots.charge(state, cost, now),
            Self::Drawn(drawn) => drawn.charge(state, cost, now),
        }
    }

    /// How a client with this `state` (`None` if fresh) stands at `now`.
    #[must_use]
    pub fn standing(&self, state: Option<State>, now: Timestamp) -> Standing {
        match self {
            Self::SlidingWindow(window) => window.standing(state, now),
            Self::TokenBucket(bucket) => bucket.standing(state, now),
            Self::FixedWindow(window) => window.standing(state, now),
            Self::Concurrency(slots) => slots.standing(state, now),
            Self::Drawn(drawn) => drawn.standing(state, now),
        }
    }

    /// Until when, exclusive, a permit charged at `now` may be used as if it had been used at once: the end of the
    /// window. `None` if there is no such time, see [`lease`](crate::lease).
    #[must_use]
    pub fn charge_lasts_until(&self, now: Timestamp) -> Option<Timestamp> {
        match self {
            Self::SlidingWindow(window) => Some(window.ends_at(now)),
            Self::FixedWindow(window) => Some(window.ends_at(now)),
            Self::TokenBucket(_) | Self::Concurrency(_) | Self::Drawn(_) => None,
        }
    }

    /// The state with a charge of `cost` made at `charged_at` taken back: exactly what it was without the charge, if
    /// the quota was not renewed in full since.
    #[must_use]
    pub fn refund(&self, state: State, cost: Permits, charged_at: Timestamp) -> State {
        match self {
            Self::SlidingWindow(window) => window.refund(state, cost, charged_at),
            Self::TokenBucket(bucket) => bucket.refund(state, cost),
            Self::FixedWindow(window) => window.refund(state, cost, charged_at),
            Self::Concurrency(slots) => slots.refund(state, cost, charged_at),
            // How long these permits last is not known here.
            Self::Drawn(_) => state,
        }
    }

    /// The counter of requests in flight; `None` for all other algorithms.
    #[must_use]
    pub fn slots(&self) -> Option<&concurrency::Slots> {
        match self {
            Self::Concurrency(slots) => Some(slots),
            _ => None,
        }
    }

    /// The same counter of requests in flight, with this many permits; any other meter unchanged.
    #[must_use]
    pub fn with_permits(self, permits: Permits) -> Self {
        match self {
            Self::Concurrency(slots) => Self::Concurrency(slots.with_permits(permits)),
            meter => meter,
        }
    }

    /// How many permits a client with this state has used at `now`, at most the whole quota.
    #[must_use]
    pub fn used(&self, state: State, now: Timestamp) -> Permits {
        let remaining = self.standing(Some(state), now).remaining;
        match self {
            Self::SlidingWindow(window) => window.permits().minus(remaining),
            Self::TokenBucket(bucket) => bucket.burst().minus(remaining),
            Self::FixedWindow(window) => window.permits().minus(remaining),
            Self::Concurrency(slots) => slots.permits().minus(remaining),
            Self::Drawn(_) => Permits::ZERO,
        }
    }

    /// The state at `now` with a charge taken back, as by [`Meter::refund`], that led to the state `charged`. `None` if
    /// that is impossible: see [`token_bucket::Bucket::give_back`].
    #[must_use]
    pub fn give_back(
        &self,
        state: State,
        cost: Permits,
        charged: State,
        charged_at: Timestamp,
        now: Timestamp,
    ) -> Option<State> {
        match self {
            Self::TokenBucket(bucket) => bucket.give_back(state, cost, charged, now),
            Self::Drawn(drawn) => Some(drawn.give_back(state, cost, charged, now)),
            other => Some(other.refund(state, cost, charged_at)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn anything_in_use_has_a_share_and_only_all_of_it_is_all() {
        for (used, quota, share) in [
            (0, 10, 0),
            (1, u64::from(Permits::MAX.get()), 1),
            (1, 1 << 52, 1),
            (5, 10, 128),
            (9_900, 10_000, 253),
            (9_999, 10_000, 255),
            (10, 10, 255),
            (12, 10, 255),
            (1, 1, 255),
            (3, 0, 255),
        ] {
            assert_eq!(ShareScale::new(quota).of(used).get(), share, "{used} of {quota}");
        }
    }

    #[test]
    fn a_state_is_never_fresh_early() {
        for ns in [0, 1, (1 << 23) - 1, 1 << 23, (1 << 23) + 1] {
            assert!(State::new(Timestamp::from_nanos(ns), UsedShare::default(), 0).fresh_at().as_nanos() >= ns);
        }
    }
}
