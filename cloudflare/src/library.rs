//! Tidegate in front of the handler of a Worker written in Rust.
//!
//! The decisions and the way along a route are the same as in the Worker that `entry.mjs` deploys. The waiting that
//! JavaScript does there is done here in Rust. Only the guard over the instance is missing. A Worker in Rust is one
//! instance, with the handler and Tidegate in it. If either panics, the requests in that instance get no proper
//! response, and the isolate's counts are lost. Whoever binds the wasm must provide for a fresh instance; the README
//! says how.

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

/// Answers a request as the policy says. Requests that pass go to the handler instead of the zone's origin. Requests on
/// a route of the policy go to its upstreams instead. Requests over a limit never reach the handler.
///
/// `policy` is the text of a policy. If a KV namespace is bound as `TIDEGATE` and has a policy, that one is used
/// instead. If a namespace of Durable Objects with the class [`TidegateAuthority`] is bound as `TIDEGATE_AUTHORITY`,
/// limits and breakers of the scope `global` are counted there, unless the policy has the URL of a Redis. All calls of
/// a Worker must pass the same text: the first one is used.
///
/// If the policy is bad, all its errors are logged, and every request passes.
///
/// The handler takes and returns what a function under `#[event(fetch)]` may. A limit of requests in flight holds its
/// permits until the last byte of the response is sent. The handler is dropped if the client goes away.
///
/// # Errors
/// The handler's error, for a request that simply passes. If the policy inspects the response, the error is logged
/// instead, and the client gets a 503, as for an upstream that does not answer.
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
    // Called at most once: by the task that forwards the request, or below.
    let handle = Rc::new(Cell::new(Some((handler, env, bindings::same(&ctx)))));
    let handles: Handler = {
        let handle = Rc::clone(&handle);
        Rc::new(move |request| match handle.take() {
            Some((handler, env, ctx)) => promised(serve(handler, raw(request), env, ctx)),
            None => Promise::reject(&"the handler has answered already".into()),
        })
    };
    let (handle, fields) = match resolve(&asked, &bindings, &ctx, handles).await {
        Ok(Verdict::Responds(answer)) => return Ok(converted(answer)),
        Ok(Verdict::Changes(change)) => return Ok(converted(settings::store_change(&change, &bindings).await)),
        Ok(Verdict::PassesWithFields(fields)) => (handle.take(), fields.join("\n").into()),
        Ok(_) => (handle.take(), String::new()),
        Err(problem) => {
            // A body that was already sent to an upstream cannot be sent again.
            let passes = settings::on_failure() == OnFailure::Pass && !request.inner().body_used();
            let handle = handle.take().filter(|_| passes);
            let becomes = if handle.is_some() { "let pass" } else { "refused" };
            host::log_error(&format!("tidegate: the request is {becomes}: {problem:?}"));
            (handle, String::new())
        }
    };
    let Some((handler, env, ctx)) = handle else { return Ok(converted(unavailable())) };
    let answer = serve(handler, raw(&asked), env, ctx).await?;
    Ok(converted(reply::with_fields(answer.unchecked_into(), &[], &fields)))
}

/// The verdict on a request, after all waiting.
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

/// The handler's response.
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

/// The same as a promise; an error is logged.
fn promised(serving: impl Future<Output = Result<web_sys::Response>> + 'static) -> Promise {
    let promise = future_to_promise(async move {
        serving.await.map(JsValue::from).map_err(|error| {
            host::log_error(&format!("tidegate: the handler has failed: {error}"));
            JsValue::from(error)
        })
    });
    promise.unchecked_into()
}

/// Whether less than `span` lies between then and now. After a larger step back of the clock this is `false`, so that
/// nothing waits for the clock to catch up.
fn is_lately(since: Timestamp, span: Span) -> bool {
    let now = now();
    now.since(since) < span && since.since(now) < span
}

/// The response to a request that can neither be decided nor pass.
fn unavailable() -> Response {
    let lines = [("content-type", "application/json"), ("cache-control", "no-store"), ("retry-after", "1")];
    let body = JsValue::from_str(r#"{"error":"service unavailable","retryAfter":1}"#);
    reply::answer(503, "", lines.into_iter(), &body)
}

fn converted<A: From<web_sys::Response>>(answer: Response) -> A {
    answer.unchecked_into::<web_sys::Response>().into()
}

/// The request as the handler gets it: escaped, so that a handler that parses the URL sees the path that the limits
/// matched.
fn raw(request: &host::Request) -> web_sys::Request {
    let request = match escaped_for_parsers(&request.url()) {
        Cow::Borrowed(_) => request.clone(),
        Cow::Owned(url) => host::Request::aimed(&url, request).unwrap_or_else(|_| request.clone()),
    };
    request.unchecked_into()
}
