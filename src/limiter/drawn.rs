//! Permits that an instance has drawn from the authority of a shared limit, as its key table keeps them.
//!
//! The [authority](crate::authority) has already charged these permits, so they can be used here until they expire. Two
//! leases are kept, because the next one is drawn before the last is used up; the one that expires first is spent
//! first. A third lease is merged into one of the two and gets the earlier expiry of both, so no permit ever outlives
//! its grant.
//!
//! The payload has 56 bits: 20 for the permits of each lease, 13 for how much earlier the first lease expires than the
//! second, and 3 for how much earlier the second expires than the tick at which the state is fresh. Both differences
//! are in steps of an eighth of a tick, about a millisecond. Expiry is rounded down to a step.

use super::{Outcome, Standing, State, UsedShare, Verdict};
use crate::units::{Permits, Span, Timestamp};

/// The meter of permits that were drawn.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Drawn;

/// The live leases of a state. The first one expires first.
#[derive(Clone, Copy, Default)]
struct Leases {
    first: Lease,
    second: Lease,
}

#[derive(Clone, Copy, Default)]
struct Lease {
    left: u32,
    /// The step at which the lease expires.
    until: u64,
}

impl Drawn {
    /// The most permits that a lease can hold.
    pub const MOST: Permits = Permits::new(LEFT_MASK as u32);

    /// Whether a request of `cost` finds its permits here, and the state without them. The `retry_after` of a refusal
    /// has no meaning: only the authority knows it.
    #[must_use]
    pub fn check(&self, state: Option<State>, cost: Permits, now: Timestamp) -> Outcome {
        let mut leases = Leases::of(state, now);
        let verdict = if leases.left() >= cost.get() {
            leases.spend(cost);
            Verdict::Admit
        } else {
            Verdict::Refuse { retry_after: Some(Span::ZERO) }
        };
        Outcome { verdict, state: leases.state(), moved: false }
    }

    /// The state without these permits; empty if there are fewer.
    #[must_use]
    pub fn charge(&self, state: Option<State>, cost: Permits, now: Timestamp) -> State {
        let mut leases = Leases::of(state, now);
        leases.spend(cost);
        leases.state()
    }

    /// The permits left here, and when the last of them expire.
    #[must_use]
    pub fn standing(&self, state: Option<State>, now: Timestamp) -> Standing {
        let leases = Leases::of(state, now);
        let reset_after = State::from_ticks(leases.second.until.div_ceil(STEPS)).since(now);
        Standing { remaining: Permits::new(leases.left()), reset_after }
    }

    /// The state with permits that may be used until `until`, exclusive.
    #[must_use]
    pub fn add(&self, state: Option<State>, permits: Permits, until: Timestamp, now: Timestamp) -> State {
        let mut leases = Leases::of(state, now);
        leases.add(Lease { left: permits.get(), until: steps(until) }, steps(now));
        leases.state()
    }

    /// The state with permits that a request did not use after all. Spending them led to the state `charged`, and they
    /// last as long as the first lease of that state.
    #[must_use]
    pub fn give_back(&self, state: State, permits: Permits, charged: State, now: Timestamp) -> State {
        let (first, _) = Leases::stored(charged);
        let mut leases = Leases::of(Some(state), now);
        leases.add(Lease { left: permits.get(), until: first.until }, steps(now));
        leases.state()
    }
}

impl Leases {
    fn of(state: Option<State>, now: Timestamp) -> Self {
        let Some(state) = state else { return Self::default() };
        let now = steps(now);
        let (first, second) = Self::stored(state);
        let live = |lease: Lease| if lease.until > now { lease } else { Lease { left: 0, ..lease } };
        let (mut first, mut second) = (live(first), live(second));
        // An empty lease does not count, and takes the other one's expiry.
        if first.left == 0 {
            first.until = second.until;
        } else if second.left == 0 {
            second.until = first.until;
        }
        Self { first, second }
    }

    fn stored(state: State) -> (Lease, Lease) {
        let payload = state.payload();
        let times = payload >> (LEFT_BITS * 2);
        let until = state.fresh_at_ticks().saturating_mul(STEPS).saturating_sub(times & (STEPS - 1));
        let second = Lease { left: (payload & LEFT_MASK) as u32, until };
        let left = ((payload >> LEFT_BITS) & LEFT_MASK) as u32;
        (Lease { left, until: until.saturating_sub(times >> STEP_BITS) }, second)
    }

    fn left(&self) -> u32 {
        self.first.left.saturating_add(self.second.left)
    }

    fn spend(&mut self, cost: Permits) {
        let of_first = cost.get().min(self.first.left);
        self.first.left = self.first.left.saturating_sub(of_first);
        self.second.left = self.second.left.saturating_sub(cost.get().saturating_sub(of_first));
    }

    fn add(&mut self, new: Lease, now: u64) {
        if new.until <= now || new.left == 0 {
            return;
        }
        let [one, other] = match (self.first.left, self.second.left) {
            (0, 0) => [Lease { left: 0, ..new }, new],
            (0, _) => [new, self.second],
            (_, 0) => [self.first, new],
            _ => {
                // No permit may outlive its grant: the lease that expires before the new one absorbs it.
                let into = if new.until >= self.second.until { &mut self.second } else { &mut self.first };
                into.left = into.left.saturating_add(new.left);
                into.until = into.until.min(new.until);
                return;
            }
        };
        (self.first, self.second) = if one.until <= other.until { (one, other) } else { (other, one) };
    }

    fn state(&self) -> State {
        // A gap that is too long to store shortens the second lease; it never lengthens the first.
        let until = self.second.until.min(self.first.until.saturating_add(GAP_MASK));
        let gap = until.saturating_sub(self.first.until);
        let fresh_at = until.div_ceil(STEPS);
        let times = (gap << STEP_BITS) | fresh_at.saturating_mul(STEPS).saturating_sub(until);
        let left = |lease: &Lease| u64::from(lease.left).min(LEFT_MASK);
        let payload = (times << (LEFT_BITS * 2)) | (left(&self.first) << LEFT_BITS) | left(&self.second);
        let used = if self.left() == 0 { USED_UP } else { HELD };
        State::at_ticks(fresh_at, UsedShare::from_byte(used), payload)
    }
}

/// Whole steps from the Unix epoch to `at`, rounded down.
fn steps(at: Timestamp) -> u64 {
    at.as_nanos() >> (State::RESOLUTION_BITS - STEP_BITS)
}

/// Steps per tick.
const STEPS: u64 = 1 << STEP_BITS;
const STEP_BITS: u32 = 3;
const LEFT_BITS: u32 = 20;
const LEFT_MASK: u64 = (1 << LEFT_BITS) - 1;
const GAP_MASK: u64 = (1 << 13) - 1;
/// The share of an empty account, which the table evicts first: it is worth no more than no account.
const USED_UP: u8 = 1;
/// The share of an account with permits. Evicted permits are lost to all instances until they expire.
const HELD: u8 = 128;

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(ms: u64) -> Timestamp {
        Timestamp::from_millis(1_000_000 + ms)
    }

    fn left(state: State, at: u64) -> u32 {
        Drawn.standing(Some(state), ms(at)).remaining.get()
    }

    #[test]
    fn what_expires_first_is_spent_first_and_nothing_outlives_its_grant() {
        let state = Drawn.add(None, Permits::new(10), ms(1_000), ms(0));
        let state = Drawn.add(Some(state), Permits::new(20), ms(2_000), ms(0));
        assert_eq!((left(state, 0), left(state, 1_000), left(state, 2_000)), (30, 20, 0));
        let state = Drawn.check(Some(state), Permits::new(7), ms(10)).state;
        assert_eq!((left(state, 10), left(state, 1_000)), (23, 20));
        for (until, later) in [(3_000, 25), (1_500, 20), (500, 20)] {
            let third = Drawn.add(Some(state), Permits::new(5), ms(until), ms(10));
            assert_eq!((left(third, 10), left(third, 1_000), left(third, 2_000)), (28, later, 0), "until {until}");
        }
    }

    #[test]
    fn without_enough_permits_nothing_is_spent() {
        let state = Drawn.add(None, Permits::new(3), ms(1_000), ms(0));
        let outcome = Drawn.check(Some(state), Permits::new(4), ms(0));
        assert!(matches!(outcome.verdict, Verdict::Refuse { .. }));
        assert_eq!(left(outcome.state, 0), 3);
        assert!(matches!(Drawn.check(Some(state), Permits::ONE, ms(1_000)).verdict, Verdict::Refuse { .. }));
    }

    #[test]
    fn what_is_given_back_lasts_as_long_as_before() {
        let drawn = Drawn.add(None, Permits::new(4), ms(500), ms(0));
        let charged = Drawn.check(Some(drawn), Permits::new(4), ms(1)).state;
        let renewed = Drawn.add(Some(charged), Permits::new(8), ms(3_000), ms(2));
        let back = Drawn.give_back(renewed, Permits::new(4), charged, ms(3));
        assert_eq!((left(back, 3), left(back, 500)), (12, 8));
        assert_eq!(left(Drawn.give_back(renewed, Permits::new(4), charged, ms(600)), 600), 8, "they have expired");
    }

    #[test]
    fn a_gap_too_long_to_tell_shortens_the_later_lease() {
        let state = Drawn.add(None, Permits::new(1), ms(1_000), ms(0));
        let state = Drawn.add(Some(state), Permits::new(1), ms(3_600_000), ms(0));
        assert_eq!((left(state, 0), left(state, 1_000), left(state, 9_000), left(state, 10_000)), (2, 1, 1, 0));
    }
}
