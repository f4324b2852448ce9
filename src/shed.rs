//! Load shedding: which share of which requests is refused while the service is degraded.
//!
//! One number, the pressure, says how much is shed: up to one, it is the share of `low` requests; from one to two, that
//! of `medium` on top of all `low` ones; from two to three, that of `high`. So nothing is shed while something less
//! important is let through, and `critical` requests never are. While the service is degraded or critical and its
//! latest readings are still bad, the pressure rises linearly to the policy's bound for that state. Once the latest
//! readings are good, it falls, slowly at first and then ever faster. Sudden steps would oscillate: one step removes
//! the load that caused the state, and the next one brings it back. A slow start finds the load that the service can
//! just bear, without going far beyond it.
//!
//! Which requests of a priority are shed is left to chance, with one draw for each request, so that no client is
//! singled out.

use crate::health::Health;
use crate::policy::Priority;
use crate::units::{Draw, Span, Timestamp};

/// How much is shed, and when.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Rules {
    /// The bound of the pressure while the service is degraded.
    pub(crate) degraded: Share,
    /// The bound while it is critical.
    pub(crate) critical: Share,
    /// How long the pressure takes to rise by one.
    pub(crate) rise: Span,
    /// How long it takes to fall by one. The first half of this time covers a quarter of the fall.
    pub(crate) fall: Span,
    /// After about how long a client that was shed may retry.
    pub(crate) retry_after: Span,
}

impl Rules {
    /// The bound of the pressure in a state.
    fn goal(&self, health: Health) -> Share {
        match health {
            Health::Healthy => Share::NONE,
            Health::Degraded => self.degraded,
            Health::Critical => self.critical,
        }
    }

    /// The highest pressure in a state.
    #[must_use]
    pub fn at_most(&self, health: Health) -> Pressure {
        Pressure { level: self.goal(health), ..Pressure::default() }
    }

    /// When a client that was shed may retry: at random between half and one and a half times what the policy says, so
    /// that clients that were shed together do not return together.
    #[must_use]
    pub fn retry_after(&self, draw: Draw) -> Span {
        let base = self.retry_after.as_nanos();
        let jitter = u128::from(base).saturating_mul(u128::from(draw.0 & u64::from(u32::MAX))) >> 32;
        Span::from_nanos((base / 2).saturating_add(u64::try_from(jitter).unwrap_or(u64::MAX)))
    }
}

/// A share of requests, or a sum of several shares: `0` to three times [`Share::ALL`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Share(u32);

impl Share {
    /// None.
    pub const NONE: Self = Self(0);
    /// All requests of one priority.
    pub const ALL: Self = Self(1 << SHARE_BITS);
    /// All requests of every priority that can be shed.
    pub const MAX: Self = Self(3 << SHARE_BITS);

    /// A share of this many hundredths of a percent, at most [`Share::MAX`].
    #[must_use]
    pub fn from_basis_points(points: u32) -> Self {
        let share = u64::from(points).saturating_mul(Self::ALL.0.into()) / 10_000;
        Self(u32::try_from(share).unwrap_or(u32::MAX).min(Self::MAX.0))
    }

    /// The share in hundredths of a percent, rounded down.
    #[must_use]
    pub fn as_basis_points(self) -> u32 {
        u32::try_from((u64::from(self.0).saturating_mul(10_000)) >> SHARE_BITS).unwrap_or(u32::MAX)
    }

    /// The share as a number, for storage and messages.
    pub(crate) const fn bits(self) -> u32 {
        self.0
    }

    /// The share with this number; `None` if it is above [`Share::MAX`].
    pub(crate) fn from_bits(bits: u64) -> Option<Self> {
        u32::try_from(bits).ok().map(Self).filter(|share| *share <= Self::MAX)
    }
}

/// The pressure on the service.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pressure {
    pub(crate) level: Share,
    /// The time that `level` is valid for.
    pub(crate) at: Timestamp,
    /// When the pressure began to fall; not later than `at`.
    pub(crate) falls_since: Timestamp,
}

/// The direction in which the pressure moves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trend {
    /// Up to the bound for the service's state.
    Rise,
    /// Neither up nor down: it is high enough, or nearly, but it is too early to let it fall.
    Hold,
    /// Down.
    Fall,
}

impl Pressure {
    /// The pressure at `now`, given the service's state and the trend since `at`.
    #[must_use]
    pub fn after(self, health: Health, trend: Trend, rules: &Rules, now: Timestamp) -> Self {
        let (at, goal) = (self.at.min(now), rules.goal(health));
        let Self { level, mut falls_since, .. } = self;
        let level = match trend {
            Trend::Rise if level < goal => {
                let rise = fraction(now.since(at), rules.rise);
                Share(level.0.saturating_add(u32::try_from(rise).unwrap_or(u32::MAX))).min(goal)
            }
            Trend::Rise | Trend::Hold => level,
            Trend::Fall => {
                falls_since = falls_since.min(at);
                // The fall grows with the square of the time, so this is the difference of two squares since `at`.
                let fallen = |until: Timestamp| {
                    let time = fraction(until.since(falls_since), rules.fall);
                    time.saturating_mul(time) >> SHARE_BITS
                };
                let fall = fallen(now).saturating_sub(fallen(at));
                Share(level.0.saturating_sub(u32::try_from(fall).unwrap_or(u32::MAX)))
            }
        };
        if trend != Trend::Fall {
            falls_since = now;
        }
        Self { level, at: now, falls_since }
    }

    /// Whether anything is shed at all.
    #[must_use]
    pub fn is_none(&self) -> bool {
        self.level == Share::NONE
    }

    /// The share of requests of this priority that is shed.
    #[must_use]
    pub fn share(&self, priority: Priority) -> Share {
        let below = match priority {
            Priority::Low => 0,
            Priority::Medium => 1,
            Priority::High => 2,
            Priority::Critical => return Share::NONE,
        };
        Share(self.level.0.saturating_sub(Share::ALL.0.saturating_mul(below))).min(Share::ALL)
    }

    /// Whether a request with this priority and this draw is shed.
    #[must_use]
    pub fn sheds(&self, priority: Priority, draw: Draw) -> bool {
        // The upper bits; `retry_after` uses the lower ones.
        draw.0 >> 36 < u64::from(self.share(priority).0)
    }
}

/// The fraction of a time that has passed, in units where [`Share::ALL`] is the whole, at most 2^32, which is sixteen
/// times the whole.
fn fraction(passed: Span, of: Span) -> u64 {
    let passed = u128::from(passed.as_nanos()) << SHARE_BITS;
    let fraction = passed.checked_div(of.as_nanos().into()).unwrap_or(u128::MAX);
    u64::try_from(fraction).unwrap_or(u64::MAX).min(u64::from(u32::MAX))
}

/// The number of bits of a share: the whole is 2 to this power.
const SHARE_BITS: u32 = 28;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn rules() -> Rules {
        Rules {
            degraded: Share::from_basis_points(5_000),
            critical: Share::from_basis_points(15_000),
            rise: Span::from_secs(10),
            fall: Span::from_secs(60),
            retry_after: Span::from_secs(10),
        }
    }

    fn shares(pressure: Pressure) -> [u32; 4] {
        [Priority::Low, Priority::Medium, Priority::High, Priority::Critical]
            .map(|priority| pressure.share(priority).as_basis_points())
    }

    #[test]
    fn pressure_rises_evenly_to_what_the_state_asks_for_and_falls_ever_faster() {
        let mut now = Timestamp::from_millis(1_800_000_000_000);
        let mut pressure = Pressure::default().after(Health::Healthy, Trend::Fall, &rules(), now);
        for (secs, health, trend, low, medium) in [
            (100, Health::Healthy, Trend::Fall, 0, 0),
            (1, Health::Degraded, Trend::Rise, 1_000, 0),
            (2, Health::Degraded, Trend::Rise, 3_000, 0),
            (9, Health::Degraded, Trend::Rise, 5_000, 0),
            (9, Health::Degraded, Trend::Hold, 5_000, 0),
            (6, Health::Critical, Trend::Rise, 10_000, 1_000),
            (60, Health::Critical, Trend::Rise, 10_000, 5_000),
            // The pressure does not fall while readings are bad, even if it is above the bound of a better state.
            (9, Health::Degraded, Trend::Rise, 10_000, 5_000),
            // A quarter in half the time, no matter how often it is computed on the way.
            (10, Health::Degraded, Trend::Fall, 10_000, 4_722),
            (20, Health::Healthy, Trend::Fall, 10_000, 2_500),
            // After a hold, it falls slowly at first again.
            (1, Health::Healthy, Trend::Hold, 10_000, 2_500),
            (30, Health::Healthy, Trend::Fall, 10_000, 0),
            (30, Health::Healthy, Trend::Fall, 2_500, 0),
            (3_600, Health::Healthy, Trend::Fall, 0, 0),
        ] {
            now = now.after(Span::from_secs(secs));
            pressure = pressure.after(health, trend, &rules(), now);
            for (share, expected) in shares(pressure).into_iter().zip([low, medium, 0, 0]) {
                assert!(share.abs_diff(expected) <= 1, "{secs} {health:?}: {share} is not {expected}");
            }
        }
    }

    #[test]
    fn a_clock_that_steps_back_neither_moves_the_pressure_nor_stops_it() {
        let now = Timestamp::from_millis(1_800_000_000_000);
        let back = now.before(Span::from_secs(3_600));
        let half = Pressure { level: rules().degraded, at: now, falls_since: now };
        for (trend, end) in [(Trend::Fall, Share::NONE), (Trend::Rise, rules().critical)] {
            let pressure = half.after(Health::Critical, trend, &rules(), back);
            assert_eq!(pressure.level, half.level);
            assert_eq!(pressure.after(Health::Critical, trend, &rules(), back.after(Span::from_secs(60))).level, end);
        }
    }

    #[test]
    fn the_wait_lies_about_what_the_policy_says() {
        let secs = |draw| rules().retry_after(Draw(draw)).as_nanos() / 100_000_000;
        assert_eq!((secs(0), secs(u64::MAX), secs(1 << 31)), (50, 149, 100));
    }

    proptest! {
        #[test]
        fn asking_often_moves_it_as_far_as_asking_once(steps in prop::collection::vec(1_u64..500_000, 1..200)) {
            let start = Timestamp::from_millis(1_800_000_000_000);
            for (level, trend) in [(Share::NONE, Trend::Rise), (rules().critical, Trend::Fall)] {
                let begin = Pressure { level, at: start, falls_since: start };
                let (mut often, mut now) = (begin, start);
                for us in &steps {
                    now = now.after(Span::from_nanos(us * 1_000));
                    often = often.after(Health::Critical, trend, &rules(), now);
                }
                let once = begin.after(Health::Critical, trend, &rules(), now);
                // Each step rounds down, by less than one part of 2^28.
                prop_assert!(once.level.0.abs_diff(often.level.0) <= 200, "{once:?} {often:?}");
            }
        }

        #[test]
        fn as_many_are_shed_as_the_share_says_and_critical_ones_never(points in 0_u32..=30_000, seed in any::<u64>()) {
            let pressure = Pressure { level: Share::from_basis_points(points), ..Pressure::default() };
            let draws = || (0..4_096_u64).map(|n| Draw(seed.wrapping_add(n << 52)));
            for priority in [Priority::Low, Priority::Medium, Priority::High, Priority::Critical] {
                let shed = draws().filter(|draw| pressure.sheds(priority, *draw)).count();
                let expected = pressure.share(priority).as_basis_points() as usize * 4_096 / 10_000;
                prop_assert!(shed.abs_diff(expected) <= 2, "{priority:?}: {shed} for {expected}");
            }
            prop_assert!(draws().all(|draw| !pressure.sheds(Priority::Critical, draw)));
            // Nothing is shed of a priority while a less important one is not shed completely.
            let shares = shares(pressure);
            prop_assert!(shares.windows(2).all(|pair| pair[1] == 0 || pair[0] == 10_000), "{shares:?}");
        }
    }
}
