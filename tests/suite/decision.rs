//! The fields and the body that a client gets.

use crate::harness::{Request, engine, ms};
use tidegate::decision::{Fields, Reply};
use tidegate::engine::{Engine, Plan};
use tidegate::lease::Leases;
use tidegate::metrics::Counters;
use tidegate::store::memory::MemoryStore;

struct Client {
    engine: Engine,
    store: MemoryStore,
}

impl Client {
    fn new(policy: &str) -> Self {
        Self { engine: engine(policy), store: MemoryStore::new(1_000) }
    }

    /// The reply, if the request is refused, and the quota fields.
    fn send(&mut self, request: &Request, at_ms: u64) -> (Option<Reply>, Vec<(String, String)>) {
        let (mut plan, mut counters, mut local) = (Plan::new(), Counters::new(8, 8), MemoryStore::new(1_000));
        self.engine.plan(request, &mut plan);
        let decision =
            self.engine.decide(&mut plan, &mut self.store, &mut local, &mut Leases::new(), &mut counters, ms(at_ms));
        let mut fields = Fields::default();
        fields.push_limits(&self.engine, &plan);
        let headers = fields.iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
        (decision.refusal.map(|refusal| refusal.reply(&self.engine, request)), headers)
    }
}

fn header<'a>(headers: &'a [(String, String)], name: &str) -> &'a str {
    headers.iter().find(|(header, _)| header == name).map_or("", |(_, value)| value)
}

const TWO_LIMITS: &str = r#"{
  "version": 1,
  "limits": [
    { "name": "per-minute", "key": ["address"], "algorithm": "fixed-window", "quota": { "permits": 2, "window": "60s" } },
    { "name": "per-hour", "key": ["address"], "algorithm": "fixed-window", "quota": { "permits": 100, "window": "1h" } }
  ],
  "response": { "x_ratelimit": true }
}"#;

#[test]
fn an_admitted_answer_says_how_the_client_stands_with_every_limit() {
    let (reply, headers) = Client::new(TWO_LIMITS).send(&Request::get("/").from("192.0.2.1"), 15_500);
    assert_eq!(reply, None);
    assert_eq!(header(&headers, "ratelimit-policy"), r#""per-minute";q=2;w=60, "per-hour";q=100;w=3600"#);
    let standing = header(&headers, "ratelimit");
    let items: Vec<&str> = standing.split(", ").collect();
    assert!(items[0].starts_with(r#""per-minute";r=1;t=45;pk=:"#), "{standing}");
    assert!(items[1].starts_with(r#""per-hour";r=99;t=3585;pk=:"#), "{standing}");
    assert!(items.iter().all(|item| item.ends_with("=:")), "{standing}");
    assert_eq!(header(&headers, "x-ratelimit-limit"), "2");
    assert_eq!(header(&headers, "x-ratelimit-remaining"), "1");
    assert_eq!(header(&headers, "x-ratelimit-reset"), "45");
}

#[test]
fn a_refusal_names_the_limit_and_the_seconds_to_wait() {
    let mut client = Client::new(TWO_LIMITS);
    let request = Request::get("/").from("192.0.2.1");
    client.send(&request, 0);
    client.send(&request, 0);
    let (reply, headers) = client.send(&request, 30_001);
    let reply = reply.expect("the third request of a minute is refused");
    assert_eq!((reply.status, reply.grpc_status), (429, 8));
    assert_eq!(reply.details, "tidegate_limit_per-minute");
    assert_eq!(reply.retry_after_secs, Some(30));
    assert_eq!(reply.content_type, "application/json");
    assert_eq!(reply.body, r#"{"error":"rate limit exceeded","retryAfter":30}"#);
    // The refused request was not charged to the limit that had room for it.
    assert!(header(&headers, "ratelimit").contains(r#""per-minute";r=0;t=30;"#), "{headers:?}");
    assert!(header(&headers, "ratelimit").contains(r#""per-hour";r=98;"#), "{headers:?}");
}

#[test]
fn a_client_that_accepts_problem_json_gets_it() {
    let mut client = Client::new(TWO_LIMITS);
    let request = Request::get("/").from("192.0.2.1");
    client.send(&request, 0);
    client.send(&request, 0);
    for (accept, problem) in [
        ("application/problem+json", true),
        ("text/html, Application/Problem+JSON;q=0.5", true),
        ("application/problem+json;q=0", false),
        ("application/problem+json; q=0.000", false),
        ("application/problem+json;q=0.001", true),
        ("*/*", false),
        ("application/json", false),
    ] {
        let reply = client.send(&request.clone().with("accept", accept), 0).0.expect("refused");
        assert_eq!(reply.content_type == "application/problem+json", problem, "{accept}");
        let body: serde_json::Value = serde_json::from_str(&reply.body).expect("the body is JSON");
        assert_eq!(body["retryAfter"], 60);
        if problem {
            assert_eq!(body["type"], "https://iana.org/assignments/http-problem-types#quota-exceeded");
            assert_eq!(body["violated-policies"][0], "per-minute");
            assert_eq!(body["status"], 429);
        }
    }
}

#[test]
fn retry_after_is_the_longest_wait_of_all_refusing_limits() {
    let policy = TWO_LIMITS.replace("\"permits\": 100", "\"permits\": 2");
    let mut client = Client::new(&policy);
    let request = Request::get("/").from("192.0.2.1");
    client.send(&request, 0);
    client.send(&request, 0);
    let reply = client.send(&request, 0).0.expect("refused");
    assert_eq!((reply.details.as_str(), reply.retry_after_secs), ("tidegate_limit_per-hour", Some(3_600)));
}

#[test]
fn a_limit_that_only_observes_adds_no_fields() {
    let policy =
        TWO_LIMITS.replace(r#""quota": { "permits": 2,"#, r#""on_exceed": "observe", "quota": { "permits": 2,"#);
    let (_, headers) = Client::new(&policy).send(&Request::get("/").from("192.0.2.1"), 0);
    assert_eq!(header(&headers, "ratelimit-policy"), r#""per-hour";q=100;w=3600"#);
}

#[test]
fn the_fields_name_several_quotas_of_a_limit_by_their_windows() {
    let policy = r#"{ "version": 1, "response": { "x_ratelimit": true }, "limits": [ { "name": "api", "key": ["address"],
        "algorithm": "fixed-window",
        "quotas": [ { "permits": 2, "window": "1500ms" }, { "permits": 3, "window": "3600s" } ] } ] }"#;
    let mut client = Client::new(policy);
    let request = Request::get("/").from("192.0.2.1").with("accept", "application/problem+json");
    let (_, headers) = client.send(&request, 0);
    assert_eq!(header(&headers, "ratelimit-policy"), r#""api/1500ms";q=2;w=2, "api/1h";q=3;w=3600"#);
    let standing = header(&headers, "ratelimit");
    let items: Vec<&str> = standing.split(", ").collect();
    assert!(items[0].starts_with(r#""api/1500ms";r=1;t=2;pk=:"#), "{standing}");
    assert!(items[1].starts_with(r#""api/1h";r=2;t=3600;pk=:"#), "{standing}");
    assert_eq!(header(&headers, "x-ratelimit-limit"), "2");
    for (at_ms, policy, wait) in [(0, "api/1500ms", Some(2)), (1_500, "api/1h", Some(3_599))] {
        client.send(&request, at_ms);
        let (reply, _) = client.send(&request, at_ms);
        let reply = reply.expect("refused");
        assert_eq!((reply.details.as_str(), reply.retry_after_secs), ("tidegate_limit_api", wait));
        let body: serde_json::Value = serde_json::from_str(&reply.body).expect("the body is JSON");
        assert_eq!(body["violated-policies"], serde_json::json!([policy]));
    }
}

#[test]
fn the_partition_key_differs_between_clients_and_does_not_identify_them() {
    let mut client = Client::new(TWO_LIMITS);
    let pk = |headers: &[(String, String)]| header(headers, "ratelimit").split(':').nth(1).map(str::to_owned);
    let (_, one) = client.send(&Request::get("/").from("192.0.2.1"), 0);
    let (_, again) = client.send(&Request::get("/other").from("192.0.2.1"), 0);
    let (_, two) = client.send(&Request::get("/").from("192.0.2.2"), 0);
    assert_eq!(pk(&one), pk(&again));
    assert_ne!(pk(&one), pk(&two));
}
