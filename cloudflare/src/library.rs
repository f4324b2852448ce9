//! Tidegate before the handler of a Worker that is written in Rust.
//!
//! What awaits and stands guard in JavaScript for the Worker that `entry.mjs` deploys is done here in Rust: the decisions, and
//! a request's way along a route, are the same. What is not here is the guard over the instance. A Worker in Rust is one instance,
//! its handler and Tidegate in it: whichever of them panics, the requests that are in it then get no answer of theirs, what was
//! counted in the isolate is lost, and whoever binds the wasm has to see to a fresh instance; README says how.

mod authority;
mod bindings;
mod breakers;
mod driving;
mod settings;
mod shared_breakers;
mod shared_limits;

pub use authority::TidegateAuthority;

use crate::host::{self, Response};
use crate::origin::Handler;
use crate::reply;
use crate::verdict::Verdict;
use crate::{isolate, now};
use bindings::Bindings;
use core::cell::Cell;
use js_sys::Promise;
use std::borrow::Cow;
use std::rc::Rc;
use tidegate::path::escaped_for_parsers;
use tidegate::policy::OnFailure;
use tidegate::units::{Span, Timestamp};
use wasm_bindgen::{JsCast, JsValue};
use worker::wasm_bindgen_futures::future_to_promise;
use worker::web_sys;
use worker::{Context, Env, FromRequest, IntoResponse, Request, Result};

/// Answers a request as the policy says: what passes, by the handler, in place of the zone's origin. A route of the policy leads past
/// it. What is over a limit never reaches it.
///
/// `policy` is the text of a policy; with a KV namespace bound as `TIDEGATE`, the one that it holds stands in its place. With a
/// namespace of Durable Objects bound as `TIDEGATE_AUTHORITY`, whose class is [`TidegateAuthority`], limits of the scope `global`
/// are counted there, and breakers of that scope agree there, unless the policy has the URL of a Redis. All calls of a Worker give the same text: the first one's counts.
///
/// A policy that is bad is told in the log with all its errors, and every request passes.
///
/// The handler takes and gives what a function under `#[event(fetch)]` may. What waits for its answer, as a limit of requests in
/// flight does, waits until the last byte of it has gone. The handler is not run to its end if the client goes away meanwhile.
///
/// # Errors
/// Those of the handler, for a request that simply passes. Where its answer matters to the policy, an error of it is written to the log,
/// and the client gets a 503 as for an upstream that does not answer.
pub async fn protect<Q, H, F, R, A>(policy: &str, request: Request, env: Env, ctx: Context, handler: H) -> Result<A>
where
    Q: FromRequest + 'static,
    H: FnOnce(Q, Env, Context) -> F + 'static,
    F: Future<Output = Result<R>> + 'static,
    R: IntoResponse + 'static,
    A: From<web_sys::Response>,
{
    let asked: host::Request = request.inner().unchecked_ref::<host::Request>().clone();
    let bindings = Bindings::of(&env);
    settings::prepare(policy, &bindings, &ctx).await;
    // Called once at most: by the task that sends the request on its way, or below.
    let handle = Rc::new(Cell::new(Some((handler, env, bindings::same(&ctx)))));
    let handles: Handler = {
        let handle = Rc::clone(&handle);
        Rc::new(move |request| match handle.take() {
            Some((handler, env, ctx)) => promised(serve(handler, raw(request), env, ctx)),
            None => Promise::reject(&"the handler has answered already".into()),
        })
    };
    let (handle, fields) = match resolve(&asked, &bindings, &ctx, handles).await {
        Ok(Verdict::Responds(answer)) => return Ok(made(answer)),
        Ok(Verdict::Changes(change)) => return Ok(made(settings::store_change(&change, &bindings).await)),
        Ok(Verdict::PassesWithFields(fields)) => (handle.take(), fields),
        Ok(_) => (handle.take(), String::new()),
        Err(problem) => {
            // A body that an upstream has had cannot be sent again.
            let passes = settings::on_failure() == OnFailure::Pass && !request.inner().body_used();
            let handle = handle.take().filter(|_| passes);
            let becomes = if handle.is_some() { "let pass" } else { "refused" };
            host::log_error(&format!("tidegate: the request is {becomes}: {problem:?}"));
            (handle, String::new())
        }
    };
    let Some((handler, env, ctx)) = handle else { return Ok(made(unavailable())) };
    let answer = serve(handler, raw(&asked), env, ctx).await?;
    Ok(made(reply::with_fields(answer.unchecked_into(), &[], &fields)))
}

/// What becomes of a request, after all waiting.
async fn resolve(
    request: &host::Request,
    bindings: &Bindings,
    ctx: &Context,
    handles: Handler,
) -> core::result::Result<Verdict, JsValue> {
    let mut verdict = isolate::decide(request, now());
    if isolate::has_shared_limits() {
        let sent = shared_limits::send_asks(bindings, ctx);
        if let Verdict::AwaitsGrant(wait) = verdict {
            verdict = shared_limits::await_grant(wait, request, sent, bindings, ctx).await?;
        }
    }
    if let Verdict::Waits(wait) = verdict {
        verdict = driving::await_verdict(wait, request).await?;
    }
    if let Verdict::Runs(task) = verdict {
        verdict = Verdict::Responds(driving::run_task(task, request, ctx, handles).await?);
        if let Some(kv) = &bindings.kv {
            breakers::publish(kv, ctx);
        }
        if isolate::has_shared_breakers() {
            shared_breakers::send_reports(bindings, ctx);
        }
    }
    Ok(verdict)
}

/// The handler's answer.
async fn serve<Q, H, F, R>(handler: H, request: web_sys::Request, env: Env, ctx: Context) -> Result<web_sys::Response>
where
    Q: FromRequest,
    H: FnOnce(Q, Env, Context) -> F,
    F: Future<Output = Result<R>>,
    R: IntoResponse,
{
    let request = Q::from_raw(request).map_err(|error| worker::Error::from(error.into().to_string()))?;
    let answer = handler(request, env, ctx).await?;
    answer.into_raw().map_err(|error| worker::Error::from(error.into().to_string()))
}

/// The same as a promise; the log tells its error.
fn promised(serving: impl Future<Output = Result<web_sys::Response>> + 'static) -> Promise {
    let promise = future_to_promise(async move {
        serving.await.map(JsValue::from).map_err(|error| {
            host::log_error(&format!("tidegate: the handler has failed: {error}"));
            JsValue::from(error)
        })
    });
    promise.unchecked_into()
}

/// Whether it is less than so long since then. A clock that has stepped back would be waited for.
fn is_lately(since: Timestamp, span: Span) -> bool {
    let now = now();
    now.since(since) < span && since.since(now) < span
}

/// What a client gets whose request can neither be decided nor pass.
fn unavailable() -> Response {
    let lines = [("content-type", "application/json"), ("cache-control", "no-store"), ("retry-after", "1")];
    let body = JsValue::from_str(r#"{"error":"service unavailable","retryAfter":1}"#);
    reply::answer(503, "", lines.into_iter(), &body)
}

fn made<A: From<web_sys::Response>>(answer: Response) -> A {
    answer.unchecked_into::<web_sys::Response>().into()
}

/// The request as the handler gets it: to one that parses its URL it is the path that limits have matched.
fn raw(request: &host::Request) -> web_sys::Request {
    let request = match escaped_for_parsers(&request.url()) {
        Cow::Borrowed(_) => request.clone(),
        Cow::Owned(url) => host::Request::aimed(&url, request).unwrap_or_else(|_| request.clone()),
    };
    request.unchecked_into()
}
