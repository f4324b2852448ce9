//! Limits that a rate-limit service counts, as with Envoy's own filter: it is asked about every request.
//!
//! The service charges when it is asked, and takes nothing back. So it is asked last, only about requests that nothing
//! else refuses, and its answer is kept until the request is decided. Meanwhile another request may use up what this
//! one had found elsewhere. The service has then charged a request that is refused; the opposite error cannot happen.
//!
//! An adapter takes these steps; [`Engine`] has those that need a policy:
//!
//! ```text
//! decide     answers with Decision::consults
//! ask        whether the breaker lets a call pass; then keep the request, and send Engine::question
//! complete   the call has ended, with or without an answer; then plan again, call Plan::set_service_outcome, and
//!            decide again
//! leave      the client has gone, and the call is to be cancelled
//! ```
//!
//! If no call can be made, call `Plan::set_service_outcome` with [`ServiceOutcome::Failed`] and decide again at once.

use crate::breaker::{State, Ticket};
use crate::decision::{Cause, Refusal, Reply};
use crate::engine::Engine;
use crate::global::StoreCounts;
use crate::global::health::Health;
use crate::metrics::{Counters, Total};
use crate::store::rls::{Answer, Code, Header, RlsError, Status, UNAVAILABLE, answer};
use crate::units::{Span, Timestamp};
use std::borrow::Cow;

/// What one worker knows of the service: a breaker around it, and how many requests wait.
#[derive(Debug)]
pub struct Service {
    deadline: Span,
    health: Health,
    waiting: usize,
}

/// A call that is under way.
#[derive(Debug)]
pub struct PendingCall {
    ticket: Ticket,
    at: Timestamp,
}

/// What is known of the service's answer to a request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum ServiceOutcome {
    /// The service has not been asked.
    #[default]
    NotAsked,
    /// The service cannot be asked, or gave no answer: each limit's `on_store_failure` decides.
    Failed,
    /// The service has answered.
    Decided(Verdict),
}

/// The service's decision for each descriptor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    over: bool,
    statuses: Vec<Status>,
}

/// What the service adds to the request, or to the client's response.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Additions {
    /// Header lines to add to the client's response.
    pub response_headers: Vec<Header>,
    /// Header lines to add to the request if it goes on.
    pub request_headers: Vec<Header>,
    /// The body for a client that exceeds such a limit; empty for the usual one.
    pub body: Vec<u8>,
}

impl Service {
    /// A service that has not been asked. `seed` is to be random; no call may last longer than `deadline`.
    #[must_use]
    pub fn new(seed: u64, deadline: Span) -> Self {
        Self { deadline, health: Health::new(seed), waiting: 0 }
    }

    /// How long to wait for an answer.
    #[must_use]
    pub fn deadline(&self) -> Span {
        self.deadline
    }

    /// Lets a call pass; `None` while the breaker is open or too many calls are under way.
    pub fn ask(&mut self, counters: &mut Counters, now: Timestamp) -> Option<PendingCall> {
        self.health.tick(now);
        let has_room = self.waiting < MOST_WAITING;
        let Some(ticket) = has_room.then(|| self.health.admit(now)).flatten() else {
            self.health.count_decided_without();
            return None;
        };
        self.waiting = self.waiting.saturating_add(1);
        counters.add(Total::Asks, 1);
        counters.add(Total::Awaited, 1);
        Some(PendingCall { ticket, at: now })
    }

    /// Handles the message that answers a call, or the reason why there is none.
    ///
    /// # Errors
    /// Why there is no answer, for a log. Decide with [`ServiceOutcome::Failed`] then.
    pub fn complete(
        &mut self,
        asked: PendingCall,
        message: Result<&[u8], RlsError>,
        counters: &mut Counters,
        now: Timestamp,
    ) -> Result<(Verdict, Additions), RlsError> {
        self.waiting = self.waiting.saturating_sub(1);
        let took = now.since(asked.at);
        let answer = message.and_then(answer).map_err(|error| match error {
            // Envoy has one status for a service that is unreachable and for one that is too slow, and its timers were
            // seen to fire a hundredth early.
            RlsError::Status(UNAVAILABLE) if nearly_all(took, self.deadline) => RlsError::Late,
            error => error,
        });
        self.health.observe(asked.ticket, answer.is_ok(), took, now);
        if answer.is_err() {
            counters.add(Total::AskFailures, 1);
            self.health.count_decided_without();
        }
        let Answer { over, statuses, response_headers, request_headers, body } = answer?;
        Ok((Verdict { over, statuses }, Additions { response_headers, request_headers, body }))
    }

    /// The client has gone before the answer, which says nothing about the service.
    pub fn leave(&mut self, asked: PendingCall, now: Timestamp) {
        self.waiting = self.waiting.saturating_sub(1);
        self.health.forget(asked.ticket, now.since(asked.at), now);
    }

    /// The state of the breaker around the service, and the counts since the worker began.
    #[must_use]
    pub fn state_and_counts(&self, now: Timestamp) -> (State, StoreCounts) {
        self.health.state_and_counts(now)
    }

    /// Whether the breaker lets calls pass.
    #[must_use]
    pub fn answers(&self, now: Timestamp) -> bool {
        !self.health.fails(now)
    }
}

impl Additions {
    /// Gives a client that exceeds such a limit the service's body, as plain text unless the service says otherwise. A
    /// body that is not UTF-8 is ignored.
    pub fn apply_body(&self, refusal: &Refusal, engine: &Engine, reply: &mut Reply) {
        if !refusal.is_by_service(engine) || refusal.cause != Cause::Exceeded || self.body.is_empty() {
            return;
        }
        if let Ok(body) = str::from_utf8(&self.body) {
            reply.body = body.to_owned();
            reply.content_type = Cow::Borrowed("text/plain");
        }
    }
}

impl Verdict {
    /// Whether the descriptor at this index is over its limit. If it is, the value inside is the time until there are
    /// permits again, if known.
    ///
    /// The code of the whole answer decides, because a service may let requests pass that exceed a limit it only tries
    /// out. If the service does not say which descriptors are over, all of them are.
    #[must_use]
    pub fn over(&self, descriptor: usize) -> Option<Option<Span>> {
        let status = self.statuses.get(descriptor);
        let says_which = self.statuses.iter().any(|status| status.code == Code::Over);
        let is_over = self.over && (!says_which || status.is_some_and(|status| status.code == Code::Over));
        is_over.then(|| status.and_then(|status| status.reset_after))
    }
}

fn nearly_all(took: Span, of: Span) -> bool {
    took.as_nanos().saturating_mul(8) >= of.as_nanos().saturating_mul(7)
}

/// The most requests that wait in one worker. The limit's `on_store_failure` decides the others.
const MOST_WAITING: usize = 1_024;

#[cfg(test)]
mod tests {
    use super::*;

    fn counters() -> Counters {
        Counters::new(0, 0)
    }

    fn at(ms: u64) -> Timestamp {
        Timestamp::EPOCH.after(Span::from_millis(ms))
    }

    #[test]
    fn a_service_that_fails_is_not_asked_for_a_while() {
        let mut service = Service::new(7, Span::from_millis(20));
        let counters = &mut counters();
        for ms in 1_000..1_003 {
            let asked = service.ask(counters, at(ms)).unwrap();
            assert_eq!(service.complete(asked, Err(RlsError::Late), counters, at(ms)), Err(RlsError::Late));
        }
        assert!(service.ask(counters, at(1_003)).is_none());
        assert!(!service.answers(at(1_003)));
        let probe = service.ask(counters, at(2_000)).unwrap();
        assert!(service.ask(counters, at(2_000)).is_none(), "one probe at a time");
        let (verdict, _) = service.complete(probe, Ok(&[8, 2]), counters, at(2_001)).unwrap();
        assert_eq!(verdict.over(0), Some(None));
        assert!(service.ask(counters, at(2_002)).is_some());
        assert_eq!((counters.total(Total::Asks), counters.total(Total::AskFailures)), (5, 3));
    }

    #[test]
    fn a_probe_whose_client_leaves_makes_room_for_the_next() {
        let mut service = Service::new(7, Span::from_millis(20));
        let counters = &mut counters();
        for ms in 1_000..1_003 {
            let asked = service.ask(counters, at(ms)).unwrap();
            let _ = service.complete(asked, Err(RlsError::Malformed), counters, at(ms));
        }
        let probe = service.ask(counters, at(2_000)).unwrap();
        service.leave(probe, at(2_001));
        assert!(service.ask(counters, at(2_002)).is_some());
    }

    #[test]
    fn no_more_wait_than_there_is_room_for() {
        let mut service = Service::new(7, Span::from_millis(20));
        let counters = &mut counters();
        let mut asked: Vec<_> = (0..MOST_WAITING).map(|_| service.ask(counters, at(1_000)).unwrap()).collect();
        assert!(service.ask(counters, at(1_000)).is_none());
        service.leave(asked.pop().unwrap(), at(1_001));
        assert!(service.ask(counters, at(1_001)).is_some());
    }

    #[test]
    fn the_whole_answer_decides_and_its_parts_say_which_limit_it_is() {
        let status = |code| Status { code, reset_after: Some(Span::from_secs(5)) };
        let of = |over, codes: &[Code]| Verdict { over, statuses: codes.iter().copied().map(status).collect() };
        assert_eq!(of(false, &[Code::Over]).over(0), None, "tried out");
        assert_eq!(of(true, &[Code::Within, Code::Over]).over(0), None);
        assert_eq!(of(true, &[Code::Within, Code::Over]).over(1), Some(Some(Span::from_secs(5))));
        assert_eq!(of(true, &[Code::Within]).over(0), Some(Some(Span::from_secs(5))), "of none it is said");
        assert_eq!(of(true, &[]).over(3), Some(None));
    }
}
