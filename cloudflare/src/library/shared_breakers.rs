//! Exchanges the state of shared breakers with their authority, which is Redis or a Durable Object: sends reports of
//! local calls and receives the agreed states. No request waits for this.

use super::bindings::{Authority, Bindings, settled, with_timeout};
use super::driving::run_in_background;
use super::is_lately;
use super::shared_limits::LOGGED_EVERY;
use crate::host::{self, put};
use crate::shared_breakers::{ReportRound, Reports};
use crate::{isolate, now};
use core::cell::Cell;
use js_sys::{Object, Uint8Array};
use tidegate::units::{Span, Timestamp};
use wasm_bindgen::{JsCast, JsValue};
use worker::Context;

thread_local! {
    static POLLED: Cell<Option<Timestamp>> = const { Cell::new(None) };
    /// When the last background reporter started. Only one runs at a time.
    static REPORTING: Cell<Option<Timestamp>> = const { Cell::new(None) };
    static LOGGED: Cell<Option<Timestamp>> = const { Cell::new(None) };
}

/// Sends a round of reports if one is due. Called after requests, because nothing else wakes an isolate.
pub fn send_reports(bindings: &Bindings, ctx: &Context) {
    if let Some(round) = due_round() {
        let authority = bindings.authority.clone();
        ctx.wait_until(async move { exchange(round, authority.as_ref()).await });
    }
    report_in_background(bindings, ctx);
}

/// The round that the core wants to send now, if any. Polled at most every 100 ms instead of on each request.
fn due_round() -> Option<ReportRound> {
    if POLLED.get().is_some_and(|polled| is_lately(polled, POLLED_EVERY)) {
        return None;
    }
    POLLED.set(Some(now()));
    isolate::due_round(now())
}

/// Keeps sending reports in the background while there are any, even if no further request arrives.
fn report_in_background(bindings: &Bindings, ctx: &Context) {
    if REPORTING.get().is_some_and(|since| is_lately(since, REPORTED_FOR)) || !isolate::has_reports(now()) {
        return;
    }
    let mine = Some(now());
    REPORTING.set(mine);
    let authority = bindings.authority.clone();
    ctx.wait_until(async move {
        while REPORTING.get() == mine
            && mine.is_some_and(|since| is_lately(since, REPORTED_FOR))
            && isolate::has_reports(now())
        {
            let _ = settled(host::after(POLLED_EVERY)).await;
            if let Some(round) = due_round() {
                exchange(round, authority.as_ref()).await;
            }
        }
        if REPORTING.get() == mine {
            REPORTING.set(None);
        }
    });
}

async fn exchange(round: ReportRound, authority: Option<&Authority>) {
    let reports = match round {
        ReportRound::Redis(call) => return run_in_background(call).await,
        ReportRound::Object(reports) => reports,
    };
    let standings = answer_to(&reports, authority).await;
    if let Err(error) = &standings
        && !LOGGED.get().is_some_and(|logged| is_lately(logged, LOGGED_EVERY))
    {
        LOGGED.set(Some(now()));
        host::log_error(&format!("tidegate: the authority over shared breakers cannot be asked: {error:?}"));
    }
    reports.done(standings.ok().as_deref(), now());
}

async fn answer_to(reports: &Reports, authority: Option<&Authority>) -> Result<Vec<u8>, JsValue> {
    let Some(authority) = authority else { return Err("there is no Durable Object".into()) };
    let init = Object::new();
    put(&init, "method", &"POST".into());
    put(&init, "body", &Uint8Array::from(&*reports.message()));
    let answer = with_timeout(ANSWER_TIMEOUT, &authority.object("breakers")?.fetch(URL, &init)?).await?;
    let answer: host::Response = answer.dyn_into()?;
    if answer.status() != 200 {
        return Err(format!("status {}", answer.status()).into());
    }
    let bytes = with_timeout(ANSWER_TIMEOUT, &answer.array_buffer()?).await?;
    Ok(Uint8Array::new(&bytes).to_vec())
}

/// The URL by which the object is asked for breakers.
const URL: &str = "https://authority/breakers";
const POLLED_EVERY: Span = Span::from_millis(100);
/// A round without an answer by then is repeated by the next one.
const ANSWER_TIMEOUT: Span = Span::from_secs(1);
/// Then a later request takes over, because the runtime does not keep a request alive forever.
const REPORTED_FOR: Span = Span::from_secs(5);
