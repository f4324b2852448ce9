//! The policy document: the declarations of its objects.

mod client;
pub(super) mod responses;
mod routing;
mod stores;

pub(super) use client::{Address, Claims, Client, Tier};
pub(super) use routing::{Breaker, Fallback, Open, Route, Upstream, Window};
use stores::LimitStore;
pub(super) use stores::{Redis, Scope, SharingMode, Stores};

use self::responses::Kept;
use super::access::HeaderValue;
use super::defaults::NO_FIELDS;
use super::health::{Health, Shedding};
use super::schema::{document, words};
use super::shapes::{Either, Int, List, Map, OneOf, Set, SpanIn};
use super::status::Status;
use super::text::{AnyText, Body, ContentType, HeaderName, Method};
use super::value::View;
use super::{
    Algorithm, HeaderCondition, HostGlob, KeyPart, Name, OnExceed, OnFailure, OnStoreFailure, PathGlob, Priority,
    StatusRange,
};
use crate::api_key::Digest;
use crate::mode::ModeWord;
use crate::network::Network;

document! {
    /// What Tidegate does with the requests that pass through it: how to identify clients, how much each may use, and
    /// where a request goes when an upstream fails.
    Document {
        /// The address of the JSON Schema, for editors. Tidegate does not read it.
        schema as "$schema": Option<AnyText>,
        /// The version of this format.
        version: Int<1, 1>,
        /// How to identify the client of a request.
        client: Client = NO_FIELDS,
        /// The tiers of clients, at most 16. A client that names any other tier has the default tier.
        tiers: Set<Name, 0, 16> = [],
        /// The priority of a tier's requests, by tier; see a limit's `priority`.
        priorities: Map<Name, Priority, 16> = NO_FIELDS,
        /// How much state is kept.
        state: State = NO_FIELDS,
        /// The limits. A request must be within all limits that match it, and is charged to all of them or to none.
        limits: List<Limit, 0, 4_096> = [],
        /// The upstreams, by name.
        upstreams: Map<Name, Upstream, 1_024> = NO_FIELDS,
        /// The stores that count shared limits.
        stores: Stores = NO_FIELDS,
        /// Circuit breakers, by name. Each upstream that names one gets a breaker of its own with these settings.
        breakers: Map<Name, Breaker, 1_024> = NO_FIELDS,
        /// The routes: which upstreams serve a request. A request takes the first route that matches.
        routes: List<Route, 0, 4_096> = [],
        /// Which headers responses carry.
        response: Response = NO_FIELDS,
        /// How the whole policy acts: `enforce` does what the policy says, `observe` counts what it would have done and
        /// lets every request pass, `strict` lowers every quota by the factor in `strict`, `maintenance` answers with
        /// the page in `maintenance`.
        mode: ModeWord = "enforce",
        /// What the mode `strict` does. These settings are checked under every other mode too.
        strict: Strict = NO_FIELDS,
        /// What the mode `maintenance` does. These settings are checked under every other mode too.
        maintenance: Maintenance = NO_FIELDS,
        /// Clients that are refused with 403, even if `allow` names them too.
        deny: AccessList = NO_FIELDS,
        /// Clients that meet no limits. A client that is also on `deny` is refused.
        allow: AccessList = NO_FIELDS,
        /// How to rate the service as healthy, degraded or critical. When absent, the service is not rated.
        health: Option<Health>,
        /// Which requests are refused with 503 while the service is degraded or critical. When absent, none are.
        shedding: Option<Shedding>,
        /// The pages that show the state of the service and of this policy. When absent, there are none.
        status: Option<Status>,
        /// For Cloudflare Workers: what happens to a request that cannot be decided because the core has failed or has
        /// not answered in time. `pass` lets it go on, `refuse` answers with 503. Envoy uses its own `failure_policy`
        /// instead.
        on_failure: OnFailure = "pass",
    }
}

document! {
    /// A list of clients. A request is on the list if any entry fits it.
    AccessList {
        /// Addresses and networks, compared with the client's whole address.
        addresses: List<Network, 0, 10_000> = [],
        /// API keys, each as its SHA-256 hash. `client.api_key` says where to find them.
        api_keys: List<Digest, 0, 10_000> = [],
        /// Values of request headers, by the header's name. In `allow`, name only values that clients cannot guess, or
        /// headers that they cannot set.
        headers: Map<HeaderName, List<HeaderValue, 1, 10_000>, 16> = NO_FIELDS,
    }
}

document! {
    /// What the mode `strict` does.
    Strict {
        /// The share of every quota and burst that is in force, in percent, rounded down, but at least one permit.
        factor_percent: Int<1, 100> = 50,
    }
}

document! {
    /// What the mode `maintenance` does.
    Maintenance {
        /// The status of the response to every client.
        status: Int<200, 599> = 503,
        /// After how long clients are told to come back, as `Retry-After`.
        retry_after: SpanIn<1_000, MONTH_MS> = "5m",
        /// The content type of the body.
        content_type: ContentType = "text/html; charset=utf-8",
        /// The body: a page for people. When absent, an error in JSON, as limits send it.
        body: Option<Body>,
        /// Paths that stay open: requests to them meet the limits as if there were no maintenance.
        allow_paths: Set<PathGlob, 0, 1_000> = [],
        /// Clients that are let in, by address or network. They meet the limits.
        allow_addresses: List<Network, 0, 10_000> = [],
    }
}

document! {
    /// How much state is kept.
    State {
        /// How many keys are counted at one time. Each quota of each client is one key and takes 18 bytes. When there
        /// are more, those that have used the least of their quota are forgotten first.
        max_keys: Int<1_000, MAX_KEYS> = 100_000,
        /// The memory for kept responses, for routes with `stale`.
        kept: Kept = NO_FIELDS,
    }
}

document! {
    /// One limit.
    Limit {
        /// The name in headers, logs and metrics. No two limits may have the same.
        name: Name,
        /// Which requests the limit applies to. When absent, all requests.
        matches as "match": Match = NO_FIELDS,
        /// The parts that together distinguish clients. An empty list is one counter for all requests. If a request
        /// lacks one of the parts, it counts by the client's address instead. Envoy knows no `country`, `region` or
        /// `colo`.
        key: Set<KeyPart, 0, 8> = ["address"],
        /// How the limit counts.
        algorithm: Algorithm = "sliding-window",
        /// For `concurrency`: after how long, at most, a permit is free again if it was never given back because its
        /// holder is gone. A request that lasts longer keeps its permit. When absent, 30 s.
        lease: Option<SpanIn<10_000, HOUR_MS>>,
        /// How much each client may use.
        quota: Option<Quota>,
        /// Several quotas with different windows in place of `quota`: a request must be within all of them, and is
        /// charged to all or none.
        quotas: Option<Quotas>,
        /// The quota of a tier's clients, or a list of quotas, by tier. Other tiers have `quota` or `quotas`.
        by_tier: Map<Name, Either<Quota, Quotas>, 16> = NO_FIELDS,
        /// What a request costs: a number of permits, or the header that carries it. A request that costs more than a
        /// whole quota is never admitted.
        cost: Either<Int<1, MAX_PERMITS>, CostHeader> = 1,
        /// Charge only requests whose response has one of these statuses, when the response arrives: `401`, or `4xx`
        /// for all from 400 to 499. A client over the limit is refused before its request goes on. When absent, all
        /// requests are charged before they go on.
        only_on: Option<Set<StatusRange, 1, 64>>,
        /// Which instances count together: `instance` is one Envoy with all its workers, or one isolate of a Worker;
        /// `global` is all instances with the same store, see `stores`.
        scope: Scope = "instance",
        /// For the scope `global`: `lease` draws permits ahead, and most requests of a busy client do not wait for the
        /// store; with `concurrency` it lends permits to one request after another. `exact` asks the store for every
        /// request. When absent, `lease`.
        sharing: Option<SharingMode>,
        /// For the scope `global`: with `rls` the rate-limit service counts, see `stores.rls`. Its quotas are in its
        /// own configuration. The quota here is what one instance admits by itself while the service fails, under
        /// `on_store_failure`: `local`.
        store: Option<LimitStore>,
        /// What happens to a request over the limit: `reject` refuses it, `delay` makes it wait for its turn, `observe`
        /// counts it and lets it pass.
        on_exceed: OnExceed = "reject",
        /// For `delay`: how long a request waits at most. A request that would wait longer is refused.
        max_delay: Option<SpanIn<1, MAX_DELAY_MS>>,
        /// For `delay` and `slow_down`: how many requests wait at one time, in each worker of an Envoy. When absent,
        /// 100.
        max_waiting: Option<Int<1, 1_000>>,
        /// How requests are delayed more and more as their client approaches the limit.
        slow_down: Option<SlowDown>,
        /// The priority of the limit's requests. Among waiting requests, the highest priority goes first; when requests
        /// are shed, the lowest. A request has the highest priority that its tier or one of its limits gives it, and
        /// `medium` without either.
        priority: Option<Priority>,
        /// What a refused request is charged. When absent, nothing.
        penalty: Option<Penalty>,
        /// When a client that keeps being refused is banned: refused for a time, whatever it has used. When absent,
        /// never.
        ban: Option<Ban>,
        /// What happens when the limit's state is not available: `local` counts in the memory of the instance, `allow`
        /// lets the request pass, `deny` refuses it.
        on_store_failure: OnStoreFailure = "local",
    }
    one_of "quota" "quotas"
}

document! {
    /// How requests within the quota are slowed down.
    SlowDown {
        /// How many permits of a quota are free of delay.
        slow_after: Int<1, MAX_PERMITS>,
        /// How much longer each further permit waits than the one before.
        step: SpanIn<1, MAX_DELAY_MS>,
        /// How long a request waits at most.
        max_delay: SpanIn<1, MAX_DELAY_MS>,
    }
}

document! {
    /// What a refused request is charged. A client that keeps trying waits longer.
    Penalty {
        /// How many permits each refused request is charged, as long as `max` is not exceeded.
        cost: Int<1, MAX_PERMITS> = 1,
        /// How many permits these charges may take in all within a window of the quota that refused. The rest of the
        /// quota must suffice for a request, and still serves a client that keeps trying.
        max: Int<1, MAX_PERMITS>,
    }
}

document! {
    /// When a client that keeps being refused is banned: refused for a time, without counting, with 429 and the rest of
    /// that time as `Retry-After`.
    Ban {
        /// How many refusals by this limit begin a ban.
        after: Int<1, 1_000_000>,
        /// The time within which these refusals occur, from the first of them.
        within: SpanIn<1_000, MONTH_MS>,
        /// How long a ban lasts. Nothing prolongs it.
        lasts as "for": SpanIn<1_000, MONTH_MS>,
    }
}

document! {
    /// Which requests match. All conditions must hold.
    Match {
        /// A pattern for the path without the query: `*` is any text within one segment, a last segment `**` is any
        /// number of segments.
        path: Option<PathGlob>,
        /// The methods, any of them.
        methods: Option<Set<Method, 1, 32>>,
        /// The hosts, any of them, without a port: `api.example.com`, or `*.example.com` for all below one.
        hosts: Option<Set<HostGlob, 1, 256>>,
        /// Conditions on headers by name, all of them: the value, a pattern with one `*`, or null for a header that
        /// must be absent.
        headers: Map<HeaderName, HeaderCondition, 32> = NO_FIELDS,
    }
}

/// Four suffice for windows of a second, a minute, an hour and a day. Each takes a slot of the key table.
pub(super) type Quotas = List<Quota, 1, 4>;

document! {
    /// How much one client may use.
    Quota {
        /// Permits per window, or for `concurrency` permits that can be held at one time. A request costs one permit
        /// unless the limit says otherwise.
        permits: Option<Int<1, MAX_PERMITS>>,
        /// For `concurrency`, in place of `permits`: the limit finds the number by measuring how long responses take.
        adaptive: Option<Adaptive>,
        /// The window. Every algorithm needs one except `concurrency`, which has none.
        window: Option<SpanIn<10, MONTH_MS>>,
        /// For the token bucket: how many permits a full bucket holds. When absent, the same as `permits`.
        burst: Option<Int<1, MAX_PERMITS>>,
    }
    one_of "permits" "adaptive"
}

document! {
    /// The bounds of an adaptive number of permits.
    Adaptive {
        /// The minimum, however slow the responses are.
        min: Int<1, MAX_ADAPTIVE>,
        /// The maximum, however fast they are.
        max: Int<1, MAX_ADAPTIVE>,
    }
}

document! {
    /// The header that carries the cost: a header of the request or of the response.
    CostHeader {
        /// A header of the request. It must be one of `client.trusted_headers`, because clients would claim the
        /// minimum.
        request_header: Option<HeaderName>,
        /// A header of the response. The request is admitted if one permit is left, and charged when the response
        /// arrives, even beyond the quota: the count of a window may exceed its quota until the window ends; a token
        /// bucket is empty at most.
        response_header: Option<HeaderName>,
        /// The cost when the header is absent or not a whole number.
        default: Int<0, MAX_PERMITS> = 1,
        /// The minimum; smaller values count as this. With 0 a request may be free.
        min: Int<0, MAX_PERMITS> = 1,
        /// The maximum; larger values count as this.
        max: Int<1, MAX_PERMITS> = MAX_PERMITS,
    }
    one_of "request_header" "response_header"
}

/// The typed view of a limit's `cost`.
pub(super) type CostView<'v> = OneOf<u32, View<'v, CostHeader>>;

document! {
    /// Which headers responses carry.
    Response {
        /// Send `RateLimit` and `RateLimit-Policy`.
        ratelimit: bool = true,
        /// Send `X-RateLimit-Limit`, `-Remaining` and `-Reset`.
        x_ratelimit: bool = false,
        /// Send `X-Tidegate`: the upstream that served the request, the step of the fallback chain, and the states of
        /// the route's breakers.
        x_tidegate: bool = false,
    }
}

words! {
    Algorithm {
        "sliding-window" => Algorithm::SlidingWindow,
        "token-bucket" => Algorithm::TokenBucket,
        "fixed-window" => Algorithm::FixedWindow,
        "concurrency" => Algorithm::Concurrency,
    }
}

words! {
    OnExceed {
        "reject" => OnExceed::Reject,
        "delay" => OnExceed::Delay,
        "observe" => OnExceed::Observe,
    }
}

words! {
    Priority {
        "critical" => Priority::Critical,
        "high" => Priority::High,
        "medium" => Priority::Medium,
        "low" => Priority::Low,
    }
}

words! {
    OnStoreFailure {
        "local" => OnStoreFailure::Local,
        "allow" => OnStoreFailure::Allow,
        "deny" => OnStoreFailure::Deny,
    }
}

words! {
    OnFailure {
        "pass" => OnFailure::Pass,
        "refuse" => OnFailure::Refuse,
    }
}

words! {
    ModeWord {
        "enforce" => ModeWord::Enforce,
        "observe" => ModeWord::Observe,
        "strict" => ModeWord::Strict,
        "maintenance" => ModeWord::Maintenance,
    }
}

/// At 18 bytes for each key (16 in a table that is nine tenths full), 180 MB: the most that a proxy can spare.
const MAX_KEYS: u32 = 10_000_000;

const MINUTE_MS: u64 = 60_000;
/// A waiting request holds a connection and a stream, and few clients wait longer.
const MAX_DELAY_MS: u64 = 60_000;

pub(super) const HOUR_MS: u64 = 3_600_000;
const DAY_MS: u64 = 24 * HOUR_MS;

/// The longest window.
const MONTH_MS: u64 = 31 * DAY_MS;

/// The largest value that the adaptive estimate has bits for.
const MAX_ADAPTIVE: u32 = crate::limiter::adaptive::Adaptive::MAX.get();

const MAX_PERMITS: u32 = crate::units::Permits::MAX.get();
