//! Where a request goes that no route is for: to the zone's own origin or, in a Worker that has Tidegate as a library, to that
//! Worker's handler.

use crate::host::{Call, Request};
use core::cell::RefCell;
use js_sys::{Function, Promise};
use wasm_bindgen::prelude::*;

thread_local! {
    static HANDLER: RefCell<Option<Function>> = const { RefCell::new(None) };
}

/// Has a function of a request answer, with a response or a promise of one, what the zone's origin would answer otherwise.
#[wasm_bindgen]
pub fn serve_by(handler: Function) {
    HANDLER.set(Some(handler));
}

/// The answer to the request.
pub fn ask(request: &Request) -> Promise {
    match HANDLER.with_borrow(Option::clone) {
        None => Call::new(request, None, None).answer,
        Some(handler) => match handler.call1(&JsValue::UNDEFINED, request) {
            Ok(answer) => Promise::resolve(&answer),
            Err(error) => Promise::reject(&error),
        },
    }
}
