//! The effect of a policy's mode on its limits.

use crate::harness::{Request, engine, ms};
use tidegate::decision::{Decision, Fields, Reply};
use tidegate::engine::{Engine, Plan};
use tidegate::lease::Leases;
use tidegate::metrics::{Counters, Fate, Total};
use tidegate::policy::TierIndex;
use tidegate::store::memory::MemoryStore;

/// An engine whose policy has one limit, ten requests per hour for each address, and `more` fields.
struct Bench {
    engine: Engine,
    store: MemoryStore,
    local: MemoryStore,
    counters: Counters,
    plan: Plan,
}

impl Bench {
    fn new(more: &str) -> Self {
        Self {
            engine: engine(&policy(more)),
            store: MemoryStore::new(1_000),
            local: MemoryStore::new(1_000),
            counters: Counters::new(1, 1),
            plan: Plan::new(),
        }
    }

    fn send(&mut self, request: &Request) -> Decision {
        self.engine.plan(request, &mut self.plan);
        self.engine.decide(
            &mut self.plan,
            &mut self.store,
            &mut self.local,
            &mut Leases::new(),
            &mut self.counters,
            ms(0),
        )
    }

    /// How many of `times` requests are admitted.
    fn admitted(&mut self, request: &Request, times: usize) -> usize {
        (0..times).filter(|_| self.send(request).refusal.is_none()).count()
    }

    fn reply(&mut self, request: &Request) -> Reply {
        self.send(request).refusal.expect("refused").reply(&self.engine, request)
    }

    fn counted(&mut self) -> [u64; 4] {
        [Fate::Admitted, Fate::Refused, Fate::Observed, Fate::Delayed]
            .map(|fate| self.counters.take_requests(0, TierIndex::default(), fate))
    }
}

fn policy(more: &str) -> String {
    format!(
        r#"{{ "version": 1, {more} "limits": [{{ "name": "api", "algorithm": "fixed-window",
        "quota": {{ "permits": 10, "window": "1h" }} }}] }}"#
    )
}

fn client() -> Request {
    Request::get("/").from("192.0.2.1")
}

#[test]
fn a_policy_that_observes_counts_what_it_would_refuse_and_says_nothing() {
    let mut bench = Bench::new(r#""mode": "observe","#);
    assert_eq!(bench.admitted(&client(), 12), 12);
    assert_eq!(bench.counted(), [10, 0, 2, 0], "admitted, refused, observed, delayed");
    let observed = bench.send(&client()).observed.expect("would be refused");
    assert_eq!(observed.details(&bench.engine), "tidegate_limit_api");
    let mut fields = Fields::default();
    fields.push_limits(&bench.engine, &bench.plan);
    assert!(fields.is_empty(), "{fields:?}");
    // The counts of observe mode remain valid when the policy is enforced.
    bench.engine = engine(&policy(""));
    assert_eq!(bench.admitted(&client(), 1), 0);
}

#[test]
fn a_strict_policy_lowers_its_quotas_and_keeps_its_counts() {
    let mut bench = Bench::new("");
    assert_eq!(bench.admitted(&client(), 3), 3);
    bench.engine = engine(&policy(r#""mode": "strict", "strict": { "factor_percent": 45 },"#));
    assert_eq!(bench.admitted(&client(), 5), 1, "four in all");
    let mut fields = Fields::default();
    fields.push_limits(&bench.engine, &bench.plan);
    assert_eq!(fields.iter().next(), Some(("ratelimit-policy", r#""api";q=4;w=3600"#)));
    bench.engine = engine(&policy(""));
    assert_eq!(bench.admitted(&client(), 10), 6);
}

#[test]
fn maintenance_answers_everybody_but_those_let_in() {
    let mut bench = Bench::new(
        r#""mode": "maintenance", "maintenance": { "retry_after": "90s", "body": "<h1>Soon</h1>",
        "allow_paths": ["/health/**"], "allow_addresses": ["10.0.0.0/8", "2001:db8::/32"] },"#,
    );
    let reply = bench.reply(&client());
    assert_eq!((reply.status, reply.grpc_status, reply.details.as_str()), (503, 14, "tidegate_maintenance"));
    assert_eq!((reply.content_type.as_ref(), reply.body.as_str()), ("text/html; charset=utf-8", "<h1>Soon</h1>"));
    assert_eq!(reply.retry_after_secs, Some(90));
    assert_eq!(bench.counters.take_total(Total::Maintenance), 1);
    assert_eq!(bench.counted(), [0, 0, 0, 0], "nobody is charged for being turned away");
    // Limits still apply to the clients that are let in.
    assert_eq!(bench.admitted(&Request::get("/health/live").from("192.0.2.1"), 12), 10);
    assert_eq!(bench.admitted(&Request::get("/").from("10.9.8.7:4711"), 12), 10);
    // The whole address is compared, not only the prefix that identifies a client.
    assert_eq!(bench.admitted(&Request::get("/").from("2001:db8::1"), 1), 1);
    assert_eq!(bench.admitted(&Request::get("/").from("2001:db9::1"), 1), 0);
    assert_eq!(bench.admitted(&Request::get("/").from("/run/app.sock"), 1), 0);
}

#[test]
fn maintenance_without_a_page_answers_with_an_error_in_json() {
    let mut bench = Bench::new(r#""mode": "maintenance", "maintenance": { "status": 500 },"#);
    let reply = bench.reply(&client());
    assert_eq!((reply.status, reply.content_type.as_ref()), (500, "application/json"));
    assert_eq!(reply.body, r#"{"error":"the service is under maintenance","retryAfter":300}"#);
    let reply = bench.reply(&client().with("accept", "application/problem+json"));
    let problem: serde_json::Value = serde_json::from_str(&reply.body).expect("JSON");
    assert_eq!((&problem["status"], &problem["retryAfter"]), (&500.into(), &300.into()));
}
