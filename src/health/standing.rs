//! Whether the service counts as healthy, degraded or critical, without flapping.
//!
//! It gets worse at once, when a reading reaches its threshold. It gets better by one step at a time, after every
//! reading has stayed below a percentage of the threshold of the current state for as long as the policy says. So a
//! reading that wavers around a threshold changes the state once; and even one that swings widely changes it at most
//! once in that time.

use super::window::Tally;
use super::{Health, Rules};
use crate::units::{Span, Timestamp};

/// The health of the service, and how long it has been so.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Standing {
    /// The state.
    pub health: Health,
    /// When the state began.
    pub since: Timestamp,
    /// Since when no reading has prevented the service from getting better.
    pub(super) calm_since: Timestamp,
}

impl Standing {
    /// The state after a tick, from `recent`, the sum of the window.
    #[must_use]
    pub fn after(self, recent: &Tally, rules: &Rules, now: Timestamp) -> Self {
        // A clock that was set back must not delay a change until it reaches its old time again.
        let mut next = Self { since: self.since.min(now), calm_since: self.calm_since.min(now), ..self };
        let (reached, kept) = rules.judge(recent, rules.min_calls);
        if reached > self.health {
            return Self { health: reached, since: now, calm_since: now };
        }
        if self.health == Health::Healthy {
            return next;
        }
        if kept >= self.health {
            next.calm_since = now;
        } else if now.since(next.calm_since) >= rules.calm {
            next = Self { health: self.health.better(), since: now, calm_since: now };
        }
        next
    }

    /// How long the service has been in this state.
    #[must_use]
    pub fn lasted(&self, now: Timestamp) -> Span {
        now.since(self.since)
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Signal, Thresholds};
    use super::*;
    use crate::units::BasisPoints;
    use proptest::prelude::*;

    fn rules() -> Rules {
        Rules {
            window: Span::from_secs(10),
            min_calls: 20,
            quantile: BasisPoints::new(9_500),
            thresholds: vec![Thresholds { signal: Signal::ErrorRate, degraded: 1_000, critical: 5_000 }],
            recovers_at_percent: 80,
            calm: Span::from_secs(5),
        }
    }

    fn recent(calls: u32, failures_percent: u32) -> Tally {
        let mut tally = Tally::default();
        (0..calls).for_each(|call| tally.count(Some(Span::ZERO), call % 100 < failures_percent));
        tally
    }

    /// The state after each of several seconds.
    fn walk(start: Standing, readings: impl IntoIterator<Item = (u32, u32)>) -> Vec<Health> {
        let mut standing = start;
        let step = |(secs, (calls, percent))| {
            standing = standing.after(&recent(calls, percent), &rules(), Timestamp::from_millis(secs * 1_000));
            standing.health
        };
        (1_000_u64..).zip(readings).map(step).collect()
    }

    #[test]
    fn it_gets_worse_at_once_and_better_by_steps_when_calm_for_long_enough() {
        use Health::{Critical, Degraded, Healthy};
        for (readings, states) in [
            (vec![(100, 9), (100, 10), (100, 9)], vec![Healthy, Degraded, Degraded]),
            (vec![(100, 50)], vec![Critical]),
            // Too few calls.
            (vec![(19, 100), (20, 100)], vec![Healthy, Critical]),
            (
                [&[(100, 60)][..], &[(100, 0); 11]].concat(),
                [&[Critical; 5][..], &[Degraded; 5], &[Healthy; 2]].concat(),
            ),
            // 39 is under 80% of 50, 8 is not under 80% of 10.
            ([&[(100, 60)][..], &[(100, 39); 9]].concat(), [&[Critical; 5][..], &[Degraded; 5]].concat()),
            ([&[(100, 10)][..], &[(100, 8); 30]].concat(), vec![Degraded; 31]),
            // One bad second restarts the wait.
            (
                [&[(100, 10)][..], &[(100, 0); 4], &[(100, 8)], &[(100, 0); 5]].concat(),
                [&[Degraded; 10][..], &[Healthy]].concat(),
            ),
        ] {
            assert_eq!(walk(Standing::default(), readings.clone()), states, "{readings:?}");
        }
    }

    #[test]
    fn a_clock_that_steps_back_holds_nothing_up() {
        let far = Timestamp::from_millis(10_000_000_000);
        let start = Standing { health: Health::Critical, since: far, calm_since: far };
        assert_eq!(walk(start, [(100, 0); 11]).last(), Some(&Health::Healthy));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn it_turns_no_more_often_than_the_wait_allows(readings in prop::collection::vec((0_u32..200, 0_u32..100), 1..200)) {
            let states = walk(Standing::default(), readings);
            let turns = states.windows(2).filter(|pair| pair[0] != pair[1]).count();
            // Every step to a better state takes five seconds. There are no steps to a worse one after the first two.
            prop_assert!(turns <= 2 * (states.len() / 5) + 2, "{turns} in {} s", states.len());
        }

        #[test]
        fn noise_within_the_band_turns_it_once(readings in prop::collection::vec(85_u32..115, 100)) {
            // Thousands of calls about 10%: the threshold is 10%, and it gets better below 8%.
            let readings = readings.into_iter().map(|tenths| (1_000, tenths / 10));
            let states = walk(Standing::default(), readings);
            prop_assert!(states.windows(2).filter(|pair| pair[0] != pair[1]).count() <= 1);
        }

        #[test]
        fn it_recovers_from_any_state(number in 0_u64..3, since in any::<u64>(), calm in any::<u64>(), calls in 0_u32..200) {
            let (since, calm_since) = (Timestamp::from_nanos(since), Timestamp::from_nanos(calm));
            let start = Standing { health: Health::numbered(number).unwrap(), since, calm_since };
            let states = walk(start, vec![(calls, 0); 12]);
            prop_assert_eq!(states.last(), Some(&Health::Healthy));
        }
    }
}
