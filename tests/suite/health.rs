//! Health as several workers find it together, the load shedding that depends on it, and the pages that report it.

use crate::harness::{Answer, Request, digits, engine, ms};
use serde_json::{Value, json};
use tidegate::decision::{Decision, Reply};
use tidegate::engine::{Engine, Plan};
use tidegate::health::Health;
use tidegate::health::monitor::Monitor;
use tidegate::health::orca::Load;
use tidegate::lease::Leases;
use tidegate::metrics::{Counters, Total};
use tidegate::status::{Fingerprint, Page, Sources};
use tidegate::store::memory::MemoryStore;
use tidegate::units::Draw;

/// The workers of one Envoy and their shared bytes.
struct Workers {
    monitors: Vec<Monitor>,
    shared: Option<Vec<u8>>,
}

impl Workers {
    fn new(count: usize, policy: &str) -> Self {
        let engine = engine(policy);
        let monitor = |_| Monitor::new(engine.policy()).expect("a policy that watches health");
        Self { monitors: (0..count).map(monitor).collect(), shared: None }
    }

    fn answer(&mut self, worker: usize, answer: &Answer, took_ms: u64, now_ms: u64) {
        self.monitors[worker].answered(answer, Some(ms(now_ms - took_ms)), ms(now_ms));
    }

    fn tick(&mut self, worker: usize, now_ms: u64) {
        let mut merged = Vec::new();
        let monitor = &mut self.monitors[worker];
        if monitor.merge(self.shared.as_deref(), &mut merged, ms(now_ms)) {
            monitor.published();
            self.shared = Some(merged);
        }
    }

    fn health(&self) -> Vec<Health> {
        self.monitors.iter().map(|monitor| monitor.standing().health).collect()
    }
}

#[test]
fn shared_bytes_of_version_1_do_not_change() {
    let mut workers = Workers::new(1, r#"{ "version": 1, "health": { "min_calls": 10 } }"#);
    for call in 0..20 {
        workers.answer(0, &Answer::of(if call < 12 { 503 } else { 200 }), 5 * call, 500);
    }
    workers.tick(0, 1_000);
    workers.tick(0, 3_000);
    let shared = workers.shared.unwrap();
    assert_eq!((shared[0], digits(&shared).as_str()), (1, "701feecc58bb"));
}

#[test]
fn workers_together_find_what_none_sees_alone() {
    let mut workers = Workers::new(3, r#"{ "version": 1, "health": { "min_calls": 24 } }"#);
    for worker in 0..3 {
        for call in 0..10 {
            workers.answer(worker, &Answer::of(if call < 2 { 503 } else { 200 }), 5, 500);
        }
        workers.tick(worker, 1_000 + 10 * worker as u64);
    }
    use Health::{Degraded, Healthy};
    assert_eq!(workers.health(), [Healthy, Healthy, Degraded]);
    workers.tick(0, 2_000);
    workers.tick(1, 2_010);
    assert_eq!(workers.health(), [Degraded; 3]);
    let recent = workers.monitors[0].recent();
    assert_eq!((recent.calls(), recent.failures(), recent.error_rate().get()), (30, 6, 2_000));
    // First the window has to pass, then the wait before a recovery.
    for secs in 3..20 {
        (0..3).for_each(|worker| workers.tick(worker, secs * 1_000 + 100));
        assert_eq!(workers.health(), [if secs < 15 { Degraded } else { Healthy }; 3], "{secs}");
    }
}

#[test]
fn a_conflicting_merge_loses_and_duplicates_nothing() {
    let mut workers = Workers::new(2, r#"{ "version": 1, "health": {} }"#);
    for worker in 0..2 {
        (0..7).for_each(|_| workers.answer(worker, &Answer::of(200), 5, 500));
    }
    let mut merged = Vec::new();
    // The first worker reads, and the second publishes before the first can.
    assert!(workers.monitors[0].merge(None, &mut merged, ms(1_000)));
    workers.tick(1, 1_000);
    workers.tick(0, 1_000);
    assert_eq!(workers.monitors[0].recent().calls(), 14);
    workers.tick(1, 1_001);
    assert_eq!(workers.monitors[1].recent().calls(), 14);
    // Nothing has changed, so nothing is published.
    assert!(!workers.monitors[0].merge(workers.shared.as_deref(), &mut merged, ms(1_002)));
}

#[test]
fn damaged_shared_bytes_only_lose_their_counts() {
    let mut workers = Workers::new(1, r#"{ "version": 1, "health": {}, "shedding": {} }"#);
    (0..100).for_each(|_| workers.answer(0, &Answer::of(500), 5, 500));
    workers.tick(0, 1_000);
    assert_eq!(workers.health(), [Health::Critical]);
    let whole = workers.shared.clone().expect("published");
    for damage in 0..200_usize {
        let mut bytes = whole.clone();
        let at = damage * 7 % bytes.len();
        if damage % 3 == 0 {
            bytes.truncate(at)
        } else {
            bytes[at] ^= 1 << (damage % 8)
        }
        workers.shared = Some(bytes);
        (0..30).for_each(|_| workers.answer(0, &Answer::of(200), 5, 1_500));
        workers.tick(0, 2_000);
        assert!(workers.monitors[0].recent().calls() >= 30, "{damage}");
    }
    // Bytes of a later version are ignored.
    workers.shared = Some([&[9], &whole[1..]].concat());
    workers.tick(0, 3_000);
    assert_eq!(workers.health(), [Health::Healthy]);
}

#[test]
fn each_signal_makes_the_service_worse() {
    let with_status = |status| vec![Answer::of(status); 30];
    let grpc = |status| vec![Answer::of(200).with("grpc-status", status); 30];
    let report = |text| vec![Answer::of(200).with("endpoint-load-metrics", text); 30];
    for (rules, answers, took_ms, health) in [
        ("", with_status(404), 9, Health::Healthy),
        ("", with_status(503), 9, Health::Critical),
        ("", grpc("14"), 9, Health::Critical),
        ("", grpc("5"), 9, Health::Healthy),
        (r#""latency": { "degraded": "100ms", "critical": "1s" }"#, with_status(200), 80, Health::Healthy),
        (r#""latency": { "degraded": "100ms", "critical": "1s" }"#, with_status(200), 120, Health::Degraded),
        (r#""latency": { "degraded": "100ms", "critical": "1s" }"#, with_status(200), 1_200, Health::Critical),
        (
            r#""orca": { "cpu_percent": { "degraded": 80, "critical": 95 } }"#,
            report("TEXT cpu_utilization=0.8"),
            9,
            Health::Degraded,
        ),
        (
            r#""orca": { "cpu_percent": { "degraded": 80, "critical": 95 } }"#,
            report("TEXT cpu_utilization=0.79"),
            9,
            Health::Healthy,
        ),
        (
            r#""orca": { "memory_percent": { "degraded": 80, "critical": 95 } }"#,
            report(r#"JSON {"memUtilization":0.95}"#),
            9,
            Health::Critical,
        ),
        (
            r#""orca": { "application_percent": { "degraded": 100, "critical": 150 } }"#,
            report(r#"{"application_utilization":1.2}"#),
            9,
            Health::Degraded,
        ),
        (
            r#""orca": { "eps": { "degraded": 0.5, "critical": 10 } }"#,
            report("TEXT eps=0.5,cpu_utilization=9"),
            9,
            Health::Degraded,
        ),
        (r#""orca": { "eps": { "degraded": 0.5, "critical": 10 } }"#, report("TEXT eps=hostile"), 9, Health::Healthy),
    ] {
        let mut workers = Workers::new(1, &format!(r#"{{ "version": 1, "health": {{ {rules} }} }}"#));
        answers.iter().for_each(|answer| workers.answer(0, answer, took_ms, 5_000));
        workers.tick(0, 5_000);
        assert_eq!(workers.health(), [health], "{rules} {:?}", answers[0]);
    }
}

#[test]
fn abandoned_calls_reveal_a_service_that_does_not_respond() {
    let policy = r#"{ "version": 1, "health": { "latency": { "degraded": "300ms", "critical": "2s" } } }"#;
    let mut workers = Workers::new(1, policy);
    // Clients that go away early say nothing about the service, however many there are.
    (0..1_000).for_each(|_| workers.monitors[0].abandoned(ms(5_000), ms(5_100)));
    (0..30).for_each(|_| workers.monitors[0].abandoned(ms(0), ms(5_000)));
    workers.tick(0, 5_000);
    assert_eq!((workers.health(), workers.monitors[0].recent().calls()), (vec![Health::Critical], 30));
}

#[test]
fn a_response_of_unknown_latency_counts_as_a_call_but_not_as_a_slow_one() {
    let policy = r#"{ "version": 1, "health": { "latency": { "degraded": "300ms", "critical": "2s" } } }"#;
    let mut workers = Workers::new(1, policy);
    (0..58).for_each(|_| workers.monitors[0].answered(&Answer::of(200), None, ms(5_000)));
    // A 501 (method not implemented) is no failure, because any client can cause it.
    for status in [501, 503] {
        workers.monitors[0].answered(&Answer::of(status), None, ms(5_000));
    }
    workers.tick(0, 5_000);
    let recent = workers.monitors[0].recent();
    assert_eq!((recent.calls(), recent.failures(), workers.health()), (60, 1, vec![Health::Healthy]));
}

#[test]
fn load_reports_are_sampled() {
    let policy = r#"{ "version": 1, "health": { "orca": { "cpu_percent": { "degraded": 80, "critical": 95 } } } }"#;
    let mut workers = Workers::new(1, policy);
    for call in 0..1_000_u64 {
        let report = if call % 100 == 0 { "TEXT cpu_utilization=0.5" } else { "TEXT cpu_utilization=0.9" };
        workers.answer(0, &Answer::of(200).with("endpoint-load-metrics", report), 1, 1_000 + call / 10);
    }
    workers.tick(0, 1_100);
    assert_eq!(workers.monitors[0].recent().load(Load::Cpu), Some(500_000), "one in ten milliseconds");
}

/// An engine with the monitors that feed it.
struct Bench {
    engine: Engine,
    plan: Plan,
    counters: Counters,
    workers: Workers,
}

impl Bench {
    /// A service whose worker has found it critical for this long.
    fn critical_for(policy: &str, ms_long: u64) -> Self {
        let mut workers = Workers::new(1, policy);
        for step in 0..=ms_long / 100 {
            (0..40).for_each(|_| workers.answer(0, &Answer::of(500), 5, step * 100 + 50));
            workers.tick(0, step * 100 + 100);
        }
        assert_eq!(workers.health(), [Health::Critical]);
        Self { engine: engine(policy), plan: Plan::new(), counters: Counters::new(2, 4), workers }
    }

    fn send(&mut self, request: &Request, draw: u64) -> Decision {
        self.plan.set_pressure(self.workers.monitors[0].pressure(), Draw(draw));
        self.engine.plan(request, &mut self.plan);
        let (mut store, mut local) = (MemoryStore::new(1_000), MemoryStore::new(1_000));
        self.engine.decide(&mut self.plan, &mut store, &mut local, &mut Leases::new(), &mut self.counters, ms(0))
    }

    /// The percentage of such requests that is shed.
    fn shed(&mut self, request: &Request) -> u64 {
        (0..100).filter(|n| self.send(request, (n << 57) / 50 * 64).refusal.is_some()).count() as u64
    }

    fn reply(&self, page: Page) -> Reply {
        let (fingerprint, monitor) = (Fingerprint::of(SHEDDING), self.workers.monitors.first());
        Sources {
            engine: &self.engine,
            fingerprint,
            monitor,
            upstreams: None,
            store: None,
            service: None,
            counters: None,
            live_keys: 7,
            now: ms(60_000),
        }
        .reply(page)
    }
}

const SHEDDING: &str = r#"{
    "version": 1,
    "client": { "tier": { "header": "x-plan" }, "trusted_headers": ["x-plan"] },
    "tiers": ["none", "bulk", "paying", "doctor"],
    "priorities": { "bulk": "low", "paying": "high", "doctor": "critical" },
    "health": {},
    "shedding": { "critical": { "low_percent": 100, "medium_percent": 50 }, "rise": "1s" },
    "limits": [
        { "name": "reports", "match": { "path": "/reports" }, "quota": { "permits": 9, "window": "1s" }, "priority": "low" },
        { "name": "pay", "match": { "path": "/pay" }, "quota": { "permits": 9, "window": "1s" }, "priority": "critical" }
    ]
}"#;

#[test]
fn a_request_has_the_highest_priority_that_applies_to_it() {
    let mut bench = Bench::critical_for(SHEDDING, 10_000);
    for (path, tier, shed) in [
        ("/", "none", 50),
        ("/", "bulk", 100),
        ("/", "paying", 0),
        ("/", "doctor", 0),
        ("/reports", "none", 100),
        ("/reports", "paying", 0),
        ("/pay", "bulk", 0),
    ] {
        assert_eq!(bench.shed(&Request::get(path).with("x-plan", tier)), shed, "{path} {tier}");
    }
    assert_eq!(bench.counters.take_total(Total::ShedLow), 200);
    assert_eq!((bench.counters.take_total(Total::ShedMedium), bench.counters.take_total(Total::ShedHigh)), (50, 0));
}

#[test]
fn shedding_begins_with_a_share_of_the_lowest_priority() {
    let mut bench = Bench::critical_for(SHEDDING, 400);
    let low = bench.shed(&Request::get("/reports"));
    assert!((20..=60).contains(&low), "{low}");
    assert_eq!(bench.shed(&Request::get("/")), 0);
}

#[test]
fn a_shed_request_gets_a_random_retry_after() {
    let mut bench = Bench::critical_for(SHEDDING, 10_000);
    let request = Request::get("/reports");
    let mut waits = Vec::new();
    for draw in 0..50_u64 {
        let refusal = bench.send(&request, draw * (u64::from(u32::MAX) / 50)).refusal.expect("shed");
        let reply = refusal.reply(&bench.engine, &request);
        assert_eq!((reply.status, reply.grpc_status, reply.details.as_str()), (503, 14, "tidegate_shed"));
        waits.push(reply.retry_after_secs.expect("a wait"));
    }
    assert_eq!((waits.iter().min(), waits.iter().max()), (Some(&5), Some(&15)));
    let refusal = bench.send(&request, 0).refusal.expect("shed");
    assert_eq!(refusal.reply(&bench.engine, &request).body, r#"{"error":"the service is overloaded","retryAfter":5}"#);
}

#[test]
fn lists_come_before_shedding_and_a_policy_that_observes_sheds_nobody() {
    let policy = SHEDDING.replacen('{', r#"{ "allow": { "addresses": ["10.0.0.0/8"] },"#, 1);
    let mut bench = Bench::critical_for(&policy, 10_000);
    assert_eq!(bench.shed(&Request::get("/reports").from("10.1.2.3")), 0);
    assert_eq!(bench.shed(&Request::get("/reports").from("192.0.2.1")), 100);
    let mut bench = Bench::critical_for(&SHEDDING.replacen('{', r#"{ "mode": "observe","#, 1), 10_000);
    let decision = bench.send(&Request::get("/reports"), 0);
    assert_eq!(decision.refusal, None);
    assert_eq!(decision.observed.expect("would be shed").details(&bench.engine), "tidegate_shed");
    assert_eq!(bench.counters.take_total(Total::ShedLow), 1);
}

/// The SHA-256 of `open sesame`.
const TOKEN: &str = "41ef4bb0b23661e66301aac36066912dac037827b4ae63a7b1165a5aa93ed4eb";

#[test]
fn status_pages_are_visible_to_operators_only() {
    let status =
        format!(r#""status": {{ "path": "/.well/ops", "addresses": ["10.0.0.0/8"], "token_sha256": "{TOKEN}" }}"#);
    let policy = SHEDDING.replacen('{', &format!(r#"{{ "mode": "maintenance", {status},"#), 1);
    let engine = engine(&policy);
    let mut plan = Plan::new();
    let mut page = |request: &Request| {
        engine.plan(request, &mut plan);
        assert!(!plan.is_clear());
        plan.page()
    };
    let bearing = |value: &str| Request::get("/.well/ops/status").from("192.0.2.1").with("authorization", value);
    let at = |path: &str, address: &str| Request::get(path).from(address);
    for (request, found) in [
        (at("/.well/ops/health", "10.9.8.7"), Some(Page::Health)),
        (at("/.well/ops/ready?x=1", "10.9.8.7"), Some(Page::Ready)),
        (at("/.well/./ops//status", "10.9.8.7"), Some(Page::Status)),
        (at("/.well/ops/status", "192.0.2.1"), None),
        (at("/.well/ops/status", ""), None),
        (at("/.well/ops/status/", "10.9.8.7"), None),
        (at("/.well/ops", "10.9.8.7"), None),
        (at("/.well/ops/", "10.9.8.7"), None),
        (at("/.well/opshealth", "10.9.8.7"), None),
        (at("/tidegate/health", "10.9.8.7"), None),
        (bearing("Bearer open sesame"), Some(Page::Status)),
        (bearing("bearer open sesame"), Some(Page::Status)),
        (bearing("Bearer open sesam"), None),
        (bearing("Bearer open sesame!"), None),
        (bearing("Basic open sesame"), None),
        (bearing("Bearer "), None),
        (bearing("Bearer"), None),
        (bearing(TOKEN), None),
        (bearing(&["Bearer ", TOKEN].concat()), None),
    ] {
        assert_eq!(page(&request), found, "{request:?}");
    }
}

#[test]
fn status_pages_report_health() {
    let bench = Bench::critical_for(SHEDDING, 10_000);
    let read = |page| {
        let reply = bench.reply(page);
        assert_eq!(reply.content_type, "application/json");
        (reply.status, serde_json::from_str::<Value>(&reply.body).expect("JSON"))
    };
    assert_eq!(read(Page::Health), (503, json!({ "health": "critical" })));
    let (status, ready) = read(Page::Ready);
    assert_eq!((status, &ready["ready"]), (200, &json!(true)));
    let (code, status) = read(Page::Status);
    assert_eq!((code, &status["policy"], &status["mode"]), (200, &ready["policy"], &json!("enforce")));
    assert_eq!(status["shedding"], json!({ "low_percent": 100.0, "medium_percent": 50.0, "high_percent": 0.0 }));
    assert_eq!(status["keys"], json!({ "live": 7, "max": 100_000 }));
    let health = &status["health"];
    assert_eq!((&health["state"], &health["error_rate_percent"]), (&json!("critical"), &json!(100.0)));
    // 400 per second for ten seconds, give or take a tenth.
    assert!(health["calls"] == health["failures"] && (3_600..=4_000).contains(&health["calls"].as_u64().unwrap()));
    assert!(health["for_ms"].as_u64().is_some_and(|ms| ms > 40_000), "{health}");
    assert_eq!(status["limits"][1]["quotas"]["doctor"], json!([{ "permits": 9, "window": "1s" }]));

    let plain = engine(
        r#"{ "version": 1, "breakers": { "b": { "window": { "time": "9s" } } },
        "upstreams": { "origin": { "cluster": "o", "breaker": "b" }, "cdn": { "cluster": "c" } } }"#,
    );
    let fingerprint = Fingerprint::of("");
    let sources = Sources {
        engine: &plain,
        fingerprint,
        monitor: None,
        upstreams: None,
        store: None,
        service: None,
        counters: None,
        live_keys: 0,
        now: ms(0),
    };
    let reply = sources.reply(Page::Status);
    let status: Value = serde_json::from_str(&reply.body).expect("JSON");
    assert_eq!((&status["health"], &status["shedding"], &status["limits"]), (&Value::Null, &Value::Null, &json!([])));
    let upstreams: Vec<_> = status["upstreams"].as_array().unwrap().iter().collect();
    assert!(upstreams.contains(&&json!({ "name": "origin", "breaker": "b" })), "{upstreams:?}");
    assert!(upstreams.contains(&&json!({ "name": "cdn" })), "{upstreams:?}");
}
