//! Status pages that an operator can ask of a running filter, below a path that the policy sets.
//!
//! `health` names the health of the service, with status 503 if it is critical, for a load balancer that should then
//! send its requests elsewhere. `ready` says that a policy is in force. `status` reports everything.
//!
//! For clients without permission the pages do not exist: the request is handled like any other, meets the limits and
//! gets the upstream's response. So no response reveals that there is a token to guess, and guessing is rate-limited. A
//! request with permission bypasses everything, even maintenance, because that is when the pages are needed.

mod counts;
mod json;
mod order;
mod report;
mod upstreams;

pub use order::Order;
pub use report::Sources;
pub use upstreams::{Counted, UpstreamsNow};

use core::fmt;
use core::hash::Hasher;
use core::net::IpAddr;

use siphasher::sip::SipHasher13;

use crate::api_key::Digest;
use crate::lookup::{Lookup, trim_blanks};
use crate::network::Networks;

/// The status pages, and the clients that may see them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    /// The path of the pages, normalised, with a leading slash.
    pub(crate) path: String,
    /// Clients that may see them.
    pub(crate) addresses: Networks,
    /// The hash of a token that also gives access.
    pub(crate) token: Option<Digest>,
}

/// A page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Page {
    /// The health of the service.
    Health,
    /// Whether a policy is in force; any answer means yes.
    Ready,
    /// The full report.
    Status,
}

/// Identifies a policy document: a hash of its text, the same on every host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fingerprint(u64);

impl Fingerprint {
    /// The fingerprint of a document's text.
    #[must_use]
    pub fn of(text: &str) -> Self {
        let mut hasher = SipHasher13::new();
        hasher.write(text.as_bytes());
        Self(hasher.finish())
    }
}

/// Sixteen hexadecimal digits.
impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl Page {
    /// The page's name below the common path.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Health => "health",
            Self::Ready => "ready",
            Self::Status => "status",
        }
    }
}

impl Status {
    /// The page that a request asks for, if it exists and the client may see it. `address` is the client's full
    /// address.
    pub(crate) fn page<'a>(&self, request: &Lookup<'a>, address: impl FnOnce() -> Option<IpAddr>) -> Option<Page> {
        let name = request.path().strip_prefix(self.path.as_bytes())?.strip_prefix(b"/")?;
        let page = PAGES.into_iter().find(|page| page.as_str().as_bytes() == name)?;
        if !matches!(request.method(), b"GET" | b"HEAD") {
            return None;
        }
        let is_known = || !self.addresses.is_empty() && address().is_some_and(|it| self.addresses.contain(it));
        let has_token = || {
            let token = self.token.as_ref();
            token.is_some_and(|token| request.header("authorization").is_some_and(|it| bears(it, token)))
        };
        (is_known() || has_token()).then_some(page)
    }
}

/// Whether an `authorization` header has the token with this hash (RFC 6750 section 2.1).
fn bears(authorization: &[u8], token: &Digest) -> bool {
    let Some((scheme, borne)) = authorization.split_at_checked(7) else { return false };
    scheme.eq_ignore_ascii_case(b"bearer ") && Digest::of(trim_blanks(borne)).is_some_and(|borne| borne.equals(token))
}

const PAGES: [Page; 3] = [Page::Health, Page::Ready, Page::Status];
