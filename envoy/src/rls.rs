//! The rate-limit service as Envoy reaches it: a gRPC call to one of its clusters, for each request that needs one.
//!
//! Envoy itself ends a call at its deadline. Answers arrive at the root, not at a stream; the request that waited is
//! then decided again.

use crate::host::{self, Level};
use crate::instance::{Instance, Work};
use crate::streams::Streams;
use tidegate::engine::Engine;
use tidegate::request::RequestFacts;
use tidegate::rls::{Additions, PendingCall, Service, ServiceOutcome};
use tidegate::store::rls::{self, METHOD, RlsError, SERVICE, UNAVAILABLE};
use tidegate::units::{Span, Timestamp};

/// The rate-limit service of a policy, and the calls to it.
pub struct RateLimits {
    service: Service,
    cluster: String,
    /// The cluster as an encoded Envoy `GrpcService`.
    target: Vec<u8>,
    calls: Vec<Call>,
    last_error: Option<(RlsError, Timestamp)>,
}

/// A call under way, and the stream that waits for it.
struct Call {
    token: u32,
    stream: u32,
    asked: PendingCall,
}

/// The service that the policy names; `None` if none of its limits uses one. `seed` must be random.
pub fn of(engine: &Engine, seed: u64) -> Option<RateLimits> {
    let service = engine.service(seed, DEADLINE)?;
    let cluster = engine.policy().stores().rls()?.cluster().to_owned();
    Some(RateLimits { service, target: rls::envoy_service(&cluster), cluster, calls: Vec::new(), last_error: None })
}

/// Asks about the planned request. Returns `false` if no answer will come.
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
            // There is no such cluster, or it accepts no calls.
            let error = RlsError::Status(UNAVAILABLE);
            let _ = limits.service.complete(asked, Err(error), counters, now);
            limits.log_error(error, now);
            false
        }
    }
}

/// Handles the end of a call: a message of this many bytes, or an error.
pub fn answered(instance: &Instance, streams: &mut Streams, token: u32, end: Result<usize, RlsError>) {
    let now = Timestamp::from_nanos(host::now_ns());
    let (stream, outcome, additions) = {
        let Work { rate_limits: Some(limits), counters, .. } = &mut *instance.work.borrow_mut() else { return };
        let Some(at) = limits.calls.iter().position(|call| call.token == token) else { return };
        let Call { stream, asked, .. } = limits.calls.swap_remove(at);
        // The VM's memory never shrinks, so an oversized message is not copied into it.
        let message = end.and_then(|size| match size {
            0..=rls::LARGEST => host::grpc_message(size).map_err(|_| RlsError::Malformed),
            _ => Err(RlsError::TooLarge),
        });
        let message = message.as_ref().map(Vec::as_slice).map_err(|error| *error);
        match limits.service.complete(asked, message, counters, now) {
            Ok((verdict, additions)) => (stream, ServiceOutcome::Decided(verdict), additions),
            Err(error) => {
                limits.log_error(error, now);
                (stream, ServiceOutcome::Failed, Additions::default())
            }
        }
    };
    if let Some(filter) = streams.get_mut(stream)
        && host::set_stream(stream).is_ok()
    {
        filter.service_answered(outcome, additions);
    }
}

/// Cancels the call of a stream whose client has gone.
pub fn leave(work: &mut Work, stream: u32) {
    let Work { rate_limits: Some(limits), .. } = work else { return };
    let Some(at) = limits.calls.iter().position(|call| call.stream == stream) else { return };
    let Call { token, asked, .. } = limits.calls.swap_remove(at);
    // A call that has just ended cannot be cancelled, and need not be.
    let _ = host::cancel_grpc(token);
    limits.service.leave(asked, Timestamp::from_nanos(host::now_ns()));
}

impl RateLimits {
    /// The state of the service.
    pub fn service(&self) -> &Service {
        &self.service
    }

    /// Logs an error, unless the same error was the last one logged, less than 10 s ago.
    fn log_error(&mut self, error: RlsError, now: Timestamp) {
        let is_known = |(last, at): (RlsError, Timestamp)| last == error && now < at.after(LOG_AGAIN);
        if !self.last_error.is_some_and(is_known) {
            self.last_error = Some((error, now));
            host::log(Level::Warn, format_args!("the rate-limit service, cluster {}: {error}", self.cluster));
        }
    }
}

/// How long an answer is awaited if the policy does not say: the default of Envoy's own rate-limit filter.
const DEADLINE: Span = Span::from_millis(20);

const LOG_AGAIN: Span = Span::from_secs(10);
