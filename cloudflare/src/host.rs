//! What is called of workerd, declared here and not taken from `web-sys` or the `worker` crate, whose conversions and tables cost
//! more than the decision.
//!
//! What is to happen whatever becomes of the instance, as the end of a try that takes too long, is left to functions of workerd's own.

use crate::names;
use js_sys::{Array, Function, JsString, Object, Promise, Reflect, Uint8Array};
use tidegate::store::redis::HttpRequest;
use tidegate::units::Span;
use wasm_bindgen::prelude::*;

#[wasm_bindgen]
extern "C" {
    /// The request as workerd hands it over.
    #[derive(Clone)]
    pub type Request;

    /// The request as it is, for another URL. Throws when that is none.
    #[wasm_bindgen(constructor, catch)]
    pub fn aimed(url: &str, request: &Request) -> Result<Request, JsValue>;

    /// The request with what these fields say in place of its own.
    #[wasm_bindgen(constructor, catch)]
    pub fn with(request: &Request, fields: &Object) -> Result<Request, JsValue>;

    /// Aborts when the client has gone.
    #[wasm_bindgen(method, getter, structural)]
    pub fn signal(this: &Request) -> JsValue;

    #[wasm_bindgen(method, getter, structural)]
    pub fn method(this: &Request) -> String;

    #[wasm_bindgen(method, getter, structural)]
    pub fn url(this: &Request) -> String;

    #[wasm_bindgen(method, getter, structural)]
    pub fn headers(this: &Request) -> Headers;

    /// `null` when there is none.
    #[wasm_bindgen(method, getter, structural)]
    pub fn body(this: &Request) -> JsValue;

    /// What Cloudflare knows of the connection; absent outside of its network.
    #[wasm_bindgen(method, getter, structural)]
    pub fn cf(this: &Request) -> Option<Cf>;

    /// A URL as workerd's parser reads it.
    #[wasm_bindgen(js_name = URL)]
    pub type Url;

    /// Throws when it is none.
    #[wasm_bindgen(constructor, js_class = "URL", catch)]
    pub fn parsed(url: &str) -> Result<Url, JsValue>;

    #[wasm_bindgen(method, getter, structural, js_class = "URL")]
    pub fn pathname(this: &Url) -> String;

    #[wasm_bindgen(method, getter, structural, js_class = "URL")]
    pub fn search(this: &Url) -> String;

    pub type Headers;

    #[wasm_bindgen(method, structural, js_name = get)]
    fn value(this: &Headers, name: &JsString) -> Option<String>;

    /// Values that are there stay.
    #[wasm_bindgen(method, structural, catch)]
    pub fn append(this: &Headers, name: &str, value: &str) -> Result<(), JsValue>;

    /// The value is the only one of its name.
    #[wasm_bindgen(method, structural, catch)]
    pub fn set(this: &Headers, name: &str, value: &str) -> Result<(), JsValue>;

    pub type Cf;

    #[wasm_bindgen(method, getter, structural)]
    pub fn country(this: &Cf) -> Option<String>;

    /// ISO 3166-2 without the country.
    #[wasm_bindgen(method, getter, structural, js_name = regionCode)]
    pub fn region_code(this: &Cf) -> Option<String>;

    #[wasm_bindgen(method, getter, structural)]
    pub fn colo(this: &Cf) -> Option<String>;

    /// An answer, the upstream's or one of our own.
    #[derive(Clone)]
    pub type Response;

    #[wasm_bindgen(constructor)]
    pub fn new(body: &JsValue, init: &JsValue) -> Response;

    /// One like an upstream's, with this body. Throws, and leaves the body alone, where that has a status below 200 or above 599, or
    /// control characters beside it: upstreams may, and no response can be made with them.
    #[wasm_bindgen(constructor, catch)]
    pub fn like(body: &JsValue, other: &Response) -> Result<Response, JsValue>;

    #[wasm_bindgen(method, getter, structural, js_name = body)]
    pub fn answer_body(this: &Response) -> Option<Body>;

    #[wasm_bindgen(method, structural, catch, js_name = arrayBuffer)]
    pub fn array_buffer(this: &Response) -> Result<Promise, JsValue>;

    /// A cache of the location.
    pub type Cache;

    #[wasm_bindgen(js_namespace = caches, js_name = open)]
    pub fn open_cache(name: &str) -> Promise;

    /// The response that stands under this URL; `undefined` when none does.
    #[wasm_bindgen(method, structural, catch, js_name = "match")]
    pub fn find(this: &Cache, url: &str) -> Result<Promise, JsValue>;

    #[wasm_bindgen(method, structural, catch, js_name = put)]
    pub fn keep(this: &Cache, url: &str, response: &Response) -> Result<Promise, JsValue>;

    /// A stream of bytes.
    #[derive(Clone)]
    pub type Body;

    #[wasm_bindgen(method, structural, catch)]
    fn cancel(this: &Body) -> Result<Promise, JsValue>;

    #[wasm_bindgen(method, structural, catch)]
    fn tee(this: &Body) -> Result<Array, JsValue>;

    #[wasm_bindgen(method, structural, js_name = getReader)]
    pub fn reader(this: &Body) -> Reader;

    pub type Reader;

    /// An object with the next piece as its `value`, which has none at the end.
    #[wasm_bindgen(method, structural)]
    pub fn read(this: &Reader) -> Promise;

    #[wasm_bindgen(method, structural)]
    pub fn cancel(this: &Reader) -> Promise;

    #[wasm_bindgen(method, structural, catch, js_name = pipeTo)]
    fn pipe_to(this: &Body, writable: &JsValue, options: &Object) -> Result<Promise, JsValue>;

    /// Hands on the bytes that are written to it, of which it does not know the number.
    type IdentityTransformStream;

    #[wasm_bindgen(constructor)]
    fn new() -> IdentityTransformStream;

    /// Hands on as many bytes.
    type FixedLengthStream;

    #[wasm_bindgen(constructor)]
    fn new(length: f64) -> FixedLengthStream;

    type AbortController;

    #[wasm_bindgen(constructor)]
    fn new() -> AbortController;

    #[wasm_bindgen(method, getter, structural, js_name = signal)]
    fn own_signal(this: &AbortController) -> AbortSignal;

    pub type AbortSignal;

    /// Aborts when any of them does.
    #[wasm_bindgen(static_method_of = AbortSignal)]
    fn any(signals: &Array) -> AbortSignal;

    /// Aborts after so many milliseconds.
    #[wasm_bindgen(static_method_of = AbortSignal)]
    fn timeout(millis: f64) -> AbortSignal;

    #[wasm_bindgen(method, getter, structural)]
    fn aborted(this: &AbortSignal) -> bool;

    #[wasm_bindgen(js_name = fetch)]
    fn fetch_with(request: &Request, init: &Object) -> Promise;

    #[wasm_bindgen(js_name = fetch)]
    fn fetch_from(url: &str, init: &Object) -> Promise;

    #[wasm_bindgen(js_name = setTimeout)]
    fn set_timeout(then: &Function, millis: f64) -> JsValue;

    #[wasm_bindgen(thread_local_v2, js_name = clearTimeout)]
    static CLEAR_TIMEOUT: Function;

    /// A promise, to which what comes next is a function of workerd's.
    type Settling;

    /// The same promise, after this was called.
    #[wasm_bindgen(method, structural)]
    fn finally(this: &Settling, then: &Function) -> Promise;

    /// After so long.
    #[wasm_bindgen(js_namespace = scheduler, js_name = wait)]
    fn wait(millis: f64) -> Promise;

    #[wasm_bindgen(method, getter, structural)]
    pub fn status(this: &Response) -> u16;

    #[wasm_bindgen(method, getter, structural, js_name = headers)]
    pub fn answer_headers(this: &Response) -> Headers;

    #[wasm_bindgen(js_namespace = console, js_name = log)]
    pub fn log(text: &str);

    #[wasm_bindgen(js_namespace = console, js_name = error)]
    pub fn log_error(text: &str);

    #[wasm_bindgen(js_namespace = console, js_name = warn)]
    pub fn log_warning(text: &str);
}

/// A call to an upstream: its answer, and what tells that it took too long.
pub struct Call {
    pub answer: Promise,
    timeout: AbortSignal,
}

impl Call {
    /// Asks for what the request says, and Cloudflare for what it is to do with the answer. It is given up when its client goes away, or the answer has not begun after `timeout`.
    pub fn new(request: &Request, timeout: Option<Span>, cf_options: Option<Object>) -> Self {
        let controller = AbortController::new();
        let signal = controller.own_signal();
        let init = Object::new();
        put(&init, "signal", &AbortSignal::any(&Array::of2(&signal, &request.signal())));
        if let Some(cf_options) = cf_options {
            put(&init, "cf", &cf_options);
        }
        let mut answer = fetch_with(request, &init);
        if let Some(timeout) = timeout
            && let Ok(abort) = Reflect::get(&controller, &"abort".into()).and_then(JsCast::dyn_into::<Function>)
        {
            // Not by the instance, which may have failed by then: an answer that has begun in time is not to be cut.
            let timer = set_timeout(&abort.bind0(&controller), millis(timeout));
            let clear = CLEAR_TIMEOUT.with(|clear| clear.bind1(&JsValue::UNDEFINED, &timer));
            answer = answer.unchecked_into::<Settling>().finally(clear.unchecked_ref());
        }
        Self { answer, timeout: signal }
    }

    /// Whether it was given up since the answer had not begun in time.
    pub fn took_too_long(&self) -> bool {
        self.timeout.aborted()
    }
}

impl Headers {
    /// The values of a repeated header joined by `, `.
    pub fn get(&self, name: &str) -> Option<String> {
        names::with(name, |name| self.value(name))
    }
}

impl Body {
    /// The same bytes, and when the last of them has gone, or nobody takes them any more. `length` is how many there are.
    pub fn watched(&self, length: Option<f64>, gone: &JsValue) -> Option<(Body, Promise)> {
        let between: JsValue = match length {
            Some(length) => FixedLengthStream::new(length).into(),
            None => IdentityTransformStream::new().into(),
        };
        let options = Object::new();
        put(&options, "signal", gone);
        let end = |name: &str| Reflect::get(&between, &name.into()).ok();
        let (readable, writable) = (end("readable")?, end("writable")?);
        let ended = self.pipe_to(&writable, &options).ok()?;
        Some((readable.unchecked_into(), ended))
    }

    /// The same bytes twice. What one has read and the other not is kept in memory.
    pub fn twice(&self) -> Option<(Body, Body)> {
        let both = self.tee().ok()?;
        Some((both.get(0).unchecked_into(), both.get(1).unchecked_into()))
    }

    /// Says that nobody will read it, so that the connection is free for others.
    pub fn discard(&self) {
        // One that somebody is reading stays as it is.
        let _ = self.cancel();
    }
}

/// The piece that a reader has read; `None` at the end.
pub fn piece(read: &JsValue) -> Option<Uint8Array> {
    Reflect::get(read, &"value".into()).ok()?.dyn_into().ok()
}

impl Response {
    /// Its header, line by line, names in lower case.
    pub fn lines(&self) -> Vec<(String, String)> {
        let text = |line: &Array, at| line.get(at).as_string().unwrap_or_default();
        let lines = Array::from(&self.answer_headers());
        lines.iter().map(|line| line.unchecked_into::<Array>()).map(|line| (text(&line, 0), text(&line, 1))).collect()
    }
}

/// Sends a request to a store: all of its answer has to be there in time.
pub fn post(url: &str, request: &HttpRequest<'_>, timeout: Span) -> Promise {
    let headers = Object::new();
    put(&headers, "content-type", &request.content_type.into());
    if let Some(authorization) = request.authorization {
        put(&headers, "authorization", &authorization.into());
    }
    let init = Object::new();
    put(&init, "method", &"POST".into());
    put(&init, "headers", &headers);
    put(&init, "body", &Uint8Array::from(request.body.as_slice()));
    // Whoever else it leads to is not to have the token.
    put(&init, "redirect", &"manual".into());
    put(&init, "signal", &AbortSignal::timeout(millis(timeout)));
    fetch_from(url, &init)
}

/// Whether an object has a field of this name, with a value.
pub fn has(object: &JsValue, name: &str) -> bool {
    Reflect::get(object, &name.into()).is_ok_and(|value| !value.is_undefined())
}

/// When so much time has passed.
pub fn after(span: Span) -> Promise {
    wait(millis(span))
}

/// Sets a field of a plain object, which cannot fail.
pub fn put(object: &Object, name: &str, value: &JsValue) {
    let _ = Reflect::set(object, &name.into(), value);
}

/// Up, and at least one: workerd's clock has no less.
fn millis(span: Span) -> f64 {
    span.as_nanos().div_ceil(1_000_000).max(1) as f64
}
