//! The bindings of `wrangler.toml`: a KV namespace and a class of Durable Objects. They are called as promises, which
//! can be raced with a timer of workerd's.

use crate::host;
use js_sys::{Array, Promise, Reflect};
use tidegate::units::Span;
use wasm_bindgen::prelude::*;
use worker::wasm_bindgen_futures::JsFuture;
use worker::{Context, Env};

#[wasm_bindgen]
extern "C" {
    /// A KV namespace.
    #[derive(Clone)]
    pub type Kv;

    /// A promise of the text under a key, or of `null`.
    #[wasm_bindgen(method, structural, catch)]
    pub fn get(this: &Kv, key: &str) -> Result<Promise, JsValue>;

    #[wasm_bindgen(method, structural, catch)]
    pub fn put(this: &Kv, key: &str, value: &str) -> Result<Promise, JsValue>;

    #[wasm_bindgen(method, structural, catch)]
    pub fn delete(this: &Kv, key: &str) -> Result<Promise, JsValue>;

    /// A namespace of Durable Objects.
    #[derive(Clone)]
    pub type Authority;

    #[wasm_bindgen(method, structural, catch, js_name = getByName)]
    pub fn object(this: &Authority, name: &str) -> Result<Object, JsValue>;

    /// A Durable Object.
    pub type Object;

    #[wasm_bindgen(method, structural, catch)]
    pub fn fetch(this: &Object, url: &str, init: &js_sys::Object) -> Result<Promise, JsValue>;
}

/// The bindings that exist, and the whole environment.
#[derive(Clone)]
pub struct Bindings {
    pub env: JsValue,
    pub kv: Option<Kv>,
    pub authority: Option<Authority>,
}

impl Bindings {
    /// Looks up the bindings.
    pub fn of(env: &Env) -> Self {
        let bound = |name: &str| Reflect::get(env, &name.into()).ok().filter(JsValue::is_object);
        Self {
            env: env.into(),
            kv: bound("TIDEGATE").map(JsCast::unchecked_into),
            authority: bound("TIDEGATE_AUTHORITY").map(JsCast::unchecked_into),
        }
    }
}

/// A second handle to the same context, which cannot be cloned.
pub fn same(ctx: &Context) -> Context {
    let raw: &JsValue = ctx.as_ref();
    Context::new(raw.clone().unchecked_into())
}

/// Awaits a promise.
///
/// # Errors
/// What it was rejected with.
pub async fn settled(promise: Promise) -> Result<JsValue, JsValue> {
    JsFuture::from(promise).await
}

/// Awaits a promise for at most this time.
///
/// # Errors
/// What it was rejected with, or that it took too long.
pub async fn with_timeout(span: Span, promise: &Promise) -> Result<JsValue, JsValue> {
    // In a list, because the value itself may be `undefined`.
    let outcome = settled(Promise::race(&Array::of2(&Promise::all(&Array::of1(promise)), &host::after(span)))).await?;
    outcome
        .dyn_into::<Array>()
        .map(|list| list.get(0))
        .map_err(|_| format!("no answer within {} s", span.as_secs_ceil()).into())
}

/// Awaits a promise for at most this time, and ignores its outcome.
pub async fn wait_at_most(span: Span, promise: &Promise) {
    let _ = settled(Promise::race(&Array::of2(promise, &host::after(span)))).await;
}
