//! Asks the authority over limits that are shared, which is a Durable Object for each part of the keys, or Redis. The core says what to
//! ask.

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

/// Sends what there is to be asked. The promise is kept when all of it is answered, or will not be.
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
                    // Asks for which there was no room meanwhile.
                    let _ = send_asks(&bindings, &ctx);
                }));
            }
        }
    }
    if sent.length() == 0 {
        return Promise::resolve(&JsValue::UNDEFINED);
    }
    let sent = Promise::all(&sent);
    // Also when the client goes away: what is granted then serves the next one.
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

/// The verdict on a request that waits for the authority. `sent` are the asks that it has made itself.
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
        // It may have to ask again.
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

/// The answer to an ask. One that comes after the request's deadline still is one.
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
    /// When somebody last began to see to what is due, of whom there is one at a time, and under which number.
    static TENDING: Cell<Option<(Timestamp, u32)>> = const { Cell::new(None) };
    /// When the last error was told: an authority that fails does so many times.
    static LOGGED: Cell<Option<Timestamp>> = const { Cell::new(None) };
    static NUMBER: Cell<u32> = const { Cell::new(0) };
}

/// Sees to it that permits which are not used are given back.
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

/// As many objects share the keys as those of the Worker that `entry.mjs` deploys.
const SHARDS: u32 = 32;
/// What an object is asked by. Nobody looks at it.
const URL: &str = "https://authority/";
/// So long an answer is awaited that no request waits for any more.
const ANSWER_TIMEOUT: Span = Span::from_secs(5);
/// A request that waits for what another one has asked looks so often.
const POLLED_EVERY: Span = Span::from_millis(2);
/// Longer than the deadline by so much no verdict takes, or something has gone wrong.
const GRACE: Span = Span::from_secs(1);
/// After so long somebody else sees to what is due: no request lasts for ever.
const TENDED_FOR: Span = Span::from_secs(20);
pub const LOGGED_EVERY: Span = Span::from_secs(10);
