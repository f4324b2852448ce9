//! Shared breakers: a tick sends reports to the store, in one call for all breakers. The answer goes to where the
//! workers of this Envoy share their breaker state.

use crate::authority::{self, Authority};
use crate::host::{self, HostError};
use crate::instance::{Instance, Work};
use tidegate::authority::Instance as Number;
use tidegate::store::redis::{BreakerExchange, HttpRequest};
use tidegate::units::{Span, Timestamp};

/// A round under way. A worker has one at a time, apart from a late one.
pub struct Round {
    token: u32,
    exchange: BreakerExchange,
}

/// Sends a round of reports, if one is due.
pub fn send_round(work: &mut Work, now: Timestamp) {
    if work.authority.is_none() {
        return;
    }
    let Some(round) = work.upstreams_around(now, |upstreams, context| upstreams.next_round(context)) else { return };
    let Work { authority: Some(authority), .. } = work else { return };
    let (exchange, request) = authority.redis().report(round);
    let sent = post(authority, &request);
    match sent {
        Ok(token) => work.rounds.push(Round { token, exchange }),
        Err(()) => {
            work.upstreams_around(now, |upstreams, context| upstreams.apply_answer(exchange.round(), None, context))
        }
    }
}

/// Handles the response to a call. Returns `false` if the call is not one of these.
pub fn call_answered(instance: &Instance, token: u32, lines: u32, size: usize) -> bool {
    let now = Timestamp::from_nanos(host::now_ns());
    let work = &mut *instance.work.borrow_mut();
    let Some(at) = work.rounds.iter().position(|round| round.token == token) else { return false };
    let mut round = work.rounds.swap_remove(at);
    let Work { authority: Some(authority), .. } = work else { return true };
    let answer = authority::answer(lines, size);
    let answer = answer.as_ref().map(|(status, body)| (*status, &body[..]));
    let mut next = round.exchange.receive(authority.redis(), answer);
    while let Some(request) = next {
        if let Ok(token) = post(authority, &request) {
            work.rounds.push(Round { token, ..round });
            return true;
        }
        next = round.exchange.receive(authority.redis(), None);
    }
    if let Err(error) = round.exchange.standings() {
        authority.log_error(error, now);
    }
    work.upstreams_around(now, |upstreams, context| {
        upstreams.apply_answer(round.exchange.round(), round.exchange.standings().ok(), context);
    });
    true
}

/// The number of this Envoy among all that share the store. The first VM draws it and stores it in shared data, where
/// it lives as long as the breakers.
pub fn instance_number(drawn: u64) -> Number {
    const KEY: &[u8] = b"tg/instance";
    let stored = || {
        let bytes = host::shared(KEY).ok().flatten()?.bytes;
        Some(Number::new(u64::from_le_bytes(bytes.try_into().ok()?)))
    };
    let publish = || match host::set_shared(KEY, &drawn.to_le_bytes(), None) {
        // Another VM was first.
        Err(HostError::CAS_MISMATCH) => stored(),
        _ => None,
    };
    stored().or_else(publish).unwrap_or(Number::new(drawn))
}

fn post(authority: &Authority, request: &HttpRequest<'_>) -> Result<u32, ()> {
    authority.post(request, PATIENCE)
}

/// No request waits for the answer. A round without an answer by then is repeated by the next one.
const PATIENCE: Span = Span::from_secs(1);
