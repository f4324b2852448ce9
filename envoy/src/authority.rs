//! The authority over shared limits and breakers, as Envoy reaches it: a Redis behind HTTP that is one of Envoy's
//! clusters.
//!
//! Asks are sent as soon as a decision has made them; if all calls are in use, several later go in one call. Answers
//! arrive at the root, not at a stream. The requests that waited are then decided again. A request waits at most for
//! the store's deadline, which a tick enforces. The call itself goes on longer, because a late grant is charged all the
//! same and serves later requests.

use crate::ends::CallAnswer;
use crate::host::{self, Level};
use crate::instance::{Instance, Work};
use crate::streams::Streams;
use tidegate::authority::Ask;
use tidegate::engine::Answer;
use tidegate::policy::Policy;
use tidegate::request::ResponseFacts as _;
use tidegate::store::redis::{Exchange, HttpRequest, Redis, RedisError};
use tidegate::units::{Span, Timestamp};

/// The store of a policy, and the calls to it.
pub struct Authority {
    redis: Redis,
    cluster: String,
    host: String,
    patience: Span,
    /// Asks for which no call is free. At most one per key that the core tracks.
    queue: Vec<Ask>,
    calls: Vec<Call>,
    last_error: Option<(RedisError, Timestamp)>,
}

/// A call under way.
struct Call {
    token: u32,
    exchange: Exchange,
    /// When it times out, including a second request.
    until: Timestamp,
}

/// The authority that a policy names, and the secret that its keys are derived from unless the policy itself contains
/// that. `None` if the policy shares nothing.
///
/// # Errors
/// What is wrong, where, and what would be right.
pub fn of(policy: &Policy) -> Result<Option<(Authority, Option<String>)>, String> {
    let limit = policy.limits().iter().position(|limit| limit.is_shared());
    let breaker = policy.breakers().iter().find(|breaker| breaker.is_shared());
    let (path, what) = match (limit, breaker) {
        (Some(limit), _) => (format!("/limits/{limit}/scope"), "limit"),
        (None, Some(breaker)) => (format!("/breakers/{}/scope", breaker.name().as_str()), "breaker"),
        (None, None) => return Ok(None),
    };
    let store = policy.stores().redis();
    let Some((store, cluster)) = store.and_then(|store| Some((store, store.cluster()?))) else {
        // Without a store, each Envoy would admit the whole quota.
        return Err(format!(
            "{path}: Envoys share a {what} through a store, and the policy names no cluster for one; \
             write \"stores\": {{ \"redis\": {{ \"cluster\": ... }} }}, or \"scope\": \"instance\""
        ));
    };
    let secret = store.token_env().map(secret).transpose()?;
    let redis = Redis::new(store.protocol(), store.path(), secret.as_deref().or(store.token()))
        .map_err(|error| format!("/stores/redis/token_env: {error}"))?;
    let deadline = policy.stores().deadline().unwrap_or(DEADLINE);
    let authority = Authority {
        redis,
        cluster: cluster.to_owned(),
        host: store.host().unwrap_or(cluster).to_owned(),
        patience: Span::from_nanos(deadline.as_nanos().saturating_mul(PATIENCE)),
        queue: Vec::new(),
        calls: Vec::new(),
        last_error: None,
    };
    Ok(Some((authority, secret)))
}

fn secret(variable: &str) -> Result<String, String> {
    std::env::var(variable).map_err(|_| {
        format!(
            "/stores/redis/token_env: the filter's VM has no environment variable {variable}; name it in \
             `vm_config.environment_variables`"
        )
    })
}

/// Sends the pending asks.
pub fn send(instance: &Instance, work: &mut Work, now: Timestamp) {
    let Work { authority: Some(authority), leases, .. } = work else { return };
    let Some(global) = leases.global() else { return };
    global.asks(now, &mut authority.queue);
    if authority.queue.is_empty() {
        return;
    }
    let mut failed = Vec::new();
    while authority.calls.len().saturating_mul(authority.redis.max_asks()) < MOST_ASKS {
        let Some((exchange, request)) = authority.redis.begin(&mut authority.queue) else { break };
        match post(&authority.cluster, &authority.host, &request, authority.patience) {
            Ok(token) => authority.calls.push(Call { token, exchange, until: now.after(authority.patience) }),
            Err(()) => failed.push(exchange),
        }
    }
    for exchange in failed {
        take_in(instance, work, &exchange, now);
    }
    work.alarm.set(work.next_due(now), false, now);
}

/// Handles the response to a call. Returns `false` if the call is not one of these.
pub fn call_answered(instance: &Instance, streams: &mut Streams, token: u32, lines: u32, size: usize) -> bool {
    let now = Timestamp::from_nanos(host::now_ns());
    {
        let work = &mut *instance.work.borrow_mut();
        let Some(authority) = &mut work.authority else { return false };
        let Some(at) = authority.calls.iter().position(|call| call.token == token) else { return false };
        let mut call = authority.calls.swap_remove(at);
        let answer = answer(lines, size);
        let mut next =
            call.exchange.receive(&authority.redis, answer.as_ref().map(|(status, body)| (*status, &body[..])));
        while let Some(request) = next {
            let left = call.until.since(now);
            let sent = post(&authority.cluster, &authority.host, &request, left);
            if let Ok(token) = sent {
                authority.calls.push(Call { token, ..call });
                return true;
            }
            next = call.exchange.receive(&authority.redis, None);
        }
        take_in(instance, work, &call.exchange, now);
    }
    wake(instance, streams, now);
    let work = &mut *instance.work.borrow_mut();
    work.alarm.set(work.next_due(now), false, now);
    true
}

/// Ends overdue asks, returns unused permits, and decides the requests that have waited long enough.
pub fn tend(instance: &Instance, streams: &mut Streams, now: Timestamp) {
    {
        let work = &mut *instance.work.borrow_mut();
        if work.authority.is_none() {
            return;
        }
        instance.engine.tend(&mut work.leases, &mut work.store, &mut work.counters, now);
    }
    wake(instance, streams, now);
}

/// Ends the wait of a stream whose client has gone.
pub fn leave(work: &mut Work, stream: u32) {
    if let Some(global) = work.leases.global() {
        global.leave(stream);
    }
}

/// Decides again the requests for which there is news, up to a bound, and then sends the asks that these decisions
/// made.
fn wake(instance: &Instance, streams: &mut Streams, now: Timestamp) {
    for _ in 0..MOST_AT_ONCE {
        let ready = instance.work.borrow_mut().leases.global().and_then(tidegate::global::Global::ready);
        let Some(wake) = ready else { break };
        if let Some(filter) = streams.get_mut(wake.id)
            && host::set_stream(wake.id).is_ok()
        {
            filter.decide_again(wake.since);
        }
    }
    send(instance, &mut instance.work.borrow_mut(), now);
}

/// Hands the outcome of each ask to the core.
fn take_in(instance: &Instance, work: &mut Work, exchange: &Exchange, now: Timestamp) {
    let Work { authority: Some(authority), leases, store, counters, .. } = work else { return };
    for (ask, outcome) in exchange.outcomes() {
        if let Err(error) = outcome {
            authority.log_error(error, now);
        }
        instance.engine.granted(&Answer::to(ask, outcome.ok()), leases, store, counters, now);
    }
}

impl Authority {
    pub fn redis(&self) -> &Redis {
        &self.redis
    }

    /// Makes a call to Redis. Returns the call's token.
    pub fn post(&self, request: &HttpRequest<'_>, timeout: Span) -> Result<u32, ()> {
        post(&self.cluster, &self.host, request, timeout)
    }

    /// Logs an error, unless the same error was the last one logged, less than 10 s ago.
    pub fn log_error(&mut self, error: RedisError, now: Timestamp) {
        let is_known = |(last, at): (RedisError, Timestamp)| last == error && now < at.after(LOG_AGAIN);
        if !self.last_error.is_some_and(is_known) {
            self.last_error = Some((error, now));
            host::log(Level::Warn, format_args!("the store of shared limits, cluster {}: {error}", self.cluster));
        }
    }
}

fn post(cluster: &str, host: &str, request: &HttpRequest<'_>, timeout: Span) -> Result<u32, ()> {
    let mut lines: Vec<(&[u8], &[u8])> = vec![
        (b":method", b"POST"),
        (b":path", request.path.as_bytes()),
        (b":authority", host.as_bytes()),
        (b"content-type", request.content_type.as_bytes()),
    ];
    lines.extend(request.authorization.map(|value| (b"authorization".as_slice(), value.as_bytes())));
    // At least 1 ms: zero would mean no timeout.
    let timeout_ms = u32::try_from(timeout.as_nanos().div_ceil(1_000_000)).unwrap_or(u32::MAX).max(1);
    host::call(cluster, &lines, &request.body, timeout_ms).map_err(|_| ())
}

/// The status and body of the current response, if there is one. A body longer than any answer of a script is cut, and
/// is then unreadable.
pub fn answer(lines: u32, size: usize) -> Option<(u16, Vec<u8>)> {
    let status = CallAnswer.status().filter(|_| lines > 0)?;
    Some((status, host::call_body(size.min(MOST_BYTES)).ok()?))
}

/// How long an answer is awaited if the policy does not say.
pub const DEADLINE: Span = Span::from_millis(20);

/// The deadlines that a call may last.
const PATIENCE: u64 = 4;

/// The asks that calls under way may carry: eight calls, or with Webdis one call per ask. Beyond that, asks queue up to
/// go together.
const MOST_ASKS: usize = 128;

/// Envoy resumes streams one inside the other: some hundreds overflow the stack.
const MOST_AT_ONCE: usize = 64;

/// An answer to sixteen asks has about 2 KB.
const MOST_BYTES: usize = 64 * 1_024;

const LOG_AGAIN: Span = Span::from_secs(10);
