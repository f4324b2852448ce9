//! Kept responses in Cloudflare's cache, which the isolates of a location share.
//!
//! They have a cache name of their own, so that a client cannot read a record by requesting its URL. Records are bytes
//! that only the core can read: Cloudflare's cache has no notion of stale responses, of ranges of them, or of what they
//! vary by.

use crate::host::{self, Cache, Response};
use crate::reply;
use crate::task::{listed, settled};
use core::cell::RefCell;
use js_sys::{Array, Promise, Uint8Array};
use tidegate::key::Seed;
use tidegate::stale::{AnswerKey, Collecting};
use tidegate::units::{Span, Timestamp};
use wasm_bindgen::{JsCast, JsValue};

/// The record under this key, as unverified bytes; `None` if there is none, or if the cache does not answer in time.
pub async fn find(origin: &str, key: AnswerKey) -> Option<Vec<u8>> {
    let cache = open().await?;
    let found = in_time(cache.find(&url(origin, key)).ok()?).await?;
    let bytes = in_time(found.dyn_into::<Response>().ok()?.array_buffer().ok()?).await?;
    Some(Uint8Array::new(&bytes).to_vec())
}

/// Stores a complete response. Returns `false` if that failed.
pub async fn keep(origin: &str, collecting: Collecting, now: Timestamp) -> bool {
    let Some(collected) = collecting.finish(SEED) else { return false };
    let Some(cache) = open().await else { return false };
    // Cached no longer than the record may be served.
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

/// Switches to the cache with this suffix. Records in the previous cache are no longer found, and expire there.
pub fn set_cache_suffix(purge: &str) {
    SUFFIX.with_borrow_mut(|name| purge.clone_into(name));
}

thread_local! {
    /// The suffix that distinguishes the current cache from earlier ones.
    static SUFFIX: RefCell<String> = const { RefCell::new(String::new()) };
}

/// The promise's value. A cache that does not answer in time counts as empty.
async fn in_time(promise: Promise) -> Option<JsValue> {
    let either = Promise::race(&Array::of2(&listed(&promise), &host::after(LOOKUP)));
    let came = settled(either).await.ok()?;
    Some(came.dyn_into::<Array>().ok()?.get(0))
}

/// The URL of a key's record. It is on the requested host, because the cache belongs to the host's zone.
fn url(origin: &str, key: AnswerKey) -> String {
    let number = u128::from_le_bytes(key.to_bytes());
    format!("{origin}/.tidegate/kept/{number:032x}")
}

/// The prefix of the cache's name.
const NAME: &str = "tidegate";

/// The timeout of each step: the client waits meanwhile, and there is no better answer to give.
const LOOKUP: Span = Span::from_secs(1);

/// The seed of the records' checksums. All isolates must be able to read records, also after a deployment, and share no
/// secret. The checksum therefore detects damage and does not prove who wrote a record. Only the zone's own Workers can
/// write to its caches.
pub const SEED: Seed = Seed::new([0, 0]);
