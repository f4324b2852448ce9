//! A request as it was sent to its upstream. Envoy shows a request's headers only during the request phase, but sending
//! it again or answering it with a kept response needs them later.

use crate::host::{self, HostError, Map};
use std::borrow::Cow;
use tidegate::fallback::forwarding;
use tidegate::request::RequestFacts;

/// The header lines of a request, as the host gave them.
pub struct Saved(Vec<u8>);

impl Saved {
    /// Saves the request of the current stream.
    pub fn new() -> Result<Self, HostError> {
        host::header_lines(Map::Request).map(Self)
    }

    /// The lines to send to a further upstream.
    pub fn to_send(&self) -> Vec<(&[u8], &[u8])> {
        forwarding::request(&host::lines(&self.0).collect::<Vec<_>>())
    }
}

impl RequestFacts for Saved {
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
        None
    }

    fn header(&self, name: &str) -> Option<Cow<'_, [u8]>> {
        // Envoy's header names are in lower case.
        let mut values = host::lines(&self.0).filter(|(other, _)| *other == name.as_bytes()).map(|(_, value)| value);
        let first = values.next()?;
        let rest: Vec<&[u8]> = values.collect();
        if rest.is_empty() {
            return Some(Cow::Borrowed(first));
        }
        Some(Cow::Owned([&[first], rest.as_slice()].concat().join(b",".as_slice())))
    }
}
