//! What takes time, as an asynchronous function that JavaScript drives.
//!
//! It runs until it awaits a promise of workerd's, which [`Task::resume`] hands to JavaScript; JavaScript awaits it and comes back
//! with what came of it. So all that enters the instance is a call that `protect.mjs` guards, and a request that awaits its
//! upstream while the instance fails for another one still has its promise. Nothing else wakes a task: there is no executor.
//! A task that is freed is dropped where it stands, and gives back what it holds.

use js_sys::{Array, Promise};
use std::cell::RefCell;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};
use tidegate::units::Span;
use wasm_bindgen::JsValue;

use crate::host::{self, Response};

/// A function under way.
pub struct Task {
    way: Pin<Box<dyn Future<Output = ()>>>,
    #[cfg(feature = "test-clock")]
    _under_way: crate::clock::UnderWay,
}

thread_local! {
    /// What the task that is running hands out, and gets. Only one runs at a time, and it awaits one thing at a time.
    static EXCHANGE: RefCell<Exchange> = const { RefCell::new(Exchange::Nothing) };
}

enum Exchange {
    Nothing,
    Awaits(JsValue),
    Settled(Result<JsValue, JsValue>),
}

impl Task {
    /// A function that has not begun.
    pub fn new(way: impl Future<Output = ()> + 'static) -> Self {
        Self {
            way: Box::pin(way),
            #[cfg(feature = "test-clock")]
            _under_way: crate::clock::UnderWay::new(),
        }
    }

    /// Goes on with what came of that which was handed out last. Answers with the next promise to await, alone or in a list with one
    /// that says by when to come back anyhow; with the response that the client gets; or with `None` when it is over.
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

/// Answers the client. What comes after that takes nobody's time.
pub async fn respond(response: Response) {
    let _ = HandOver(Some(response.into())).await;
}

/// Waits.
pub async fn pause(span: Span) {
    let _ = settled(host::after(span)).await;
}

/// Awaits a promise that has a value, and calls `beat` each time that so much time has passed.
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

/// The promise, with its value in a list: one that has none by itself has one then, and a response in there is not taken for
/// the client's.
pub fn listed(promise: &Promise) -> Promise {
    Promise::all(&Array::of1(promise))
}

/// Hands one thing out, and is ready with what comes of it.
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
