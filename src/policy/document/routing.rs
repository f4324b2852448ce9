//! Where requests can go: upstreams, their breakers, and routes.

use super::responses::{Cache, Preload, Static, Variants};
use super::{DAY_MS, HOUR_MS, MINUTE_MS, MONTH_MS, Match, Scope};
use crate::policy::defaults::NO_FIELDS;
use crate::policy::schema::{document, words};
use crate::policy::shapes::{Decimal, Int, List, Set, SpanIn};
use crate::policy::text::{Cluster, Failure, Method, Url};
use crate::policy::{BreakerMode, Name};

document! {
    /// A place that requests can go to. It needs a `cluster`, a `url`, or both.
    Upstream {
        /// The name of the cluster in Envoy.
        cluster: Option<Cluster>,
        /// The base URL, for Cloudflare Workers.
        url: Option<Url>,
        /// How long the upstream may take until its response begins.
        timeout: Option<SpanIn<1, HOUR_MS>>,
        /// The name of its breaker's settings in `breakers`.
        breaker: Option<Name>,
    }
}

document! {
    /// When to stop calling an upstream, and how to begin again.
    Breaker {
        /// The calls over which the rates are computed.
        window: Window,
        /// How many calls a window must have before its rates count. When absent, 20, or the whole window if it is
        /// smaller.
        min_calls: Option<Int<1, 1_000_000>>,
        /// The share of failed calls, in percent, at which the breaker opens.
        failure_rate_percent: Decimal<1, 10_000> = 50,
        /// The duration from which a call counts as slow.
        slow_call: Option<SpanIn<1, HOUR_MS>>,
        /// The share of slow calls, in percent, at which the breaker opens. When absent, 100.
        slow_rate_percent: Option<Decimal<1, 10_000>>,
        /// How many failures without a success in between open the breaker.
        consecutive_failures: Option<Int<1, 1_000_000>>,
        /// Which calls count as failures: `connect`, `timeout`, `reset`, `5xx` (without 501), or single statuses such
        /// as `429`.
        failures: Set<Failure, 1, 64> = ["connect", "timeout", "reset", "5xx"],
        /// How long the breaker stays open.
        open: Open = NO_FIELDS,
        /// What a half-open breaker admits.
        half_open: HalfOpen = NO_FIELDS,
        /// How a breaker that has just closed returns to admitting everything. When absent, at once.
        ramp: Option<Ramp>,
        /// Whether an upstream has one such breaker for each route that leads to it. When false, one for all routes.
        per_route: bool = false,
        /// Which instances share the breaker: `instance` is one Envoy with all its workers, or one isolate of a Worker;
        /// `global` is all instances with the same store, see `stores`. A breaker whose `mode` is not `enforce` is
        /// never shared.
        scope: Scope = "instance",
        /// Whether the breaker acts: `enforce` refuses calls, `observe` only counts what it would have refused,
        /// `forced-open` refuses every call, `disabled` refuses none and counts none.
        mode: BreakerMode = "enforce",
    }
}

document! {
    /// The calls over which the rates are computed.
    Window {
        /// The calls within this time, in thirty buckets.
        time: Option<SpanIn<1_000, HOUR_MS>>,
        /// This many of the latest calls.
        count: Option<Int<1, 10_000>>,
    }
    one_of "time" "count"
}

document! {
    /// How long a breaker stays open.
    Open {
        /// The first open time. It applies again once the breaker has stayed closed, after its ramp, for as long as the
        /// next open time would be.
        initial: SpanIn<100, HOUR_MS> = "5s",
        /// The factor by which the open time grows with each further opening, until `initial` applies again.
        factor: Decimal<100, 1_000> = 2,
        /// The longest open time, not less than `initial`.
        max: SpanIn<100, DAY_MS> = "5m",
        /// The largest random part that is taken off the open time, in percent. It keeps instances from probing in
        /// step.
        jitter_percent: Decimal<0, 10_000> = 20,
    }
}

document! {
    /// What a half-open breaker admits.
    HalfOpen {
        /// How many calls it admits. The breaker closes if all succeed and none is slow.
        probes: Int<1, 1_000> = 5,
        /// How long to wait for a probe to succeed. If none has for that long while one is awaited, the breaker opens
        /// again.
        max_wait: SpanIn<100, HOUR_MS> = "10s",
    }
}

document! {
    /// How a breaker that has just closed returns to admitting everything.
    Ramp {
        /// The share of calls admitted at first, in percent.
        from_percent: Decimal<1, 10_000>,
        /// After how long all calls are admitted.
        over: SpanIn<1_000, HOUR_MS>,
    }
}

document! {
    /// Which upstreams serve which requests.
    Route {
        /// The name in logs and metrics. No two routes may have the same.
        name: Name,
        /// Which requests the route applies to. When absent, all requests.
        matches as "match": Match = NO_FIELDS,
        /// The upstreams, in the order of preference.
        upstreams: Set<Name, 1, 16>,
        /// What happens when an upstream fails.
        fallback: Option<Fallback>,
        /// What responses tell caches, and what distinguishes kept responses.
        cache: Option<Cache>,
        /// Images in the format and width that the client needs, made by the image service of a CDN.
        variants: Option<Variants>,
        /// Assets that pages of this route will need. A `Link` header on HTML tells browsers before they parse the
        /// page.
        preload: List<Preload, 0, 16> = [],
    }
}

document! {
    /// What happens when an upstream fails.
    Fallback {
        /// Which failures lead to the next upstream: `connect`, `timeout`, `reset`, `5xx` (without 501), or single
        /// statuses such as `429`.
        on: Set<Failure, 1, 64>,
        /// How many upstreams are tried at most. When absent, all of the route's.
        attempts: Option<Int<1, 16>>,
        /// The methods of requests that may be sent again. A request with a body is never sent again, because its body
        /// is gone.
        methods: Set<Method, 0, 32> = ["GET", "HEAD", "OPTIONS"],
        /// How many retries there may be, in percent of the requests of the last ten seconds. Three a second are
        /// allowed in any case.
        budget_percent: Int<0, 100> = 20,
        /// How long a request waits before a retry.
        backoff: Backoff = NO_FIELDS,
        /// How old a kept response may be to be served when all upstreams fail. When absent, no responses are kept.
        stale: Option<SpanIn<1_000, MONTH_MS>>,
        /// The response when everything else has failed.
        fixed as "static": Option<Static>,
    }
}

document! {
    /// How long a request waits before a retry: a random part of a time that doubles with each retry.
    Backoff {
        /// The longest wait before the first retry; 0 means none.
        initial: SpanIn<0, MINUTE_MS> = "25ms",
        /// The longest wait before any retry, not less than `initial`.
        max: SpanIn<0, MINUTE_MS> = "250ms",
    }
}

words! {
    BreakerMode {
        "enforce" => BreakerMode::Enforce,
        "observe" => BreakerMode::Observe,
        "forced-open" => BreakerMode::ForcedOpen,
        "disabled" => BreakerMode::Disabled,
    }
}
