//! The validated policy: what the rest of the core works from. Its fields are always true.
//!
//! A policy is made by [`Policy::parse`] alone, which reports every error of a document at once.

mod absent;
mod access;
mod breaker;
mod client;
mod concurrency;
mod cost;
mod delay;
mod document;
mod error;
mod failures;
mod gathered;
mod health;
mod hint;
mod idle;
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
mod shapes;
mod status;
mod stores;
mod text;
mod value;

pub use breaker::{Breaker, BreakerMode, HalfOpen, OpenFor, Ramp, SlowCalls, WindowOf};
pub use cost::{Cost, CostHeader};
pub use delay::{Delays, Priority, SlowDown};
pub use error::{Place, PolicyError, PolicyErrors};
pub use failures::{CallEnd, Failures};
pub use idle::Idle;
pub use limit::{Algorithm, Answers, Ban, Limit, OnExceed, OnStoreFailure, Penalty, Quota};
pub use retries::{Backoff, Retries};
pub use routing::{Fallback, Route, Routing, Upstream};
pub use serving::{Caching, Fixed, KeptBytes, Piece, Serving, Variants, WidthFrom};
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
    /// How important the requests of each tier are, in the order of the tiers, where the policy says.
    pub(crate) priorities: Vec<Option<Priority>>,
    pub(crate) max_keys: u32,
    pub(crate) limits: Vec<Limit>,
    pub(crate) mode: Mode,
    /// What the mode `strict` leaves of a quota, in percent, whatever the mode is.
    pub(crate) strict: u8,
    /// Who is refused.
    pub(crate) deny: AccessList,
    /// Who meets no limits.
    pub(crate) allow: AccessList,
    /// Upstreams, their breakers, and the routes that lead to them: shared with what acts on routes.
    pub(crate) routing: Arc<Routing>,
    pub(crate) kept: KeptBytes,
    pub(crate) response: Response,
    /// What tells how the service is, if that is to be told.
    pub(crate) health: Option<crate::health::Rules>,
    /// What is shed when it is not well.
    pub(crate) shedding: Option<crate::shed::Rules>,
    /// Who may ask for the pages of status, if there are any.
    pub(crate) status: Option<Status>,
    /// What counts the limits that many instances share.
    pub(crate) stores: Stores,
    /// What a host does with a request that it cannot have decided.
    pub(crate) on_failure: OnFailure,
}

impl Policy {
    /// Reads a policy document, JSON of at most one mebibyte, and answers with all of its errors at once.
    ///
    /// The order of fields means nothing, and `10.0` is the whole number `10`.
    ///
    /// # Errors
    /// Whatever is wrong with the document, each with its place and with what would be right.
    pub fn parse(text: &str) -> Result<Self, PolicyErrors> {
        parse::policy(text, None)
    }

    /// Reads a policy document as [`Policy::parse`] does, to act in this mode whatever the document says of it.
    ///
    /// # Errors
    /// Those of [`Policy::parse`].
    pub fn parse_in(mode: ModeWord, text: &str) -> Result<Self, PolicyErrors> {
        parse::policy(text, Some(mode))
    }

    /// The JSON Schema (draft 2020-12) of the policy document, made from the same declarations as its reader. It
    /// knows everything but what lies between fields: unique names, references, and ranges of spans.
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

/// How a request's client is told from others.
#[derive(Clone, Debug, PartialEq)]
pub struct Client {
    /// Where the client's address stands.
    pub(crate) address: AddressSource,
    /// Where the client's tier stands; `None` when every client is of the default tier.
    pub(crate) tier: Option<TierSource>,
    /// The tier of a client that names none, or none that the policy knows: an index into the policy's tiers.
    pub(crate) default_tier: TierIndex,
    /// The request header that holds a verified JWT payload (base64url JSON), as Envoy's `jwt_authn` forwards it.
    pub(crate) claims_header: Option<String>,
    /// The request header that holds an API key, lower case.
    pub(crate) api_key_header: Option<String>,
}

/// Where the client's address stands.
#[derive(Clone, Debug, PartialEq)]
pub struct AddressSource {
    /// A list header that trusted proxies append to, lower case, and how many entries from the right to count:
    /// one is the last entry. `None` is the address of the connection.
    pub(crate) header: Option<(String, u8)>,
    /// How many leading bits of an IPv6 address make one client, `1..=128`.
    pub(crate) ipv6_prefix: u8,
}

/// Where the client's tier stands.
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

/// Which requests a limit or a route is for. All conditions must hold.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Match {
    /// A glob over the normalised path; `None` is every path.
    pub(crate) path: Option<PathGlob>,
    /// Methods, upper case; empty is every method.
    pub(crate) methods: Vec<String>,
    /// Hosts, lower case and without a port; empty is every host.
    pub(crate) hosts: Vec<HostGlob>,
    /// Headers by lower-case name.
    pub(crate) headers: Vec<(String, HeaderCondition)>,
}

/// A glob over a path. `*` stands for any run of bytes within one segment, also an empty one as part of a longer
/// segment; a last segment of `**` stands for any number of segments, also none: `/api/**` is `/api` and all below it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PathGlob {
    /// The segments before `**`.
    pub(crate) segments: Vec<SegmentGlob>,
    /// Whether the glob ends in `**`.
    pub(crate) deep: bool,
}

/// One segment of a path glob, normalised as a path is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SegmentGlob {
    /// This very segment.
    Literal(Vec<u8>),
    /// Any one segment that is not empty (`*`), or one with this beginning and this end (`a*b`).
    Star {
        /// What stands before the star.
        prefix: Vec<u8>,
        /// What stands after the star.
        suffix: Vec<u8>,
    },
}

/// A host, or `*.` and a host for all hosts below it (not that host itself).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HostGlob {
    /// This very host.
    Exact(String),
    /// Every host that ends in `.` and this.
    Below(String),
}

/// A condition on one header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HeaderCondition {
    /// The header is absent (`null` in the document).
    Absent,
    /// The header's value, without surrounding blanks, is this very text.
    Exact(String),
    /// The header is present, its value beginning and ending with these (`"*"`, `"v2*"`, `"*beta"`, `"a*b"`).
    Glob {
        /// What the value begins with.
        prefix: String,
        /// What the value ends with.
        suffix: String,
    },
}

/// One part of what tells one client of a limit from another.
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
    /// Where the request comes from or came in, where the host knows it.
    Locality(Locality),
}

/// What happens to a request that cannot be decided, since the core has failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnFailure {
    /// It goes on.
    Pass,
    /// It is refused.
    Refuse,
}

/// What answers say about limits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Response {
    /// Send `RateLimit` and `RateLimit-Policy` (draft-ietf-httpapi-ratelimit-headers).
    pub(crate) ratelimit: bool,
    /// Send `X-RateLimit-Limit`, `-Remaining` and `-Reset`.
    pub(crate) x_ratelimit: bool,
    /// Send `x-tidegate`: the upstream, the step of the way, and how the route's breakers stand.
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

    /// How the policy acts as a whole.
    #[must_use]
    pub fn mode(&self) -> &Mode {
        &self.mode
    }

    /// What a host does with a request that it cannot have decided. Envoy has a setting of its own for that.
    #[must_use]
    pub fn on_failure(&self) -> OnFailure {
        self.on_failure
    }

    /// The longest that a request can be made to wait.
    #[must_use]
    pub fn longest_wait(&self) -> Span {
        let waits = self.limits.iter().filter_map(|limit| limit.delays);
        waits.map(|delays| delays.max_delay).max().unwrap_or(Span::ZERO)
    }

    /// How much is kept of good answers.
    #[must_use]
    pub fn kept(&self) -> KeptBytes {
        self.kept
    }

    /// Where requests can go, by name.
    #[must_use]
    pub fn upstreams(&self) -> &[Upstream] {
        &self.routing.upstreams
    }

    /// The upstreams that routes lead to, as often as they do.
    pub fn routed_upstreams(&self) -> impl Iterator<Item = &Upstream> {
        self.routes().iter().flat_map(|route| &route.upstreams).filter_map(|upstream| self.upstreams().get(*upstream))
    }

    /// Whether answers say which upstream gave them.
    #[must_use]
    pub fn tells_upstreams(&self) -> bool {
        self.response.x_tidegate
    }

    /// The patterns to which upstreams' breakers are made, by name.
    #[must_use]
    pub fn breakers(&self) -> &[Breaker] {
        &self.routing.breakers
    }

    /// Which upstreams serve which requests, in the document's order.
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
    /// The tier at this place of the policy's list, of which there are at most 16.
    #[must_use]
    pub fn new(place: usize) -> Option<Self> {
        u8::try_from(place).ok().filter(|place| *place < 16).map(Self)
    }

    /// The place in the list.
    #[must_use]
    pub const fn get(self) -> usize {
        self.0 as usize
    }
}
