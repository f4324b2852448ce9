//! The calls into workerd. They are declared here instead of taken from `web-sys` or the `worker` crate, whose
//! conversions and tables cost more than a decision.
//!
//! What must happen even if the instance fails, such as ending a call at its timeout, is left to workerd's own
//! functions.

use crate::names;
use js_sys::{Array, Function, JsString, Object, Promise, Reflect, Uint8Array};
use tidegate::store::redis::HttpRequest;
use tidegate::units::Span;
use wasm_bindgen::prelude::*;

#[wasm_bindgen]
extern "C" {
    /// The request as workerd passes it.
    #[derive(Clone)]
    pub type Request;

    /// The same request for another URL. Throws if the URL is invalid.
    #[wasm_bindgen(constructor, catch)]
    pub fn aimed(url: &str, request: &Request) -> Result<Request, JsValue>;

    /// The request with these fields replaced.
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

    /// `null` if there is none.
    #[wasm_bindgen(method, getter, structural)]
    pub fn body(this: &Request) -> JsValue;

    /// Cloudflare's data about the connection; absent outside of its network.
    #[wasm_bindgen(method, getter, structural)]
    pub fn cf(this: &Request) -> Option<Cf>;

    /// A URL as workerd parses it.
    #[wasm_bindgen(js_name = URL)]
    pub type Url;

    /// Throws if the URL is invalid.
    #[wasm_bindgen(constructor, js_class = "URL", catch)]
    pub fn parsed(url: &str) -> Result<Url, JsValue>;

    #[wasm_bindgen(method, getter, structural, js_class = "URL")]
    pub fn pathname(this: &Url) -> String;

    #[wasm_bindgen(method, getter, structural, js_class = "URL")]
    pub fn search(this: &Url) -> String;

    pub type Headers;

    #[wasm_bindgen(method, structural, js_name = get)]
    fn value(this: &Headers, name: &JsString) -> Option<String>;

    /// Keeps existing values.
    #[wasm_bindgen(method, structural, catch)]
    pub fn append(this: &Headers, name: &str, value: &str) -> Result<(), JsValue>;

    /// Replaces existing values.
    #[wasm_bindgen(method, structural, catch)]
    pub fn set(this: &Headers, name: &str, value: &str) -> Result<(), JsValue>;

    pub type Cf;

    #[wasm_bindgen(method, getter, structural)]
    pub fn country(this: &Cf) -> Option<String>;

    /// The ISO 3166-2 code without the country.
    #[wasm_bindgen(method, getter, structural, js_name = regionCode)]
    pub fn region_code(this: &Cf) -> Option<String>;

    #[wasm_bindgen(method, getter, structural)]
    pub fn colo(this: &Cf) -> Option<String>;

    /// A response, the upstream's or our own.
    #[derive(Clone)]
    pub type Response;

    #[wasm_bindgen(constructor)]
    pub fn new(body: &JsValue, init: &JsValue) -> Response;

    /// A copy of an upstream's response with this body. Throws, and leaves the body untouched, if the status is below
    /// 200 or above 599, or if there are control characters next to it: an upstream may send these, but a response
    /// cannot be made with them.
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

    /// The response stored under this URL; `undefined` if there is none.
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

    /// Resolves to an object with the next chunk as its `value`; at the end it has none.
    #[wasm_bindgen(method, structural)]
    pub fn read(this: &Reader) -> Promise;

    #[wasm_bindgen(method, structural)]
    pub fn cancel(this: &Reader) -> Promise;

    #[wasm_bindgen(method, structural, catch, js_name = pipeTo)]
    fn pipe_to(this: &Body, writable: &JsValue, options: &Object) -> Result<Promise, JsValue>;

    /// Passes on the bytes written to it, whose number is unknown.
    type IdentityTransformStream;

    #[wasm_bindgen(constructor)]
    fn new() -> IdentityTransformStream;

    /// Passes on exactly this many bytes.
    type FixedLengthStream;

    #[wasm_bindgen(constructor)]
    fn new(length: f64) -> FixedLengthStream;

    type AbortController;

    #[wasm_bindgen(constructor)]
    fn new() -> AbortController;

    #[wasm_bindgen(method, getter, structural, js_name = signal)]
    fn own_signal(this: &AbortController) -> AbortSignal;

    pub type AbortSignal;

    /// Aborts when any of the signals does.
    #[wasm_bindgen(static_method_of = AbortSignal)]
    fn any(signals: &Array) -> AbortSignal;

    /// Aborts after this time.
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

    /// A promise that continues with a function of workerd's.
    type Settling;

    /// The same promise; `then` is called when it settles.
    #[wasm_bindgen(method, structural)]
    fn finally(this: &Settling, then: &Function) -> Promise;

    /// Resolves after this time.
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

/// A call to an upstream: its response, and whether it timed out.
pub struct Call {
    pub answer: Promise,
    timeout: AbortSignal,
}

impl Call {
    /// Sends the request, with Cloudflare's options for its response. The call is aborted if the client goes away, or
    /// if the response has not begun within `timeout`.
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
            // The timer is cleared by workerd and not by the instance, which may have failed by then: a response that
            // began in time must not be cut off.
            let timer = set_timeout(&abort.bind0(&controller), millis(timeout));
            let clear = CLEAR_TIMEOUT.with(|clear| clear.bind1(&JsValue::UNDEFINED, &timer));
            answer = answer.unchecked_into::<Settling>().finally(clear.unchecked_ref());
        }
        Self { answer, timeout: signal }
    }

    /// Whether the call was aborted because the response had not begun in time.
    pub fn timed_out(&self) -> bool {
        self.timeout.aborted()
    }
}

impl Headers {
    /// The values of a repeated header, joined by `, `.
    pub fn get(&self, name: &str) -> Option<String> {
        names::with(name, |name| self.value(name))
    }
}

impl Body {
    /// The same bytes, and a promise that settles when the last one is sent or the client is gone. `length` is their
    /// number, if known.
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

    /// The same bytes twice. Bytes that only one reader has read so far are held in memory.
    pub fn twice(&self) -> Option<(Body, Body)> {
        let both = self.tee().ok()?;
        Some((both.get(0).unchecked_into(), both.get(1).unchecked_into()))
    }

    /// Cancels the body, which frees the connection for other requests.
    pub fn discard(&self) {
        // A body that is being read stays untouched.
        let _ = self.cancel();
    }
}

/// The chunk that a reader has read; `None` at the end.
pub fn piece(read: &JsValue) -> Option<Uint8Array> {
    Reflect::get(read, &"value".into()).ok()?.dyn_into().ok()
}

impl Response {
    /// The header lines, with names in lower case.
    pub fn lines(&self) -> Vec<(String, String)> {
        let text = |line: &Array, at| line.get(at).as_string().unwrap_or_default();
        let lines = Array::from(&self.answer_headers());
        lines.iter().map(|line| line.unchecked_into::<Array>()).map(|line| (text(&line, 0), text(&line, 1))).collect()
    }
}

/// Sends a request to a store. The whole answer must arrive within `timeout`.
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
    // A redirect must not receive the token.
    put(&init, "redirect", &"manual".into());
    put(&init, "signal", &AbortSignal::timeout(millis(timeout)));
    fetch_from(url, &init)
}

/// Whether an object has a field of this name that is not `undefined`.
pub fn has(object: &JsValue, name: &str) -> bool {
    Reflect::get(object, &name.into()).is_ok_and(|value| !value.is_undefined())
}

/// Resolves after this time.
pub fn after(span: Span) -> Promise {
    wait(millis(span))
}

/// Sets a field of a plain object, which cannot fail.
pub fn put(object: &Object, name: &str, value: &JsValue) {
    let _ = Reflect::set(object, &name.into(), value);
}

/// Rounded up to whole milliseconds, at least one: workerd's clock has no less.
fn millis(span: Span) -> f64 {
    span.as_nanos().div_ceil(1_000_000).max(1) as f64
}
