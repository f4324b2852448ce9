//! Awaits promises for requests that wait, and for requests under way.

use super::bindings::settled;
use crate::host::{self, Request, Response};
use crate::origin::{self, Handler};
use crate::reply;
use crate::task::Task;
use crate::verdict::Verdict;
use crate::wait::Wait;
use crate::{isolate, now};
use js_sys::{Array, Function, Promise};
use tidegate::units::Span;
use wasm_bindgen::{JsCast, JsValue};
use worker::Context;
use worker::web_sys::AbortSignal;

/// A promise that resolves when the client goes away. It listens until it is dropped.
pub struct ClientAbort {
    signal: AbortSignal,
    pub promise: Promise,
    /// Resolves the promise.
    on_abort: Function,
}

impl ClientAbort {
    /// Starts to listen.
    pub fn of(request: &Request) -> Self {
        let signal: AbortSignal = request.signal().unchecked_into();
        let mut on_abort = None;
        let promise = Promise::new(&mut |resolve, _| on_abort = Some(resolve));
        let on_abort: Function = on_abort.unwrap_or_default().unchecked_into();
        // Adding a listener cannot fail.
        let _ = signal.add_event_listener_with_callback("abort", &on_abort);
        Self { signal, promise, on_abort }
    }

    /// Whether the client has gone.
    pub fn has_aborted(&self) -> bool {
        self.signal.aborted()
    }
}

impl Drop for ClientAbort {
    fn drop(&mut self) {
        let _ = self.signal.remove_event_listener_with_callback("abort", &self.on_abort);
    }
}

/// Waits with a request until its verdict is ready.
///
/// # Errors
/// There was none within the deadline.
pub async fn await_verdict(mut wait: Wait, request: &Request) -> Result<Verdict, JsValue> {
    let abort = ClientAbort::of(request);
    let deadline = now().after(Span::from_millis(u64::from(isolate::deadline_ms())));
    while now() < deadline {
        let pause = host::after(Span::from_millis(u64::from(wait.pause_ms())));
        let _ = settled(Promise::race(&Array::of2(&pause, &abort.promise))).await;
        if abort.has_aborted() {
            return Ok(client_gone());
        }
        match wait.verdict(request, now()) {
            Verdict::Pending => {}
            verdict => return Ok(verdict),
        }
    }
    Err("there was no verdict within the deadline".into())
}

/// Runs a task and returns the response for its client. The task may continue in the background after that.
///
/// # Errors
/// It gave none.
pub async fn run_task(task: Task, request: &Request, ctx: &Context, handler: Handler) -> Result<Response, JsValue> {
    let mut functions = None;
    let answered = Promise::new(&mut |resolve, reject| functions = Some((resolve, reject)));
    let Some((resolve, reject)) = functions else { return Err("no promise can be made".into()) };
    let abort = ClientAbort::of(request);
    ctx.wait_until(async move {
        drive(task, abort, handler, resolve.unchecked_ref()).await;
        // Has no effect if the task has responded.
        let _ = reject.call1(&JsValue::UNDEFINED, &"the request came to no answer".into());
    });
    settled(answered).await.map(JsCast::unchecked_into)
}

/// Drives a task to its end. If the client goes away, the task is dropped where it stands.
async fn drive(mut task: Task, abort: ClientAbort, handler: Handler, respond: &Function) {
    let mut outcome = Ok(JsValue::UNDEFINED);
    let mut handler = Some(handler);
    while !abort.has_aborted() {
        // A task calls the handler in its first step, or never.
        origin::set_handler(handler.take());
        let step = task.resume(outcome);
        origin::set_handler(None);
        let Some(step) = step else { return };
        if step.is_instance_of::<Response>() {
            let _ = respond.call1(&JsValue::UNDEFINED, &step);
            outcome = Ok(JsValue::UNDEFINED);
            continue;
        }
        let either = step.dyn_into::<Array>().unwrap_or_else(|promise| Array::of1(&promise));
        either.push(&abort.promise);
        outcome = settled(Promise::race(&either)).await;
    }
    drop(task);
    if let Verdict::Responds(answer) = client_gone() {
        let _ = respond.call1(&JsValue::UNDEFINED, &answer);
    }
}

/// Runs a task that answers no client.
pub async fn run_in_background(mut task: Task) {
    let mut outcome = Ok(JsValue::UNDEFINED);
    while let Some(promise) = task.resume(outcome) {
        outcome = settled(promise.unchecked_into()).await;
    }
}

/// The verdict on a request whose client has gone. The client does not see the response.
pub fn client_gone() -> Verdict {
    Verdict::Responds(reply::answer(499, "", core::iter::empty(), &JsValue::NULL))
}
