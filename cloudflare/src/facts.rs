//! A request and its response as workerd gives them, in the core's terms.

use crate::host::{Request, Response, put};
use js_sys::Object;
use std::borrow::Cow;
use std::cell::OnceCell;
use tidegate::request::{Locality, RequestFacts, ResponseFacts};
use wasm_bindgen::JsValue;

/// The request at hand. Each fact is read only when the policy needs it.
pub struct Facts<'a> {
    request: &'a Request,
    url: OnceCell<String>,
}

impl<'a> Facts<'a> {
    /// Wraps a request. Nothing is read yet.
    pub fn new(request: &'a Request) -> Self {
        Self { request, url: OnceCell::new() }
    }

    /// The URL after its scheme. workerd makes every request's URL absolute and percent-encodes its path.
    fn url(&self) -> &str {
        let url = self.url.get_or_init(|| self.request.url());
        url.split_once(':').and_then(|(_, rest)| rest.strip_prefix("//")).unwrap_or_default()
    }

    /// The path and the query, as in the URL.
    pub fn target(&self) -> &str {
        self.url().get(self.path_start()..).unwrap_or("/")
    }

    /// The scheme and the host.
    pub fn origin(&self) -> &str {
        let behind = self.target().len();
        let url = self.url.get().map_or("", String::as_str);
        url.get(..url.len().saturating_sub(behind)).unwrap_or(url)
    }

    fn path_start(&self) -> usize {
        let url = self.url();
        url.find(['/', '?']).unwrap_or(url.len())
    }
}

impl RequestFacts for Facts<'_> {
    fn method(&self) -> Cow<'_, [u8]> {
        owned(self.request.method())
    }

    fn path(&self) -> Cow<'_, [u8]> {
        Cow::Borrowed(self.target().as_bytes())
    }

    fn authority(&self) -> Cow<'_, [u8]> {
        Cow::Borrowed(self.url().get(..self.path_start()).unwrap_or_default().as_bytes())
    }

    /// The platform sets `cf-connecting-ip` and overwrites what a client sends under the name.
    fn peer(&self) -> Option<Cow<'_, [u8]>> {
        self.header("cf-connecting-ip")
    }

    fn header(&self, name: &str) -> Option<Cow<'_, [u8]>> {
        self.request.headers().get(name).map(owned)
    }

    fn locality(&self, kind: Locality) -> Option<Cow<'_, [u8]>> {
        let cf = self.request.cf()?;
        match kind {
            Locality::Country => cf.country(),
            // A region code alone may exist in several countries.
            Locality::Region => Some([cf.country()?, cf.region_code()?].join("-")),
            Locality::Colo => cf.colo(),
        }
        .map(owned)
    }
}

/// The response to a request.
pub struct Answer<'a>(pub &'a Response);

impl ResponseFacts for Answer<'_> {
    fn status(&self) -> Option<u16> {
        Some(self.0.status())
    }

    fn header(&self, name: &str) -> Option<Cow<'_, [u8]>> {
        self.0.answer_headers().get(name).map(owned)
    }
}

/// A response of which only the status matters; `None` if the client or the upstream went away before there was one.
pub struct Status(pub Option<u16>);

impl ResponseFacts for Status {
    fn status(&self) -> Option<u16> {
        self.0
    }

    fn header(&self, _name: &str) -> Option<Cow<'_, [u8]>> {
        None
    }
}

/// The request with an empty body removed: workerd gives it a body if its length says 0, and a request with a body is
/// sent only once.
pub fn without_empty_body(request: &Request) -> Request {
    let is_empty = request.headers().get("content-length").as_deref() == Some("0");
    let bare = is_empty.then(|| {
        let fields = Object::new();
        put(&fields, "body", &JsValue::NULL);
        Request::with(request, &fields).ok()
    });
    bare.flatten().unwrap_or_else(|| request.clone())
}

fn owned<'a>(text: String) -> Cow<'a, [u8]> {
    Cow::Owned(text.into_bytes())
}
