//! The token bucket, computed by the generic cell rate algorithm (GCRA; ITU-T I.371, "virtual scheduling").
//!
//! A bucket that holds `burst` permits and is refilled evenly at `permits` per `window` is stored as one moment: when
//! it will be full again. The time until then is the client's debt, one `interval` for each permit used. A request
//! passes if the debt including its cost does not exceed that of an empty bucket.
//!
//! The interval is `window / permits` rounded up to whole nanoseconds. So the rate is never above the quota's and, at
//! the one permit per microsecond that a policy may ask for, at most 0.1% below it.
//!
//! A bucket may run ahead of its rate: a request that finds the bucket empty is then promised the permit that is
//! refilled next, and waits for it. Promised permits are debt beyond that of an empty bucket. So the turns of waiting
//! requests are one interval apart, whichever instance they wait at.

use super::{Outcome, ShareScale, Standing, State, UsedShare, Verdict};
use crate::policy::Quota;
use crate::units::{Permits, Span, Timestamp};

/// A quota, prepared for the token bucket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bucket {
    interval_ns: u64,
    burst: u64,
    /// The debt of an empty bucket: `burst` intervals.
    capacity_ns: u64,
    /// How much more debt there may be, which is how long a request may have to wait.
    ahead_ns: u64,
    /// The sum of both.
    most_ns: u64,
    shares: ShareScale,
}

impl Bucket {
    /// The bucket of `quota`.
    #[must_use]
    pub fn new(quota: &Quota) -> Self {
        let permits = u64::from(quota.permits.get()).max(1);
        let interval_ns = quota.window.as_nanos().div_ceil(permits).max(1);
        // Limits the debt to 64 bits. No policy exceeds them, but this function is public.
        let burst = u64::from(quota.burst.get()).min(u64::MAX.checked_div(interval_ns).unwrap_or(0));
        let capacity_ns = interval_ns.saturating_mul(burst);
        let shares = ShareScale::new(capacity_ns);
        Self { interval_ns, burst, capacity_ns, ahead_ns: 0, most_ns: capacity_ns, shares }
    }

    /// The same bucket, promising permits up to `ahead` before they are refilled.
    #[must_use]
    pub fn running_ahead(self, ahead: Span) -> Self {
        let ahead_ns = ahead.as_nanos();
        Self { ahead_ns, most_ns: self.capacity_ns.saturating_add(ahead_ns), ..self }
    }

    /// The permits that a full bucket holds.
    #[must_use]
    pub fn burst(&self) -> Permits {
        Permits::new(u32::try_from(self.burst).unwrap_or(u32::MAX))
    }

    /// This quota's result for a request of `cost` at `now`.
    #[must_use]
    pub fn check(&self, state: Option<State>, cost: Permits, now: Timestamp) -> Outcome {
        let (debt_ns, moved) = self.debt_at(state, now);
        let cost_ns = self.debt_of(cost);
        let wanted_ns = debt_ns.saturating_add(cost_ns);
        // A request without cost always passes.
        let verdict = if wanted_ns <= self.capacity_ns || cost_ns == 0 {
            Verdict::Admit
        } else {
            self.held_back(wanted_ns, cost_ns)
        };
        let charged = !matches!(verdict, Verdict::Refuse { .. });
        Outcome { verdict, state: self.state(if charged { wanted_ns } else { debt_ns }, now), moved }
    }

    /// The verdict on a request for which the bucket has too few permits.
    #[cold]
    #[inline(never)]
    fn held_back(&self, wanted_ns: u64, cost_ns: u64) -> Verdict {
        if cost_ns > self.capacity_ns {
            return Verdict::Refuse { retry_after: None };
        }
        let wait = Span::from_nanos(wanted_ns.saturating_sub(self.capacity_ns));
        let ahead = Span::from_nanos(self.ahead_ns);
        if wait <= ahead { Verdict::Delay { wait } } else { Verdict::Refuse { retry_after: Some(wait.minus(ahead)) } }
    }

    /// The state with `cost` charged, whether or not there is room.
    #[must_use]
    pub fn charge(&self, state: Option<State>, cost: Permits, now: Timestamp) -> State {
        let (debt_ns, _) = self.debt_at(state, now);
        let cost_ns = self.debt_of(cost);
        // Permits that were promised beyond an empty bucket stay promised.
        let debt_ns = debt_ns.saturating_add(cost_ns).min(self.capacity_ns.max(debt_ns));
        self.state(debt_ns, now)
    }

    /// How a client with this `state` stands at `now`.
    #[must_use]
    pub fn standing(&self, state: Option<State>, now: Timestamp) -> Standing {
        let (debt_ns, _) = self.debt_at(state, now);
        let room_ns = self.capacity_ns.saturating_sub(debt_ns);
        // Floor: a partly refilled permit cannot be used yet.
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
        Self::full_at_state(full_at(state).before(Span::from_nanos(cost_ns)), state.used())
    }

    /// The state with a charge of `cost` taken back that led to the state `charged`. `None` if later permits were
    /// promised to others since: they keep their turns, and no other request may get one of those turns too.
    #[must_use]
    pub fn give_back(&self, state: State, cost: Permits, charged: State, now: Timestamp) -> Option<State> {
        let promised = full_at(state).since(now).as_nanos() > self.capacity_ns;
        (!promised || full_at(state) == full_at(charged)).then(|| self.refund(state, cost))
    }

    /// The debt for a cost, if a full bucket covers it; otherwise more than any bucket allows.
    fn debt_of(&self, cost: Permits) -> u64 {
        let cost = u64::from(cost.get());
        if cost <= self.burst { self.interval_ns.wrapping_mul(cost) } else { u64::MAX }
    }

    /// The debt at `now`, and whether the clock had stepped back so far that the debt exceeded the bucket's bound.
    fn debt_at(&self, state: Option<State>, now: Timestamp) -> (u64, bool) {
        let Some(state) = state else {
            return (0, false);
        };
        let debt_ns = full_at(state).since(now).as_nanos();
        (debt_ns.min(self.most_ns), debt_ns > self.most_ns)
    }

    /// The state with this much debt at `now`.
    fn state(&self, debt_ns: u64, now: Timestamp) -> State {
        Self::full_at_state(now.after(Span::from_nanos(debt_ns)), self.shares.of(debt_ns))
    }

    fn full_at_state(full_at: Timestamp, used: UsedShare) -> State {
        // The rounding of `fresh_at` is stored beside it, so that no nanosecond is lost.
        State::new(full_at, used, State::rounding(full_at).as_nanos())
    }
}

fn full_at(state: State) -> Timestamp {
    state.fresh_at().before(Span::from_nanos(state.payload()))
}
