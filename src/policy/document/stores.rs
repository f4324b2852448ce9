//! The stores that count shared limits.

use crate::policy::Protocol;
use crate::policy::schema::{document, words};
use crate::policy::shapes::{Int, SpanIn, Text};
use crate::policy::text::{AnyText, Cluster, Url};
use crate::policy::value::Value;

document! {
    /// The stores that count limits with the scope `global`. Without a store here, a Worker's Durable Objects count
    /// them, and Envoy refuses a policy with such a limit.
    Stores {
        /// How long to wait for the store's answer. When absent, 20 ms in Envoy and 50 ms in a Worker.
        deadline: Option<SpanIn<1, 10_000>>,
        /// For `on_store_failure`: `local`: the share of each quota that an instance admits, in percent, while it does
        /// not know its recent share of the demand.
        local_share_percent: Int<1, 100> = 10,
        /// Redis behind HTTP.
        redis: Option<Redis>,
        /// A service of Envoy's rate-limit API, for limits with the store `rls`. Works only in Envoy.
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
        /// The base URL. With it, Cloudflare Workers ask this Redis in place of their Durable Objects. In Envoy, its
        /// host is the `Host` of requests to Redis; without it, the cluster's name is.
        url: Option<Url>,
        /// The path under which Envoy reaches it.
        path: BasePath = "/",
        /// The token that it requires. It also keys the hashes of shared limits' keys, so strangers cannot predict
        /// them.
        token: Option<Token>,
        /// In place of `token`: the environment variable, or in a Worker the secret, that holds the token.
        token_env: Option<AnyText>,
    }
}

document! {
    /// A service of Envoy's rate-limit API, `envoy.service.ratelimit.v3.RateLimitService`.
    Rls {
        /// The name of its cluster in Envoy. The cluster must speak HTTP/2.
        cluster: Cluster,
        /// The domain of the limits in the service's own configuration.
        domain: Domain,
        /// How long to wait for its answer. When absent, the `deadline` of `stores`.
        deadline: Option<SpanIn<1, 10_000>>,
    }
}

words! {
    Protocol {
        "upstash" => Protocol::Upstash,
        "webdis" => Protocol::Webdis,
    }
}

/// Which instances share a limit or a breaker.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(in crate::policy) enum Scope {
    /// One instance.
    Instance,
    /// All instances with the same store.
    Global,
}

words! {
    Scope {
        "instance" => Scope::Instance,
        "global" => Scope::Global,
    }
}

/// A limit's `store`: what counts it in place of the store that counts other shared limits.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(in crate::policy) enum LimitStore {
    /// The rate-limit service.
    Rls,
}

words! {
    LimitStore { "rls" => LimitStore::Rls }
}

/// A limit's `sharing`: how an instance draws the permits of a shared limit.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(in crate::policy) enum SharingMode {
    /// Ahead of requests.
    Lease,
    /// For every request.
    Exact,
}

words! {
    SharingMode {
        "lease" => SharingMode::Lease,
        "exact" => SharingMode::Exact,
    }
}

/// The domain of a rate-limit service.
pub(in crate::policy) enum Domain {}

impl Text for Domain {
    const WHAT: &str = "a domain of a rate-limit service";
    const PATTERN: Option<&str> = Some("^[!-~]+$");
    const CHARS: (u32, u32) = (1, 256);
    const HINT: &str = "write the domain of the service's own configuration, without spaces";

    type Parsed = str;

    fn parse(text: &str) -> Result<Value, Option<String>> {
        text.bytes().all(|byte| byte.is_ascii_graphic()).then(|| Value::Text(text.to_owned())).ok_or(None)
    }
}

/// The path under which a store is reached.
pub(in crate::policy) enum BasePath {}

impl Text for BasePath {
    const WHAT: &str = "a path";
    const PATTERN: Option<&str> = Some("^/([!\"$->@-~]*[!\"$-.0->@-~])?$");
    const CHARS: (u32, u32) = (1, 256);
    const HINT: &str = "write a path that begins with \"/\" and does not end with it, as in \"/redis\", or \"/\"";

    type Parsed = str;

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
    const HINT: &str = "write it as the store's provider gives it: letters, digits and signs, without spaces";
    const SECRET: bool = true;

    type Parsed = str;

    fn parse(text: &str) -> Result<Value, Option<String>> {
        text.bytes().all(|byte| byte.is_ascii_graphic()).then(|| Value::Text(text.to_owned())).ok_or(None)
    }
}
