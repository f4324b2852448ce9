//! Tidegate as a Cloudflare Worker: a thin adapter between workerd and the core.
//!
//! `entry.mjs` calls one synchronous function for each request, [`decide`]. Most requests simply pass, and cost what they
//! would in JavaScript. One whose answer matters to the policy, or that goes along a route of it, comes back as a [`task::Task`],
//! and one that has to wait as a [`wait::Wait`]. JavaScript drives both, and awaits for them: all that enters the instance is
//! guarded, and an instance that dies takes no request along that is under way.

#![deny(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod cache;
mod chain;
#[cfg(feature = "test-clock")]
mod clock;
mod ends;
mod facts;
mod flight;
mod gate;
mod host;
mod reply;
mod serving;
mod task;
#[cfg(feature = "panic-on-header")]
mod trap;
mod wait;

use gate::Gate;
use host::Request;
use std::cell::RefCell;
use std::rc::Rc;
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

/// Puts a policy in force, and answers what is to be done with requests that cannot be decided: `pass` or `refuse`. One that is
/// already in force stays if this one is bad.
///
/// # Errors
/// Everything that is wrong with the document, a line each, as text.
#[wasm_bindgen]
pub fn configure(policy: &str) -> Result<String, JsValue> {
    // Otherwise a panic says nothing but that there was one.
    std::panic::set_hook(Box::new(|info| host::log_error(&format!("tidegate: {info}"))));
    let gate = Gate::new(policy)?;
    let on_failure = match gate.engine.policy().on_failure() {
        OnFailure::Pass => "pass",
        OnFailure::Refuse => "refuse",
    };
    GATE.with_borrow_mut(|current| *current = Some(Rc::new(gate)));
    Ok(on_failure.to_owned())
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
/// value by turns, a line each; with a response that takes the answer's place; with a `Task` or a `Wait`.
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
