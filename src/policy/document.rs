//! The policy document: every object of it, declared once.

pub(super) mod answers;
mod client;
mod routing;
mod stores;

pub(super) use client::{Address, Claims, Client, Tier};
pub(super) use routing::{Breaker, Fallback, Open, Route, Upstream, Window};
use stores::Counter;
pub(super) use stores::{Drawing, LimitScope, Redis, Stores};

use self::answers::Kept;
use super::absent::NO_FIELDS;
use super::access::HeaderValue;
use super::health::{Health, Shedding};
use super::schema::{document, words};
use super::shapes::{Either, Int, List, Map, OneOf, Set, SpanIn};
use super::status::Status;
use super::text::{AnyText, Body, ContentType, HeaderName, Method};
use super::value::Of;
use super::{
    Algorithm, Answers, HeaderCondition, HostGlob, KeyPart, Name, OnExceed, OnFailure, OnStoreFailure, PathGlob,
    Priority,
};
use crate::api_key::Digest;
use crate::mode::ModeWord;
use crate::network::Network;

document! {
    /// What Tidegate does with the requests that pass it: who the clients are, what each may have, and where a
    /// request goes when an upstream fails.
    Document {
        /// The address of the JSON Schema, for editors. Tidegate does not read it.
        schema as "$schema": Option<AnyText>,
        /// The version of this format.
        version: Int<1, 1>,
        /// How to tell the client of a request.
        client: Client = NO_FIELDS,
        /// The tiers of clients, at most 16. A client of any other tier has the default tier.
        tiers: Set<Name, 0, 16> = [],
        /// The priority of the requests of a tier, by tier; see a limit's `priority`.
        priorities: Map<Name, Priority, 16> = NO_FIELDS,
        /// How much state is kept.
        state: State = NO_FIELDS,
        /// The limits. A request must be within all that match it, and is charged to all or none.
        limits: List<Limit, 0, 4_096> = [],
        /// Where requests can go, by name.
        upstreams: Map<Name, Upstream, 1_024> = NO_FIELDS,
        /// The stores that count shared limits.
        stores: Stores = NO_FIELDS,
        /// Circuit breakers, by name. Each upstream that names one gets a breaker of its own with these settings.
        breakers: Map<Name, Breaker, 1_024> = NO_FIELDS,
        /// Which upstreams serve a request. The first route that matches is taken.
        routes: List<Route, 0, 4_096> = [],
        /// What responses say about limits.
        response: Response = NO_FIELDS,
        /// How all of this acts: `enforce` does as it says, `observe` counts what it would have done and lets every request
        /// pass, `strict` lowers every quota by the factor in `strict`, `maintenance` answers with the page in `maintenance`.
        mode: ModeWord = "enforce",
        /// What the mode `strict` does. It is checked under every other mode too.
        strict: Strict = NO_FIELDS,
        /// What the mode `maintenance` does. It is checked under every other mode too.
        maintenance: Maintenance = NO_FIELDS,
        /// Clients that are refused with 403, even if `allow` names them too.
        deny: AccessList = NO_FIELDS,
        /// Clients that meet no limits. One that is denied as well is refused.
        allow: AccessList = NO_FIELDS,
        /// How to rate the service as healthy, degraded or critical. It is not rated when absent.
        health: Option<Health>,
        /// Which requests are refused with 503 while the service is degraded or critical. None when absent.
        shedding: Option<Shedding>,
        /// The pages that say how the service and this policy are. There are none when absent.
        status: Option<Status>,
        /// For Cloudflare Workers: what happens to a request that cannot be decided, since the core has failed or has not
        /// answered in time. `pass` lets it go on, `refuse` answers with 503. For Envoy its own `failure_policy` says that.
        on_failure: OnFailure = "pass",
    }
}

document! {
    /// A list of clients. A request is in it that fits any of the entries.
    AccessList {
        /// Addresses and networks, compared with the client's whole address.
        addresses: List<Network, 0, 10_000> = [],
        /// API keys, each as its SHA-256 hash. `client.api_key` says where to find them.
        api_keys: List<Digest, 0, 10_000> = [],
        /// Values of request headers, by the header's name. A list that allows must name headers that clients cannot guess
        /// or set themselves.
        headers: Map<HeaderName, List<HeaderValue, 1, 10_000>, 16> = NO_FIELDS,
    }
}

document! {
    /// What the mode `strict` does.
    Strict {
        /// What share of every quota and burst is in force, in percent, rounded down, but at least one permit.
        factor_percent: Int<1, 100> = 50,
    }
}

document! {
    /// What the mode `maintenance` does.
    Maintenance {
        /// The status of the response that everybody gets.
        status: Int<200, 599> = 503,
        /// When clients are told to come back.
        retry_after: SpanIn<1_000, MONTH_MS> = "5m",
        /// The content type of the body.
        content_type: ContentType = "text/html; charset=utf-8",
        /// The body: a page for people. An error in JSON, as limits send it, when absent.
        body: Option<Body>,
        /// Paths at which requests are let in, and meet the limits, as if there were no maintenance.
        allow_paths: Set<PathGlob, 0, 1_000> = [],
        /// Clients that are let in, by address or network.
        allow_addresses: List<Network, 0, 10_000> = [],
    }
}

document! {
    /// How much state is kept.
    State {
        /// How many keys, each a client of a quota, are counted at one time; each takes 18 bytes. When there are more,
        /// those nearest to having used nothing are forgotten first.
        max_keys: Int<1_000, MAX_KEYS> = 100_000,
        /// How much room good responses get, for routes with `stale`.
        kept: Kept = NO_FIELDS,
    }
}

document! {
    /// One limit.
    Limit {
        /// The name in headers, logs and metrics, unlike that of any other limit.
        name: Name,
        /// Which requests the limit is for. All requests when absent.
        matches as "match": Match = NO_FIELDS,
        /// The parts that together tell one client from another. An empty list is one counter for all requests. Of
        /// a request that lacks one of them the address counts instead: in Envoy, which knows no `country`, `region` or `colo`.
        key: Set<KeyPart, 0, 8> = ["address"],
        /// How the limit counts.
        algorithm: Algorithm = "sliding-window",
        /// For `concurrency`: after how long, at most, a permit is free again that was never given back, since whoever
        /// held it is gone. A request that lasts longer keeps its permit. 30 s when absent.
        lease: Option<SpanIn<10_000, HOUR_MS>>,
        /// How much each client may have.
        quota: Option<Quota>,
        /// Several quotas of different windows in place of the one: a request must be within all of them, and is charged
        /// to all or none.
        quotas: Option<Quotas>,
        /// The quota of clients of a tier, or a list of several, by tier. The others have `quota` or `quotas`.
        by_tier: Map<Name, Either<Quota, Quotas>, 16> = NO_FIELDS,
        /// What a request costs: a number of permits, or the header that says it. A request that costs more than a
        /// whole quota is never admitted.
        cost: Either<Int<1, MAX_PERMITS>, CostHeader> = 1,
        /// Only requests whose answer has one of these statuses are charged, when it comes: `401`, or `4xx` for all from
        /// 400 to 499. A client over the limit is refused before. All requests, before they go on, when absent.
        only_on: Option<Set<Answers, 1, 64>>,
        /// Who counts together: `instance` is one Envoy with all its workers, `global` is all instances with the same store, see
        /// `stores`.
        scope: LimitScope = "instance",
        /// For the scope `global`: `lease` draws permits ahead, so that a client in use is not waited for, or lends those of
        /// requests in flight to one request after the other; `exact` asks the store for every request. `lease` when absent.
        sharing: Option<Drawing>,
        /// For the scope `global`: `rls` has the rate-limit service count, see `stores.rls`. Its quotas are in its own
        /// configuration; the quota here is what one instance admits by itself while the service fails, under
        /// `on_store_failure`: `local`.
        store: Option<Counter>,
        /// What happens to a request over the limit: `reject` refuses it, `delay` lets it wait for its turn, `observe` counts
        /// it and lets it pass.
        on_exceed: OnExceed = "reject",
        /// For `delay`: how long a request waits at most. One that would have to wait longer is refused.
        max_delay: Option<SpanIn<1, MAX_DELAY_MS>>,
        /// For `delay` and `slow_down`: how many requests wait at one time, in each worker of an Envoy. 100 when absent.
        max_waiting: Option<Int<1, 1_000>>,
        /// Requests wait longer and longer as their client comes near to the limit.
        slow_down: Option<SlowDown>,
        /// How important the limit's requests are. Of requests that wait the most important goes first. A request is as
        /// important as the most important of its limits and its tier; `medium` where none says anything.
        priority: Option<Priority>,
        /// What a refused request is charged. Nothing when absent.
        penalty: Option<Penalty>,
        /// When a client that keeps being refused is refused for a time, whatever it has used. Never when absent.
        ban: Option<Ban>,
        /// What happens when the state cannot be had: `local` counts in the memory of the instance, `allow` lets the
        /// request pass, `deny` refuses it.
        on_store_failure: OnStoreFailure = "local",
    }
    one_of "quota" "quotas"
}

document! {
    /// How requests within the quota are slowed down.
    SlowDown {
        /// How many permits of a quota are free of delay.
        slow_after: Int<1, MAX_PERMITS>,
        /// By how much each permit after those waits longer than the one before.
        step: SpanIn<1, MAX_DELAY_MS>,
        /// How long a request waits at most.
        max_delay: SpanIn<1, MAX_DELAY_MS>,
    }
}

document! {
    /// What a refused request is charged, so that to keep trying makes the wait longer.
    Penalty {
        /// What each refused request is charged, as long as `max` is not exceeded.
        cost: Int<1, MAX_PERMITS> = 1,
        /// How many permits may be charged so within a window of the quota that refused. What is left of the quota must
        /// suffice for a request: whoever keeps trying is still served so much.
        max: Int<1, MAX_PERMITS>,
    }
}

document! {
    /// When a client that keeps being refused is refused for a time, without counting, with 429 and the rest of that time
    /// as `Retry-After`.
    Ban {
        /// How many refusals by this limit begin a ban.
        after: Int<1, 1_000_000>,
        /// The time within which they occur, from the first of them.
        within: SpanIn<1_000, MONTH_MS>,
        /// How long a ban lasts. Nothing prolongs it.
        lasts as "for": SpanIn<1_000, MONTH_MS>,
    }
}

document! {
    /// Which requests are meant. All conditions must hold.
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

/// As many as there are useful ones, of a second, a minute, an hour and a day: each takes a place in the key table.
pub(super) type Quotas = List<Quota, 1, 4>;

document! {
    /// How much one client may have.
    Quota {
        /// Permits per window, or for `concurrency` permits that can be held at one time. A request costs one unless the limit
        /// says otherwise.
        permits: Option<Int<1, MAX_PERMITS>>,
        /// For `concurrency`, in place of `permits`: the number is found out by how long answers take.
        adaptive: Option<Adaptive>,
        /// The window. All algorithms but `concurrency` need one, and it has none.
        window: Option<SpanIn<10, MONTH_MS>>,
        /// For the token bucket: how many permits a client can save up. The same as `permits` when absent.
        burst: Option<Int<1, MAX_PERMITS>>,
    }
    one_of "permits" "adaptive"
}

document! {
    /// Between which bounds a number of permits is found out.
    Adaptive {
        /// The least, however slow the answers are.
        min: Int<1, MAX_ADAPTIVE>,
        /// The most, however quick they are.
        max: Int<1, MAX_ADAPTIVE>,
    }
}

document! {
    /// The header that says what a request costs: one of the request, or one of the answer.
    CostHeader {
        /// A header of the request, one of `client.trusted_headers`: a client would say the least.
        request_header: Option<HeaderName>,
        /// A header of the answer. The request is admitted if one permit is left, and charged when its answer comes,
        /// room or not: a window's count may exceed the quota and passes with it, a token bucket is empty at most.
        response_header: Option<HeaderName>,
        /// The cost when the header is absent or is no whole number.
        default: Int<0, MAX_PERMITS> = 1,
        /// The least: what the header says below it is this. 0 lets a request be free.
        min: Int<0, MAX_PERMITS> = 1,
        /// The most: what the header says above it is this.
        max: Int<1, MAX_PERMITS> = MAX_PERMITS,
    }
    one_of "request_header" "response_header"
}

/// What a request costs, as checks see it.
pub(super) type SeenCost<'v> = OneOf<u32, Of<'v, CostHeader>>;

document! {
    /// What responses say about limits.
    Response {
        /// Send `RateLimit` and `RateLimit-Policy`.
        ratelimit: bool = true,
        /// Send `X-RateLimit-Limit`, `-Remaining` and `-Reset`.
        x_ratelimit: bool = false,
        /// Send `X-Tidegate`: which upstream served the request, at which step of its way, and how the route's breakers stand.
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

/// A key takes 16 bytes of the table, so these take 160 MB: what a proxy can spare at most.
const MAX_KEYS: u32 = 10_000_000;

const MINUTE_MS: u64 = 60_000;
/// A request that waits holds a connection and a stream, and its client seldom has more patience.
const MAX_DELAY_MS: u64 = 60_000;

pub(super) const HOUR_MS: u64 = 3_600_000;
const DAY_MS: u64 = 24 * HOUR_MS;

/// The longest window; the table counts and forgets within it.
const MONTH_MS: u64 = 31 * DAY_MS;

/// What the estimate has bits for.
const MAX_ADAPTIVE: u32 = crate::limiter::adaptive::Adaptive::MAX.get();

const MAX_PERMITS: u32 = crate::units::Permits::MAX.get();
