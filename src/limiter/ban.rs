//! The ban: a client that keeps being refused is refused for a time, whatever it does meanwhile.
//!
//! Refusals are counted in runs: a run begins with a refusal and takes the span in which so many of them are too many.
//! So a client is never banned for fewer refusals than the policy says within that span, and always for twice as many,
//! less one. A ban ends when it ends: what is sent during a ban is not counted and does not prolong it.

use super::{State, UsedShare};
use crate::policy;
use crate::units::{Span, Timestamp};

/// A limit's ban, made ready.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ban {
    after: u64,
    within: Span,
    lasts: Span,
}

/// What is left of a ban.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rest {
    /// How long it goes on.
    pub span: Span,
    /// The clock had stepped back, or the policy made bans shorter, and the ban ends as if it began now: to be written,
    /// since its end counts from here.
    pub moved: bool,
}

impl Ban {
    /// The ban that the policy says.
    #[must_use]
    pub fn new(ban: &policy::Ban) -> Self {
        Self { after: u64::from(ban.after), within: ban.within, lasts: ban.lasts }
    }

    /// What is left of the ban of a client of this state (`None` when it was never refused); `None` when it has none.
    #[must_use]
    pub fn rest(&self, state: Option<State>, now: Timestamp) -> Option<Rest> {
        let until = state.filter(|state| state.payload() & BANNED != 0)?.fresh_at();
        let latest = self.end(now);
        (until > now).then(|| Rest { span: until.min(latest).since(now), moved: until > latest })
    }

    /// The state with one more refusal at `now`, of a client that is not banned, and how long the ban takes that begins
    /// with it, if one does.
    #[must_use]
    pub fn refused(&self, state: Option<State>, now: Timestamp) -> (State, Option<Span>) {
        // A run that would end later than one that begins now is from before the clock stepped back.
        let latest = State::tick_after(now.after(self.within));
        let run = state.filter(|state| state.payload() & BANNED == 0 && state.fresh_at() > now);
        let (count, end) = run.map_or((0, latest), |run| (run.payload() & COUNT, run.fresh_at().min(latest)));
        let count = count.saturating_add(1);
        if count < self.after {
            return (State::new(end, KEPT_LONG, count.min(COUNT)), None);
        }
        let state = self.begun(now);
        (state, Some(state.fresh_at().since(now)))
    }

    /// The state of a client whose ban begins at `now`.
    #[must_use]
    pub fn begun(&self, now: Timestamp) -> State {
        State::new(self.end(now), KEPT_LONGEST, BANNED)
    }

    /// When a ban ends that begins at `now`: a whole tick, and not after it, or clients would be told a second too many.
    fn end(&self, now: Timestamp) -> Timestamp {
        State::from_ticks(State::ticks(now.after(self.lasts)))
    }
}

const BANNED: u64 = 1 << 55;
const COUNT: u64 = (1 << 32) - 1;

/// Only clients that have used up all of their quota are kept longer than one that was refused: to forget a count is good
/// for nobody but whom it counts.
const KEPT_LONG: UsedShare = UsedShare::from_byte(254);

/// Of those that are kept longest the one goes first that is fresh soonest, which is mostly not one with a ban.
pub(crate) const KEPT_LONGEST: UsedShare = UsedShare::from_byte(255);

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn at(ms: u64) -> Timestamp {
        Timestamp::from_millis(1_700_000_000_000 + ms)
    }

    fn ban(after: u32, within_ms: u64, lasts_ms: u64) -> Ban {
        let [within, lasts] = [within_ms, lasts_ms].map(Span::from_millis);
        Ban::new(&policy::Ban { after, within, lasts })
    }

    #[test]
    fn a_clock_that_steps_back_makes_no_ban_longer() {
        let ban = ban(1, 1_000, 60_000);
        let (state, begun) = ban.refused(None, at(500_000));
        assert!(begun.is_some());
        let rest = ban.rest(Some(state), at(0)).unwrap();
        assert!(rest.moved && rest.span.as_secs_ceil() == 60, "{rest:?}");
        assert!(!ban.rest(Some(ban.begun(at(0))), at(0)).unwrap().moved);
        // A count that was made later than now still counts, but no longer than a run takes.
        let counting = Ban { after: 3, ..ban };
        let (state, _) = counting.refused(None, at(500_000));
        let (state, _) = counting.refused(Some(state), at(0));
        assert!(state.fresh_at() <= State::tick_after(at(1_000)));
        assert!(counting.refused(Some(state), at(900)).1.is_some());
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(1_000))]

        #[test]
        fn a_ban_takes_as_many_refusals_as_the_policy_says_and_lasts_as_long(
            after in 1_u32..8,
            within_ms in 1_000_u64..20_000,
            lasts_ms in 1_000_u64..60_000,
            steps in prop::collection::vec(prop_oneof![0_u64..500, 0_u64..20_000], 1..120),
        ) {
            let ban = ban(after, within_ms, lasts_ms);
            let (mut state, mut now, mut refusals, mut until) = (None, 0, Vec::new(), 0);
            for step in steps {
                now += step;
                let rest = ban.rest(state, at(now));
                // To a tick of 8.4 ms, and never longer.
                let in_ban = now + 9 < until;
                prop_assert!(!in_ban || rest.is_some(), "at {}", now);
                prop_assert!(rest.is_none() || now < until, "at {}", now);
                if rest.is_some() {
                    continue;
                }
                refusals.push(now);
                let (next, begun) = ban.refused(state, at(now));
                state = Some(next);
                let within = |span: u64| refusals.iter().filter(|then| now - **then <= span).count();
                let after = after as usize;
                if begun.is_some() {
                    prop_assert!(within(within_ms + 9) >= after);
                    until = now + lasts_ms;
                    refusals.clear();
                } else {
                    prop_assert!(within(within_ms) < (2 * after).saturating_sub(1).max(1));
                }
            }
        }
    }
}
