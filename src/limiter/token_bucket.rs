//! The token bucket, computed by the generic cell rate algorithm (GCRA; ITU-T I.371, "virtual scheduling").
//!
//! A bucket that holds `burst` permits and is refilled evenly at `permits` per `window` is one moment: when it will
//! be full again. How far that lies ahead is the client's debt, `interval` of it per permit; a request passes when
//! the debt with its cost does not exceed that of an empty bucket.
//!
//! The interval is `window / permits` rounded up to whole nanoseconds, so that the rate is never above the quota's
//! and, at the one permit per microsecond that a policy may ask for, at most 0.1% below it.
//!
//! A bucket may run ahead of its rate: then a request that an empty bucket has no permit for is promised the one that is
//! refilled next, and its client waits for that. Promised permits are a debt beyond that of an empty bucket, so that those
//! who wait have their turns one interval apart, whichever instance they wait at.

use super::{Outcome, ShareScale, Standing, State, UsedShare, Verdict};
use crate::policy::Quota;
use crate::units::{Permits, Span, Timestamp};

/// A quota made ready for the token bucket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bucket {
    interval_ns: u64,
    /// The debt of an empty bucket.
    capacity_ns: u64,
    /// How much more debt there may be: for how long a request may have to wait.
    ahead_ns: u64,
    shares: ShareScale,
}

impl Bucket {
    /// The bucket of `quota`.
    #[must_use]
    pub fn new(quota: &Quota) -> Self {
        let permits = u64::from(quota.permits.get()).max(1);
        let interval_ns = quota.window.as_nanos().div_ceil(permits).max(1);
        let capacity_ns = interval_ns.saturating_mul(u64::from(quota.burst.get()));
        Self { interval_ns, capacity_ns, ahead_ns: 0, shares: ShareScale::new(capacity_ns) }
    }

    /// The same bucket, promising permits up to `ahead` before they are refilled.
    #[must_use]
    pub fn running_ahead(self, ahead: Span) -> Self {
        Self { ahead_ns: ahead.as_nanos(), ..self }
    }

    /// What a full bucket holds.
    #[must_use]
    pub fn burst(&self) -> Permits {
        let burst = self.capacity_ns.checked_div(self.interval_ns).unwrap_or(0);
        Permits::new(u32::try_from(burst).unwrap_or(u32::MAX))
    }

    /// What this quota says of a request of `cost` at `now`.
    #[must_use]
    pub fn check(&self, state: Option<State>, cost: Permits, now: Timestamp) -> Outcome {
        let (debt_ns, moved) = self.debt_at(state, now);
        let cost_ns = self.interval_ns.saturating_mul(u64::from(cost.get()));
        let wanted_ns = debt_ns.saturating_add(cost_ns);
        let wait_ns = wanted_ns.saturating_sub(self.capacity_ns);
        let affordable = cost_ns <= self.capacity_ns;
        // What is free stands in nobody's way, and nobody in its.
        let (verdict, debt_ns) = if wait_ns == 0 || cost_ns == 0 {
            (Verdict::Admit, wanted_ns)
        } else if affordable && wait_ns <= self.ahead_ns {
            (Verdict::Delay { wait: Span::from_nanos(wait_ns) }, wanted_ns)
        } else {
            let wait = Span::from_nanos(wait_ns.saturating_sub(self.ahead_ns));
            (Verdict::Refuse { retry_after: affordable.then_some(wait) }, debt_ns)
        };
        let state = Self::state(now.after(Span::from_nanos(debt_ns)), self.shares.of(debt_ns));
        Outcome { verdict, state, moved }
    }

    /// The state with `cost` charged, room or not.
    #[must_use]
    pub fn charge(&self, state: Option<State>, cost: Permits, now: Timestamp) -> State {
        let (debt_ns, _) = self.debt_at(state, now);
        let cost_ns = self.interval_ns.saturating_mul(u64::from(cost.get()));
        // What was promised beyond an empty bucket stays promised.
        let debt_ns = debt_ns.saturating_add(cost_ns).min(self.capacity_ns.max(debt_ns));
        Self::state(now.after(Span::from_nanos(debt_ns)), self.shares.of(debt_ns))
    }

    /// How a client of this `state` stands at `now`.
    #[must_use]
    pub fn standing(&self, state: Option<State>, now: Timestamp) -> Standing {
        let (debt_ns, _) = self.debt_at(state, now);
        let room_ns = self.capacity_ns.saturating_sub(debt_ns);
        // Floor: a permit that is only partly refilled is not there yet.
        let remaining = room_ns.checked_div(self.interval_ns).unwrap_or(0);
        Standing {
            remaining: Permits::new(u32::try_from(remaining).unwrap_or(u32::MAX)),
            reset_after: Span::from_nanos(debt_ns),
        }
    }

    /// The state with a charge of `cost` taken back.
    #[must_use]
    pub fn refund(&self, state: State, cost: Permits) -> State {
        let cost_ns = self.interval_ns.saturating_mul(u64::from(cost.get()));
        Self::state(full_at(state).before(Span::from_nanos(cost_ns)), state.used())
    }

    /// The state with a charge of `cost` taken back that had led to the state `charged`; `None` when others have been
    /// promised later permits since: they keep their turns, and nobody else may have one of those too.
    #[must_use]
    pub fn give_back(&self, state: State, cost: Permits, charged: State, now: Timestamp) -> Option<State> {
        let promised = full_at(state).since(now).as_nanos() > self.capacity_ns;
        (!promised || full_at(state) == full_at(charged)).then(|| self.refund(state, cost))
    }

    /// The debt at `now`, and whether the clock had stepped back so far that more was owed than a bucket lends.
    fn debt_at(&self, state: Option<State>, now: Timestamp) -> (u64, bool) {
        let Some(state) = state else {
            return (0, false);
        };
        let debt_ns = full_at(state).since(now).as_nanos();
        let most_ns = self.capacity_ns.saturating_add(self.ahead_ns);
        (debt_ns.min(most_ns), debt_ns > most_ns)
    }

    fn state(full_at: Timestamp, used: UsedShare) -> State {
        // The rounding of `fresh_at` is kept beside it, so that not a nanosecond is lost.
        let rounding = State::new(full_at, used, 0).fresh_at().since(full_at);
        State::new(full_at, used, rounding.as_nanos())
    }
}

fn full_at(state: State) -> Timestamp {
    state.fresh_at().before(Span::from_nanos(state.payload()))
}
