//! What Envoy knows of a request and of its answer, in the core's terms.

use crate::host::{self, Map};
use std::borrow::Cow;
use tidegate::request::{RequestFacts, ResponseFacts};
use tidegate::units::Span;

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
        // Asked for in the cheaper way, Envoy gives the first line of a header alone, which is the client's where a proxy
        // has added one behind it.
        if !ONE_LINE.contains(&name) {
            return host::request_header(name).ok().flatten().map(Cow::Owned);
        }
        host::header(Map::Request, name).ok().flatten().map(Cow::Owned)
    }
}

/// The answer of the stream that Envoy is working on.
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

/// How long an upstream took to answer: Envoy's own, from the end of the request to the beginning of the answer, and only when
/// they came in this order.
pub fn upstream_time(answer: &dyn ResponseFacts) -> Option<Span> {
    let ms: u64 = str::from_utf8(&answer.header("x-envoy-upstream-service-time")?).ok()?.parse().ok()?;
    // It rounds down to whole milliseconds: half of one is what it leaves out on average.
    Some(Span::from_nanos(ms.saturating_mul(1_000_000).saturating_add(500_000)))
}

/// What a stream has in place of an answer when its client went away before.
pub struct NoAnswer;

impl ResponseFacts for NoAnswer {
    fn status(&self) -> Option<u16> {
        None
    }

    fn header(&self, _name: &str) -> Option<Cow<'_, [u8]>> {
        None
    }
}

/// An answer of which the status alone is of interest.
pub struct Status(pub u16);

impl ResponseFacts for Status {
    fn status(&self) -> Option<u16> {
        Some(self.0)
    }

    fn header(&self, _name: &str) -> Option<Cow<'_, [u8]>> {
        None
    }
}

/// Headers of which Envoy keeps one line: it joins those of a repeated `x-forwarded-for` itself.
const ONE_LINE: [&str; 4] = [":method", ":path", ":authority", "x-forwarded-for"];
