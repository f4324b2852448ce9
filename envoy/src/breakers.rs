//! Breakers that many instances share: a tick asks the store what stands, in one call for all, and its answer goes to where the
//! workers of this Envoy find what they know of each other's.

use crate::authority::{self, Authority};
use crate::host::{self, HostError};
use crate::instance::{Instance, Work};
use tidegate::authority::Instance as Number;
use tidegate::store::redis::{BreakerExchange, HttpRequest};
use tidegate::units::{Span, Timestamp};

/// A round that is under way. A worker has one at a time, but for one that is late.
pub struct Round {
    token: u32,
    exchange: BreakerExchange,
}

/// Asks what stands, if it is time to.
pub fn confer(work: &mut Work, now: Timestamp) {
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

/// Takes in the answer to a call, if it was one of these.
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
        authority.complain(error, now);
    }
    work.upstreams_around(now, |upstreams, context| {
        upstreams.apply_answer(round.exchange.round(), round.exchange.standings().ok(), context);
    });
    true
}

/// The number of this Envoy among all that share the store: drawn by the first VM, and there as long as its breakers are.
pub fn number(drawn: u64) -> Number {
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

/// No request waits for the answer, and what is later than this is asked anew.
const PATIENCE: Span = Span::from_secs(1);
