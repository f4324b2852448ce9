//! The fallback chain: which upstream a request goes to, given what has failed.
//!
//! A request takes the first route that it matches, and goes to the first upstream of the route whose breaker admits
//! it. If that call fails, by the route's definition of a failure, the next upstream is tried, as long as
//!
//! - the request can be repeated: its method is one of the route's, and it has no body;
//! - fewer than `attempts` calls were made, and an upstream is left that was not asked and whose breaker admits the
//!   call;
//! - the [`Budget`] has room, so a failing upstream does not get twice the load.
//!
//! Between tries the request waits for a random part of a backoff that doubles ("full jitter": M. Brooker, "Exponential
//! Backoff And Jitter", AWS Architecture Blog, 2015). When no try is left, the client gets the kept response, or the
//! policy's static response, or the failure itself, or 503.

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
pub use served::{Served, ServedBy};

use crate::breaker::{Breakers, Ledger, Ticket};
use crate::mode::Mode;
use crate::policy::{CallEnd, Fallback, Policy, Route, StaticResponse};
use crate::request::ResponseFacts;
use crate::stale::serve::Why;
use crate::units::{Draw, Span, Timestamp};
use agreement::Agreement;
use std::borrow::Cow;

/// Where a worker publishes its breakers.
pub trait Ledgers {
    /// The ledger of the breaker of this identity; see [`Breakers::identity`].
    fn of(&mut self, identity: &str) -> &mut impl Ledger;
}

/// What one worker knows of its upstreams.
#[derive(Debug)]
pub struct Upstreams {
    breakers: Breakers,
    /// For each breaker, when a call last needed it.
    asked: Vec<Timestamp>,
    /// Whether a breaker has come back into use since this was last read.
    woken: bool,
    /// One budget for each route.
    budgets: Vec<Budget>,
    /// For each upstream, how long it has asked not to get further tries.
    resting: Vec<Pause>,
    served: Served,
    /// The authority over shared breakers; `None` if no breaker is shared, or there is no authority.
    agreement: Option<Agreement>,
}

/// What a worker needs for a decision: the published breakers, a draw and the time.
pub struct Context<'a, L> {
    /// The published breakers.
    pub ledgers: &'a mut L,
    /// One draw for each request.
    pub draw: Draw,
    /// The time.
    pub now: Timestamp,
}

/// The state of one request on its route, kept until it is answered.
#[derive(Debug)]
pub struct Progress {
    route: usize,
    /// A bit for each of the route's upstreams, at most 16: set if it was asked or its breaker refused.
    tried: u16,
    attempts: u32,
    repeatable: bool,
    /// Whether the client may still be sending its request, so calls are not timed.
    untimed: bool,
    call: Option<Call>,
    /// The status of the last response, even if the route counts it as a failure.
    answered: Option<u16>,
    /// The shortest time after which an upstream may be asked again.
    retry_after: Option<Span>,
    /// Whether a kept response was looked for.
    looked_for_kept: bool,
    /// What served the client, once that is known.
    served_by: Option<ServedBy>,
}

/// A call that is under way.
#[derive(Clone, Copy, Debug)]
struct Call {
    /// The upstream's index in the route.
    place: usize,
    /// The upstream's index in the policy.
    upstream: usize,
    /// Its breaker, and the ticket to report the outcome with.
    breaker: Option<(usize, Ticket)>,
    began: Timestamp,
}

/// How a call ended, and what its response says about further tries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ended {
    /// How it ended.
    pub end: CallEnd,
    /// How long the upstream wants to get no further tries (`Retry-After`, RFC 9110 section 10.2.3).
    pub retry_after: Option<Span>,
    /// The time until the response began, if the host reports a call only once the whole response has arrived. `None`:
    /// the time until now.
    pub took: Option<Span>,
}

impl Ended {
    /// A call that ended with this response, which arrived at `now`. `Retry-After` is read from 429 and 503.
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

/// The next step of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step<'p> {
    /// The request goes to an upstream.
    Send {
        /// The upstream, as an index into the policy's upstreams.
        upstream: usize,
        /// The time limit for the response; `None` for the host's own limit.
        timeout: Option<Span>,
        /// How long to wait before sending; zero for the first try.
        wait: Span,
    },
    /// The client gets the response at hand.
    Deliver,
    /// The client gets the kept response, if it is at most this old. Otherwise call [`Upstreams::last`].
    Stale(Span),
    /// The client gets this response of the policy.
    Static(&'p StaticResponse),
    /// The client gets 503 (RFC 9110 section 15.6.4).
    Unavailable {
        /// How long until a breaker may admit again; `None` if that is unknown.
        retry_after: Option<Span>,
    },
}

impl Progress {
    /// The route, as an index into the policy's routes.
    #[must_use]
    pub fn route(&self) -> usize {
        self.route
    }

    /// Why the client gets the kept response.
    #[must_use]
    pub fn why(&self) -> Why {
        if self.attempts == 0 { Why::NotAsked } else { Why::Failed(self.answered) }
    }

    /// Notes that the client has now sent its whole request: from here on the call is timed.
    pub fn sent(&mut self, now: Timestamp) {
        self.untimed = false;
        if let Some(call) = &mut self.call {
            call.began = now;
        }
    }

    /// The upstream of the call under way, as an index into the policy's upstreams.
    #[must_use]
    pub fn upstream(&self) -> Option<usize> {
        self.call.map(|call| call.upstream)
    }
}

impl Upstreams {
    /// The upstreams of this policy, none of which has failed.
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

    /// The breakers, read-only.
    #[must_use]
    pub fn breakers_known(&self) -> &Breakers {
        &self.breakers
    }

    /// What served the clients, read-only.
    #[must_use]
    pub fn served_known(&self) -> &Served {
        &self.served
    }

    /// What served the clients.
    pub fn served(&mut self) -> &mut Served {
        &mut self.served
    }

    /// Whether requests of this route may be sent again if they have no body.
    #[must_use]
    pub fn repeats(policy: &Policy, route: usize) -> bool {
        let several = policy.routes().get(route).is_some_and(|route| route.upstreams.len() > 1);
        let methods = |it: &Fallback| it.attempts > 1 && !it.retries.methods.is_empty();
        several && fallback(policy, route).is_some_and(methods)
    }

    /// Starts a request on this route. `method` is as received; `None` for a request that has more than headers and so
    /// cannot be sent again. `sent`: the client has sent its whole request. If it has not, or the host does not see
    /// when it has, then until [`Progress::sent`] calls are not timed, and a call without a response counts as abandoned:
    /// breakers must not learn from what the client may have caused.
    pub fn begin<'p, L: Ledgers>(
        &mut self,
        policy: &'p Policy,
        route: usize,
        method: Option<&[u8]>,
        sent: bool,
        context: &mut Context<'_, L>,
    ) -> (Progress, Step<'p>) {
        let fallback = fallback(policy, route);
        let repeats = |method| fallback.is_some_and(|it| it.retries.methods.iter().any(|it| it.as_bytes() == method));
        let mut progress = Progress {
            route,
            tried: 0,
            attempts: 0,
            repeatable: method.is_some_and(repeats),
            untimed: !sent,
            call: None,
            answered: None,
            retry_after: None,
            looked_for_kept: false,
            served_by: None,
        };
        if let Some(budget) = self.budgets.get_mut(route).filter(|_| fallback.is_some()) {
            budget.request(context.now);
        }
        let step = self.next(policy, &mut progress, Span::ZERO, context);
        let step = step.unwrap_or_else(|| self.give_up(policy, &mut progress));
        (progress, step)
    }

    /// Takes the end of the call under way, before any of the response's body went to the client, and returns the next
    /// step.
    pub fn ended<'p, L: Ledgers>(
        &mut self,
        policy: &'p Policy,
        progress: &mut Progress,
        ended: Ended,
        context: &mut Context<'_, L>,
    ) -> Step<'p> {
        let Ended { end, retry_after, took } = ended;
        let call = self.observe(progress, end, took, context);
        if end == CallEnd::NotMade {
            // Something on the way to the upstream has answered, maybe to keep the client out. Another upstream would
            // bypass it.
            return Step::Deliver;
        }
        let answered = match end {
            CallEnd::Answered(status) => Some(status),
            _ => None,
        };
        progress.answered = answered.or(progress.answered);
        let fails = fallback(policy, progress.route).filter(|it| end == CallEnd::Lost || it.on.contain(end));
        let Some(fallback) = fails else {
            let Some(call) = call.filter(|_| answered.is_some()) else { return self.last_resort(policy, progress) };
            self.note_served(progress, ServedBy::Upstream(call.place));
            return Step::Deliver;
        };
        if let (Some(call), Some(wait)) = (call, retry_after)
            && let Some(resting) = self.resting.get_mut(call.upstream)
        {
            // An upstream can ask for at most this long a pause.
            *resting = Pause::new(wait.min(LONGEST_REST), context.now);
        }
        let wait = fallback.retries.backoff.wait(progress.attempts, context.draw);
        let may = progress.repeatable && progress.attempts < fallback.attempts;
        let next = if may { self.retry(policy, progress, wait, context) } else { None };
        next.unwrap_or_else(|| self.give_up(policy, progress))
    }

    /// Notes that the client went away during a call.
    pub fn abandoned<L: Ledgers>(&mut self, progress: &mut Progress, context: &mut Context<'_, L>) {
        self.observe(progress, CallEnd::Abandoned, None, context);
    }

    /// Notes that the client gets the kept response.
    pub fn kept(&mut self, progress: &mut Progress) {
        self.note_served(progress, ServedBy::Stale);
    }

    /// The next step if there is no kept response.
    pub fn last<'p>(&mut self, policy: &'p Policy, progress: &mut Progress) -> Step<'p> {
        if progress.looked_for_kept {
            self.served.miss(progress.route);
        }
        let route = policy.routes().get(progress.route).filter(|_| fallback(policy, progress.route).is_some());
        let Some(fixed) = route.and_then(|route| route.serving.fixed.as_ref()) else {
            return self.last_resort(policy, progress);
        };
        self.note_served(progress, ServedBy::Static);
        Step::Static(fixed)
    }

    /// The last resort: the upstream's own failure, which says more than ours, or 503. In mode `observe` the host
    /// responds.
    fn last_resort<'p>(&mut self, policy: &Policy, progress: &mut Progress) -> Step<'p> {
        let (by, step) = if progress.answered.is_some() || policy.mode == Mode::Observe {
            (ServedBy::Failure, Step::Deliver)
        } else {
            (ServedBy::Unavailable, Step::Unavailable { retry_after: progress.retry_after })
        };
        self.note_served(progress, by);
        step
    }

    fn give_up<'p>(&mut self, policy: &'p Policy, progress: &mut Progress) -> Step<'p> {
        let route = policy.routes().get(progress.route).filter(|_| fallback(policy, progress.route).is_some());
        match route.and_then(|route| route.serving.stale) {
            Some(age) => {
                progress.looked_for_kept = true;
                Step::Stale(age)
            }
            None => self.last(policy, progress),
        }
    }

    fn note_served(&mut self, progress: &mut Progress, by: ServedBy) {
        progress.served_by = Some(by);
        self.served.count(progress.route, by);
    }
}

/// What a route does when an upstream fails. In mode `observe` it does nothing.
fn fallback(policy: &Policy, route: usize) -> Option<&Fallback> {
    policy.routes().get(route)?.fallback.as_ref().filter(|_| policy.mode != Mode::Observe)
}

/// The longest time for which an upstream can refuse further tries.
const LONGEST_REST: Span = Span::from_secs(60);

#[cfg(test)]
mod tests;
