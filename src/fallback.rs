//! The fallback chain: where a request goes, given what has failed.
//!
//! A request takes the first route that it matches, and goes to the first upstream of the route whose breaker admits it. When
//! that fails, as the route understands failing, the next is tried, for as long as
//!
//! - the request can be repeated: its method is one of the route's, and it has no body;
//! - fewer than `attempts` were made, and an upstream is left that was not asked and whose breaker admits;
//! - the [`Budget`] lasts, so that a failing upstream is not met with twice the load.
//!
//! Between tries the request waits by a backoff that doubles, of which the request's draw takes a part ("full jitter": M.
//! Brooker, "Exponential Backoff And Jitter", AWS Architecture Blog, 2015). When all of that is over it is served what was
//! kept, or the policy's static answer, or the failure itself, or 503.

mod budget;

pub use budget::Budget;

use crate::breaker::{Admission, Breakers, Ledger, Local, Ticket};
use crate::policy::{CallEnd, Policy, Route, Static};
use crate::units::{Draw, Span, Timestamp};

/// Where the breakers of a worker are published.
pub trait Ledgers {
    /// The ledger of the breaker of this identity; see [`Breakers::identity`].
    fn of(&mut self, identity: &str) -> &mut impl Ledger;
}

/// What one worker knows of the upstreams behind it.
#[derive(Debug)]
pub struct Upstreams {
    breakers: Breakers,
    /// One for each route.
    budgets: Vec<Budget>,
}

/// One request's way along its route, kept until it is answered.
#[derive(Debug)]
pub struct Way {
    route: usize,
    /// A bit for each of the route's upstreams, of which there are at most 16: which were asked, or refused to be.
    tried: u16,
    attempts: u32,
    repeatable: bool,
    call: Option<Call>,
    /// An upstream has answered, though with a failure.
    answered: bool,
    /// The shortest time after which a breaker may admit.
    retry_after: Option<Span>,
}

/// A call that has not ended.
#[derive(Clone, Copy, Debug)]
struct Call {
    /// The upstream's place in the policy.
    upstream: usize,
    /// Its breaker and what the outcome is told with.
    breaker: Option<(usize, Ticket)>,
    began: Timestamp,
}

/// What is to be done with a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step<'p> {
    /// It goes to an upstream.
    Send {
        /// The upstream, as an index into the policy's.
        upstream: usize,
        /// How long it has for its answer; `None` for as long as the host allows.
        timeout: Option<Span>,
        /// After so long; nothing for the first.
        wait: Span,
    },
    /// The client gets the answer at hand.
    Deliver,
    /// The client gets what was kept of an earlier answer, if that is not older than this. Otherwise [`Upstreams::last`].
    Stale(Span),
    /// The client gets this.
    Static(&'p Static),
    /// The client gets 503 (RFC 9110 section 15.6.4).
    Unavailable {
        /// When a breaker may admit again; `None` where nobody knows.
        retry_after: Option<Span>,
    },
}

impl Way {
    /// The route, as an index into the policy's.
    #[must_use]
    pub fn route(&self) -> usize {
        self.route
    }

    /// How many upstreams were asked.
    #[must_use]
    pub fn attempts(&self) -> u32 {
        self.attempts
    }

    /// The upstream that is being asked, as an index into the policy's.
    #[must_use]
    pub fn upstream(&self) -> Option<usize> {
        self.call.map(|call| call.upstream)
    }
}

impl Upstreams {
    /// The upstreams of this policy, all of them well.
    #[must_use]
    pub fn new(policy: &Policy) -> Self {
        let budget = |route: &Route| Budget::new(route.fallback.as_ref().map_or(0, |it| it.retries.budget_percent));
        Self { breakers: Breakers::new(policy), budgets: policy.routes().iter().map(budget).collect() }
    }

    /// The breakers.
    pub fn breakers(&mut self) -> &mut Breakers {
        &mut self.breakers
    }

    /// Begins the way of a request along this route. `method` is as received, and `has_body` whether more than headers came.
    pub fn begin<'p, L: Ledgers>(
        &mut self,
        policy: &'p Policy,
        route: usize,
        (method, has_body): (&[u8], bool),
        ledgers: &mut L,
        draw: Draw,
        now: Timestamp,
    ) -> (Way, Step<'p>) {
        let fallback = policy.routes().get(route).and_then(|route| route.fallback.as_ref());
        let repeats =
            |method: &[u8]| fallback.is_some_and(|it| it.retries.methods.iter().any(|it| it.as_bytes() == method));
        let mut way = Way {
            route,
            tried: 0,
            attempts: 0,
            repeatable: !has_body && repeats(method),
            call: None,
            answered: false,
            retry_after: None,
        };
        if let Some(budget) = self.budgets.get_mut(route) {
            budget.request(now);
        }
        let step = self.next(policy, &mut way, Span::ZERO, ledgers, draw, now);
        let step = step.unwrap_or_else(|| Self::end(policy, &way));
        (way, step)
    }

    /// Takes in how the call at hand ended, before any of the answer's body went to the client, and says what comes next.
    pub fn ended<'p, L: Ledgers>(
        &mut self,
        policy: &'p Policy,
        way: &mut Way,
        end: CallEnd,
        ledgers: &mut L,
        draw: Draw,
        now: Timestamp,
    ) -> Step<'p> {
        self.observe(way, end, ledgers, draw, now);
        let Some(fallback) = policy.routes().get(way.route).and_then(|route| route.fallback.as_ref()) else {
            return Step::Deliver;
        };
        way.answered |= matches!(end, CallEnd::Answered(_));
        if end == CallEnd::Abandoned || !fallback.on.contain(end) {
            return Step::Deliver;
        }
        let wait = fallback.retries.backoff.wait(way.attempts, draw);
        let may = way.repeatable && way.attempts < fallback.attempts;
        let next = if may { self.retry(policy, way, wait, ledgers, draw, now) } else { None };
        next.unwrap_or_else(|| Self::end(policy, way))
    }

    /// Takes in that the client went away while an upstream was being asked.
    pub fn abandoned<L: Ledgers>(&mut self, way: &mut Way, ledgers: &mut L, draw: Draw, now: Timestamp) {
        self.observe(way, CallEnd::Abandoned, ledgers, draw, now);
    }

    /// What a client gets for whom nothing was kept.
    #[must_use]
    pub fn last<'p>(policy: &'p Policy, way: &Way) -> Step<'p> {
        let fallback = policy.routes().get(way.route).and_then(|route| route.fallback.as_ref());
        match fallback.and_then(|fallback| fallback.fixed.as_ref()) {
            Some(fixed) => Step::Static(fixed),
            // An upstream's own words say more than ours.
            None if way.answered => Step::Deliver,
            None => Step::Unavailable { retry_after: way.retry_after },
        }
    }

    fn end<'p>(policy: &'p Policy, way: &Way) -> Step<'p> {
        let fallback = policy.routes().get(way.route).and_then(|route| route.fallback.as_ref());
        match fallback.and_then(|fallback| fallback.stale) {
            Some(age) => Step::Stale(age),
            None => Self::last(policy, way),
        }
    }

    /// The next upstream, if the budget lasts for one more try.
    fn retry<'p, L: Ledgers>(
        &mut self,
        policy: &'p Policy,
        way: &mut Way,
        wait: Span,
        ledgers: &mut L,
        draw: Draw,
        now: Timestamp,
    ) -> Option<Step<'p>> {
        if !self.budgets.get_mut(way.route)?.allows(now) {
            return None;
        }
        let step = self.next(policy, way, wait, ledgers, draw, now)?;
        self.budgets.get_mut(way.route)?.retry(now);
        Some(step)
    }

    /// The next of the route's upstreams that was not asked and whose breaker admits.
    fn next<'p, L: Ledgers>(
        &mut self,
        policy: &'p Policy,
        way: &mut Way,
        wait: Span,
        ledgers: &mut L,
        draw: Draw,
        now: Timestamp,
    ) -> Option<Step<'p>> {
        let route = policy.routes().get(way.route)?;
        for (place, upstream) in route.upstreams.iter().enumerate() {
            let bit = 1_u16.checked_shl(u32::try_from(place).unwrap_or(u32::MAX)).unwrap_or(0);
            if way.tried & bit != 0 {
                continue;
            }
            way.tried |= bit;
            let breaker = self.breakers.place(way.route, place);
            let ticket = match breaker.map(|at| (at, self.admit(at, ledgers, draw, now))) {
                None => None,
                Some((at, Admission::Pass(ticket))) => Some((at, ticket)),
                Some((_, Admission::Observe { .. })) => None,
                Some((_, Admission::Refuse { retry_after })) => {
                    let soonest = way.retry_after.into_iter().chain(retry_after).min();
                    way.retry_after = soonest;
                    continue;
                }
            };
            way.attempts = way.attempts.saturating_add(1);
            way.call = Some(Call { upstream: *upstream, breaker: ticket, began: now.after(wait) });
            let timeout = policy.upstreams().get(*upstream)?.timeout;
            return Some(Step::Send { upstream: *upstream, timeout, wait });
        }
        None
    }

    fn admit<L: Ledgers>(&mut self, at: usize, ledgers: &mut L, draw: Draw, now: Timestamp) -> Admission {
        match self.breaker(at) {
            Some((identity, breaker)) => breaker.admit(ledgers.of(identity), draw, now),
            None => Admission::Refuse { retry_after: None },
        }
    }

    fn observe<L: Ledgers>(&mut self, way: &mut Way, end: CallEnd, ledgers: &mut L, draw: Draw, now: Timestamp) {
        let Some(call) = way.call.take() else { return };
        let Some((at, ticket)) = call.breaker else { return };
        if let Some((identity, breaker)) = self.breaker(at) {
            let outcome = breaker.outcome(end);
            breaker.observe(ledgers.of(identity), ticket, outcome, now.since(call.began), draw, now);
        }
    }

    fn breaker(&mut self, at: usize) -> Option<(&str, &mut Local)> {
        self.breakers.named(at)
    }
}
