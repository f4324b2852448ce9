//! What the core may ask about a request and its response.

use std::borrow::Cow;

use crate::units::Span;

/// A borrowed view of one request, provided by the host.
///
/// Everything is bytes, because what a client sends need not be UTF-8. The core asks only for what the policy needs,
/// and for each fact at most a few times, so an adapter can pass each question on to its host.
pub trait RequestFacts {
    /// The method, as in `GET`.
    fn method(&self) -> Cow<'_, [u8]>;

    /// The path as received, with its query, as in `/api/x?page=2`.
    fn path(&self) -> Cow<'_, [u8]>;

    /// The host that the request names (`:authority` or `Host`), with its port if it had one.
    fn authority(&self) -> Cow<'_, [u8]>;

    /// The address of the connection, with or without a port, as in `192.0.2.7:4711` or `[2001:db8::1]:80`.
    /// `None` when the host does not know one.
    fn peer(&self) -> Option<Cow<'_, [u8]>>;

    /// The value of the header `name` (lower case); the values of a repeated header joined by `,`.
    fn header(&self, name: &str) -> Option<Cow<'_, [u8]>>;

    /// The place that the request comes from or arrived at, if the host knows it.
    fn locality(&self, _kind: Locality) -> Option<Cow<'_, [u8]>> {
        None
    }
}

/// A kind of place that a host may know about a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Locality {
    /// The client's country as two letters (ISO 3166-1), as in `US`.
    Country,
    /// The client's region within its country (ISO 3166-2), as in `US-TX`.
    Region,
    /// The location of the host's network at which the request arrived, as in `HEL`.
    Colo,
}

impl Locality {
    /// Its name as a part of keys.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Country => "country",
            Self::Region => "region",
            Self::Colo => "colo",
        }
    }
}

/// A borrowed view of a request's response, provided by the host.
pub trait ResponseFacts {
    /// The response's status; `None` if there is no response, because the client or the upstream went away.
    fn status(&self) -> Option<u16>;

    /// The value of the response's header `name` (lower case); the values of a repeated header joined by `,`.
    fn header(&self, name: &str) -> Option<Cow<'_, [u8]>>;

    /// How long the upstream took from receiving the whole request to starting its response, if the host knows.
    fn upstream_time(&self) -> Option<Span> {
        None
    }
}

/// Whether a status is an error of the service: 500 and above, except 501 (not implemented, RFC 9110 section 15.6.2).
/// Any client could cause that one by a method of its choice, at the expense of all others.
#[must_use]
pub fn is_error(status: u16) -> bool {
    status >= 500 && status != 501
}
