//! An asynchronous function that JavaScript drives.
//!
//! It runs until it awaits a promise of workerd's. [`Task::resume`] hands that promise to JavaScript, which awaits it
//! and calls again with the outcome. So `protect.mjs` can guard each call into the instance, and if the instance fails
//! because of one request, another request that awaits its upstream still has its promise. Nothing else wakes a task:
//! there is no executor. A task that is freed is dropped where it stands, and returns what its request holds.

use js_sys::{Array, Promise};
use std::cell::RefCell;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};
use tidegate::units::Span;
use wasm_bindgen::JsValue;

use crate::host::{self, Response};

/// A running function.
pub struct Task {
    way: Pin<Box<dyn Future<Output = ()>>>,
    #[cfg(feature = "test-clock")]
    _under_way: crate::clock::UnderWay,
}

thread_local! {
    /// What the running task hands out, and what it gets back. Only one task runs at a time, and it awaits one thing at
    /// a time.
    static EXCHANGE: RefCell<Exchange> = const { RefCell::new(Exchange::Nothing) };
}

enum Exchange {
    Nothing,
    Awaits(JsValue),
    Settled(Result<JsValue, JsValue>),
}

impl Task {
    /// Wraps a function. It does not start yet.
    pub fn new(way: impl Future<Output = ()> + 'static) -> Self {
        Self {
            way: Box::pin(way),
            #[cfg(feature = "test-clock")]
            _under_way: crate::clock::UnderWay::new(),
        }
    }

    /// Continues with the outcome of the last promise. Returns the next promise to await; or a list of that promise and
    /// one that says when to resume at the latest; or the response for the client; or `None` when the task has ended.
    pub fn resume(&mut self, outcome: Result<JsValue, JsValue>) -> Option<JsValue> {
        EXCHANGE.set(Exchange::Settled(outcome));
        let polled = self.way.as_mut().poll(&mut Context::from_waker(Waker::noop()));
        match (polled, EXCHANGE.replace(Exchange::Nothing)) {
            (Poll::Pending, Exchange::Awaits(awaited)) => Some(awaited),
            _ => None,
        }
    }
}

/// Awaits a promise.
///
/// # Errors
/// What it was rejected with.
pub async fn settled(promise: Promise) -> Result<JsValue, JsValue> {
    HandOver(Some(promise.into())).await
}

/// Sends the response to the client. The client does not wait for what the task does after that.
pub async fn respond(response: Response) {
    let _ = HandOver(Some(response.into())).await;
}

/// Waits for this long.
pub async fn pause(span: Span) {
    let _ = settled(host::after(span)).await;
}

/// Awaits a promise whose value is not `undefined`, and calls `beat` each time `every` has passed.
///
/// # Errors
/// What it was rejected with.
pub async fn beating(promise: &Promise, every: Span, mut beat: impl FnMut()) -> Result<JsValue, JsValue> {
    loop {
        let outcome = HandOver(Some(Array::of2(promise, &host::after(every)).into())).await?;
        if !outcome.is_undefined() {
            return Ok(outcome);
        }
        beat();
    }
}

/// The promise with its value in a list. A value of `undefined` can then be told from no value, and a response is not
/// taken for the one to send to the client.
pub fn listed(promise: &Promise) -> Promise {
    Promise::all(&Array::of1(promise))
}

/// Hands out one value, and resolves to what JavaScript passes back for it.
struct HandOver(Option<JsValue>);

impl Future for HandOver {
    type Output = Result<JsValue, JsValue>;

    fn poll(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Self::Output> {
        if let Some(awaited) = self.0.take() {
            EXCHANGE.set(Exchange::Awaits(awaited));
            return Poll::Pending;
        }
        match EXCHANGE.replace(Exchange::Nothing) {
            Exchange::Settled(outcome) => Poll::Ready(outcome),
            _ => Poll::Pending,
        }
    }
}
