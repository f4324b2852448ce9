//! The stores that count shared limits.

use crate::policy::Protocol;
use crate::policy::schema::{document, words};
use crate::policy::shapes::{Int, SpanIn, Text};
use crate::policy::text::{AnyText, Cluster, Url};
use crate::policy::value::Value;

document! {
    /// What counts the limits of the scope `global`. Without a store here the Durable Objects of a Worker do, and in Envoy
    /// there can be none.
    Stores {
        /// How long an answer of the store is awaited. 20 ms in Envoy and 50 ms in a Worker when absent.
        deadline: Option<SpanIn<1, 10_000>>,
        /// For `on_store_failure`: `local`: which share of each quota an instance has, in percent, as long as it has not seen
        /// how much of it others use.
        local_share_percent: Int<1, 100> = 10,
        /// Redis behind HTTP.
        redis: Option<Redis>,
        /// A rate-limit service as Envoy knows it, for limits with the store `rls`. In Envoy alone.
        rls: Option<Rls>,
    }
}

document! {
    /// Redis behind HTTP.
    Redis {
        /// Its protocol: `upstash` is the REST API of Upstash, `webdis` is Webdis.
        protocol: Protocol = "upstash",
        /// The name of the cluster in Envoy.
        cluster: Option<Cluster>,
        /// The base URL, for Cloudflare Workers: with it they ask this Redis in place of their Durable Objects. In Envoy its host
        /// is the `Host` of requests; without it that is the cluster's name.
        url: Option<Url>,
        /// In Envoy, the path under which it is served.
        path: BasePath = "/",
        /// The token that it requires. The keys of shared limits are made from it too, so that strangers cannot choose them.
        token: Option<Token>,
        /// In place of `token`: the environment variable, or in a Worker the secret, that holds it.
        token_env: Option<AnyText>,
    }
}

document! {
    /// A service of Envoy's rate-limit API, `envoy.service.ratelimit.v3.RateLimitService`.
    Rls {
        /// The name of its cluster in Envoy, which has to speak HTTP/2.
        cluster: Cluster,
        /// The domain under which the service has its limits.
        domain: Domain,
        /// How long its answer is awaited. That of `stores` when absent.
        deadline: Option<SpanIn<1, 10_000>>,
    }
}

words! {
    Protocol {
        "upstash" => Protocol::Upstash,
        "webdis" => Protocol::Webdis,
    }
}

/// Who counts a limit together.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(in crate::policy) enum LimitScope {
    /// One instance.
    Instance,
    /// All that share a store.
    Global,
}

words! {
    LimitScope {
        "instance" => LimitScope::Instance,
        "global" => LimitScope::Global,
    }
}

/// What counts a limit in place of the store that counts the others.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(in crate::policy) enum Counter {
    /// The rate-limit service.
    Rls,
}

words! {
    Counter { "rls" => Counter::Rls }
}

/// How the permits of a shared limit are drawn.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(in crate::policy) enum Drawing {
    /// Ahead.
    Lease,
    /// For every request.
    Exact,
}

words! {
    Drawing {
        "lease" => Drawing::Lease,
        "exact" => Drawing::Exact,
    }
}

/// The domain of a rate-limit service.
pub(in crate::policy) enum Domain {}

impl Text for Domain {
    const WHAT: &str = "a domain of a rate-limit service";
    const PATTERN: Option<&str> = Some("^[!-~]+$");
    const CHARS: (u32, u32) = (1, 256);
    const RIGHT: &str = "write the domain of the service's own configuration, without spaces";

    type Kept = str;

    fn parse(text: &str) -> Result<Value, Option<String>> {
        text.bytes().all(|byte| byte.is_ascii_graphic()).then(|| Value::Text(text.to_owned())).ok_or(None)
    }
}

/// The path under which something is served.
pub(in crate::policy) enum BasePath {}

impl Text for BasePath {
    const WHAT: &str = "a path";
    const PATTERN: Option<&str> = Some("^/([!\"$->@-~]*[!\"$-.0->@-~])?$");
    const CHARS: (u32, u32) = (1, 256);
    const RIGHT: &str = "write a path that begins with \"/\" and does not end with it, as in \"/redis\", or \"/\"";

    type Kept = str;

    fn parse(text: &str) -> Result<Value, Option<String>> {
        let right = text.bytes().all(|byte| byte.is_ascii_graphic() && !b"?#".contains(&byte));
        let ends = text == "/" || (text.starts_with('/') && !text.ends_with('/'));
        (right && ends).then(|| Value::Text(text.to_owned())).ok_or(None)
    }
}

/// The token of a store.
pub(in crate::policy) enum Token {}

impl Text for Token {
    const WHAT: &str = "a token";
    const PATTERN: Option<&str> = Some("^[!-~]+$");
    const CHARS: (u32, u32) = (1, 1_024);
    const RIGHT: &str = "write it as the store's provider gives it: letters, digits and signs, without spaces";
    const SECRET: bool = true;

    type Kept = str;

    fn parse(text: &str) -> Result<Value, Option<String>> {
        text.bytes().all(|byte| byte.is_ascii_graphic()).then(|| Value::Text(text.to_owned())).ok_or(None)
    }
}
