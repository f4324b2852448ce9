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

mod agreement;
mod asking;
mod broadcast;
mod budget;
pub mod forwarding;
mod memory;
mod pause;
mod served;

pub use agreement::Round;
pub use asking::TICK;
pub use broadcast::Broadcast;
pub use budget::Budget;
pub use memory::MemoryLedgers;
pub use pause::Pause;
pub use served::{By, Served};

use crate::breaker::{Breakers, Ledger, Ticket};
use crate::mode::Mode;
use crate::policy::{CallEnd, Fallback, Policy, Route, StaticResponse};
use crate::request::ResponseFacts;
use crate::stale::serve::Why;
use crate::units::{Draw, Span, Timestamp};
use agreement::Agreement;
use std::borrow::Cow;

/// Where the breakers of a worker are published.
pub trait Ledgers {
    /// The ledger of the breaker of this identity; see [`Breakers::identity`].
    fn of(&mut self, identity: &str) -> &mut impl Ledger;
}

/// What one worker knows of the upstreams behind it.
#[derive(Debug)]
pub struct Upstreams {
    breakers: Breakers,
    /// For each breaker, when it was last asked.
    asked: Vec<Timestamp>,
    /// A breaker was asked that nobody had asked for long.
    woken: bool,
    /// One for each route.
    budgets: Vec<Budget>,
    /// For each upstream, how long it has asked not to be tried again.
    resting: Vec<Pause>,
    served: Served,
    /// Where breakers are shared with other instances, and there is somebody to ask.
    agreement: Option<Agreement>,
}

/// Where a worker finds what all know, and what it decides with.
pub struct Around<'a, L> {
    /// Where breakers are published.
    pub ledgers: &'a mut L,
    /// One draw for each request.
    pub draw: Draw,
    /// The time.
    pub now: Timestamp,
}

/// One request's way along its route, kept until it is answered.
#[derive(Debug)]
pub struct Way {
    route: usize,
    /// A bit for each of the route's upstreams, of which there are at most 16: which were asked, or refused to be.
    tried: u16,
    attempts: u32,
    repeatable: bool,
    /// The client may still have to send of its request.
    untimed: bool,
    call: Option<Call>,
    /// The status of the last upstream that has answered, though with a failure.
    answered: Option<u16>,
    /// The shortest time after which a breaker may admit.
    retry_after: Option<Span>,
    /// A kept answer was looked for.
    looked: bool,
    /// What the client is served by, once that is known.
    by: Option<By>,
}

/// A call that has not ended.
#[derive(Clone, Copy, Debug)]
struct Call {
    /// The upstream's place in the route.
    place: usize,
    /// The upstream's place in the policy.
    upstream: usize,
    /// Its breaker and what the outcome is told with.
    breaker: Option<(usize, Ticket)>,
    began: Timestamp,
}

/// How a call ended, and what was said of the next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ended {
    /// How it ended.
    pub end: CallEnd,
    /// After how long the upstream wants to be tried again (`Retry-After`, RFC 9110 section 10.2.3).
    pub retry_after: Option<Span>,
    /// How long it took until its answer began, where the host tells of the call only when all of that has come. Else it is
    /// the time that has passed.
    pub took: Option<Span>,
}

impl Ended {
    /// A call that ended with this answer of an upstream, which came just now.
    #[must_use]
    pub fn answered(answer: &dyn ResponseFacts, status: u16, now: Timestamp) -> Self {
        let says = matches!(status, 429 | 503).then(|| answer.header("retry-after")).flatten();
        let read = |value: Cow<'_, [u8]>| forwarding::retry_after(&value, answer.header("date").as_deref(), now);
        let retry_after = says.and_then(read);
        Self { retry_after, ..CallEnd::Answered(status).into() }
    }
}

impl From<CallEnd> for Ended {
    fn from(end: CallEnd) -> Self {
        Self { end, retry_after: None, took: None }
    }
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
    Static(&'p StaticResponse),
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

    /// Why the client is to get what was kept.
    #[must_use]
    pub fn why(&self) -> Why {
        if self.attempts == 0 { Why::NotAsked } else { Why::Failed(self.answered) }
    }

    /// Takes in that the client has now sent all of its request: the time from here on is the upstream's.
    pub fn sent(&mut self, now: Timestamp) {
        self.untimed = false;
        if let Some(call) = &mut self.call {
            call.began = now;
        }
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
        let breakers = Breakers::new(policy);
        Self {
            asked: vec![Timestamp::EPOCH; breakers.len()],
            woken: false,
            breakers,
            budgets: policy.routes().iter().map(budget).collect(),
            resting: vec![Pause::default(); policy.upstreams().len()],
            served: Served::new(policy),
            agreement: None,
        }
    }

    /// The breakers.
    pub fn breakers(&mut self) -> &mut Breakers {
        &mut self.breakers
    }

    /// What this worker knows of the breakers.
    #[must_use]
    pub fn breakers_known(&self) -> &Breakers {
        &self.breakers
    }

    /// What this worker knows of what clients were served by.
    #[must_use]
    pub fn served_known(&self) -> &Served {
        &self.served
    }

    /// What clients were served by.
    pub fn served(&mut self) -> &mut Served {
        &mut self.served
    }

    /// Whether requests of this route may be sent again, those without a body.
    #[must_use]
    pub fn repeats(policy: &Policy, route: usize) -> bool {
        let several = policy.routes().get(route).is_some_and(|route| route.upstreams.len() > 1);
        let methods = |it: &Fallback| it.attempts > 1 && !it.retries.methods.is_empty();
        several && fallback(policy, route).is_some_and(methods)
    }

    /// Begins the way of a request along this route. `method` is as received; `None` for a request that cannot be sent
    /// again, since more than headers came, or will come. `sent`: its client has sent all of it. If not, or if nobody sees when
    /// it has, then until [`Way::sent`] the time is the client's, and so may be that a call ends without an answer: no breaker
    /// learns of either.
    pub fn begin<'p, L: Ledgers>(
        &mut self,
        policy: &'p Policy,
        route: usize,
        method: Option<&[u8]>,
        sent: bool,
        around: &mut Around<'_, L>,
    ) -> (Way, Step<'p>) {
        let fallback = fallback(policy, route);
        let repeats = |method| fallback.is_some_and(|it| it.retries.methods.iter().any(|it| it.as_bytes() == method));
        let mut way = Way {
            route,
            tried: 0,
            attempts: 0,
            repeatable: method.is_some_and(repeats),
            untimed: !sent,
            call: None,
            answered: None,
            retry_after: None,
            looked: false,
            by: None,
        };
        if let Some(budget) = self.budgets.get_mut(route).filter(|_| fallback.is_some()) {
            budget.request(around.now);
        }
        let step = self.next(policy, &mut way, Span::ZERO, around);
        let step = step.unwrap_or_else(|| self.end(policy, &mut way));
        (way, step)
    }

    /// Takes in how the call at hand ended, before any of the answer's body went to the client, and says what comes next.
    pub fn ended<'p, L: Ledgers>(
        &mut self,
        policy: &'p Policy,
        way: &mut Way,
        ended: Ended,
        around: &mut Around<'_, L>,
    ) -> Step<'p> {
        let Ended { end, retry_after, took } = ended;
        let call = self.observe(way, end, took, around);
        if end == CallEnd::NotMade {
            // To ask another upstream would lead past whoever has answered, and may have meant to keep the client out.
            return Step::Deliver;
        }
        let answered = match end {
            CallEnd::Answered(status) => Some(status),
            _ => None,
        };
        way.answered = answered.or(way.answered);
        let fails = fallback(policy, way.route).filter(|it| end == CallEnd::Lost || it.on.contain(end));
        let Some(fallback) = fails else {
            let Some(call) = call.filter(|_| answered.is_some()) else { return self.words(policy, way) };
            self.serve(way, By::Upstream(call.place));
            return Step::Deliver;
        };
        if let (Some(call), Some(wait)) = (call, retry_after)
            && let Some(resting) = self.resting.get_mut(call.upstream)
        {
            // What an upstream says is believed for so long, and no longer.
            *resting = Pause::new(wait.min(LONGEST_REST), around.now);
        }
        let wait = fallback.retries.backoff.wait(way.attempts, around.draw);
        let may = way.repeatable && way.attempts < fallback.attempts;
        let next = if may { self.retry(policy, way, wait, around) } else { None };
        next.unwrap_or_else(|| self.end(policy, way))
    }

    /// Takes in that the client went away while an upstream was being asked.
    pub fn abandoned<L: Ledgers>(&mut self, way: &mut Way, around: &mut Around<'_, L>) {
        self.observe(way, CallEnd::Abandoned, None, around);
    }

    /// Takes in that the client gets what was kept.
    pub fn kept(&mut self, way: &mut Way) {
        self.serve(way, By::Stale);
    }

    /// What a client gets for whom nothing was kept.
    pub fn last<'p>(&mut self, policy: &'p Policy, way: &mut Way) -> Step<'p> {
        if way.looked {
            self.served.miss(way.route);
        }
        let route = policy.routes().get(way.route).filter(|_| fallback(policy, way.route).is_some());
        let Some(fixed) = route.and_then(|route| route.serving.fixed.as_ref()) else { return self.words(policy, way) };
        self.serve(way, By::Static);
        Step::Static(fixed)
    }

    /// Who tells the client that all has failed: an upstream's own words say more than ours, and a policy that only observes leaves
    /// it to the host.
    fn words<'p>(&mut self, policy: &Policy, way: &mut Way) -> Step<'p> {
        let (by, step) = if way.answered.is_some() || policy.mode == Mode::Observe {
            (By::Failure, Step::Deliver)
        } else {
            (By::Unavailable, Step::Unavailable { retry_after: way.retry_after })
        };
        self.serve(way, by);
        step
    }

    fn end<'p>(&mut self, policy: &'p Policy, way: &mut Way) -> Step<'p> {
        let route = policy.routes().get(way.route).filter(|_| fallback(policy, way.route).is_some());
        match route.and_then(|route| route.serving.stale) {
            Some(age) => {
                way.looked = true;
                Step::Stale(age)
            }
            None => self.last(policy, way),
        }
    }

    fn serve(&mut self, way: &mut Way, by: By) {
        way.by = Some(by);
        self.served.count(way.route, by);
    }
}

/// What a route does when an upstream fails. A policy that only observes lets all pass as it is.
fn fallback(policy: &Policy, route: usize) -> Option<&Fallback> {
    policy.routes().get(route)?.fallback.as_ref().filter(|_| policy.mode != Mode::Observe)
}

/// How long an upstream may keep further tries away from itself.
const LONGEST_REST: Span = Span::from_secs(60);

#[cfg(test)]
mod tests;
