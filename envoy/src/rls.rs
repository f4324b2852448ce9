//! The rate-limit service as Envoy reaches it: a gRPC call to one of its clusters for each request that needs one.
//!
//! Envoy ends a call at its deadline by itself. Answers come with the root's number, whatever stream was at work; the
//! request that waited is then decided again.

use crate::host::{self, Level};
use crate::instance::{Instance, Work};
use crate::streams::Streams;
use tidegate::engine::Engine;
use tidegate::request::RequestFacts;
use tidegate::rls::{Additions, PendingCall, Service, ServiceOutcome};
use tidegate::store::rls::{self, METHOD, RlsError, SERVICE, UNAVAILABLE};
use tidegate::units::{Span, Timestamp};

/// The calls to the service of a policy.
pub struct RateLimits {
    service: Service,
    cluster: String,
    /// The cluster in Envoy's words.
    target: Vec<u8>,
    calls: Vec<Call>,
    last_error: Option<(RlsError, Timestamp)>,
}

/// A call that is under way, and the stream that it was made for.
struct Call {
    token: u32,
    stream: u32,
    asked: PendingCall,
}

/// The service that the policy names; `None` where it has none count. `seed` is to be random.
pub fn of(engine: &Engine, seed: u64) -> Option<RateLimits> {
    let service = engine.service(seed, DEADLINE)?;
    let cluster = engine.policy().stores().rls()?.cluster().to_owned();
    Some(RateLimits { service, target: rls::envoy_service(&cluster), cluster, calls: Vec::new(), last_error: None })
}

/// Asks about the request of the decided plan. `false` when no answer will come.
pub fn ask(engine: &Engine, work: &mut Work, facts: &dyn RequestFacts, stream: u32, now: Timestamp) -> bool {
    let Work { rate_limits: Some(limits), plan, counters, .. } = work else { return false };
    let Some(asked) = limits.service.ask(counters, now) else { return false };
    let message = engine.question(plan, facts);
    match host::call_grpc(&limits.target, SERVICE, METHOD, &message, limits.service.deadline()) {
        Ok(token) => {
            limits.calls.push(Call { token, stream, asked });
            true
        }
        Err(_) => {
            // There is no such cluster, or it takes no calls.
            let error = RlsError::Status(UNAVAILABLE);
            let _ = limits.service.complete(asked, Err(error), counters, now);
            limits.complain(error, now);
            false
        }
    }
}

/// Takes in how a call has ended: with a message of so many bytes, or an error.
pub fn answered(instance: &Instance, streams: &mut Streams, token: u32, end: Result<usize, RlsError>) {
    let now = Timestamp::from_nanos(host::now_ns());
    let (stream, heard, words) = {
        let Work { rate_limits: Some(limits), counters, .. } = &mut *instance.work.borrow_mut() else { return };
        let Some(at) = limits.calls.iter().position(|call| call.token == token) else { return };
        let Call { stream, asked, .. } = limits.calls.swap_remove(at);
        // The VM's memory never shrinks: what is too long is not brought in first.
        let message = end.and_then(|size| match size {
            0..=rls::LARGEST => host::grpc_message(size).map_err(|_| RlsError::Malformed),
            _ => Err(RlsError::TooLarge),
        });
        let message = message.as_ref().map(Vec::as_slice).map_err(|error| *error);
        match limits.service.complete(asked, message, counters, now) {
            Ok((verdict, words)) => (stream, ServiceOutcome::Decided(verdict), words),
            Err(error) => {
                limits.complain(error, now);
                (stream, ServiceOutcome::Failed, Additions::default())
            }
        }
    };
    if let Some(filter) = streams.get_mut(stream)
        && host::work_on(stream).is_ok()
    {
        filter.heard(heard, words);
    }
}

/// Ends the call of a stream whose client has gone.
pub fn leave(work: &mut Work, stream: u32) {
    let Work { rate_limits: Some(limits), .. } = work else { return };
    let Some(at) = limits.calls.iter().position(|call| call.stream == stream) else { return };
    let Call { token, asked, .. } = limits.calls.swap_remove(at);
    // One that has just ended cannot be cancelled, and need not be.
    let _ = host::cancel_grpc(token);
    limits.service.leave(asked, Timestamp::from_nanos(host::now_ns()));
}

impl RateLimits {
    /// What is known of the service.
    pub fn service(&self) -> &Service {
        &self.service
    }

    /// Logs an error, if it was not the last one or that was a while ago.
    fn complain(&mut self, error: RlsError, now: Timestamp) {
        let is_known = |(last, at): (RlsError, Timestamp)| last == error && now < at.after(COMPLAIN_AGAIN);
        if !self.last_error.is_some_and(is_known) {
            self.last_error = Some((error, now));
            host::log(Level::Warn, format_args!("the rate-limit service, cluster {}: {error}", self.cluster));
        }
    }
}

/// How long an answer is awaited where the policy does not say: as long as Envoy's own filter does.
const DEADLINE: Span = Span::from_millis(20);

const COMPLAIN_AGAIN: Span = Span::from_secs(10);
