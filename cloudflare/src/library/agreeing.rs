//! Asks the authority over breakers that are shared, Redis or a Durable Object, what stands, and tells it what has happened here. No
//! request waits for that.

use super::bindings::{Authority, Bindings, settled, within};
use super::driving::alone;
use super::is_lately;
use super::sharing::TOLD_EVERY;
use crate::agreeing::{Conference, Reports};
use crate::host::{self, put};
use crate::{isolate, now};
use core::cell::Cell;
use js_sys::{Object, Uint8Array};
use tidegate::units::{Span, Timestamp};
use wasm_bindgen::{JsCast, JsValue};
use worker::Context;

thread_local! {
    static LOOKED: Cell<Option<Timestamp>> = const { Cell::new(None) };
    /// When somebody last began to see to what is to be told, of whom there is one at a time.
    static ATTENDED: Cell<Option<Timestamp>> = const { Cell::new(None) };
    static TOLD: Cell<Option<Timestamp>> = const { Cell::new(None) };
}

/// Sends a round of reports, if it is time for one: after a request, since nothing else wakes an isolate.
pub fn confer(bindings: &Bindings, ctx: &Context) {
    if let Some(round) = due() {
        let authority = bindings.authority.clone();
        ctx.wait_until(async move { run(round, authority.as_ref()).await });
    }
    attend(bindings, ctx);
}

/// The core says when a round is due: it need not be asked for each request.
fn due() -> Option<Conference> {
    if LOOKED.get().is_some_and(|looked| is_lately(looked, LOOKS_EVERY)) {
        return None;
    }
    LOOKED.set(Some(now()));
    isolate::confer(now())
}

/// Sees to it that what has happened here is told, also when no other request comes.
fn attend(bindings: &Bindings, ctx: &Context) {
    if ATTENDED.get().is_some_and(|since| is_lately(since, ATTENDS)) || !isolate::tells(now()) {
        return;
    }
    let mine = Some(now());
    ATTENDED.set(mine);
    let authority = bindings.authority.clone();
    ctx.wait_until(async move {
        while ATTENDED.get() == mine && mine.is_some_and(|since| is_lately(since, ATTENDS)) && isolate::tells(now()) {
            let _ = settled(host::after(LOOKS_EVERY)).await;
            if let Some(round) = due() {
                run(round, authority.as_ref()).await;
            }
        }
        if ATTENDED.get() == mine {
            ATTENDED.set(None);
        }
    });
}

async fn run(round: Conference, authority: Option<&Authority>) {
    let reports = match round {
        Conference::Redis(call) => return alone(call).await,
        Conference::Object(reports) => reports,
    };
    let standings = ask(&reports, authority).await;
    if let Err(error) = &standings
        && !TOLD.get().is_some_and(|told| is_lately(told, TOLD_EVERY))
    {
        TOLD.set(Some(now()));
        host::log_error(&format!("tidegate: the authority over shared breakers cannot be asked: {error:?}"));
    }
    reports.done(standings.ok().as_deref(), now());
}

async fn ask(reports: &Reports, authority: Option<&Authority>) -> Result<Vec<u8>, JsValue> {
    let Some(authority) = authority else { return Err("there is no Durable Object".into()) };
    let init = Object::new();
    put(&init, "method", &"POST".into());
    put(&init, "body", &Uint8Array::from(&*reports.message()));
    let answer = within(LONGEST, &authority.object("breakers")?.fetch(URL, &init)?).await?;
    let answer: host::Response = answer.dyn_into()?;
    if answer.status() != 200 {
        return Err(format!("status {}", answer.status()).into());
    }
    let bytes = within(LONGEST, &answer.array_buffer()?).await?;
    Ok(Uint8Array::new(&bytes).to_vec())
}

/// What the object is asked by for breakers.
const URL: &str = "https://authority/breakers";
const LOOKS_EVERY: Span = Span::from_millis(100);
/// What has not come by then is asked anew.
const LONGEST: Span = Span::from_secs(1);
/// After so long somebody else sees to it: no request lasts for ever.
const ATTENDS: Span = Span::from_secs(5);
