//! Shared by the whole suite: plain requests and responses, and short ways to build an engine.

use sha2::{Digest as _, Sha256};
use std::borrow::Cow;
use std::ops::Range;
use tidegate::engine::Engine;
use tidegate::key::Seed;
use tidegate::limiter::Meter;
use tidegate::policy::{Policy, TierIndex};
use tidegate::request::{RequestFacts, ResponseFacts};
use tidegate::units::{Span, Timestamp};

/// A request as plain data.
#[derive(Clone, Debug, Default)]
pub struct Request {
    path: String,
    peer: Option<String>,
    headers: Vec<(String, String)>,
}

impl Request {
    pub fn get(path: &str) -> Self {
        Self { path: path.to_owned(), ..Self::default() }
    }

    pub fn from(mut self, peer: &str) -> Self {
        self.peer = Some(peer.to_owned());
        self
    }

    pub fn with(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }
}

impl RequestFacts for Request {
    fn method(&self) -> Cow<'_, [u8]> {
        Cow::Borrowed(b"GET")
    }

    fn path(&self) -> Cow<'_, [u8]> {
        Cow::Borrowed(self.path.as_bytes())
    }

    fn authority(&self) -> Cow<'_, [u8]> {
        Cow::Borrowed(b"example.com")
    }

    fn peer(&self) -> Option<Cow<'_, [u8]>> {
        self.peer.as_deref().map(|peer| Cow::Borrowed(peer.as_bytes()))
    }

    fn header(&self, name: &str) -> Option<Cow<'_, [u8]>> {
        let (_, value) = self.headers.iter().find(|(header, _)| header == name)?;
        Some(Cow::Borrowed(value.as_bytes()))
    }
}

/// A response, or its absence, as plain data.
#[derive(Clone, Debug, Default)]
pub struct Answer {
    status: Option<u16>,
    headers: Vec<(String, String)>,
    upstream_time: Option<Span>,
}

impl Answer {
    /// No response: the client went away first.
    pub fn none() -> Self {
        Self::default()
    }

    pub fn of(status: u16) -> Self {
        Self { status: Some(status), ..Self::default() }
    }

    pub fn with(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    /// The upstream began its response this long after it had received the whole request.
    pub fn after(mut self, ms: u64) -> Self {
        self.upstream_time = Some(Span::from_millis(ms));
        self
    }
}

impl ResponseFacts for Answer {
    fn status(&self) -> Option<u16> {
        self.status
    }

    fn upstream_time(&self) -> Option<Span> {
        self.upstream_time
    }

    fn header(&self, name: &str) -> Option<Cow<'_, [u8]>> {
        let (_, value) = self.headers.iter().find(|(header, _)| header == name)?;
        Some(Cow::Borrowed(value.as_bytes()))
    }
}

/// The engine of a valid policy, with a fixed seed.
pub fn engine(policy: &str) -> Engine {
    engine_of(policy, Seed::from_bytes([7; 16]))
}

/// The engine of a valid policy.
pub fn engine_of(policy: &str, seed: Seed) -> Engine {
    match Policy::parse(policy) {
        Ok(policy) => Engine::new(policy, seed),
        Err(errors) => panic!("a policy of the suite is bad: {errors:?}\n{policy}"),
    }
}

/// The meter of one quota, built through a policy document.
pub fn limit(algorithm: &str, quota: &str) -> Meter {
    let document =
        format!(r#"{{"version":1,"limits":[{{"name":"a","key":[],"algorithm":"{algorithm}","quota":{quota}}}]}}"#);
    let policy = Policy::parse(&document).unwrap_or_else(|errors| panic!("{errors:?}\n{document}"));
    let limit = &policy.limits()[0];
    Meter::new(limit.algorithm(), &limit.quotas(TierIndex::default())[0])
}

/// The seeds of a simulation: the first `count`, or the range in `TIDEGATE_SIMULATION_SEEDS`: `40000..50000` stands for
/// 40000 to 49999.
pub fn seeds(count: u64) -> Range<u64> {
    let Ok(text) = std::env::var("TIDEGATE_SIMULATION_SEEDS") else { return 0..count };
    let range = text.split_once("..").and_then(|(from, to)| Some(from.parse().ok()?..to.parse().ok()?));
    range.filter(|range| !range.is_empty()).unwrap_or_else(|| panic!("{text}: write two numbers, as in 40000..50000"))
}

/// The first digits of the bytes' SHA-256. Tests compare them for bytes that outlive an update of Tidegate. A change of
/// such bytes needs a new version number, by which other releases recognise that they cannot read them. Then update the
/// expected digits.
pub fn digits(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().take(6).map(|byte| format!("{byte:02x}")).collect()
}

/// The suite's time: this many milliseconds after noon of a fixed day.
pub fn ms(ms: u64) -> Timestamp {
    Timestamp::from_millis(1_800_014_400_000 + ms)
}
