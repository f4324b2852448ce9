//! Where requests can go: upstreams, their breakers, and routes.

use super::answers::{Cache, Preload, Static, Variants};
use super::{DAY_MS, HOUR_MS, LimitScope, MINUTE_MS, MONTH_MS, Match};
use crate::policy::absent::NO_FIELDS;
use crate::policy::schema::{document, words};
use crate::policy::shapes::{Decimal, Int, List, Set, SpanIn};
use crate::policy::text::{Cluster, Failure, Method, Url};
use crate::policy::{BreakerMode, Name};

document! {
    /// Where requests can go.
    Upstream {
        /// The name of the cluster in Envoy.
        cluster: Option<Cluster>,
        /// The base URL, for Cloudflare Workers.
        url: Option<Url>,
        /// How long it may take until a response begins.
        timeout: Option<SpanIn<1, HOUR_MS>>,
        /// The name of its settings in `breakers`.
        breaker: Option<Name>,
    }
}

document! {
    /// When to stop calling an upstream, and how to begin again.
    Breaker {
        /// Over which calls the rates are taken.
        window: Window,
        /// How many calls a window must have before its rates count. 20 when absent, or all of a window with fewer.
        min_calls: Option<Int<1, 1_000_000>>,
        /// The share of failed calls, in percent, at which the breaker opens.
        failure_rate_percent: Decimal<1, 10_000> = 50,
        /// The duration from which a call counts as slow.
        slow_call: Option<SpanIn<1, HOUR_MS>>,
        /// The share of slow calls, in percent, at which the breaker opens. 100 when absent.
        slow_rate_percent: Option<Decimal<1, 10_000>>,
        /// How many failures without a success between them open the breaker.
        consecutive_failures: Option<Int<1, 1_000_000>>,
        /// Which calls have failed: `connect`, `timeout`, `reset`, `5xx` (which 501 is not), or single statuses such as `429`.
        failures: Set<Failure, 1, 64> = ["connect", "timeout", "reset", "5xx"],
        /// How long the breaker stays open.
        open: Open = NO_FIELDS,
        /// What a half-open breaker admits.
        half_open: HalfOpen = NO_FIELDS,
        /// How the closed breaker returns to admitting everything. At once when absent.
        ramp: Option<Ramp>,
        /// Whether an upstream has one such breaker for each route that leads to it. One for all routes when false.
        per_route: bool = false,
        /// Who shares the breaker: `instance` is one Envoy with all its workers, `global` is all instances with the same store,
        /// see `stores`. One whose `mode` is not `enforce` is each instance's own.
        scope: LimitScope = "instance",
        /// Whether the breaker acts: `enforce` refuses, `observe` only counts what it would have refused, `forced-open`
        /// refuses every call, `disabled` none.
        mode: BreakerMode = "enforce",
    }
}

document! {
    /// Over which calls the rates are taken.
    Window {
        /// Calls within this time, to a thirtieth of it.
        time: Option<SpanIn<1_000, HOUR_MS>>,
        /// This many of the latest calls.
        count: Option<Int<1, 10_000>>,
    }
    one_of "time" "count"
}

document! {
    /// How long a breaker stays open.
    Open {
        /// The first time, and again after a good run.
        initial: SpanIn<100, HOUR_MS> = "5s",
        /// The factor by which each further time grows, without a good run in between.
        factor: Decimal<100, 1_000> = 2,
        /// The longest time, not less than `initial`.
        max: SpanIn<100, DAY_MS> = "5m",
        /// The random share of the time, in percent, so that instances do not probe in step.
        jitter_percent: Decimal<0, 10_000> = 20,
    }
}

document! {
    /// What a half-open breaker admits.
    HalfOpen {
        /// How many calls, all of which must succeed, and none be slow.
        probes: Int<1, 1_000> = 5,
        /// How long the outcome of such a call is awaited: one that does not come has failed.
        max_wait: SpanIn<100, HOUR_MS> = "10s",
    }
}

document! {
    /// How a breaker that has just closed returns to admitting everything.
    Ramp {
        /// The share of calls admitted at first, in percent.
        from_percent: Decimal<1, 10_000>,
        /// After how long all are admitted.
        over: SpanIn<1_000, HOUR_MS>,
    }
}

document! {
    /// Which upstreams serve which requests.
    Route {
        /// The name in logs and metrics, unlike that of any other route.
        name: Name,
        /// Which requests the route is for. All requests when absent.
        matches as "match": Match = NO_FIELDS,
        /// The upstreams, in the order of preference.
        upstreams: Set<Name, 1, 16>,
        /// What happens when an upstream fails.
        fallback: Option<Fallback>,
        /// What responses tell caches, and how kept responses are told apart.
        cache: Option<Cache>,
        /// Images in the format and the width that the client needs, made by the image service of a CDN.
        variants: Option<Variants>,
        /// What pages of this route will need: a `Link` header on HTML tells browsers before they have read it.
        preload: List<Preload, 0, 16> = [],
    }
}

document! {
    /// What happens when an upstream fails.
    Fallback {
        /// What counts as a failure: `connect`, `timeout`, `reset`, `5xx` (which 501 is not), or single statuses such as `429`.
        on: Set<Failure, 1, 64>,
        /// How many upstreams are tried at most. All of the route's when absent.
        attempts: Option<Int<1, 16>>,
        /// The methods of requests that may be sent again. One with a body never is: it is gone.
        methods: Set<Method, 0, 32> = ["GET", "HEAD", "OPTIONS"],
        /// How many further tries there may be at most, in percent of the requests of the last ten seconds; three a second may
        /// be in any case.
        budget_percent: Int<0, 100> = 20,
        /// How long a request waits before a further try.
        backoff: Backoff = NO_FIELDS,
        /// How old a kept answer may be to serve when all upstreams fail. Nothing is kept when absent.
        stale: Option<SpanIn<1_000, MONTH_MS>>,
        /// The response when everything else has failed.
        fixed as "static": Option<Static>,
    }
}

document! {
    /// How long a request waits before a further try: a part, left to chance, of a time that doubles with each.
    Backoff {
        /// The longest wait before the second try; 0 means none.
        initial: SpanIn<0, MINUTE_MS> = "25ms",
        /// The longest wait before any try, not less than `initial`.
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
