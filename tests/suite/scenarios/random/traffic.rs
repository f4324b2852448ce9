//! Random requests at random times, and other events of a scenario.

use base64ct::{Base64UrlUnpadded, Encoding};
use serde_json::{Map, Value, json};

use super::fitting::{agrees, entries, may_wait, shares};
use super::upstreams::{Manners, answers};
use crate::fuzz::dice::Dice;

/// A header line: its chance in percent, its name, and its possible values.
pub type Line = (usize, &'static str, &'static [&'static str]);

/// A scenario of this name: traffic under a policy. Expectations are left open.
pub fn scenario(name: &str, policy: Value, dice: &mut Dice) -> Value {
    let mut traffic = Traffic::under(name, &policy, dice);
    let upstreams = answers(&traffic.manners, dice);
    let count = *dice.any(&[8, 12, 16, 25]);
    let mut steps: Vec<Value> = (0..count).map(|_| traffic.step(dice)).collect();
    while !traffic.held.is_empty() {
        steps.push(traffic.end(dice));
    }
    json!({ "shows": "This is what a seed has made.", "policy": policy, "upstreams": upstreams, "steps": steps })
}

struct Traffic {
    host: String,
    manners: Manners,
    has_api_keys: bool,
    has_claims: bool,
    pages: Option<String>,
    deltas: &'static [u64],
    steps_back: bool,
    holds: bool,
    now_ms: u64,
    paths: Vec<&'static str>,
    clients: Vec<&'static str>,
    pool: Vec<Map<String, Value>>,
    held: Vec<String>,
    last_held: usize,
}

impl Traffic {
    fn under(name: &str, policy: &Value, dice: &mut Dice) -> Self {
        // A held response would time out by the host's own clock.
        let is_timed = entries(policy, "upstreams").any(|(_, upstream)| upstream.get("timeout").is_some());
        let holds = dice.chance(25) && !may_wait(policy) && !is_timed;
        let is_plain = dice.chance(70);
        let client = &policy["client"];
        let mut traffic = Self {
            host: format!("{name}.example.com"),
            manners: Manners::under(policy, holds, is_plain),
            has_api_keys: client.get("api_key").is_some(),
            has_claims: client.get("claims").is_some(),
            pages: policy.get("status").map(|it| it["path"].as_str().unwrap_or("/tidegate").to_owned()),
            deltas: if holds || shares(policy) || agrees(policy) { &AT_ONCE } else { *dice.any(&DELTAS) },
            // After a step back of the clock, the end of a wait is undefined.
            steps_back: dice.chance(20) && !holds && !may_wait(policy),
            holds,
            now_ms: 0,
            paths: Vec::new(),
            clients: Vec::new(),
            pool: Vec::new(),
            held: Vec::new(),
            last_held: 0,
        };
        traffic.paths =
            (0..=dice.below(3)).map(|_| *dice.any(if is_plain { &PATHS } else { &STRANGE_PATHS })).collect();
        traffic.clients = (0..=dice.below(2)).map(|_| *dice.any(&CLIENTS)).collect();
        traffic.pool = (0..*dice.any(&[1, 2, 4])).map(|_| traffic.headers(dice)).collect();
        traffic
    }

    /// The time of the next step.
    fn at(&mut self, dice: &mut Dice) -> Map<String, Value> {
        let mut step = Map::new();
        self.now_ms += dice.any(self.deltas);
        if self.steps_back && dice.chance(15) {
            self.now_ms = self.now_ms.saturating_sub(*dice.any(&[1, 100, 1_000, 10_000]));
            step.insert("steps_back".to_owned(), json!(true));
        }
        step.insert("at".to_owned(), json!(format!("{}ms", self.now_ms)));
        step
    }

    fn end(&mut self, dice: &mut Dice) -> Value {
        let mut step = self.at(dice);
        let at = dice.below(self.held.len());
        step.insert("ends".to_owned(), json!(self.held.remove(at)));
        step.into()
    }

    fn step(&mut self, dice: &mut Dice) -> Value {
        if !self.held.is_empty() && dice.chance(40) {
            return self.end(dice);
        }
        let mut step = self.at(dice);
        let mut say = |name: &str, value: Value| drop(step.insert(name.to_owned(), value));
        if dice.chance(30) {
            say("upstreams", answers(&self.manners, dice));
        }
        let (method, target) = self.target(dice);
        say("send", json!(format!("{method} {target}")));
        if dice.chance(70) {
            say("from", json!(dice.any(&self.clients)));
        }
        // Kept responses are separate for each host name, and hosts of the Worker's tests share a cache.
        say("host", json!(if dice.chance(12) { *dice.any(&HOSTS) } else { &self.host }));
        let mut headers = dice.any(&self.pool).clone();
        if self.pages.as_ref().is_some_and(|pages| target.starts_with(pages)) && dice.chance(60) {
            headers.insert("authorization".to_owned(), json!(*dice.any(&["Bearer token", "Bearer abc"])));
        }
        if dice.chance(10) {
            headers.extend(self.headers(dice));
        }
        if matches!(method, "POST" | "PUT") && dice.chance(60) {
            say("body", json!(if dice.one_in(2) { "x".to_owned() } else { "y".repeat(100) }));
            if dice.chance(20) {
                headers.insert("content-type".to_owned(), json!("application/grpc"));
                headers.insert("te".to_owned(), json!("trailers"));
            }
        }
        if !headers.is_empty() {
            say("headers", headers.into());
        }
        if dice.chance(30) {
            say("draw_percent", json!(dice.below(100)));
        }
        if self.holds && dice.chance(40) {
            self.last_held += 1;
            let name = format!("h{}", self.last_held);
            say("holds", json!(name));
            self.held.push(name);
        }
        step.into()
    }

    fn target(&self, dice: &mut Dice) -> (&'static str, String) {
        let mut method = *dice.any(&METHODS);
        let mut target = (*dice.any(&self.paths)).to_owned();
        if let Some(pages) = self.pages.as_ref().filter(|_| dice.chance(15)) {
            target = format!("{pages}{}", dice.any(&PAGES));
            if target.ends_with("/purge") {
                method = "POST";
            }
        }
        let mut asked = Vec::new();
        for (percent, of) in [(20, &QUERIES[..]), (15, &WIDTHS[..])] {
            if dice.chance(percent) {
                asked.push(*dice.any(of));
            }
        }
        if !asked.is_empty() {
            target = format!("{target}?{}", asked.join("&"));
        }
        (method, target)
    }

    fn headers(&self, dice: &mut Dice) -> Map<String, Value> {
        let mut headers = lines(&HEADERS, dice);
        if !self.has_api_keys {
            headers.remove("x-api-key");
        }
        if self.has_claims && dice.chance(70) {
            let claims = dice.any(&CLAIMS);
            let claims = if claims.starts_with('{') {
                Base64UrlUnpadded::encode_string(claims.as_bytes())
            } else {
                (*claims).to_owned()
            };
            headers.insert("x-jwt-payload".to_owned(), json!(claims));
        }
        headers
    }
}

/// Some of these header lines.
pub fn lines(of: &[Line], dice: &mut Dice) -> Map<String, Value> {
    let some = of.iter().filter_map(|(percent, name, values)| {
        let value = dice.any(values);
        dice.chance(*percent).then(|| ((*name).to_owned(), json!(value)))
    });
    some.collect()
}

/// Milliseconds from one step to the next: within a moment, around the edges of windows, and over days.
const DELTAS: [&[u64]; 6] = [
    &AT_ONCE,
    &[0, 0, 0, 1, 10, 99, 100, 101],
    &[0, 100, 500, 999, 1_000, 1_001, 5_000],
    &[0, 1, 1_000, 9_999, 10_000, 10_001, 59_999, 60_000],
    &[0, 0, 1_000, 60_000, 600_000, 3_600_000, 86_400_000, 100],
    &[0, 10, 100, 1_000, 3_000],
];
const AT_ONCE: [u64; 4] = [0, 1, 10, 100];

const METHODS: [&str; 13] =
    ["GET", "GET", "GET", "GET", "GET", "GET", "GET", "GET", "HEAD", "POST", "PUT", "OPTIONS", "DELETE"];
const PATHS: [&str; 11] =
    ["/a/x", "/a/x", "/a/y", "/b", "/b/c/d", "/img/p.jpg", "/img/p.jpg", "/img/q.png", "/health/z", "/login", "/"];
const STRANGE_PATHS: [&str; 12] = [
    "/a//x",
    "/./a/x",
    "/a/%78",
    "/a/x/",
    "/a/x;v=1",
    "/A/x",
    "/a/x%20",
    "/img/p.JPG",
    "/a/%2578",
    "/a/%c3%A9",
    "/b/../a/x",
    "/b/c/%64",
];
const PAGES: [&str; 8] = ["/health", "/health", "/ready", "/status", "/status", "/purge", "/", ""];
const QUERIES: [&str; 12] =
    ["u=1", "u=2", "u=", "u=1&u=2", "u=%31", "U=1", "u", "u=1+2", "%75=1", "u=a;u=b", "&&u=1", "u==1"];
const WIDTHS: [&str; 6] = ["w=300", "w=999", "w=x", "width=10", "w=0", "w=320&w=640"];
const CLIENTS: [&str; 7] =
    ["192.0.2.1", "192.0.2.2", "10.0.0.1", "2001:db8::1", "2001:db8::2", "2001:db8:1::1", "::ffff:192.0.2.1"];
const HOSTS: [&str; 10] = [
    "api.example.org",
    "example.com",
    "EXAMPLE.com",
    "x.y.example.com",
    "example.com:80",
    "example.com:8080",
    "example.com.",
    "sub.example.org:443",
    "[2001:db8::1]",
    "192.0.2.7",
];
const CLAIMS: [&str; 6] = [
    r#"{"sub":"u1","plan":"free","org":{"plan":"gold"}}"#,
    r#"{"sub":"u2","plan":"gold","org":{"plan":"bulk"}}"#,
    r#"{"sub":"u1","plan":"bulk"}"#,
    r#"{"sub":7,"plan":["gold"]}"#,
    r#"{"sub":"u1""#,
    "!!",
];

const HEADERS: [Line; 19] = [
    (40, "x-account", &["alice", "bob", "al", "a", "ALICE", "al*e", "\"alice\""]),
    (50, "x-plan", &["free", "gold", "bulk", "other", "GOLD", "free,gold"]),
    (60, "x-api-key", &["abc", "abd", "token", "ABC", "abc,abc"]),
    (
        25,
        "cookie",
        &["sid=1", "sid=2; x=y", "a=b", "sid=\"1\"", "sid=1; sid=2", "sid=1;sid=2", "SID=1", "sid", "sid=;a=b"],
    ),
    (
        25,
        "x-cost",
        &["1", "1", "3", "0", "50", "junk", "1.0", "+1", "4294967296", "18446744073709551616", "0x2", "1,2", "00003"],
    ),
    (
        20,
        "x-forwarded-for",
        &[
            "203.0.113.5",
            "203.0.113.5, 10.0.0.9",
            "junk, 10.0.0.9",
            "203.0.113.5,198.51.100.7 , 2001:db8::9",
            "203.0.113.5:80",
            "[2001:db8::9]:80, 10.0.0.9",
            "203.0.113.005",
            ",,",
            "2001:db8::1%eth0",
            "\"203.0.113.5\"",
        ],
    ),
    (
        20,
        "accept",
        &[
            "application/problem+json",
            "image/avif,image/webp;q=0.8",
            "*/*",
            "image/webp",
            "text/html",
            "application/*;q=0.5",
            "IMAGE/WEBP",
            "image/avif;q=0,*/*",
            "application/problem+json;q=0.1, */*",
            "image/webp ; q=1.0",
        ],
    ),
    (8, "accept-language", &["is", "no", "is, en;q=0.5", "IS"]),
    (
        12,
        "authorization",
        &["Bearer token", "Bearer abc", "Bearer other", "bearer token", "Bearer  token", "Basic token"],
    ),
    (6, "if-none-match", &["\"v1\"", "*", "W/\"v1\"", "\"v2\", \"v1\"", "\"v1", "v1"]),
    (4, "if-modified-since", &["Fri, 15 Jan 2027 11:00:00 GMT", "junk"]),
    (5, "range", &["bytes=0-1", "bytes=-2", "bytes=99999-", "bytes=0-0,2-3", "items=0-1", "bytes=5-2", "bytes=-0"]),
    (2, "if-range", &["\"v1\"", "W/\"v1\"", "Fri, 15 Jan 2027 11:00:00 GMT"]),
    (5, "sec-ch-width", &["321", "9999", "x", "320.5", "0", "-1", "?1"]),
    (5, "x-tidegate-upstream", &["spare", "nowhere"]),
    (3, "x-tidegate", &["forged"]),
    (3, "x-tidegate-other", &["forged"]),
    (3, "cache-control", &["no-cache", "only-if-cached", "no-store", "max-age=0"]),
    (2, "x-ratelimit-limit", &["77"]),
];
