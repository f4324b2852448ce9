//! The stores that count shared limits, and the checks on limits that use them.

use super::document::{self, Document};
use super::error::{Path, Problems};
use super::shapes::OneOf;
use super::value::View;
use super::{Algorithm, Breaker, Limit, OnExceed, Policy, Quota};
use crate::authority::Terms;
use crate::mode::Mode;
use crate::units::{BasisPoints, Span};
use core::fmt;

/// How instances draw the permits of a shared limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sharing {
    /// Whether the store is asked for every request, and no permits are drawn ahead.
    pub(crate) exact: bool,
}

/// The stores that count shared limits.
#[derive(Clone, Debug, PartialEq)]
pub struct Stores {
    deadline: Option<Span>,
    local_share: BasisPoints,
    redis: Option<RedisStore>,
    rls: Option<RateLimitService>,
}

/// A service of Envoy's rate-limit API.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RateLimitService {
    cluster: String,
    domain: String,
    deadline: Option<Span>,
}

/// Redis behind HTTP.
#[derive(Clone, PartialEq)]
pub struct RedisStore {
    protocol: Protocol,
    cluster: Option<String>,
    url: Option<String>,
    path: String,
    token: Option<String>,
    token_env: Option<String>,
}

/// The HTTP protocol in front of Redis.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// The REST API of Upstash: commands as JSON lists, with a bearer token.
    Upstash,
    /// Webdis, a plain HTTP interface to Redis.
    Webdis,
}

impl Policy {
    /// The stores that count shared limits.
    #[must_use]
    pub fn stores(&self) -> &Stores {
        &self.stores
    }

    /// The limits that instances share. Limits that the rate-limit service counts are not among them.
    pub fn shared_limits(&self) -> impl Iterator<Item = &Limit> {
        self.limits.iter().filter(|limit| limit.is_shared())
    }

    /// Whether instances share a breaker. Under the mode `observe` they never do.
    #[must_use]
    pub fn shares_breakers(&self) -> bool {
        self.mode != Mode::Observe && self.breakers().iter().any(Breaker::is_shared)
    }

    /// The limits that the rate-limit service counts.
    pub fn limits_by_service(&self) -> impl Iterator<Item = &Limit> {
        self.limits.iter().filter(|limit| limit.by_service)
    }
}

impl Stores {
    /// How long to wait for the store's answer; `None` for the host's default.
    #[must_use]
    pub fn deadline(&self) -> Option<Span> {
        self.deadline
    }

    /// The share of a quota that an instance admits while the store fails and its recent share is unknown.
    #[must_use]
    pub fn local_share(&self) -> BasisPoints {
        self.local_share
    }

    /// The Redis that counts shared limits, if the policy has one.
    #[must_use]
    pub fn redis(&self) -> Option<&RedisStore> {
        self.redis.as_ref()
    }

    /// The rate-limit service that counts limits with the store `rls`, if the policy has one.
    #[must_use]
    pub fn rls(&self) -> Option<&RateLimitService> {
        self.rls.as_ref()
    }

    /// The secret that keys the hashes of shared limits' keys, the same in all instances: the token if the document has
    /// it, otherwise empty.
    pub(crate) fn secret(&self) -> &[u8] {
        self.redis.as_ref().and_then(|redis| redis.token.as_deref()).unwrap_or_default().as_bytes()
    }
}

impl Default for Stores {
    fn default() -> Self {
        Self { deadline: None, local_share: BasisPoints::new(1_000), redis: None, rls: None }
    }
}

impl RateLimitService {
    /// Its cluster in Envoy.
    #[must_use]
    pub fn cluster(&self) -> &str {
        &self.cluster
    }

    /// The domain of the limits in the service's own configuration.
    #[must_use]
    pub fn domain(&self) -> &str {
        &self.domain
    }

    /// How long to wait for its answer; `None` for the host's default.
    #[must_use]
    pub fn deadline(&self) -> Option<Span> {
        self.deadline
    }
}

impl RedisStore {
    /// The HTTP protocol in front of it.
    #[must_use]
    pub fn protocol(&self) -> Protocol {
        self.protocol
    }

    /// Its cluster in Envoy.
    #[must_use]
    pub fn cluster(&self) -> Option<&str> {
        self.cluster.as_deref()
    }

    /// Its base URL, for Workers.
    #[must_use]
    pub fn url(&self) -> Option<&str> {
        self.url.as_deref()
    }

    /// The host of that URL, with its port if it has one. In Envoy it is the `Host` of requests to Redis.
    #[must_use]
    pub fn host(&self) -> Option<&str> {
        self.base()?.0.rsplit('/').next()
    }

    /// That URL, split into its scheme with its host, and its path, which may be empty.
    #[must_use]
    pub fn base(&self) -> Option<(&str, &str)> {
        let url = self.url()?;
        let host_ends = url.match_indices('/').nth(2).map_or(url.len(), |(at, _)| at);
        url.split_at_checked(host_ends)
    }

    /// The path under which Envoy reaches it: `/`, or a path that begins with `/` and does not end with it.
    #[must_use]
    pub fn path(&self) -> &str {
        &self.path
    }

    /// The token that it requires, if the document has it. A secret: it must not appear in logs or errors.
    #[must_use]
    pub fn token(&self) -> Option<&str> {
        self.token.as_deref()
    }

    /// The name of the environment variable that holds the token.
    #[must_use]
    pub fn token_env(&self) -> Option<&str> {
        self.token_env.as_deref()
    }
}

/// Without the token.
impl fmt::Debug for RedisStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let store = &mut f.debug_struct("RedisStore");
        store.field("protocol", &self.protocol).field("cluster", &self.cluster).field("url", &self.url);
        store.field("path", &self.path).field("token_env", &self.token_env).finish_non_exhaustive()
    }
}

/// Reads the stores.
pub(super) fn stores(document: View<'_, Document>, problems: &mut Problems) -> Option<Stores> {
    let at = Path::Root.field("stores");
    let stores = document.stores()?;
    let redis = match stores.redis()? {
        Some(redis) => Some(self::redis(redis, &at.field("redis"), problems)?),
        None => None,
    };
    let deadline = stores.deadline()?;
    let rls = match stores.rls()? {
        Some(rls) => Some(RateLimitService {
            cluster: rls.cluster()?.to_owned(),
            domain: rls.domain()?.to_owned(),
            deadline: rls.deadline()?.or(deadline),
        }),
        None => None,
    };
    let percent = u16::try_from(stores.local_share_percent()?).unwrap_or(100);
    let local_share = BasisPoints::new(percent.saturating_mul(100));
    Some(Stores { deadline, local_share, redis, rls })
}

fn redis(document: View<'_, document::Redis>, at: &Path<'_>, problems: &mut Problems) -> Option<RedisStore> {
    if matches!((document.cluster(), document.url()), (Some(None), Some(None))) {
        let hint = "write its \"cluster\" for Envoy, its \"url\" for Cloudflare Workers, or both";
        problems.report(at, &["nothing says where this Redis is"], &[hint]);
    }
    if document.url().flatten().is_some_and(|url| url.contains(['?', '#'])) {
        let hint = "remove what begins with \"?\" or \"#\", and name a token in \"token_env\"";
        problems.report(
            &at.field("url"),
            &["requests go to paths below this URL, which has more than a path"],
            &[hint],
        );
    }
    if matches!((document.token(), document.token_env()), (Some(Some(_)), Some(Some(_)))) {
        let hint = "keep one of them";
        problems.report(&at.field("token_env"), &["the token stands in \"token\" already"], &[hint]);
    }
    Some(RedisStore {
        protocol: document.protocol()?,
        cluster: document.cluster()?.map(str::to_owned),
        url: document.url()?.map(str::to_owned),
        path: document.path()?.to_owned(),
        token: document.token()?.map(str::to_owned),
        token_env: document.token_env()?.map(str::to_owned),
    })
}

/// Reads how a limit is shared; `Some(None)` if no store of Tidegate's own counts it. Reports settings that a shared
/// limit cannot have.
pub(super) fn sharing(
    document: View<'_, document::Limit>,
    quotas: &[Option<Vec<Quota>>],
    at: &Path<'_>,
    problems: &mut Problems,
) -> Option<Option<Sharing>> {
    let mode = document.sharing()?;
    if document.scope()? == document::Scope::Instance {
        if mode.is_some() {
            let hint = "write \"scope\": \"global\", or remove this";
            problems.report(&at.field("sharing"), &["a limit of one instance draws nothing from others"], &[hint]);
        }
        return Some(None);
    }
    let mut refuse = |field: &str, problem: &str, hint: &str| problems.report(&at.field(field), &[problem], &[hint]);
    let algorithm = document.algorithm();
    if algorithm == Some(Algorithm::Concurrency) && quotas.iter().flatten().flatten().any(|it| it.least.is_some()) {
        let problem = "an adaptive quota is what one instance finds out by its own requests";
        refuse("scope", problem, "write \"permits\" in place of \"adaptive\", or \"scope\": \"instance\"");
    }
    if document.on_exceed() == Some(OnExceed::Delay) {
        refuse(
            "on_exceed",
            "only a limit of one instance can give turns away",
            "write \"reject\", or \"scope\": \"instance\"",
        );
    }
    if matches!(document.slow_down(), Some(Some(_))) {
        refuse("slow_down", "a shared limit does not know how near to it a client is", "remove this");
    }
    if matches!(document.penalty(), Some(Some(_))) {
        refuse("penalty", "a refused request draws no permits that it could be charged", "remove this, or use \"ban\"");
    }
    if matches!(document.only_on(), Some(Some(_))) {
        refuse("only_on", "a shared limit charges before the answer is known", "remove this");
    }
    let of_answer = |cost: OneOf<u32, View<'_, document::CostHeader>>| match cost {
        OneOf::Second(header) => matches!(header.response_header(), Some(Some(_))),
        OneOf::First(_) => false,
    };
    if document.cost().is_some_and(of_answer) {
        refuse("cost", "a shared limit charges before the answer says what it costs", "use \"request_header\"");
    }
    if document.store()?.is_some() {
        return Some(None);
    }
    let terms = |quota: &Quota| algorithm.and_then(|algorithm| Terms::new(algorithm, quota));
    for quota in quotas.iter().flatten().flatten() {
        if quota.window < MIN_SHARED_WINDOW {
            let hint = "write a window of 100ms or more, or \"scope\": \"instance\"";
            problems.report(
                &at.field("scope"),
                &["a window of ", &quota.window.to_string(), " is over before a store has answered"],
                &[hint],
            );
        } else if terms(quota).is_some_and(|terms| !terms.is_countable()) {
            let hint = "use \"fixed-window\", or a shorter window";
            problems.report(
                &at.field("scope"),
                &["permits times window are more than a shared sliding window can count"],
                &[hint],
            );
        } else {
            continue;
        }
        break;
    }
    Some(Some(Sharing { exact: mode == Some(document::SharingMode::Exact) }))
}

/// Whether the rate-limit service counts the limit. Reports settings that such a limit cannot have.
pub(super) fn by_service(
    limit: View<'_, document::Limit>,
    document: View<'_, Document>,
    at: &Path<'_>,
    problems: &mut Problems,
) -> Option<bool> {
    if limit.store()?.is_none() {
        return Some(false);
    }
    let mut refuse = |field: &str, problem: &str, hint: &str| problems.report(&at.field(field), &[problem], &[hint]);
    if limit.scope() == Some(document::Scope::Instance) {
        refuse(
            "store",
            "a limit of one instance is counted in no store",
            "write \"scope\": \"global\", or remove this",
        );
    }
    if matches!(document.stores().and_then(View::<document::Stores>::rls), Some(None)) {
        let hint = "write \"stores\": { \"rls\": { \"cluster\": ..., \"domain\": ... } }";
        refuse("store", "the policy names no rate-limit service", hint);
    }
    if limit.algorithm() == Some(Algorithm::Concurrency) {
        let hint = "use another algorithm, or remove this";
        refuse("store", "a rate-limit service counts no requests in flight", hint);
    }
    if matches!(limit.sharing(), Some(Some(_))) {
        refuse("sharing", "a rate-limit service is asked for every request", "remove this");
    }
    if matches!(limit.ban(), Some(Some(_))) {
        refuse("ban", "a limit that a rate-limit service counts knows no bans", "remove this");
    }
    Some(true)
}

/// The shortest window of a shared limit: a store could not answer often enough within a shorter one.
const MIN_SHARED_WINDOW: Span = Span::from_millis(100);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_url_of_a_redis_is_told_apart_into_origin_host_and_path() {
        for (url, base, host) in [
            ("https://redis.example.com", ("https://redis.example.com", ""), "redis.example.com"),
            ("https://redis.example.com/", ("https://redis.example.com", "/"), "redis.example.com"),
            ("http://[::1]:7379/a/b", ("http://[::1]:7379", "/a/b"), "[::1]:7379"),
        ] {
            let text = format!(r#"{{ "version": 1, "stores": {{ "redis": {{ "url": "{url}" }} }} }}"#);
            let policy = Policy::parse(&text).unwrap();
            let redis = policy.stores().redis().unwrap();
            assert_eq!((redis.base(), redis.host()), (Some(base), Some(host)));
        }
    }
}
