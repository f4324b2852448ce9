//! The policy's deny and allow lists: which clients are refused, and which are exempt from limits.

use std::fmt::Write;
use std::net::Ipv4Addr;

use crate::harness::{Request, engine, ms};
use tidegate::api_key::Digest;
use tidegate::decision::Decision;
use tidegate::engine::{Engine, Plan};
use tidegate::lease::Leases;
use tidegate::metrics::{Counters, Total};
use tidegate::store::memory::MemoryStore;

/// An engine with a policy of `lists` and one limit: two requests per hour for each address.
struct Bench {
    engine: Engine,
    store: MemoryStore,
    counters: Counters,
    plan: Plan,
}

impl Bench {
    fn new(lists: &str) -> Self {
        let policy = format!(
            r#"{{ "version": 1, {lists} "limits": [{{ "name": "api", "algorithm": "fixed-window",
            "quota": {{ "permits": 2, "window": "1h" }} }}] }}"#
        );
        let store = MemoryStore::new(1_000);
        Self { engine: engine(&policy), store, counters: Counters::new(1, 1), plan: Plan::new() }
    }

    fn send(&mut self, request: &Request) -> Decision {
        self.engine.plan(request, &mut self.plan);
        let mut local = MemoryStore::new(1_000);
        self.engine.decide(&mut self.plan, &mut self.store, &mut local, &mut Leases::new(), &mut self.counters, ms(0))
    }

    /// The refusal statuses of three requests in a row, 200 for each admitted one.
    fn statuses(&mut self, request: &Request) -> [u16; 3] {
        [(); 3].map(|()| match self.send(request).refusal {
            Some(refusal) => refusal.reply(&self.engine, request).status,
            None => 200,
        })
    }
}

const ALLOWED: [u16; 3] = [200, 200, 200];
const LIMITED: [u16; 3] = [200, 200, 429];
const DENIED: [u16; 3] = [403, 403, 403];

fn at(address: &str) -> Request {
    Request::get("/").from(address)
}

const LISTS: &str = r#"
    "deny": { "addresses": ["10.66.0.0/16", "2001:db8:bad::/48"], "headers": { "X-Api-Key": ["stolen", "leaked"] } },
    "allow": { "addresses": ["10.0.0.0/8", "::1"], "headers": { "x-api-key": ["trusted"], "x-probe": ["a, b"] } },"#;

#[test]
fn allowed_clients_bypass_limits_and_deny_overrides_allow() {
    let mut bench = Bench::new(LISTS);
    for (request, statuses) in [
        (at("192.0.2.1"), LIMITED),
        (at("10.0.0.1:4711"), ALLOWED),
        (at("10.66.0.1"), DENIED),
        (at("[::ffff:10.66.0.1]:80"), DENIED),
        (at("2001:db8:bad:1::1"), DENIED),
        (at("2001:db8:bae:1::1"), LIMITED),
        (at("::1"), ALLOWED),
        (at("::2"), LIMITED),
        (at("192.0.2.2").with("x-api-key", "trusted"), ALLOWED),
        (at("192.0.2.2").with("x-api-key", "Trusted"), LIMITED),
        (at("192.0.2.3").with("x-api-key", " stolen "), DENIED),
        (at("10.0.0.1").with("x-api-key", "leaked"), DENIED),
        // Other values beside a denied one do not hide it. Several values beside an allowed one do not count as it.
        (at("192.0.2.3").with("x-api-key", "trusted, leaked"), DENIED),
        (at("192.0.2.4").with("x-api-key", "trusted,other"), LIMITED),
        (at("192.0.2.5").with("x-probe", "a, b"), ALLOWED),
    ] {
        assert_eq!(bench.statuses(&request), statuses, "{request:?}");
    }
    assert_eq!(bench.counters.take_total(Total::Denied), 6 * 3);
    assert_eq!(bench.counters.take_total(Total::Allowed), 4 * 3);
}

#[test]
fn a_denied_client_gets_403_without_details() {
    let mut bench = Bench::new(LISTS);
    for (accept, content_type, body) in [
        ("*/*", "application/json", r#"{"error":"Forbidden"}"#),
        (
            "application/problem+json",
            "application/problem+json",
            r#"{"type":"about:blank","title":"Forbidden","status":403}"#,
        ),
    ] {
        let request = at("10.66.0.1").with("accept", accept);
        let reply = bench.send(&request).refusal.expect("denied").reply(&bench.engine, &request);
        assert_eq!((reply.grpc_status, reply.details.as_str(), reply.retry_after_secs), (7, "tidegate_denied", None));
        assert_eq!((reply.content_type.as_ref(), reply.body.as_str()), (content_type, body));
    }
}

#[test]
fn the_lists_apply_in_other_modes_too() {
    let mut observing = Bench::new(&format!(r#""mode": "observe", {LISTS}"#));
    let decision = observing.send(&at("10.66.0.1"));
    assert_eq!(decision.refusal, None);
    assert_eq!(decision.observed.expect("would be denied").details(&observing.engine), "tidegate_denied");
    let let_in = r#""mode": "maintenance", "maintenance": { "allow_paths": ["/**"] },"#;
    assert_eq!(Bench::new(&format!("{let_in} {LISTS}")).statuses(&at("10.66.0.1")), DENIED);
    let closed = r#""mode": "maintenance","#;
    assert_eq!(Bench::new(&format!("{closed} {LISTS}")).statuses(&at("10.66.0.1")), [503; 3]);
}

#[test]
fn ten_thousand_networks_values_and_api_keys_are_each_found() {
    let network = |n: u32| Ipv4Addr::from_bits(0x0a00_0000 | n << 9);
    let (mut networks, mut values, mut keys) = (String::new(), String::new(), String::new());
    for n in 0..10_000 {
        let comma = if n == 0 { "" } else { "," };
        write!(networks, "{comma}\"{}/24\"", network(n)).unwrap();
        write!(values, "{comma}\"key-{}\"", n * 7_919 % 10_000).unwrap();
        write!(keys, "{comma}\"{}\"", Digest::of(format!("secret-{n}").as_bytes()).unwrap()).unwrap();
    }
    let client = r#""client": { "api_key": { "header": "authorization" } }"#;
    let headers = format!(r#"{{ "x-api-key": [{values}] }}"#);
    let mut bench = Bench::new(&format!(
        r#"{client}, "deny": {{ "addresses": [{networks}], "api_keys": [{keys}], "headers": {headers} }},"#
    ));
    let mut denied = |request: Request| bench.send(&request).refusal.is_some();
    for n in 0..10_000 {
        let first = network(n).to_bits();
        assert!(denied(at(&Ipv4Addr::from_bits(first + n % 256).to_string())), "{n}");
        assert!(!denied(at(&Ipv4Addr::from_bits(first + 256).to_string())), "{n}");
        // From a different client each time, so that the limit refuses none.
        let client = at(&Ipv4Addr::from_bits(0xc000_0000 + n).to_string());
        assert!(denied(client.clone().with("x-api-key", &format!("key-{n}"))), "{n}");
        assert!(denied(client.clone().with("authorization", &format!("secret-{n}"))), "{n}");
        assert!(denied(client.clone().with("authorization", &format!("other, secret-{n}"))), "{n}");
        assert!(
            !denied(client.with("x-api-key", &format!("key_{n}")).with("authorization", &format!("key-{n}"))),
            "{n}"
        );
    }
}
