//! What to do with a request, why, and what its client gets.

mod backwards;
mod fields;
pub(crate) mod grpc;

pub use fields::Fields;
pub(crate) use fields::QuotaItem;

use crate::engine::Engine;
use crate::request::RequestFacts;
use crate::units::Span;
use core::fmt::{self, Write};
use std::borrow::Cow;

/// The decision on one request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Decision {
    /// Why the request is refused; `None` when it goes on to its upstream.
    pub refusal: Option<Refusal>,
    /// Why it would be refused if the policy or the limit did not only observe.
    pub observed: Option<Refusal>,
    /// How long the request must wait before it goes on, if no more important request arrives and none leaves the
    /// queue; `None` if it need not wait.
    pub delay: Option<Span>,
    /// Nothing is decided yet: the authority of a shared limit has to be asked, for at most this long. See
    /// [`crate::global`].
    pub awaits: Option<Span>,
    /// Nothing is decided yet: a rate-limit service has to be asked. See [`crate::rls`].
    pub consults: bool,
}

impl Decision {
    /// The request goes on. This is not a constant, because a constant would be copied whole, including the absent
    /// parts.
    #[must_use]
    pub const fn admit() -> Self {
        Self { refusal: None, observed: None, delay: None, awaits: None, consults: false }
    }

    /// Whether the request goes on at once and nothing was observed.
    #[must_use]
    pub fn is_plain(&self) -> bool {
        let stays = self.refusal.is_some() || self.delay.is_some() || self.awaits.is_some() || self.consults;
        !stays && self.observed.is_none()
    }
}

/// A refused request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The limit with the longest wait, as an index into the policy's limits; `None` if no limit refused the request.
    pub limit: Option<usize>,
    /// The window of the deciding quota, if the limit has several quotas.
    pub window: Option<Span>,
    /// The reason.
    pub cause: Cause,
    /// The time after which the request would pass; `None` if it never would, or, when no upstream can be asked, if the
    /// time is unknown.
    pub retry_after: Option<Span>,
}

/// Why a request is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// The client is over the limit: 429 (RFC 6585 section 4).
    Exceeded,
    /// The client was refused too often and is banned for some time: 429, because it may come back after that.
    Banned,
    /// The limit's state was unavailable, and the policy refuses in this case: 503.
    StoreFailed,
    /// The policy is in mode `maintenance`, and sets the status and the page.
    Maintenance,
    /// The client is on the policy's list `deny`: 403.
    Denied,
    /// No upstream of the route could be asked, or none has responded: 503 (RFC 9110 section 15.6.4).
    Unavailable,
    /// The request was shed because the service is overloaded: 503.
    Shed,
}

/// The response to a refused client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    /// The HTTP status.
    pub status: u16,
    /// The gRPC status, for a gRPC client: PERMISSION_DENIED (7), RESOURCE_EXHAUSTED (8) or UNAVAILABLE (14).
    pub grpc_status: u8,
    /// Whether the client uses gRPC: see [`Reply::trailers_only`].
    pub for_grpc: bool,
    /// The reason as one word for logs: `tidegate_limit_NAME`, `tidegate_ban_NAME`, `tidegate_store_NAME`,
    /// `tidegate_maintenance`, `tidegate_denied`, `tidegate_shed`, `tidegate_unavailable`, or `tidegate_status` for a
    /// status page.
    pub details: String,
    /// The body's media type.
    pub content_type: Cow<'static, str>,
    /// The body.
    pub body: String,
    /// Seconds for `Retry-After` (RFC 9110 section 10.2.3), rounded up so that waiting it always suffices; `None` if
    /// waiting does not help.
    pub retry_after_secs: Option<u64>,
}

impl Refusal {
    /// The response to this request: `application/problem+json` (RFC 9457) if the client accepts that by name,
    /// `application/json` otherwise.
    #[must_use]
    pub fn reply(&self, engine: &Engine, facts: &dyn RequestFacts) -> Reply {
        let unknown = (self.cause == Cause::Unavailable).then_some(UNAVAILABLE_FOR);
        // At least one: after 0 s the client would come back at once, within the same second.
        let retry_after_secs = self.retry_after.or(unknown).map(|span| span.as_secs_ceil().max(1));
        let maintenance = engine.policy().mode.maintenance();
        let (status, grpc_status) = match self.cause {
            Cause::Exceeded | Cause::Banned => (429, 8),
            Cause::StoreFailed | Cause::Shed | Cause::Unavailable => (503, 14),
            Cause::Maintenance => (maintenance.map_or(503, |maintenance| maintenance.status), 14),
            Cause::Denied => (403, 7),
        };
        let for_grpc = grpc::is_spoken(facts);
        let details = self.details(engine);
        if let (Cause::Maintenance, Some((content_type, page))) =
            (self.cause, maintenance.and_then(|it| it.page.clone()))
        {
            let content_type = Cow::Owned(content_type);
            let page = if is_without_body(status) { String::new() } else { page };
            return Reply { status, grpc_status, for_grpc, details, content_type, body: page, retry_after_secs };
        }
        let problem = facts.header("accept").is_some_and(|accept| accepts_problem(&accept));
        let mut body = String::new();
        // Writing to a string cannot fail. Names need no escapes in JSON: `[a-z0-9-]`.
        let _ = if problem { self.problem(engine, &mut body, status) } else { self.error(engine, &mut body) };
        if let Some(secs) = retry_after_secs {
            let _ = write!(body, ",\"retryAfter\":{secs}");
        }
        body.push('}');
        if is_without_body(status) {
            body.clear();
        }
        Reply {
            status,
            grpc_status,
            for_grpc,
            details,
            content_type: Cow::Borrowed(if problem { "application/problem+json" } else { "application/json" }),
            body,
            retry_after_secs,
        }
    }

    /// The reason as one word for logs: see [`Reply::details`].
    #[must_use]
    pub fn details(&self, engine: &Engine) -> String {
        let (reason, name) = match self.cause {
            Cause::Exceeded => ("tidegate_limit_", self.limit_name(engine)),
            Cause::Banned => ("tidegate_ban_", self.limit_name(engine)),
            Cause::StoreFailed => ("tidegate_store_", self.limit_name(engine)),
            Cause::Maintenance => ("tidegate_maintenance", ""),
            Cause::Denied => ("tidegate_denied", ""),
            Cause::Unavailable => ("tidegate_unavailable", ""),
            Cause::Shed => ("tidegate_shed", ""),
        };
        [reason, name].concat()
    }

    fn is_of_requests_in_flight(&self, engine: &Engine) -> bool {
        self.limit.and_then(|limit| engine.policy().limits.get(limit)).is_some_and(crate::policy::Limit::holds)
    }

    /// Whether a rate-limit service counts the limit.
    pub(crate) fn is_by_service(&self, engine: &Engine) -> bool {
        self.limit.and_then(|limit| engine.policy().limits.get(limit)).is_some_and(|limit| limit.by_service)
    }

    fn limit_name<'e>(&self, engine: &'e Engine) -> &'e str {
        self.limit.and_then(|limit| engine.policy().limits.get(limit)).map_or("", |limit| limit.name.as_str())
    }

    fn error(&self, engine: &Engine, body: &mut String) -> fmt::Result {
        write!(body, "{{\"error\":\"{}\"", self.title(engine))
    }

    /// The problem types are those of draft-ietf-httpapi-ratelimit-headers.
    fn problem(&self, engine: &Engine, body: &mut String, status: u16) -> fmt::Result {
        let limit = self.limit_name(engine);
        let kind = match self.cause {
            Cause::Exceeded => "https://iana.org/assignments/http-problem-types#quota-exceeded",
            Cause::Banned => "https://iana.org/assignments/http-problem-types#abnormal-usage-detected",
            Cause::StoreFailed | Cause::Maintenance | Cause::Shed | Cause::Unavailable => {
                "https://iana.org/assignments/http-problem-types#temporary-reduced-capacity"
            }
            // The status says everything: RFC 9457 section 4.2.1.
            Cause::Denied => "about:blank",
        };
        let title = self.title(engine);
        write!(
            body,
            "{{\"type\":\"{kind}\",\"title\":\"{title}\",\
             \"status\":{status}"
        )?;
        if limit.is_empty() {
            return Ok(());
        }
        write!(body, ",\"violated-policies\":[\"{}\"]", PolicyName(limit, self.window))
    }

    fn title(&self, engine: &Engine) -> &'static str {
        match (self.cause, self.retry_after) {
            (Cause::Exceeded, Some(_)) if self.is_of_requests_in_flight(engine) => "too many requests at once",
            (Cause::Exceeded, Some(_)) => "rate limit exceeded",
            // Only the service knows the quota.
            (Cause::Exceeded, None) if self.is_by_service(engine) => "rate limit exceeded",
            (Cause::Exceeded, None) => "request costs more than its rate limit allows",
            (Cause::Banned, _) => "too many refused requests",
            (Cause::StoreFailed, _) => "rate limit cannot be checked",
            (Cause::Denied, _) => "Forbidden",
            (Cause::Shed, _) => "the service is overloaded",
            (Cause::Maintenance, _) => "the service is under maintenance",
            (Cause::Unavailable, _) => "the service is unavailable",
        }
    }
}

/// Whether a response with this status has no body: RFC 9110 sections 15.3.5, 15.3.6 and 15.4.5.
pub(crate) const fn is_without_body(status: u16) -> bool {
    matches!(status, 204 | 205 | 304)
}

/// The name of a quota policy for clients: the limit's name, with the window if the limit has several quotas.
struct PolicyName<'a>(&'a str, Option<Span>);

impl fmt::Display for PolicyName<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(name, window) = self;
        f.write_str(name)?;
        window.map_or(Ok(()), |window| write!(f, "/{window}"))
    }
}

/// Whether an Accept header names `application/problem+json` with a weight above zero. Wildcards do not count: clients
/// that accept anything have always been given plain JSON.
fn accepts_problem(accept: &[u8]) -> bool {
    accept.split(|byte| *byte == b',').any(|range| {
        let mut parts = range.split(|byte| *byte == b';').map(<[u8]>::trim_ascii);
        parts.next().is_some_and(|kind| kind.eq_ignore_ascii_case(b"application/problem+json"))
            && !parts.any(|weight| matches!(weight, [b'q' | b'Q', b'=', b'0', rest @ ..] if rest.iter().all(|b| matches!(b, b'0' | b'.'))))
    })
}

/// The `Retry-After` if it is unknown when an upstream can be asked again: the default of a breaker's `open.initial`.
const UNAVAILABLE_FOR: Span = Span::from_secs(5);
