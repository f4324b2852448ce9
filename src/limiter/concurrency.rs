//! Requests in flight: a permit is taken when a request is admitted and given back when its stream has ended.
//!
//! A holder may vanish without giving its permit back: a VM that is reloaded forgets its streams. So permits are lent
//! for a lease. Time is divided into epochs of half a lease; a permit taken in one epoch counts until the next one has
//! ended, which is at least half a lease and at most a whole one. A request that lasts longer renews its permits, see
//! [`Slots::is_current`]. A permit is given back to the epoch in which it was taken, so that giving back an expired
//! permit late takes nothing from anybody else.
//!
//! A quota may leave the number of permits to [`super::adaptive`].

use super::adaptive::Adaptive;
use super::{Outcome, ShareScale, Standing, State, Verdict};
use crate::policy::Quota;
use crate::units::{Permits, Span, Timestamp};

/// A quota of requests in flight, prepared for deciding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slots {
    permits: Permits,
    epoch_ms: u64,
    shares: ShareScale,
    adaptive: Option<Adaptive>,
}

/// How many permits are taken: in the epoch numbered `epoch`, and in the one before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Taken {
    epoch: u64,
    before: Permits,
    now: Permits,
}

impl Slots {
    /// The slots of `quota`, whose window is the lease.
    #[must_use]
    pub fn new(quota: &Quota) -> Self {
        Self {
            permits: quota.permits,
            epoch_ms: (quota.window.as_nanos() / (2 * NANOS_PER_MILLI)).max(1),
            shares: ShareScale::new(u64::from(quota.permits.get())),
            adaptive: quota.least.map(|least| Adaptive::new(least, quota.permits)),
        }
    }

    /// The same slots with this many permits.
    #[must_use]
    pub fn with_permits(self, permits: Permits) -> Self {
        Self { permits, shares: ShareScale::new(u64::from(permits.get())), ..self }
    }

    /// The same; `observes`: for a limit that only observes.
    #[must_use]
    pub fn observing(self, observes: bool) -> Self {
        Self { adaptive: self.adaptive.map(|adaptive| adaptive.observing(observes)), ..self }
    }

    /// How many permits there are.
    #[must_use]
    pub fn permits(&self) -> Permits {
        self.permits
    }

    /// What determines the number of permits; `None` if the quota fixes it.
    #[must_use]
    pub fn adaptive(&self) -> Option<&Adaptive> {
        self.adaptive.as_ref()
    }

    /// This quota's result for a request of `cost` at `now`.
    #[must_use]
    pub fn check(&self, state: Option<State>, cost: Permits, now: Timestamp) -> Outcome {
        let (taken, moved) = self.taken_at(state, now);
        // Each count has 28 bits: the sum cannot overflow.
        let wanted = taken.sum().saturating_add(cost.get());
        let (verdict, taken) = if wanted <= self.permits.get() {
            (Verdict::Admit, Taken { now: taken.now.plus(cost), ..taken })
        } else {
            (Verdict::Refuse { retry_after: (cost <= self.permits).then_some(RETRY_AFTER) }, taken)
        };
        Outcome { verdict, state: self.state(taken), moved }
    }

    /// The state with the permits taken, whether or not there is room.
    #[must_use]
    pub fn charge(&self, state: Option<State>, cost: Permits, now: Timestamp) -> State {
        let (taken, _) = self.taken_at(state, now);
        self.state(Taken { now: taken.now.plus(cost), ..taken })
    }

    /// How a client with this `state` stands at `now`.
    #[must_use]
    pub fn standing(&self, state: Option<State>, now: Timestamp) -> Standing {
        Standing { remaining: self.permits.minus(self.in_flight(state, now)), reset_after: RETRY_AFTER }
    }

    /// How many permits are taken at `now`.
    #[must_use]
    pub fn in_flight(&self, state: Option<State>, now: Timestamp) -> Permits {
        Permits::new(self.taken_at(state, now).0.sum())
    }

    /// The state with permits that were taken at `taken_at` given back. Permits that have expired since are not given
    /// back again.
    #[must_use]
    pub fn refund(&self, state: State, cost: Permits, taken_at: Timestamp) -> State {
        let mut taken = self.stored(state);
        let epoch = self.epoch(taken_at);
        if epoch >= taken.epoch {
            // The missing ones were moved into the previous epoch by a clock that stepped back and forth, as the clocks
            // of two threads do at the turn of an epoch.
            let rest = cost.minus(taken.now);
            taken.now = taken.now.minus(cost);
            taken.before = taken.before.minus(rest);
        } else if epoch.saturating_add(1) == taken.epoch {
            taken.before = taken.before.minus(cost);
        }
        self.state(taken)
    }

    /// Whether permits taken at `taken_at` belong to the epoch of `now`. If not, they last for one more epoch at most,
    /// and a request that needs them longer has to renew them.
    #[must_use]
    pub fn is_current(&self, taken_at: Timestamp, now: Timestamp) -> bool {
        self.epoch(taken_at) == self.epoch(now)
    }

    /// The permits taken as of `now`, and whether the clock had stepped back behind the state's epoch.
    fn taken_at(&self, state: Option<State>, now: Timestamp) -> (Taken, bool) {
        let epoch = self.epoch(now);
        let none = Taken { epoch, before: Permits::ZERO, now: Permits::ZERO };
        let Some(state) = state else {
            return (none, false);
        };
        let stored = self.stored(state);
        match epoch.checked_sub(stored.epoch) {
            Some(0) => (stored, false),
            Some(1) => (Taken { before: stored.now, ..none }, false),
            Some(_) => (none, false),
            None => (Taken { now: stored.before.plus(stored.now), ..none }, stored.sum() > 0),
        }
    }

    fn stored(&self, state: State) -> Taken {
        // A state is fresh when the epoch after its own ends; the rounding of `fresh_at` is shorter than an epoch.
        let epoch = self.epoch(state.fresh_at()).saturating_sub(2);
        let permits = |bits: u64| Permits::new(u32::try_from(bits & COUNT_MASK).unwrap_or(u32::MAX));
        Taken { epoch, before: permits(state.payload() >> COUNT_BITS), now: permits(state.payload()) }
    }

    /// A state that is fresh as soon as none of its permits count, so that the table can reuse its slot.
    fn state(&self, taken: Taken) -> State {
        let Taken { epoch, before, now } = match (taken.before, taken.now) {
            (Permits::ZERO, Permits::ZERO) => Taken { epoch: taken.epoch.saturating_sub(2), ..taken },
            (before, Permits::ZERO) => {
                Taken { epoch: taken.epoch.saturating_sub(1), before: Permits::ZERO, now: before }
            }
            _ => taken,
        };
        let fresh_at = Timestamp::from_millis(epoch.saturating_add(2).saturating_mul(self.epoch_ms));
        let payload = (u64::from(before.get()) << COUNT_BITS) | u64::from(now.get());
        State::new(fresh_at, self.shares.of(u64::from(taken.sum())), payload)
    }

    fn epoch(&self, at: Timestamp) -> u64 {
        (at.as_nanos() / NANOS_PER_MILLI).checked_div(self.epoch_ms).unwrap_or(0)
    }
}

impl Taken {
    fn sum(&self) -> u32 {
        self.before.get().saturating_add(self.now.get())
    }
}

/// How long a refused client is asked to wait. It is unknown when a request in flight will end: this is the least that
/// `Retry-After` can express.
pub const RETRY_AFTER: Span = Span::from_secs(1);

/// The bits of [`Permits`].
const COUNT_BITS: u32 = 28;
const COUNT_MASK: u64 = (1 << COUNT_BITS) - 1;
const NANOS_PER_MILLI: u64 = 1_000_000;
