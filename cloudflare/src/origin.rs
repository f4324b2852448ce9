//! Where a request goes that no route is for: to the zone's own origin or, in a Worker that has Tidegate as a library, to that
//! Worker's handler.

use crate::host::{Call, Request};
use core::cell::RefCell;
use js_sys::Promise;
use std::rc::Rc;

/// Answers a request, with a promise of a response.
pub type Handler = Rc<dyn Fn(&Request) -> Promise>;

thread_local! {
    static HANDLER: RefCell<Option<Handler>> = const { RefCell::new(None) };
}

/// Has a handler answer what the zone's origin would answer otherwise.
pub fn set_handler(handler: Option<Handler>) {
    HANDLER.set(handler);
}

/// The answer to the request.
pub fn ask(request: &Request) -> Promise {
    match HANDLER.with_borrow(Option::clone) {
        None => Call::new(request, None, None).answer,
        Some(handler) => handler(request),
    }
}
