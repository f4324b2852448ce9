//! What isolates and locations tell each other of their breakers, through KV: all of it under one key.

use super::bindings::{Kv, settled};
use super::is_lately;
use crate::{host, isolate, now};
use core::cell::Cell;
use tidegate::units::{Span, Timestamp};
use wasm_bindgen::JsValue;
use worker::Context;

thread_local! {
    static TOLD: Cell<Option<Timestamp>> = const { Cell::new(None) };
}

/// Lets breakers learn what others have told.
pub async fn listen(kv: &Kv) {
    match heard(kv).await {
        Ok(Some(text)) => isolate::hear(&text, now()),
        Ok(None) => {}
        Err(error) => host::log_error(&format!("tidegate: breakers of other locations are not heard: {error:?}")),
    }
}

/// Tells others when a breaker here has opened or closed, at most once a second.
pub fn spread(kv: &Kv, ctx: &Context) {
    if TOLD.get().is_some_and(|told| is_lately(told, TOLD_EVERY)) || !isolate::may_have_news() {
        return;
    }
    TOLD.set(Some(now()));
    let kv = kv.clone();
    ctx.wait_until(async move {
        if let Err(error) = tell(&kv).await {
            // KV takes one write a second for a key, and another location may have had it.
            host::log_warning(&format!("tidegate: other locations are told of breakers later: {error:?}"));
            isolate::untold();
        }
    });
}

async fn tell(kv: &Kv) -> Result<(), JsValue> {
    // What others have told meanwhile stays.
    if let Some(text) = heard(kv).await? {
        isolate::hear(&text, now());
    }
    if let Some(text) = isolate::news(now()) {
        settled(kv.put(KEY, &text)?).await?;
        isolate::hear(&text, now());
    }
    Ok(())
}

async fn heard(kv: &Kv) -> Result<Option<String>, JsValue> {
    Ok(settled(kv.get(KEY)?).await?.as_string())
}

const KEY: &str = "breakers";
/// As often as KV takes it.
const TOLD_EVERY: Span = Span::from_secs(1);
