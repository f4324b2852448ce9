//! The validated policy: the configuration that the rest of the core works from. Its fields are always valid.
//!
//! Only [`Policy::parse`] and [`Policy::parse_in`] make a policy. They report every error of a document at once.

mod access;
mod all_or_none;
mod breaker;
mod client;
mod concurrency;
mod cost;
mod defaults;
mod delay;
mod document;
mod error;
mod failures;
mod health;
mod hint;
pub(crate) mod json;
mod limit;
mod nearest;
mod parse;
mod path;
mod quota;
mod read;
mod refusal;
mod retries;
mod routing;
mod schema;
mod serving;
mod shadowed;
mod shapes;
mod status;
mod stores;
mod text;
mod value;

pub use breaker::{Breaker, BreakerMode, CallWindow, HalfOpen, OpenFor, Ramp, SlowCalls};
pub use cost::{Cost, CostHeader};
pub use delay::{Delays, Priority, SlowDown};
pub use error::{Place, PolicyError, PolicyErrors};
pub use failures::{CallEnd, Failures};
pub use limit::{Algorithm, Ban, Limit, OnExceed, OnStoreFailure, Penalty, Quota, StatusRange};
pub use retries::{Backoff, Retries};
pub use routing::{Fallback, Route, Routing, Upstream};
pub use serving::{Caching, KeptBytes, Piece, Serving, StaticResponse, Variants, WidthFrom};
pub use shadowed::Shadowed;
pub use stores::{Protocol, RateLimitService, RedisStore, Sharing, Stores};

use std::sync::Arc;

use crate::access::AccessList;
use crate::api_key::ApiKeys;
use crate::mode::{Mode, ModeWord};
use crate::request::Locality;
use crate::status::Status;
use crate::units::Span;

/// A validated policy.
#[derive(Clone, Debug, PartialEq)]
pub struct Policy {
    pub(crate) client: Client,
    pub(crate) tiers: Vec<Name>,
    /// The priority of each tier's requests, in the order of `tiers`; `None` if the policy sets none.
    pub(crate) priorities: Vec<Option<Priority>>,
    pub(crate) max_keys: u32,
    pub(crate) limits: Vec<Limit>,
    pub(crate) mode: Mode,
    /// The share of each quota that the mode `strict` leaves, in percent. It is set whatever the mode is.
    pub(crate) strict: u8,
    /// Clients that are refused.
    pub(crate) deny: AccessList,
    /// Clients that meet no limits.
    pub(crate) allow: AccessList,
    /// Upstreams, their breakers and the routes to them. Shared with the parts of the core that act on routes.
    pub(crate) routing: Arc<Routing>,
    pub(crate) kept: KeptBytes,
    pub(crate) response: Response,
    /// How the service's health is rated; `None` if it is not.
    pub(crate) health: Option<crate::health::Rules>,
    /// Which requests are shed while the service is degraded or critical; `None` if none are.
    pub(crate) shedding: Option<crate::shed::Rules>,
    /// The status pages and the clients that may see them; `None` if there are no pages.
    pub(crate) status: Option<Status>,
    /// The stores that count shared limits.
    pub(crate) stores: Stores,
    /// What a host does with a request when the core fails to decide it.
    pub(crate) on_failure: OnFailure,
}

impl Policy {
    /// Reads a policy document: JSON of at most one mebibyte.
    ///
    /// The order of fields does not matter, and `10.0` is the whole number `10`.
    ///
    /// # Errors
    /// All errors of the document at once, each with its place and a hint at what would be right. At most 200 errors
    /// are listed.
    pub fn parse(text: &str) -> Result<Self, PolicyErrors> {
        parse::policy(text, None)
    }

    /// Reads a policy document as [`Policy::parse`] does. The policy has this `mode` instead of the document's.
    ///
    /// # Errors
    /// Those of [`Policy::parse`].
    pub fn parse_in(mode: ModeWord, text: &str) -> Result<Self, PolicyErrors> {
        parse::policy(text, Some(mode))
    }

    /// The JSON Schema (draft 2020-12) of the policy document, made from the same declarations as its reader. It covers
    /// everything except unique names, references and other rules across fields, and the ranges of durations.
    #[must_use]
    pub fn json_schema() -> String {
        schema::json_schema::<document::Document>()
    }
}

/// A name in the policy: `[a-z0-9-]{1,64}`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name(pub(crate) String);

impl Name {
    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// How to identify the client of a request.
#[derive(Clone, Debug, PartialEq)]
pub struct Client {
    /// Where to find the client's address.
    pub(crate) address: AddressSource,
    /// Where to find the client's tier; `None` if every client has the default tier.
    pub(crate) tier: Option<TierSource>,
    /// The tier of a client that names no tier, or an unknown one: an index into the policy's tiers.
    pub(crate) default_tier: TierIndex,
    /// The request header that holds a verified JWT payload (base64url JSON), as Envoy's `jwt_authn` forwards it.
    pub(crate) claims_header: Option<String>,
    /// The request header that holds an API key, lower case.
    pub(crate) api_key_header: Option<String>,
}

/// Where to find the client's address.
#[derive(Clone, Debug, PartialEq)]
pub struct AddressSource {
    /// A list header that trusted proxies append to, lower case, and the entry to take, counted from the right: 1 is
    /// the last entry. `None` is the address of the connection.
    pub(crate) header: Option<(String, u8)>,
    /// How many leading bits of an IPv6 address identify a client, `1..=128`.
    pub(crate) ipv6_prefix: u8,
}

/// Where to find the client's tier.
#[derive(Clone, Debug, PartialEq)]
pub enum TierSource {
    /// The request header whose value is the name of a tier, lower case, set by a trusted proxy.
    Header(String),
    /// The claim whose text is the name of a tier.
    Claim(String),
    /// The tiers of API keys.
    ApiKeys(ApiKeys),
}

/// A tier, as an index into the policy's list of tiers (at most 16).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TierIndex(pub(crate) u8);

/// Which requests a limit or a route applies to. All conditions must hold.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Match {
    /// A glob over the normalised path; `None` matches every path.
    pub(crate) path: Option<PathGlob>,
    /// Methods, upper case; an empty list matches every method.
    pub(crate) methods: Vec<String>,
    /// Hosts, lower case and without a port; an empty list matches every host.
    pub(crate) hosts: Vec<HostGlob>,
    /// Headers by lower-case name.
    pub(crate) headers: Vec<(String, HeaderCondition)>,
}

/// A glob over a path. `*` matches any bytes within one segment. It may match none if the segment has other bytes. A
/// last segment `**` matches any number of segments, even none: `/api/**` matches `/api` and everything below it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PathGlob {
    /// The segments before `**`.
    pub(crate) segments: Vec<SegmentGlob>,
    /// Whether the glob ends in `**`.
    pub(crate) deep: bool,
}

/// One segment of a path glob, normalised like a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SegmentGlob {
    /// Exactly this segment.
    Literal(Vec<u8>),
    /// Any segment that is not empty (`*`), or one with this prefix and this suffix (`a*b`).
    Star {
        /// The bytes before the star.
        prefix: Vec<u8>,
        /// The bytes after the star.
        suffix: Vec<u8>,
    },
}

/// A host, or `*.` and a host for all hosts below that host, without the host itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HostGlob {
    /// Exactly this host.
    Exact(String),
    /// Every host that ends with `.` and this host.
    Below(String),
}

/// A condition on one header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HeaderCondition {
    /// The header is absent (`null` in the document).
    Absent,
    /// The header's value, without surrounding blanks, equals this text.
    Exact(String),
    /// The header is present, and its value has this prefix and this suffix (`"*"`, `"v2*"`, `"*beta"`, `"a*b"`).
    Glob {
        /// The beginning of the value.
        prefix: String,
        /// The end of the value.
        suffix: String,
    },
}

/// One part of the key that distinguishes the clients of a limit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeyPart {
    /// The client's address; IPv6 by prefix.
    Address,
    /// A request header, lower case.
    Header(String),
    /// A cookie.
    Cookie(String),
    /// A query parameter.
    Query(String),
    /// A claim of the verified JWT payload.
    Claim(String),
    /// The normalised path, without the query.
    Path,
    /// The method.
    Method,
    /// The host, lower case, without its port.
    Host,
    /// The client's tier.
    Tier,
    /// Where the client is, or which location received the request, if the host knows it.
    Locality(Locality),
}

/// What happens to a request that cannot be decided because the core has failed or has not answered in time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnFailure {
    /// It goes on.
    Pass,
    /// It is refused.
    Refuse,
}

/// Which headers responses carry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Response {
    /// Send `RateLimit` and `RateLimit-Policy` (draft-ietf-httpapi-ratelimit-headers).
    pub(crate) ratelimit: bool,
    /// Send `X-RateLimit-Limit`, `-Remaining` and `-Reset`.
    pub(crate) x_ratelimit: bool,
    /// Send `x-tidegate`: the upstream that served the request, the step of the fallback chain, and the states of the
    /// route's breakers.
    pub(crate) x_tidegate: bool,
}

impl Policy {
    /// The tiers of clients, at most 16.
    #[must_use]
    pub fn tiers(&self) -> &[Name] {
        &self.tiers
    }

    /// How many clients are remembered at once.
    #[must_use]
    pub fn max_keys(&self) -> u32 {
        self.max_keys
    }

    /// The mode of the policy as a whole.
    #[must_use]
    pub fn mode(&self) -> &Mode {
        &self.mode
    }

    /// What a Worker does with a request when the core fails to decide it. Envoy uses its own `failure_policy` instead.
    #[must_use]
    pub fn on_failure(&self) -> OnFailure {
        self.on_failure
    }

    /// The longest time that any limit can delay a request; zero if none does.
    #[must_use]
    pub fn longest_wait(&self) -> Span {
        let waits = self.limits.iter().filter_map(|limit| limit.delays);
        waits.map(|delays| delays.max_delay).max().unwrap_or(Span::ZERO)
    }

    /// The bounds on kept responses.
    #[must_use]
    pub fn kept(&self) -> KeptBytes {
        self.kept
    }

    /// The upstreams, ordered by name.
    #[must_use]
    pub fn upstreams(&self) -> &[Upstream] {
        &self.routing.upstreams
    }

    /// The upstreams of all routes. An upstream appears once for each route that leads to it.
    pub fn routed_upstreams(&self) -> impl Iterator<Item = &Upstream> {
        self.routes().iter().flat_map(|route| &route.upstreams).filter_map(|upstream| self.upstreams().get(*upstream))
    }

    /// Whether responses carry `x-tidegate`, which names the upstream that served them.
    #[must_use]
    pub fn sends_x_tidegate(&self) -> bool {
        self.response.x_tidegate
    }

    /// The settings of breakers, ordered by name. Each upstream that names one gets a breaker of its own.
    #[must_use]
    pub fn breakers(&self) -> &[Breaker] {
        &self.routing.breakers
    }

    /// The routes, in the document's order.
    #[must_use]
    pub fn routes(&self) -> &[Route] {
        &self.routing.routes
    }

    /// The limits, in the document's order.
    #[must_use]
    pub fn limits(&self) -> &[Limit] {
        &self.limits
    }
}

impl TierIndex {
    /// The tier at this index of the policy's list; `None` from 16 on, because a policy has at most 16 tiers.
    #[must_use]
    pub fn new(place: usize) -> Option<Self> {
        u8::try_from(place).ok().filter(|place| *place < 16).map(Self)
    }

    /// The index into the list.
    #[must_use]
    pub const fn get(self) -> usize {
        self.0 as usize
    }
}
