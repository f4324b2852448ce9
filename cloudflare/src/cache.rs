//! Kept answers in Cloudflare's cache, which the isolates of a location share.
//!
//! A cache of a name of its own, so that no client can have a record by asking for its address. Records stand in it as bytes that
//! only the core can read: Cloudflare's cache knows nothing of stale answers, of ranges of them, or of what they vary by.

use crate::host::{self, Cache, Response};
use crate::reply;
use crate::task::{listed, settled};
use core::cell::RefCell;
use js_sys::{Array, Promise, Uint8Array};
use tidegate::key::Seed;
use tidegate::stale::{AnswerKey, Collecting};
use tidegate::units::{Span, Timestamp};
use wasm_bindgen::{JsCast, JsValue};

/// The record under this key, as bytes that may be anything; `None` when there is none, or it cannot be had in time.
pub async fn find(origin: &str, key: AnswerKey) -> Option<Vec<u8>> {
    let cache = open().await?;
    let found = in_time(cache.find(&url(origin, key)).ok()?).await?;
    let bytes = in_time(found.dyn_into::<Response>().ok()?.array_buffer().ok()?).await?;
    Some(Uint8Array::new(&bytes).to_vec())
}

/// Keeps a whole answer. `false` when it could not be.
pub async fn keep(origin: &str, collecting: Collecting, now: Timestamp) -> bool {
    let Some(collected) = collecting.finish(SEED) else { return false };
    let Some(cache) = open().await else { return false };
    // Until it may not be served any more, and no longer.
    let lifetime = format!("max-age={}", collected.until.since(now).as_secs_ceil().max(1));
    let lines = [("content-type", "application/octet-stream"), ("cache-control", lifetime.as_str())];
    let body = Uint8Array::from(collected.bytes.as_slice());
    let record = reply::answer(200, "", lines.into_iter(), &body);
    match cache.keep(&url(origin, collected.key), &record) {
        Ok(kept) => settled(listed(&kept)).await.is_ok(),
        Err(_) => false,
    }
}

async fn open() -> Option<Cache> {
    let name = SUFFIX.with_borrow(|purge| [NAME, purge].concat());
    in_time(host::open_cache(&name)).await.map(JsCast::unchecked_into)
}

/// Has answers kept in another cache: what is in the one before is not found any more, and goes in time.
pub fn set_cache_suffix(purge: &str) {
    SUFFIX.with_borrow_mut(|name| purge.clone_into(name));
}

thread_local! {
    /// What distinguishes the cache in use from those before.
    static SUFFIX: RefCell<String> = const { RefCell::new(String::new()) };
}

/// The promise's value. A cache that does not answer is as good as an empty one.
async fn in_time(promise: Promise) -> Option<JsValue> {
    let either = Promise::race(&Array::of2(&listed(&promise), &host::after(LOOKUP)));
    let came = settled(either).await.ok()?;
    Some(came.dyn_into::<Array>().ok()?.get(0))
}

/// Where the record of a key stands. Below the host that was asked: the cache is that of its zone.
fn url(origin: &str, key: AnswerKey) -> String {
    let number = u128::from_le_bytes(key.to_bytes());
    format!("{origin}/.tidegate/kept/{number:032x}")
}

/// What the cache's name begins with.
const NAME: &str = "tidegate";

/// How long the cache has for a step. The client is waiting, and whoever asks has nothing better.
const LOOKUP: Span = Span::from_secs(1);

/// Under which records are sealed. All isolates have to read them, now and after a deployment, and have no secret in common: the
/// seal shows damage here and is no proof of who wrote it. The zone's own Workers alone can write to its caches.
pub const SEED: Seed = Seed::new([0, 0]);
