//! The values of random policies: texts and numbers that match each other and the requests, how often each field
//! occurs, and how many items a list has.
//!
//! A place is matched by its end: `quota/permits` matches that of every quota. The first match counts.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use serde_json::Value;

/// The values for this place; `None` if there are no special ones.
pub fn of(place: &str) -> Option<&'static [Value]> {
    static READ: LazyLock<BTreeMap<&str, Vec<Value>>> = LazyLock::new(|| {
        let read = |text: &str| serde_json::from_str(text).unwrap_or_else(|error| panic!("{text}: {error}"));
        VALUES.iter().map(|(end, text)| (*end, read(text))).collect()
    });
    let (end, _) = VALUES.iter().find(|(end, _)| ends_with(place, end))?;
    Some(&READ[end])
}

/// How often an optional field occurs, in percent.
pub fn percent(place: &str) -> usize {
    PERCENT.iter().find(|(end, _)| ends_with(place, end)).map_or(30, |(_, percent)| *percent)
}

/// The maximum number of items or entries.
pub fn most(place: &str) -> usize {
    MOST.iter().find(|(end, _)| ends_with(place, end)).map_or(2, |(_, most)| *most)
}

fn ends_with(place: &str, end: &str) -> bool {
    place.strip_suffix(end).is_some_and(|before| before.is_empty() || before.ends_with('/'))
}

/// The SHA-256 of `abc`, and of `token`.
macro_rules! hashes {
    () => {
        r#"["ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad",
            "3c469e9d6c5875d37a43f353d4f88e61fcf812c66eee3457465a40b0da4153e0"]"#
    };
}

const TIERS: &str = r#"["free", "gold", "bulk"]"#;
const HOSTS: &str = r#"["example.com", "*.example.com", "api.example.org", "*.example.org", "[2001:db8::1]"]"#;
const PATHS: &str = r#"["/a/**", "/**", "/b", "/b/*/d", "/img/**", "/login", "/a/*", "/health/**", "/a/x*"]"#;
const METHODS: &str = r#"["GET", "GET", "POST", "HEAD", "PUT", "OPTIONS", "DELETE"]"#;
const NETWORKS: &str = r#"["192.0.2.2", "10.0.0.0/8", "2001:db8::/48", "192.0.2.0/31", "2001:db8::/47"]"#;
const ACCOUNTS: &str = r#"["alice", "bob"]"#;
const FAILURES: &str = r#"["connect", "timeout", "reset", "5xx", "5xx", "429", "404", "503"]"#;

const VALUES: [(&str, &str); 127] = [
    ("$schema", r#"["urn:tidegate:policy:1"]"#),
    // Who the client is.
    ("client/address/header", r#"["x-forwarded-for", "X-Forwarded-For"]"#),
    ("trusted_hops", "[0, 1, 1, 2]"),
    ("ipv6_prefix", "[1, 48, 64, 127, 128]"),
    ("tier/header", r#"["x-plan"]"#),
    ("tier/claim", r#"["plan", "org.plan"]"#),
    ("api_keys{}", hashes!()),
    ("tier/api_keys/*", TIERS),
    ("api_keys/*", hashes!()),
    ("token_sha256", hashes!()),
    ("tier/default", TIERS),
    ("claims/header", r#"["x-jwt-payload"]"#),
    ("api_key/header", r#"["x-api-key"]"#),
    ("trusted_headers/*", r#"["x-plan", "x-jwt-payload", "x-cost"]"#),
    ("tiers/*", TIERS),
    ("priorities{}", TIERS),
    ("by_tier{}", TIERS),
    // Every VM and isolate has a table.
    ("state/max_keys", "[1000, 5000]"),
    ("kept/max_object", "[1024, 65536]"),
    ("kept/max_bytes", "[2097152, 16777216]"),
    // Limits.
    ("limits/*/name", r#"["a", "b", "c", "d"]"#),
    ("match/path", PATHS),
    ("match/methods/*", METHODS),
    ("match/hosts/*", HOSTS),
    ("match/headers{}", r#"["x-account", "X-Account", "x-plan"]"#),
    ("match/headers/*", r#"["alice", "a*", "*", "al*e", "", "gold"]"#),
    (
        "key/*",
        r#"["address", "address", "header:x-account", "cookie:sid", "query:u", "path", "method", "host", "country", "region", "colo", "tier",
            "claim:sub", "claim:plan"]"#,
    ),
    ("limits/*/lease", r#"["10s", "1m", "1h"]"#),
    ("adaptive/min", "[1, 2, 5]"),
    ("adaptive/max", "[2, 5, 30, 10000]"),
    ("permits", "[1, 1, 1, 2, 2, 3, 3, 5, 10, 40, 268435455]"),
    ("burst", "[1, 1, 2, 4, 8, 268435455]"),
    ("window/time", r#"["1s", "10s", "60s", "1h"]"#),
    ("window/count", "[1, 4, 10, 10000]"),
    ("health/window", r#"["2s", "10s", "1m"]"#),
    ("window", r#"["10ms", "100ms", "900ms", "1s", "1s", "1500ms", "10s", "10s", "60s", "1h", "1d", "7d", "31d"]"#),
    ("cost/request_header", r#"["x-cost"]"#),
    ("cost/response_header", r#"["x-cost", "X-Cost"]"#),
    ("cost/default", "[0, 1, 1, 2]"),
    ("cost/min", "[0, 0, 1, 2]"),
    ("cost/max", "[1, 2, 5, 20, 268435455]"),
    ("penalty/cost", "[1, 1, 2]"),
    ("limits/*/cost", "[1, 2, 2, 3]"),
    ("only_on/*", r#"["401", "403", "4xx", "5xx", "404", "200", "2xx"]"#),
    ("slow_down/step", r#"["1ms", "10ms", "100ms", "1s"]"#),
    ("slow_down/slow_after", "[1, 1, 2, 3]"),
    ("max_delay", r#"["1ms", "50ms", "1s", "2s", "10s"]"#),
    ("max_waiting", "[1, 2, 3, 1000]"),
    ("penalty/max", "[1, 1, 2, 4]"),
    ("ban/after", "[1, 2, 3]"),
    ("ban/within", r#"["1s", "10s", "1m"]"#),
    ("ban/for", r#"["1s", "5s", "1m", "10m", "31d"]"#),
    // Upstreams. Scenarios have only these; at `nowhere` no server listens.
    ("upstreams{}", r#"["cdn", "cdn", "origin", "origin", "spare", "spare", "nowhere"]"#),
    ("routes/*/upstreams/*", r#"["cdn", "cdn", "origin", "origin", "spare", "spare", "nowhere"]"#),
    ("upstreams/*/cluster", r#"["cdn", "origin", "spare"]"#),
    ("upstreams/*/url", r#"["http://cdn.example.net"]"#),
    ("upstreams/*/timeout", r#"["1s"]"#),
    ("upstreams/*/breaker", r#"["one", "two"]"#),
    ("stores/deadline", r#"["5s", "10s"]"#),
    ("redis/cluster", r#"["redis"]"#),
    ("redis/url", r#"["http://redis.example.net"]"#),
    ("redis/path", r#"["/", "/redis"]"#),
    ("redis/token", r#"["0123456789abcdef"]"#),
    ("redis/token_env", r#"["REDIS_TOKEN"]"#),
    ("rls/cluster", r#"["rls"]"#),
    ("rls/domain", r#"["shop"]"#),
    ("breakers{}", r#"["one", "two"]"#),
    ("min_calls", "[1, 1, 2, 4]"),
    ("failure_rate_percent", "[0.01, 10, 50, 50, 75.5, 100]"),
    ("slow_rate_percent", "[0.01, 50, 100]"),
    ("jitter_percent", "[0, 0, 20, 50]"),
    ("consecutive_failures", "[1, 2, 3]"),
    ("slow_call", r#"["100ms", "1s", "5s"]"#),
    ("failures/*", FAILURES),
    ("open/initial", r#"["100ms", "1s", "5s"]"#),
    ("open/factor", "[1, 1.5, 2, 10]"),
    ("open/max", r#"["5s", "1m", "1d"]"#),
    ("probes", "[1, 1, 2, 3]"),
    ("max_wait", r#"["1s", "10s"]"#),
    ("ramp/from_percent", "[0.01, 10, 50, 99]"),
    // Routes.
    ("routes/*/name", r#"["r", "s", "t"]"#),
    ("on/*", FAILURES),
    ("attempts", "[1, 2, 2, 3, 16]"),
    ("fallback/methods/*", METHODS),
    ("budget_percent", "[0, 20, 100]"),
    ("stale", r#"["10s", "1m", "1h", "1d"]"#),
    ("static/status", "[200, 204, 404, 500, 503, 503, 599]"),
    ("content_type", r#"["text/html", "text/plain", "application/json"]"#),
    ("static/headers{}", r#"["x-reason", "retry-after", "cache-control", "vary", "link", "X-Tidegate"]"#),
    ("static/headers/*", r#"["1", "max-age=5", "accept"]"#),
    ("body", r#"["", "<p>sorry</p>", "{}"]"#),
    ("ttl", r#"["1s", "1m", "30d"]"#),
    ("vary/*", r#"["accept-encoding", "accept-language", "x-account", "accept", "Accept-Language"]"#),
    ("cache/version", r#"["1", "v2.3"]"#),
    ("version", "[1]"),
    ("formats/*", r#"["avif", "webp", "jpeg"]"#),
    ("otherwise", r#"["jpeg", "webp"]"#),
    ("widths/*", "[320, 640, 1280, 1]"),
    ("width_from/*", r#"["query:w", "query:width", "header:sec-ch-width"]"#),
    ("extensions/*", r#"["jpg", "png", "x"]"#),
    (
        "rewrite",
        r#"["/t/format={format},width={width}{path}", "/t/{format}{path}", "/t/{width}{path}?v=1", "/t{path}"]"#,
    ),
    ("preload/*/path", r#"["/app.css", "https://cdn.example.com/a.woff2", "/a.js?v=1"]"#),
    // The policy as a whole.
    ("factor_percent", "[1, 25, 50, 99, 100]"),
    ("maintenance/status", "[200, 404, 503, 599]"),
    ("retry_after", r#"["1s", "10s", "10m"]"#),
    ("allow_paths/*", PATHS),
    ("addresses/*", NETWORKS),
    ("allow_addresses/*", NETWORKS),
    ("headers{}", r#"["x-account", "X-Account"]"#),
    ("headers/*/*", ACCOUNTS),
    ("error_rate_percent/degraded", "[5, 20, 50]"),
    ("error_rate_percent/critical", "[20, 50.5, 100]"),
    ("quantile_percent", "[50, 95, 99.9]"),
    ("latency/degraded", r#"["10ms", "500ms"]"#),
    ("latency/critical", r#"["500ms", "2s"]"#),
    ("eps/degraded", "[0.5, 2]"),
    ("eps/critical", "[2, 10]"),
    ("degraded", "[10, 80]"),
    ("critical", "[95, 150]"),
    ("below_percent", "[50, 100]"),
    ("calm", r#"["1s", "5s"]"#),
    ("rise", r#"["100ms", "1s"]"#),
    ("fall", r#"["1s", "10s"]"#),
    ("low_percent", "[50, 100, 100]"),
    ("medium_percent", "[0, 50, 100]"),
    ("high_percent", "[0, 12.5]"),
    ("status/path", r#"["/tidegate", "/a"]"#),
];

/// How often a field occurs, if not three times in ten.
const PERCENT: [(&str, usize); 48] = [
    ("$schema", 2),
    ("client", 70),
    ("client/address", 30),
    ("client/tier", 50),
    ("client/trusted_headers", 80),
    ("address/trusted_hops", 50),
    ("tiers", 60),
    ("priorities", 30),
    ("state", 5),
    ("limits", 95),
    ("limits/*/match", 40),
    ("limits/*/key", 70),
    ("limits/*/algorithm", 80),
    ("limits/*/scope", 30),
    ("limits/*/store", 20),
    ("limits/*/only_on", 20),
    ("limits/*/on_exceed", 60),
    ("limits/*/by_tier", 40),
    ("match/path", 60),
    ("quota/window", 90),
    ("quotas/*/window", 90),
    ("by_tier/*/window", 90),
    ("by_tier/*/*/window", 90),
    ("upstreams", 60),
    ("upstreams/*/breaker", 70),
    ("upstreams/*/timeout", 10),
    ("upstreams/*/cluster", 100),
    ("upstreams/*/url", 90),
    ("stores", 10),
    ("breakers", 60),
    ("breakers/*/open", 80),
    ("open/jitter_percent", 60),
    ("breakers/*/mode", 20),
    ("breakers/*/scope", 20),
    ("routes", 85),
    ("routes/*/match", 40),
    ("routes/*/fallback", 65),
    ("fallback/stale", 50),
    ("fallback/backoff", 100),
    ("response", 60),
    ("mode", 20),
    ("maintenance", 12),
    ("deny", 12),
    ("allow", 12),
    ("health", 25),
    ("shedding", 20),
    ("limits/*/priority", 20),
    ("on_failure", 5),
];

/// The maximum number of items or entries, if it is not two.
const MOST: [(&str, usize); 8] = [
    ("limits", 4),
    ("tiers", 3),
    ("by_tier", 3),
    ("upstreams", 4),
    ("routes/*/upstreams", 3),
    ("trusted_headers", 3),
    ("on", 4),
    ("key", 3),
];
