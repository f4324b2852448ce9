//! What workerd knows of a request, in the core's terms.

use crate::host::Request;
use std::borrow::Cow;
use std::cell::OnceCell;
use tidegate::request::RequestFacts;

/// The request at hand. Each fact is asked for when the policy needs it.
pub struct Facts<'a> {
    request: &'a Request,
    url: OnceCell<String>,
}

impl<'a> Facts<'a> {
    /// Nothing has been asked of the request yet.
    pub fn new(request: &'a Request) -> Self {
        Self { request, url: OnceCell::new() }
    }

    /// The URL behind its scheme: workerd makes every request's URL absolute, and its path percent-encoded.
    fn url(&self) -> &str {
        let url = self.url.get_or_init(|| self.request.url());
        url.split_once("://").map_or("", |(_, rest)| rest)
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
        Cow::Borrowed(self.url().get(self.path_start()..).unwrap_or("/").as_bytes())
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

    fn country(&self) -> Option<Cow<'_, [u8]>> {
        self.request.cf()?.country().map(owned)
    }
}

fn owned<'a>(text: String) -> Cow<'a, [u8]> {
    Cow::Owned(text.into_bytes())
}
