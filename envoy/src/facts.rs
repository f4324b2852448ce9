//! A request and its response as Envoy gives them, in the core's terms.

use crate::host::{self, Map};
use std::borrow::Cow;
use tidegate::request::{RequestFacts, ResponseFacts};
use tidegate::units::Span;

/// The request of the current stream. A fact that Envoy cannot give counts as absent.
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
        // The cheaper call returns only the first line of a header. If a proxy has appended a line, the first one is
        // the client's.
        if !ONE_LINE.contains(&name) {
            return host::request_header(name).ok().flatten().map(Cow::Owned);
        }
        host::header(Map::Request, name).ok().flatten().map(Cow::Owned)
    }
}

/// The response of the current stream.
pub struct Answer;

impl ResponseFacts for Answer {
    fn status(&self) -> Option<u16> {
        str::from_utf8(&self.header(":status")?).ok()?.parse().ok()
    }

    fn header(&self, name: &str) -> Option<Cow<'_, [u8]>> {
        host::header(Map::Response, name).ok().flatten().map(Cow::Owned)
    }

    fn upstream_time(&self) -> Option<Span> {
        upstream_time(self)
    }
}

/// How long an upstream took to respond, as Envoy measures it: from the end of the request to the beginning of the
/// response, and only if they came in this order.
pub fn upstream_time(answer: &dyn ResponseFacts) -> Option<Span> {
    let ms: u64 = str::from_utf8(&answer.header("x-envoy-upstream-service-time")?).ok()?.parse().ok()?;
    // Envoy rounds down to whole milliseconds, by half of one on average.
    Some(Span::from_nanos(ms.saturating_mul(1_000_000).saturating_add(500_000)))
}

/// Stands for the response of a stream whose client went away before there was one.
pub struct NoAnswer;

impl ResponseFacts for NoAnswer {
    fn status(&self) -> Option<u16> {
        None
    }

    fn header(&self, _name: &str) -> Option<Cow<'_, [u8]>> {
        None
    }
}

/// A response of which only the status matters.
pub struct Status(pub u16);

impl ResponseFacts for Status {
    fn status(&self) -> Option<u16> {
        Some(self.0)
    }

    fn header(&self, _name: &str) -> Option<Cow<'_, [u8]>> {
        None
    }
}

/// Headers that Envoy keeps in one line: it joins the lines of a repeated `x-forwarded-for` itself.
const ONE_LINE: [&str; 4] = [":method", ":path", ":authority", "x-forwarded-for"];
