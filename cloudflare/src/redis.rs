//! Redis as the authority over limits and breakers that isolates share, where the policy has its URL.
//!
//! Asks go out as soon as a decision has made them. While all calls are taken they queue up, to go several in one. A call belongs to
//! the request that makes it, as all that takes time does in workerd, whoever's asks it carries; a request that ends too early takes
//! its calls along. So a call counts as under way only for as long as it may last: those who wait for it have the deadline, and the
//! next one asks anew.

use crate::gate::{Gate, Work};
use crate::host::{self, Response};
use crate::now;
use crate::shared_limits::DEADLINE;
use crate::task::{Task, settled};
use js_sys::{Reflect, Uint8Array};
use std::cell::{Cell, RefCell};
use std::rc::Rc;
use tidegate::authority::Ask;
use tidegate::engine::Answer;
use tidegate::policy::Policy;
use tidegate::store::redis::{Exchange, HttpRequest, Redis, RedisError};
use tidegate::units::{Span, Timestamp};
use wasm_bindgen::{JsCast, JsValue};

/// A Redis to be called, and the calls to it.
pub struct Store {
    pub redis: Redis,
    /// Scheme and host of its URL.
    origin: String,
    patience: Span,
    /// Asks for which no call is free yet.
    queue: RefCell<Vec<Ask>>,
    /// Until when each call under way may last, by its number.
    calls: RefCell<Vec<(u32, Timestamp)>>,
    last_call: Cell<u32>,
    last_error: Cell<Option<(RedisError, Timestamp)>>,
}

impl Store {
    /// The Redis that a policy shares its limits by, and the secret that their keys are made from, where the policy does not have it
    /// itself. `None` where there is nothing to share, or the policy has no URL of it.
    ///
    /// # Errors
    /// What is wrong, where, and what would be right.
    pub fn of(policy: &Policy, env: &JsValue) -> Result<Option<(Self, Option<String>)>, String> {
        if policy.shared_limits().next().is_none() && !policy.shares_breakers() {
            return Ok(None);
        }
        let store = policy.stores().redis();
        let Some((store, (origin, path))) = store.and_then(|store| Some((store, store.base()?))) else {
            return Ok(None);
        };
        let secret = store.token_env().map(|name| secret(env, name)).transpose()?;
        let redis = Redis::new(store.protocol(), path, secret.as_deref().or(store.token()))
            .map_err(|error| format!("tidegate: policy error: /stores/redis/token_env: {error}"))?;
        let deadline = policy.stores().deadline().unwrap_or(DEADLINE);
        let store = Self {
            redis,
            origin: origin.to_owned(),
            patience: Span::from_nanos(deadline.as_nanos().saturating_mul(PATIENCE)),
            queue: RefCell::default(),
            calls: RefCell::default(),
            last_call: Cell::new(0),
            last_error: Cell::new(None),
        };
        Ok(Some((store, secret)))
    }

    /// Takes a place among the calls under way; `None` while there is none.
    fn enter(&self, now: Timestamp) -> Option<u32> {
        let mut calls = self.calls.borrow_mut();
        calls.retain(|(_, until)| *until > now);
        if calls.len() >= MOST_CALLS {
            return None;
        }
        let call = self.last_call.get().wrapping_add(1);
        self.last_call.set(call);
        calls.push((call, now.after(self.patience)));
        Some(call)
    }

    /// Sends the request and awaits the answer, at most until then: its status and its body.
    pub async fn post(&self, request: &HttpRequest<'_>, until: Timestamp) -> Option<(u16, Vec<u8>)> {
        let url = [&self.origin, request.path].concat();
        let answer = host::post(&url, request, until.since(now()));
        let answer: Response = settled(answer).await.ok()?.unchecked_into();
        Some((answer.status(), body(&answer).await?))
    }

    /// Logs an error, if it was not the last one or that was a while ago.
    pub fn complain(&self, error: RedisError, now: Timestamp) {
        let is_known = |(last, at): (RedisError, Timestamp)| last == error && now < at.after(COMPLAIN_AGAIN);
        if !self.last_error.get().is_some_and(is_known) {
            self.last_error.set(Some((error, now)));
            host::log_warning(&format!("tidegate: the store of shared limits, {}: {error}", self.origin));
        }
    }
}

/// The calls that are to be made now.
pub fn calls(gate: &Rc<Gate>, store: &Rc<Store>, now: Timestamp) -> Vec<Task> {
    let mut queue = store.queue.borrow_mut();
    if let Some(global) = gate.work().leases.global() {
        global.asks(now, &mut queue);
    }
    // Those who have waited for the first of them have long been answered otherwise.
    let over = queue.len().saturating_sub(MOST_QUEUED);
    queue.drain(..over);
    let carried = queue.len().div_ceil(store.redis.max_asks());
    let entered = core::iter::from_fn(|| store.enter(now)).take(carried);
    entered.map(|number| Task::new(run(Rc::clone(gate), Call { store: Rc::clone(store), number }))).collect()
}

/// A call's place among those under way.
struct Call {
    store: Rc<Store>,
    number: u32,
}

impl Drop for Call {
    fn drop(&mut self) {
        self.store.calls.borrow_mut().retain(|(number, _)| *number != self.number);
    }
}

/// Asks what stands first in the queue, and a second time where Redis has to be sent a script. It has as long as it says.
async fn run(gate: Rc<Gate>, call: Call) {
    let store = &call.store;
    let until = now().after(store.patience);
    let Some((mut exchange, request)) = store.redis.begin(&mut store.queue.borrow_mut()) else { return };
    let mut next = Some(request);
    while let Some(request) = next {
        let answer = store.post(&request, until).await;
        next = exchange.receive(&store.redis, answer.as_ref().map(|(status, body)| (*status, &body[..])));
    }
    take_in(&gate, store, &exchange);
}

/// Hands to the core what came of each ask.
fn take_in(gate: &Gate, store: &Store, exchange: &Exchange) {
    let now = now();
    let Work { store: accounts, leases, counters, .. } = &mut *gate.work();
    for (ask, outcome) in exchange.outcomes() {
        if let Err(error) = outcome {
            store.complain(error, now);
        }
        gate.engine.granted(&Answer::to(ask, outcome.ok()), leases, accounts, counters, now);
    }
}

/// The whole body; `None` when it does not come to its end, or is longer than any answer of a script.
async fn body(answer: &Response) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    let Some(body) = answer.answer_body() else { return Some(bytes) };
    let reader = body.reader();
    while let Some(piece) = host::piece(&settled(reader.read()).await.ok()?) {
        if bytes.len().saturating_add(usize::try_from(Uint8Array::length(&piece)).ok()?) > MOST_BYTES {
            let _ = reader.cancel();
            return None;
        }
        bytes.extend(piece.to_vec());
    }
    Some(bytes)
}

/// What the Worker has under this name.
fn secret(env: &JsValue, name: &str) -> Result<String, String> {
    let value = Reflect::get(env, &JsValue::from_str(name)).ok().and_then(|value| value.as_string());
    value.ok_or_else(|| {
        format!(
            "tidegate: policy error: /stores/redis/token_env: the Worker has no secret or variable {name}; set it, as by \
             `wrangler secret put {name}`"
        )
    })
}

/// A call may last so many deadlines: what is granted late is charged all the same, and of use to those who come next.
const PATIENCE: u64 = 4;
/// So many calls are under way at one time. Beyond that asks queue up.
const MOST_CALLS: usize = 16;
/// Four times what all calls can carry. Of more, the oldest are as good as lost.
const MOST_QUEUED: usize = 1_024;
/// An answer to sixteen asks has some 2 KB.
const MOST_BYTES: usize = 64 * 1_024;
const COMPLAIN_AGAIN: Span = Span::from_secs(10);
