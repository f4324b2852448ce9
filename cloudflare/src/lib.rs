//! Tidegate as a Cloudflare Worker: a thin adapter between workerd and the core.
//!
//! `entry.mjs` calls one synchronous function for each request, [`decide`]. Most requests simply pass, and cost what they
//! would in JavaScript; those that need more get a promise that `gate` keeps.

#![deny(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod facts;
mod gate;
mod host;
mod reply;

use gate::Gate;
use host::Request;
use std::cell::RefCell;
use wasm_bindgen::prelude::*;

thread_local! {
    /// The policy in force in this isolate, and what it has counted. An isolate has one thread, and no borrow outlives a call.
    static GATE: RefCell<Option<Gate>> = const { RefCell::new(None) };
}

/// Puts a policy in force, and answers what is to be done with requests that cannot be decided: `pass` or `refuse`. One that is
/// already in force stays if this one is bad.
///
/// # Errors
/// Everything that is wrong with the document, a line each, as text.
#[wasm_bindgen]
pub fn configure(policy: &str) -> Result<String, JsValue> {
    let gate = Gate::new(policy)?;
    GATE.with_borrow_mut(|current| *current = Some(gate));
    Ok("pass".to_owned())
}

/// Decides on a request. Answers with `undefined` when it passes as it is; with the header fields to add to its answer, name and
/// value by turns, a line each; or with a response, or the promise of one, that takes the answer's place.
#[wasm_bindgen]
pub fn decide(request: &Request, _env: &JsValue, _context: &JsValue, now_ms: f64) -> JsValue {
    GATE.with_borrow_mut(|gate| match gate {
        Some(gate) => gate.decide(request, now_ms),
        None => JsValue::UNDEFINED,
    })
}
