//! Redis as the authority over shared limits and breakers, if the policy has its URL.
//!
//! Asks are sent as soon as a decision has made them. While all calls are in use, asks queue up, and then several go in
//! one call. As with all waiting in workerd, a call belongs to the request that makes it, whichever requests its asks
//! come from. If that request ends early, its calls end with it. Therefore a call counts as under way only up to its
//! timeout: requests that wait for it have their own deadline, and the next request sends a new ask.

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

/// The Redis of a policy, and the calls to it.
pub struct Store {
    pub redis: Redis,
    /// The scheme and host of its URL.
    origin: String,
    patience: Span,
    /// Asks for which no call is free yet.
    queue: RefCell<Vec<Ask>>,
    /// The calls under way: number and timeout of each.
    calls: RefCell<Vec<(u32, Timestamp)>>,
    last_call: Cell<u32>,
    last_error: Cell<Option<(RedisError, Timestamp)>>,
}

impl Store {
    /// The Redis of a policy, and the secret that its keys are derived from unless the policy itself contains that.
    /// `None` if nothing is shared, or the policy has no URL of a Redis.
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

    /// Reserves one of the calls; `None` if all are in use.
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

    /// Sends the request, and awaits the status and body of the answer until `until`.
    pub async fn post(&self, request: &HttpRequest<'_>, until: Timestamp) -> Option<(u16, Vec<u8>)> {
        let url = [&self.origin, request.path].concat();
        let answer = host::post(&url, request, until.since(now()));
        let answer: Response = settled(answer).await.ok()?.unchecked_into();
        Some((answer.status(), body(&answer).await?))
    }

    /// Logs an error, unless the same error was the last one logged, less than 10 s ago.
    pub fn log_error(&self, error: RedisError, now: Timestamp) {
        let is_known = |(last, at): (RedisError, Timestamp)| last == error && now < at.after(LOG_AGAIN);
        if !self.last_error.get().is_some_and(is_known) {
            self.last_error.set(Some((error, now)));
            host::log_warning(&format!("tidegate: the store of shared limits, {}: {error}", self.origin));
        }
    }
}

/// The calls to make now.
pub fn calls(gate: &Rc<Gate>, store: &Rc<Store>, now: Timestamp) -> Vec<Task> {
    let mut queue = store.queue.borrow_mut();
    if let Some(global) = gate.work().leases.global() {
        global.asks(now, &mut queue);
    }
    // The oldest asks: the requests that waited for them have long been decided without an answer.
    let over = queue.len().saturating_sub(MOST_QUEUED);
    queue.drain(..over);
    let carried = queue.len().div_ceil(store.redis.max_asks());
    let entered = core::iter::from_fn(|| store.enter(now)).take(carried);
    entered.map(|number| Task::new(run(Rc::clone(gate), Call { store: Rc::clone(store), number }))).collect()
}

/// A reserved call; dropping it frees the place.
struct Call {
    store: Rc<Store>,
    number: u32,
}

impl Drop for Call {
    fn drop(&mut self) {
        self.store.calls.borrow_mut().retain(|(number, _)| *number != self.number);
    }
}

/// Sends the first asks of the queue. Sends them again if Redis first needs the script. Both together have the call's
/// timeout.
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

/// Hands the outcome of each ask to the core.
fn take_in(gate: &Gate, store: &Store, exchange: &Exchange) {
    let now = now();
    let Work { store: accounts, leases, counters, .. } = &mut *gate.work();
    for (ask, outcome) in exchange.outcomes() {
        if let Err(error) = outcome {
            store.log_error(error, now);
        }
        gate.engine.granted(&Answer::to(ask, outcome.ok()), leases, accounts, counters, now);
    }
}

/// The whole body; `None` if it ends early, or is longer than any answer of a script.
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

/// The Worker's secret or variable of this name.
fn secret(env: &JsValue, name: &str) -> Result<String, String> {
    let value = Reflect::get(env, &JsValue::from_str(name)).ok().and_then(|value| value.as_string());
    value.ok_or_else(|| {
        format!(
            "tidegate: policy error: /stores/redis/token_env: the Worker has no secret or variable {name}; set it, as by \
             `wrangler secret put {name}`"
        )
    })
}

/// A call may last this many deadlines: a late grant is charged all the same, and serves later requests.
const PATIENCE: u64 = 4;
/// The calls under way at one time. Beyond that, asks queue up.
const MOST_CALLS: usize = 16;
/// Four times what all calls can carry. Beyond that, the oldest asks are dropped.
const MOST_QUEUED: usize = 1_024;
/// An answer to sixteen asks has about 2 KB.
const MOST_BYTES: usize = 64 * 1_024;
const LOG_AGAIN: Span = Span::from_secs(10);
