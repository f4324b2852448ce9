//! Breaker states that isolates and locations publish to each other through KV, all under one key.

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

/// Reads the published breaker states and applies them.
pub async fn receive(kv: &Kv) {
    match read(kv).await {
        Ok(Some(text)) => isolate::receive_breakers(&text, now()),
        Ok(None) => {}
        Err(error) => host::log_error(&format!("tidegate: breakers of other locations are not heard: {error:?}")),
    }
}

/// Publishes breaker states if a breaker here has opened or closed, at most once a second.
pub fn publish(kv: &Kv, ctx: &Context) {
    if PUBLISHED.get().is_some_and(|published| is_lately(published, PUBLISHED_EVERY)) || !isolate::has_breaker_changes()
    {
        return;
    }
    PUBLISHED.set(Some(now()));
    let kv = kv.clone();
    ctx.wait_until(async move {
        if let Err(error) = write(&kv).await {
            // KV accepts one write per second and key, and another location may have used it.
            host::log_warning(&format!("tidegate: other locations are told of breakers later: {error:?}"));
            isolate::publishing_failed();
        }
    });
}

async fn write(kv: &Kv) -> Result<(), JsValue> {
    // Merge first: writing replaces the states that others have published meanwhile.
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
/// KV accepts one write per second and key.
const PUBLISHED_EVERY: Span = Span::from_secs(1);
