use super::*;
use crate::access::{AccessList, HeaderValues};
use crate::lookup::recorded::Recorded;
use crate::mode::{Maintenance, Mode};
use crate::network::{Network, Networks};
use crate::policy::{
    AddressSource, Ban, Client as ClientRules, KeptBytes, Name, OnFailure, OnStoreFailure, Penalty, Priority, Quota,
    Response, Routing, StatusRange, Stores, TierIndex, TierSource,
};
use crate::units::Span;

#[test]
fn a_request_is_explained_in_words() {
    let request = Recorded::get("/api//x?page=2")
        .on("Example.com:80")
        .from("10.0.0.1:4711")
        .with("x-forwarded-for", "203.0.113.9, 2001:db8:1:2:3::1")
        .with("x-plan", "free")
        .with("x-cost", "40");
    assert_eq!(
        explain(&policy(), &request),
        "path     /api/x
client   2001:db8:1:2::/64, from x-forwarded-for, entry 1 from the right
tier     free, from x-plan

api applies
  key    address 2001:db8:1:2::/64, path /api/x
  quota  100 in any 1m (sliding window)
  slows  after 60 permits each one waits 100ms longer than the one before, at most 2s
  over   refused with 429

login does not apply: the path /api/x does not match /login/*/**

session applies
  key    address 2001:db8:1:2::/64, since the request has no cookie sid
         (what is empty or stands twice counts as absent)
  quota  20 per 1s, at most 40 at once (token bucket)
  cost   7, as x-cost is 40
  counts requests answered with 401, 500 to 599
  over   counted as refused, and goes on
         and charged 1 for each refusal, at most 5 in a window of the quota
         and banned for 10m after 10 refusals within 1m

all applies
  key    none: one counter for all
  quota  9 in each 1h (fixed window)
  and    90 in each 1d (fixed window)
  cost   what x-spent of the answer says, 1 to 7; 2 when it says nothing
  over   refused with 429

priority low, by its tier or a limit that applies
"
    );
}

#[test]
fn what_does_not_hold_is_named_with_what_would() {
    let rule = || Match::default();
    for (rule, words) in [
        (Match { methods: vec!["POST".into(), "PUT".into()], ..rule() }, "the method GET is not POST or PUT"),
        (Match { hosts: vec![HostGlob::Below("b".into())], ..rule() }, "the host \"\" does not match *.b"),
        (headed(HeaderCondition::Exact("2".into())), "the header x is \"\\xff\" and not 2"),
        (headed(HeaderCondition::Absent), "there is a header x"),
        (
            headed(HeaderCondition::Glob { prefix: "a".into(), suffix: String::new() }),
            "the header x is \"\\xff\" and not a*",
        ),
        (Match { headers: vec![("y".into(), HeaderCondition::Exact("1".into()))], ..rule() }, "there is no header y"),
    ] {
        let facts = Recorded::get("/").with("x", b"\xff");
        let request = Lookup::new(&facts);
        assert_eq!(unmet(&rule, mismatch(&rule, &request).unwrap(), &request), words);
    }
}

#[test]
fn a_default_tier_and_a_connections_address_say_why() {
    let request = Recorded::get("/").from("192.0.2.7").with("x-plan", "gold").with("x-forwarded-for", "unknown");
    let text = explain(&policy(), &request);
    assert!(text.contains("tier     anonymous, the default: x-plan is gold, which is no tier\n"), "{text}");
    let origin = "192.0.2.7, from the connection: entry 1 from the right of x-forwarded-for is no address\n";
    assert!(text.contains(origin), "{text}");
}

#[test]
fn a_limit_that_delays_says_for_how_long_and_the_most_important_limit_counts() {
    let request = Recorded::get("/login/x/y").from("192.0.2.7").with("x-plan", "free");
    let text = explain(&policy(), &request);
    let over = "  over   waits for its turn, at most 2s and at most 50 at one time; else refused with 429\n";
    assert!(text.contains(over), "{text}");
    assert!(text.ends_with("\npriority high, by its tier or a limit that applies\n"), "{text}");
}

#[test]
fn the_mode_is_told_before_the_limits() {
    let request = Recorded::get("/api/x").from("192.0.2.7");
    let told = |mode| explain(&Policy { mode, ..policy() }, &request);
    let text = told(Mode::Strict(10));
    assert!(text.contains("mode     strict: quotas are 10% of what the policy says\n"), "{text}");
    assert!(text.contains("quota  10 in any 1m (sliding window)\n  slows  after 6 permits"), "{text}");
    let text = told(Mode::Observe);
    assert!(text.contains("mode     observe: all is counted as below, and every request goes on\n"), "{text}");
    let maintenance = |network: &str| Maintenance {
        status: 503,
        retry_after: Span::from_secs(300),
        page: None,
        allow_paths: Vec::new(),
        allow_addresses: Networks::new(Network::parse(network)),
    };
    let text = told(Mode::Maintenance(maintenance("192.0.2.0/24")));
    assert!(text.contains("mode     maintenance, but this request is let in\n"), "{text}");
    let text = told(Mode::Maintenance(maintenance("10.0.0.0/8")));
    assert!(text.contains("mode     maintenance: refused with 503, and to come back in 5m\n"), "{text}");
}

#[test]
fn a_client_on_a_list_is_told_which_and_of_no_limits() {
    let request = Recorded::get("/api/x").from("192.0.2.7").with("x-api-key", "k1");
    let by_header =
        || AccessList { headers: vec![HeaderValues::new("x-api-key", ["k1".to_owned()])], ..AccessList::default() };
    let text = explain(&Policy { allow: by_header(), ..policy() }, &request);
    assert!(text.ends_with("allow    its header x-api-key is on the list: meets no limits\n"), "{text}");
    let deny = AccessList { addresses: Networks::new(Network::parse("192.0.2.7")), ..AccessList::default() };
    let text = explain(&Policy { allow: by_header(), deny, ..policy() }, &request);
    assert!(text.ends_with("deny     its address is on the list: refused with 403\n"), "{text}");
}

#[test]
fn requests_in_flight_are_told_of_as_such() {
    let slots = |least: Option<u32>| Limit {
        quotas: vec![vec![Quota { least: least.map(Permits::new), ..quota((50, 30)) }]; 2],
        ..limit("slots", Match::default(), Algorithm::Concurrency, (50, 30))
    };
    for (least, words) in [
        (None, "  quota  50 in flight at once, a lost one for 30s at most (concurrency)\n"),
        (Some(5), "  quota  5 to 50 in flight at once, by how long answers take (concurrency)\n"),
    ] {
        let text = explain(&Policy { limits: vec![slots(least)], ..policy() }, &Recorded::get("/"));
        assert!(text.contains(words), "{text}");
    }
}

fn headed(condition: HeaderCondition) -> Match {
    Match { headers: vec![("x".into(), condition)], ..Match::default() }
}

fn policy() -> Policy {
    let star = SegmentGlob::Star { prefix: Vec::new(), suffix: Vec::new() };
    let path = |segments: Vec<SegmentGlob>| Match { path: Some(PathGlob { segments, deep: true }), ..Match::default() };
    Policy {
        client: ClientRules {
            address: AddressSource { header: Some(("x-forwarded-for".into(), 1)), ipv6_prefix: 64 },
            tier: Some(TierSource::Header("x-plan".into())),
            default_tier: TierIndex(0),
            claims_header: None,
            api_key_header: Some("x-api-key".into()),
        },
        tiers: vec![Name("anonymous".into()), Name("free".into())],
        priorities: vec![None, Some(Priority::Low)],
        max_keys: 1_000,
        stores: Stores::default(),
        kept: KeptBytes { max_object: 1_024, max_bytes: 32_768 },
        limits: vec![
            Limit {
                key: vec![KeyPart::Address, KeyPart::Path],
                delays: Some(Delays {
                    max_delay: Span::from_secs(2),
                    max_waiting: 50,
                    slow_down: Some(SlowDown { slow_after: Permits::new(60), step: Span::from_millis(100) }),
                }),
                ..limit("api", path(vec![SegmentGlob::Literal(b"api".to_vec())]), Algorithm::SlidingWindow, (100, 60))
            },
            Limit {
                on_exceed: OnExceed::Delay,
                delays: Some(Delays { max_delay: Span::from_secs(2), max_waiting: 50, slow_down: None }),
                priority: Some(Priority::High),
                ..limit(
                    "login",
                    path(vec![SegmentGlob::Literal(b"login".to_vec()), star]),
                    Algorithm::FixedWindow,
                    (1, 1),
                )
            },
            Limit {
                key: vec![KeyPart::Cookie("sid".into())],
                cost: Cost::Request(costly("x-cost")),
                only_on: vec![StatusRange { first: 401, last: 401 }, StatusRange { first: 500, last: 599 }],
                on_exceed: OnExceed::Observe,
                penalty: Some(Penalty { cost: Permits::ONE, max: Permits::new(5) }),
                ban: Some(Ban { after: 10, within: Span::from_secs(60), lasts: Span::from_secs(600) }),
                ..limit("session", Match::default(), Algorithm::TokenBucket, (20, 1))
            },
            Limit {
                cost: Cost::Response(costly("x-spent")),
                quotas: vec![vec![quota((9, 3_600)), quota((90, 86_400))]; 2],
                ..limit("all", Match::default(), Algorithm::FixedWindow, (9, 3_600))
            },
        ],
        strict: 50,
        mode: Mode::Enforce,
        deny: AccessList::default(),
        allow: AccessList::default(),
        routing: Routing::default().into(),
        response: Response { ratelimit: true, x_ratelimit: false, x_tidegate: false },
        health: None,
        shedding: None,
        status: None,
        on_failure: OnFailure::Pass,
    }
}

fn costly(header: &str) -> CostHeader {
    let [default, min, max] = [2, 1, 7].map(Permits::new);
    CostHeader { name: header.into(), default, min, max }
}

fn quota((permits, secs): (u32, u64)) -> Quota {
    Quota {
        permits: Permits::new(permits),
        window: Span::from_secs(secs),
        burst: Permits::new(permits * 2),
        least: None,
    }
}

fn limit(name: &str, matches: Match, algorithm: Algorithm, permits_and_secs: (u32, u64)) -> Limit {
    Limit {
        name: Name(name.into()),
        matches,
        key: Vec::new(),
        algorithm,
        quotas: vec![vec![quota(permits_and_secs)]; 2],
        cost: Cost::Fixed(Permits::ONE),
        only_on: Vec::new(),
        on_exceed: OnExceed::Reject,
        delays: None,
        priority: None,
        penalty: None,
        ban: None,
        on_store_failure: OnStoreFailure::Local,
        sharing: None,
        by_service: false,
    }
}
