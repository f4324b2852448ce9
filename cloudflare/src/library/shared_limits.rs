//! Sends asks for shared limits to their authority: Redis, or one Durable Object per shard of the keys. The core
//! determines the asks.

use super::bindings::{Authority, Bindings, same, settled, wait_at_most, with_timeout};
use super::driving::{ClientAbort, client_gone, run_in_background};
use super::is_lately;
use crate::host::{self, Request, put};
use crate::shared_limits::{Asks, GrantWait, ObjectAsk};
use crate::verdict::Verdict;
use crate::{isolate, now};
use core::cell::Cell;
use js_sys::{Array, Object, Promise, Uint8Array};
use tidegate::units::{Span, Timestamp};
use wasm_bindgen::{JsCast, JsValue};
use worker::Context;
use worker::wasm_bindgen_futures::future_to_promise;

/// Sends the pending asks. The promise resolves when each is answered or given up.
pub fn send_asks(bindings: &Bindings, ctx: &Context) -> Promise {
    isolate::tend(now());
    let sent = Array::new();
    match isolate::asks_to_send(now()) {
        Asks::Objects(asks) => {
            for ask in asks {
                let authority = bindings.authority.clone();
                sent.push(&promised(async move { ask_object(ask, authority.as_ref()).await }));
            }
        }
        Asks::Redis(calls) => {
            for call in calls {
                let (bindings, ctx) = (bindings.clone(), same(ctx));
                sent.push(&promised(async move {
                    run_in_background(call).await;
                    // The asks that had no room in earlier calls.
                    let _ = send_asks(&bindings, &ctx);
                }));
            }
        }
    }
    if sent.length() == 0 {
        return Promise::resolve(&JsValue::UNDEFINED);
    }
    let sent = Promise::all(&sent);
    // Continues if the client goes away: the grants then serve later requests.
    let all = sent.clone();
    ctx.wait_until(async move {
        let _ = settled(all).await;
    });
    tend_in_background(bindings, ctx);
    sent
}

fn promised(step: impl Future<Output = ()> + 'static) -> JsValue {
    let step = async move {
        step.await;
        Ok(JsValue::UNDEFINED)
    };
    future_to_promise(step).into()
}

/// Waits for the verdict on a request that needs the authority's answer. `sent` are the asks that this request has
/// sent.
///
/// # Errors
/// There was none within the deadline.
pub async fn await_grant(
    mut wait: GrantWait,
    request: &Request,
    sent: Promise,
    bindings: &Bindings,
    ctx: &Context,
) -> Result<Verdict, JsValue> {
    let abort = ClientAbort::of(request);
    let deadline = Span::from_millis(u64::from(wait.deadline_ms()));
    let last = now().after(deadline).after(GRACE);
    wait_at_most(deadline, &Promise::race(&Array::of2(&sent, &abort.promise))).await;
    while now() < last {
        if abort.has_aborted() {
            return Ok(client_gone());
        }
        let verdict = wait.verdict(request, now());
        // The new decision may need another ask.
        let _ = send_asks(bindings, ctx);
        match verdict {
            Verdict::Pending => wait_at_most(POLLED_EVERY, &abort.promise).await,
            verdict => return Ok(verdict),
        }
    }
    Err("there was no verdict within the deadline".into())
}

async fn ask_object(ask: ObjectAsk, authority: Option<&Authority>) {
    let grant = answer_to(&ask, authority).await;
    if let Err(error) = &grant {
        log_failure(error);
    }
    ask.done(grant.ok().as_deref(), now());
}

/// The answer to an ask. It still counts after the request's deadline.
async fn answer_to(ask: &ObjectAsk, authority: Option<&Authority>) -> Result<Vec<u8>, JsValue> {
    let Some(authority) = authority else { return Err("there is no Durable Object".into()) };
    let object = authority.object(&format!("shard-{}", ask.shard(SHARDS)))?;
    let init = Object::new();
    put(&init, "method", &"POST".into());
    put(&init, "body", &Uint8Array::from(&*ask.message()));
    let answer = with_timeout(ANSWER_TIMEOUT, &object.fetch(URL, &init)?).await?;
    let answer: host::Response = answer.dyn_into()?;
    if answer.status() != 200 {
        return Err(format!("status {}", answer.status()).into());
    }
    let bytes = with_timeout(ANSWER_TIMEOUT, &answer.array_buffer()?).await?;
    Ok(Uint8Array::new(&bytes).to_vec())
}

thread_local! {
    /// When the last background task started, and its number. Only one runs at a time.
    static TENDING: Cell<Option<(Timestamp, u32)>> = const { Cell::new(None) };
    /// When the last error was logged: a failing authority would otherwise flood the log.
    static LOGGED: Cell<Option<Timestamp>> = const { Cell::new(None) };
    static NUMBER: Cell<u32> = const { Cell::new(0) };
}

/// Returns unused permits to the authority in the background.
fn tend_in_background(bindings: &Bindings, ctx: &Context) {
    if TENDING.get().is_some_and(|(since, _)| is_lately(since, TENDED_FOR)) {
        return;
    }
    let mine = (now(), NUMBER.get().wrapping_add(1));
    NUMBER.set(mine.1);
    TENDING.set(Some(mine));
    let (bindings, after) = (bindings.clone(), same(ctx));
    ctx.wait_until(async move {
        while TENDING.get() == Some(mine) && is_lately(mine.0, TENDED_FOR) {
            let due = isolate::tend(now());
            let _ = send_asks(&bindings, &after);
            let Some(due) = due else { break };
            let _ = settled(host::after(Span::from_millis(u64::from(due)).max(POLLED_EVERY))).await;
        }
        if TENDING.get() == Some(mine) {
            TENDING.set(None);
        }
    });
}

fn log_failure(error: &JsValue) {
    if LOGGED.get().is_some_and(|logged| is_lately(logged, LOGGED_EVERY)) {
        return;
    }
    LOGGED.set(Some(now()));
    host::log_error(&format!("tidegate: the authority over shared limits cannot be asked: {error:?}"));
}

/// The number of objects that share the keys, the same as in the Worker that `entry.mjs` deploys.
const SHARDS: u32 = 32;
/// The URL of an ask. The object does not look at it.
const URL: &str = "https://authority/";
/// How long an answer is awaited. Requests stop waiting for it earlier, at the deadline.
const ANSWER_TIMEOUT: Span = Span::from_secs(5);
/// How often a request checks for an answer to an ask that another request has sent.
const POLLED_EVERY: Span = Span::from_millis(2);
/// A verdict that takes this much longer than the deadline will never come.
const GRACE: Span = Span::from_secs(1);
/// Then a later request takes over, because the runtime does not keep a request alive forever.
const TENDED_FOR: Span = Span::from_secs(20);
pub const LOGGED_EVERY: Span = Span::from_secs(10);
