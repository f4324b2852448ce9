//! What Envoy knows of a request, in the core's terms.

use crate::host::{self, Map};
use std::borrow::Cow;
use tidegate::request::RequestFacts;

/// The request of the stream that Envoy is working on. A fact that Envoy cannot give counts as absent.
pub struct Facts;

impl RequestFacts for Facts {
    fn method(&self) -> Cow<'_, [u8]> {
        self.header(":method").unwrap_or_default()
    }

    fn path(&self) -> Cow<'_, [u8]> {
        self.header(":path").unwrap_or_default()
    }

    fn authority(&self) -> Cow<'_, [u8]> {
        self.header(":authority").unwrap_or_default()
    }

    fn peer(&self) -> Option<Cow<'_, [u8]>> {
        host::source_address().ok().flatten().map(Cow::Owned)
    }

    fn header(&self, name: &str) -> Option<Cow<'_, [u8]>> {
        host::header(Map::Request, name).ok().flatten().map(Cow::Owned)
    }
}
