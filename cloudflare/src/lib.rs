//! Tidegate as a Cloudflare Worker: a thin adapter between workerd and the core.
//!
//! `entry.mjs` calls one synchronous function for each request, [`decide`]. Most requests simply pass, and cost what they
//! would in JavaScript. One whose answer matters to the policy, or that goes along a route of it, comes back as a [`task::Task`],
//! and one that has to wait as a [`wait::Wait`]. JavaScript drives both, and awaits for them: all that enters the instance is
//! guarded, and an instance that dies takes no request along that is under way.

#![deny(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod agreeing;
mod authority;
mod cache;
mod chain;
#[cfg(feature = "test-clock")]
mod clock;
mod ends;
mod facts;
mod flight;
mod gate;
mod host;
mod memory;
mod order;
mod origin;
mod redis;
mod reply;
mod serving;
mod sharing;
mod task;
#[cfg(feature = "panic-on-header")]
mod trap;
mod wait;

pub use agreeing::{Agreed, agree};
pub use authority::{Settled, settle};
use gate::Gate;
use host::Request;
use std::cell::RefCell;
use std::rc::Rc;
use tidegate::mode::ModeWord;
use tidegate::policy::OnFailure;
use tidegate::units::{Span, Timestamp};
use wasm_bindgen::prelude::*;

/// 3 KB less, compressed, than what the standard library brings, and as fast: a policy with claims costs the same by either.
/// Both of its calls take constant time.
#[global_allocator]
static ALLOCATOR: rlsf::SmallGlobalTlsf = rlsf::SmallGlobalTlsf::new();

thread_local! {
    /// The policy in force in this isolate, and what it has counted. An isolate has one thread.
    static GATE: RefCell<Option<Rc<Gate>>> = const { RefCell::new(None) };
}

/// Called once when an instance begins.
#[wasm_bindgen(start)]
pub fn start() {
    // Otherwise a panic says nothing but that there was one.
    std::panic::set_hook(Box::new(|info| host::log_error(&format!("tidegate: {info}"))));
}

/// Puts a policy in force, in the mode of this word or, where that is empty, in its own; and answers what is to be done with requests
/// that cannot be decided: `pass` or `refuse`. What was counted before goes on counting. `env` are the Worker's bindings.
///
/// # Errors
/// Everything that is wrong with the document or the word, a line each, as text. What was in force stays.
#[wasm_bindgen]
pub fn configure(policy: &str, mode: &str, env: &JsValue) -> Result<String, JsValue> {
    let before = GATE.with_borrow(Option::clone);
    let gate = Gate::new(policy, mode_of(mode)?, env, before.as_deref())?;
    let on_failure = match gate.engine.policy().on_failure() {
        OnFailure::Pass => "pass",
        OnFailure::Refuse => "refuse",
    };
    GATE.with_borrow_mut(|current| *current = Some(Rc::new(gate)));
    Ok(on_failure.to_owned())
}

/// What is wrong with the word for a mode, if anything is. An empty one is good: the policy's own mode.
#[wasm_bindgen]
pub fn mode_problem(word: &str) -> Option<String> {
    mode_of(word).err()
}

fn mode_of(word: &str) -> Result<Option<ModeWord>, String> {
    match word.trim() {
        "" => Ok(None),
        word => word.parse().map(Some).map_err(|error| format!("tidegate: mode error: {error}")),
    }
}

/// Within how many milliseconds a request that waits must have its verdict.
#[wasm_bindgen]
pub fn deadline_ms() -> u32 {
    let longest = GATE.with_borrow(|gate| gate.as_ref().map_or(Span::ZERO, |gate| gate.engine.policy().longest_wait()));
    // A second more than the policy allows: by then something has gone wrong.
    let deadline = longest.plus(Span::from_secs(1));
    #[cfg(feature = "test-clock")]
    let deadline = clock::instead_of_deadline(deadline);
    u32::try_from(deadline.as_secs_ceil().saturating_mul(1_000)).unwrap_or(u32::MAX)
}

/// Decides on a request. Answers with `undefined` when it passes as it is; with the header fields to add to its answer, name and
/// value by turns, a line each; with a response that takes the answer's place; with a `Task`, a `Wait`, an `Asking` or a `Change`.
#[wasm_bindgen]
pub fn decide(request: &Request, now_ms: f64) -> JsValue {
    #[cfg(feature = "panic-on-header")]
    trap::spring(request);
    #[cfg(feature = "test-clock")]
    if let Some(answer) = clock::set(request) {
        return answer;
    }
    let gate = GATE.with_borrow(Option::clone);
    gate.map_or(JsValue::UNDEFINED, |gate| gate.decide(request, timestamp(now_ms)))
}

/// Whether there are limits to be shared, and an authority over them.
#[wasm_bindgen]
pub fn shares() -> bool {
    GATE.with_borrow(|gate| gate.as_ref().is_some_and(|gate| gate.work().leases.global_ref().is_some()))
}

/// What is to be sent to the authority over shared limits: to be asked after each step that may have come to that. Answers with an
/// `Errand` for each ask of a Durable Object, or with a `Task` for each call to Redis.
#[wasm_bindgen]
pub fn errands(now_ms: f64) -> Vec<JsValue> {
    let Some(gate) = GATE.with_borrow(Option::clone) else { return Vec::new() };
    let now = timestamp(now_ms);
    match &gate.redis {
        Some(redis) => redis::calls(&gate, redis, now).into_iter().map(JsValue::from).collect(),
        None => sharing::errands(&gate, now).into_iter().map(JsValue::from).collect(),
    }
}

/// Does what is due for limits that are shared, as giving back what is idle. Answers with after how many milliseconds to call
/// again; `undefined` while there is nothing to be done.
#[wasm_bindgen]
pub fn tend(now_ms: f64) -> Option<u32> {
    let gate = GATE.with_borrow(Option::clone)?;
    let work = &mut *gate.work();
    sharing::tend(&gate.engine, work, timestamp(now_ms))
}

/// A round of reports for the authority over shared breakers, if it is time for one: to be asked now and then.
#[wasm_bindgen]
pub fn conference(now_ms: f64) -> JsValue {
    let gate = GATE.with_borrow(Option::clone);
    gate.and_then(|gate| agreeing::conference(&gate, now_ms)).unwrap_or(JsValue::UNDEFINED)
}

/// Whether there are such breakers, and somebody to ask.
#[wasm_bindgen]
pub fn agrees() -> bool {
    let gate = GATE.with_borrow(Option::clone);
    gate.is_some_and(|gate| gate.work().known.upstreams().alone().is_some())
}

/// Whether something is to be told to that authority.
#[wasm_bindgen]
pub fn tells(now_ms: f64) -> bool {
    let gate = GATE.with_borrow(Option::clone);
    gate.is_some_and(|gate| gate.work().known.upstreams().tells(timestamp(now_ms)))
}

/// Whether breakers may have something to tell other locations.
#[wasm_bindgen]
pub fn may_have_news() -> bool {
    let gate = GATE.with_borrow(Option::clone);
    gate.is_some_and(|gate| gate.memory.broadcast.borrow().may_have_news(&gate.memory.ledgers.borrow()))
}

/// Lets breakers learn what other locations have told of theirs.
#[wasm_bindgen]
pub fn hear(text: &str, now_ms: f64) {
    if let Some(gate) = GATE.with_borrow(Option::clone) {
        let mut ledgers = gate.memory.ledgers.borrow_mut();
        gate.memory.broadcast.borrow_mut().hear(text, &mut ledgers, timestamp(now_ms));
    }
}

/// What other locations are to be told, all of it; `undefined` when they know.
#[wasm_bindgen]
pub fn news(now_ms: f64) -> Option<String> {
    let gate = GATE.with_borrow(Option::clone)?;
    let mut ledgers = gate.memory.ledgers.borrow_mut();
    gate.memory.broadcast.borrow_mut().tell(&mut ledgers, timestamp(now_ms))
}

/// Says that they could not be told.
#[wasm_bindgen]
pub fn untold() {
    if let Some(gate) = GATE.with_borrow(Option::clone) {
        gate.memory.broadcast.borrow_mut().untold();
    }
}

/// Says under which name answers are kept from here on. What was kept under another one is not served any more.
#[wasm_bindgen]
pub fn keep_under(name: &str) {
    cache::keep_under(name);
}

/// The clock is a whole number of milliseconds, and in production moves only when the isolate waits for something.
fn timestamp(now_ms: f64) -> Timestamp {
    #[cfg(feature = "test-clock")]
    let now_ms = clock::instead_of(now_ms);
    Timestamp::from_millis(now_ms as u64)
}

/// The time of a step that was not told it.
fn now() -> Timestamp {
    timestamp(js_sys::Date::now())
}
