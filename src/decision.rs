//! What to do with a request, why, and what its client is told.

use crate::engine::{Charge, Engine, Plan};
use crate::key;
use crate::limiter::Verdict;
use crate::mode::Mode;
use crate::policy::{OnExceed, Quota};
use crate::request::RequestFacts;
use crate::units::Span;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use core::fmt::{self, Write};
use std::borrow::Cow;

/// What is decided of one request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Decision {
    /// Why the request is refused; `None` when it goes on to its upstream.
    pub refusal: Option<Refusal>,
    /// Why it would be refused, were the policy not in the mode `observe`.
    pub observed: Option<Refusal>,
}

impl Decision {
    /// The request goes on.
    pub const ADMIT: Self = Self { refusal: None, observed: None };
}

/// A refused request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The limit that keeps the client waiting longest, as an index into the policy's limits; `None` when no limit was
    /// asked.
    pub limit: Option<usize>,
    /// The window of that limit's quota, where it has several.
    pub window: Option<Span>,
    /// Why.
    pub cause: Cause,
    /// After how long the request would pass; `None` when it never would.
    pub retry_after: Option<Span>,
}

/// Why a request is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// The client is over the limit: 429 (RFC 6585 section 4).
    Exceeded,
    /// The client has been refused too often, and the limit refuses it for a time: 429, since it may come again after it.
    Banned,
    /// The limit's state could not be had, and the policy refuses then: 503.
    StoreFailed,
    /// The policy is in the mode `maintenance`, and has the status and the page.
    Maintenance,
    /// The client is on the policy's list `deny`: 403.
    Denied,
    /// The service is not well, and spared of this request: 503.
    Shed,
}

/// What a refused client gets, and in which form.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    /// The HTTP status.
    pub status: u16,
    /// The gRPC status, for a client that speaks gRPC: PERMISSION_DENIED (7), RESOURCE_EXHAUSTED (8) or
    /// UNAVAILABLE (14).
    pub grpc_status: u8,
    /// Why, as one word for logs: `tidegate_limit_NAME`, `tidegate_ban_NAME`, `tidegate_store_NAME`, `tidegate_maintenance`,
    /// `tidegate_denied`, `tidegate_shed`, or `tidegate_status` for a page of status.
    pub details: String,
    /// The body's media type.
    pub content_type: Cow<'static, str>,
    /// The body.
    pub body: String,
    /// Seconds for `Retry-After` (RFC 9110 section 10.2.3), rounded up so that waiting it always suffices; `None`
    /// when waiting does not help.
    pub retry_after_secs: Option<u64>,
}

impl Refusal {
    /// What the client of this request gets: `application/problem+json` (RFC 9457) when it accepts that by name,
    /// `application/json` otherwise.
    #[must_use]
    pub fn reply(&self, engine: &Engine, facts: &dyn RequestFacts) -> Reply {
        // At least one: a client told to wait 0 s would come back at once, within the same second.
        let retry_after_secs = self.retry_after.map(|span| span.as_secs_ceil().max(1));
        let maintenance = engine.policy().mode.maintenance();
        let (status, grpc_status) = match self.cause {
            Cause::Exceeded | Cause::Banned => (429, 8),
            Cause::StoreFailed | Cause::Shed => (503, 14),
            Cause::Maintenance => (maintenance.map_or(503, |maintenance| maintenance.status), 14),
            Cause::Denied => (403, 7),
        };
        let details = self.details(engine);
        if let (Cause::Maintenance, Some((content_type, page))) =
            (self.cause, maintenance.and_then(|it| it.page.clone()))
        {
            let content_type = Cow::Owned(content_type);
            return Reply { status, grpc_status, details, content_type, body: page, retry_after_secs };
        }
        let problem = facts.header("accept").is_some_and(|accept| accepts_problem(&accept));
        let mut body = String::new();
        // Writing to a string cannot fail. Names need no escapes in JSON: `[a-z0-9-]`.
        let _ = if problem { self.problem(&mut body, status, self.limit_name(engine)) } else { self.error(&mut body) };
        if let Some(secs) = retry_after_secs {
            let _ = write!(body, ",\"retryAfter\":{secs}");
        }
        body.push('}');
        Reply {
            status,
            grpc_status,
            details,
            content_type: Cow::Borrowed(if problem { "application/problem+json" } else { "application/json" }),
            body,
            retry_after_secs,
        }
    }

    /// Why, as one word for logs: see [`Reply::details`].
    #[must_use]
    pub fn details(&self, engine: &Engine) -> String {
        let (reason, name) = match self.cause {
            Cause::Exceeded => ("tidegate_limit_", self.limit_name(engine)),
            Cause::Banned => ("tidegate_ban_", self.limit_name(engine)),
            Cause::StoreFailed => ("tidegate_store_", self.limit_name(engine)),
            Cause::Maintenance => ("tidegate_maintenance", ""),
            Cause::Denied => ("tidegate_denied", ""),
            Cause::Shed => ("tidegate_shed", ""),
        };
        [reason, name].concat()
    }

    fn limit_name<'e>(&self, engine: &'e Engine) -> &'e str {
        self.limit.and_then(|limit| engine.policy().limits.get(limit)).map_or("", |limit| limit.name.as_str())
    }

    fn error(&self, body: &mut String) -> fmt::Result {
        write!(body, "{{\"error\":\"{}\"", self.title())
    }

    /// The problem types are those of draft-ietf-httpapi-ratelimit-headers.
    fn problem(&self, body: &mut String, status: u16, limit: &str) -> fmt::Result {
        let kind = match self.cause {
            Cause::Exceeded => "https://iana.org/assignments/http-problem-types#quota-exceeded",
            Cause::Banned => "https://iana.org/assignments/http-problem-types#abnormal-usage-detected",
            Cause::StoreFailed | Cause::Maintenance | Cause::Shed => {
                "https://iana.org/assignments/http-problem-types#temporary-reduced-capacity"
            }
            // Nothing more than the status says: RFC 9457 section 4.2.1.
            Cause::Denied => "about:blank",
        };
        let title = self.title();
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

    fn title(&self) -> &'static str {
        match (self.cause, self.retry_after) {
            (Cause::Exceeded, Some(_)) => "rate limit exceeded",
            (Cause::Exceeded, None) => "request costs more than its rate limit allows",
            (Cause::Banned, _) => "too many refused requests",
            (Cause::StoreFailed, _) => "rate limit cannot be checked",
            (Cause::Denied, _) => "Forbidden",
            (Cause::Shed, _) => "the service is overloaded",
            (Cause::Maintenance, _) => "the service is under maintenance",
        }
    }
}

/// Calls `add` with each header that tells the client how it stands with the limits of this plan, admitted or not.
///
/// `RateLimit-Policy` and `RateLimit` as draft-ietf-httpapi-ratelimit-headers has them: structured fields (RFC 9651), an
/// item a quota, in the policy's order, by the limit's name, and where a limit has several by the name and the window, as
/// in `api/1h`, which is the name of no other limit; quotas in requests; the partition key a hash of the client's key. A
/// window that is no whole number of seconds is rounded up. `X-RateLimit-*`, if the policy asks for them, tell of the quota
/// with the fewest permits left, the reset in seconds from now. Limits that only observe are not told of, and under a
/// policy that does none.
pub fn quota_headers(engine: &Engine, plan: &Plan, text: &mut String, add: &mut dyn FnMut(&'static str, &str)) {
    let response = &engine.policy().response;
    let told = || plan.charges().iter().filter_map(|charge| Told::of(engine, plan, charge));
    if engine.policy().mode == Mode::Observe || told().next().is_none() {
        return;
    }
    if response.ratelimit {
        list(text, told(), Told::write_policy);
        add("ratelimit-policy", text);
        list(text, told(), Told::write_limit);
        add("ratelimit", text);
    }
    if response.x_ratelimit
        && let Some(least) = told().min_by_key(|standing| standing.remaining)
    {
        for (name, value) in [
            ("x-ratelimit-limit", u64::from(least.quota.permits.get())),
            ("x-ratelimit-remaining", least.remaining),
            ("x-ratelimit-reset", least.reset_secs),
        ] {
            text.clear();
            let _ = write!(text, "{value}");
            add(name, text);
        }
    }
}

/// The name of a quota policy for clients: that of the limit, and the window where the limit has several quotas.
struct PolicyName<'a>(&'a str, Option<Span>);

impl fmt::Display for PolicyName<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(name, window) = self;
        f.write_str(name)?;
        window.map_or(Ok(()), |window| write!(f, "/{window}"))
    }
}

/// What a client is told of one quota.
struct Told<'a> {
    name: PolicyName<'a>,
    quota: &'a Quota,
    remaining: u64,
    reset_secs: u64,
    partition: [u8; 8],
}

impl<'a> Told<'a> {
    fn of(engine: &'a Engine, plan: &Plan, charge: &Charge) -> Option<Self> {
        let limit = engine.policy().limits.get(charge.limit())?;
        if limit.on_exceed == OnExceed::Observe {
            return None;
        }
        let standing = engine.standing(plan, charge)?;
        let reset = match charge.outcome()?.verdict {
            Verdict::Refuse { retry_after: Some(wait) } => wait.max(charge.ban().unwrap_or_default()),
            _ => standing.reset_after,
        };
        Some(Self {
            name: PolicyName(limit.name.as_str(), engine.window(charge, plan.tier())),
            quota: limit.quotas(plan.tier()).get(charge.quota())?,
            remaining: u64::from(standing.remaining.get()),
            reset_secs: reset.as_secs_ceil(),
            partition: key::partition(engine.seed(), charge.key()),
        })
    }

    fn write_policy(&self, text: &mut String) -> fmt::Result {
        let Quota { permits, window, .. } = self.quota;
        write!(text, "\"{}\";q={};w={}", self.name, permits.get(), window.as_secs_ceil())
    }

    fn write_limit(&self, text: &mut String) -> fmt::Result {
        write!(text, "\"{}\";r={};t={};pk=:", self.name, self.remaining, self.reset_secs)?;
        BASE64.encode_string(self.partition, text);
        text.write_char(':')
    }
}

fn list<'a>(
    text: &mut String,
    items: impl Iterator<Item = Told<'a>>,
    write: impl Fn(&Told<'a>, &mut String) -> fmt::Result,
) {
    text.clear();
    for item in items {
        if !text.is_empty() {
            text.push_str(", ");
        }
        // Writing to a string cannot fail.
        let _ = write(&item, text);
    }
}

/// Whether an Accept header names `application/problem+json` with a weight above zero. A wildcard does not: clients that
/// take anything have always been given plain JSON.
fn accepts_problem(accept: &[u8]) -> bool {
    accept.split(|byte| *byte == b',').any(|range| {
        let mut parts = range.split(|byte| *byte == b';').map(<[u8]>::trim_ascii);
        parts.next().is_some_and(|kind| kind.eq_ignore_ascii_case(b"application/problem+json"))
            && !parts.any(|weight| matches!(weight, [b'q' | b'Q', b'=', b'0', rest @ ..] if rest.iter().all(|b| matches!(b, b'0' | b'.'))))
    })
}
