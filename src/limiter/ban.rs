//! The ban: a client that is refused too often is refused for a time, whatever it does meanwhile.
//!
//! Refusals are counted in runs: a run begins with a refusal and lasts for the span that the policy counts in. So a
//! client is never banned for fewer refusals than the policy says within that span, and always for twice as many, less
//! one. Requests during a ban are not counted and do not prolong it.

use super::{State, UsedShare};
use crate::policy;
use crate::units::{Span, Timestamp};

/// A limit's ban, prepared for deciding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ban {
    after: u64,
    within: Span,
    lasts: Span,
}

/// What is left of a ban.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rest {
    /// How long it lasts from now.
    pub span: Span,
    /// The clock had stepped back, or the policy has shortened bans, so the ban ends as if it began now. It must be
    /// written, because its end counts from here.
    pub moved: bool,
}

impl Ban {
    /// The ban that the policy describes.
    #[must_use]
    pub fn new(ban: &policy::Ban) -> Self {
        Self { after: u64::from(ban.after), within: ban.within, lasts: ban.lasts }
    }

    /// What is left of the ban, given the client's state (`None` if it was never refused); `None` if the client is not
    /// banned.
    #[must_use]
    pub fn rest(&self, state: Option<State>, now: Timestamp) -> Option<Rest> {
        let until = state.filter(|state| state.payload() & BANNED != 0)?.fresh_at();
        let latest = self.end(now);
        (until > now).then(|| Rest { span: until.min(latest).since(now), moved: until > latest })
    }

    /// The state after one more refusal at `now`, for a client that is not banned; and the length of the ban that
    /// begins with this refusal, if one does.
    #[must_use]
    pub fn refused(&self, state: Option<State>, now: Timestamp) -> (State, Option<Span>) {
        // A run that ends later than one that begins now dates from before the clock stepped back.
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

    /// When a ban ends that begins at `now`: a whole tick, rounded down. Rounding up would tell clients a second too
    /// many.
    fn end(&self, now: Timestamp) -> Timestamp {
        State::from_ticks(State::ticks(now.after(self.lasts)))
    }
}

const BANNED: u64 = 1 << 55;
const COUNT: u64 = (1 << 32) - 1;

/// Evicted before clients that have used up their whole quota, and after all others: only the refused client would gain
/// from forgetting its count.
const KEPT_LONG: UsedShare = UsedShare::from_byte(254);

/// Evicted last. Among such entries, the one that is fresh first goes first, and that is rarely a ban.
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
        // A count made at a later time than now still counts, but no longer than a run lasts.
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
                // Exact to a tick of 8.4 ms, and never longer.
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
