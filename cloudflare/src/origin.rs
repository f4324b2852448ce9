//! Answers requests without a route: from the zone's own origin or, in a Worker that uses Tidegate as a library, from
//! that Worker's handler.

use crate::host::{Call, Request};
use core::cell::RefCell;
use js_sys::Promise;
use std::rc::Rc;

/// Answers a request with a promise of a response.
pub type Handler = Rc<dyn Fn(&Request) -> Promise>;

thread_local! {
    static HANDLER: RefCell<Option<Handler>> = const { RefCell::new(None) };
}

/// Sets the handler that answers instead of the zone's origin.
pub fn set_handler(handler: Option<Handler>) {
    HANDLER.set(handler);
}

/// A promise of the response to the request.
pub fn ask(request: &Request) -> Promise {
    match HANDLER.with_borrow(Option::clone) {
        None => Call::new(request, None, None).answer,
        Some(handler) => handler(request),
    }
}
