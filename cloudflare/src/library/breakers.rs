//! What isolates and locations tell each other of their breakers, through KV: all of it under one key.

use super::bindings::{Kv, settled};
use super::is_lately;
use crate::{host, isolate, now};
use core::cell::Cell;
use tidegate::units::{Span, Timestamp};
use wasm_bindgen::JsValue;
use worker::Context;

thread_local! {
    static PUBLISHED: Cell<Option<Timestamp>> = const { Cell::new(None) };
}

/// Lets breakers learn what others have told.
pub async fn receive(kv: &Kv) {
    match read(kv).await {
        Ok(Some(text)) => isolate::receive_breakers(&text, now()),
        Ok(None) => {}
        Err(error) => host::log_error(&format!("tidegate: breakers of other locations are not heard: {error:?}")),
    }
}

/// Tells others when a breaker here has opened or closed, at most once a second.
pub fn publish(kv: &Kv, ctx: &Context) {
    if PUBLISHED.get().is_some_and(|published| is_lately(published, PUBLISHED_EVERY)) || !isolate::has_breaker_changes()
    {
        return;
    }
    PUBLISHED.set(Some(now()));
    let kv = kv.clone();
    ctx.wait_until(async move {
        if let Err(error) = write(&kv).await {
            // KV takes one write a second for a key, and another location may have had it.
            host::log_warning(&format!("tidegate: other locations are told of breakers later: {error:?}"));
            isolate::publishing_failed();
        }
    });
}

async fn write(kv: &Kv) -> Result<(), JsValue> {
    // What others have told meanwhile stays.
    if let Some(text) = read(kv).await? {
        isolate::receive_breakers(&text, now());
    }
    if let Some(text) = isolate::breakers_to_publish(now()) {
        settled(kv.put(KEY, &text)?).await?;
        isolate::receive_breakers(&text, now());
    }
    Ok(())
}

async fn read(kv: &Kv) -> Result<Option<String>, JsValue> {
    Ok(settled(kv.get(KEY)?).await?.as_string())
}

const KEY: &str = "breakers";
/// As often as KV takes it.
const PUBLISHED_EVERY: Span = Span::from_secs(1);
