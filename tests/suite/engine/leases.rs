//! Leases: a single instance decides as it would without them, and several together never admit more than the quota.

use super::Bench;
use crate::harness::{Request, engine, ms};
use proptest::prelude::*;
use tidegate::engine::{Engine, Plan};
use tidegate::lease::{LEASE_IDLE, LEASE_LASTS, Leases};
use tidegate::limiter::Verdict;
use tidegate::metrics::{Counters, Fate, Total};
use tidegate::policy::TierIndex;
use tidegate::store::memory::MemoryStore;
use tidegate::store::{Store, StoreError};
use tidegate::table::Page;
use tidegate::units::{Permits, Span, Timestamp};

/// A store that counts its reads, and that others may change between a read and a publication.
struct Counted {
    pages: MemoryStore,
    reads: u32,
}

impl Store for Counted {
    fn pages(&self) -> u32 {
        self.pages.pages()
    }

    fn begin(&mut self) {}

    fn read(&mut self, page: u32) -> Result<&Page, StoreError> {
        self.reads += 1;
        self.pages.read(page)
    }

    fn write(&mut self, page: u32) -> Result<&mut Page, StoreError> {
        self.pages.write(page)
    }

    fn publish(&mut self, page: u32) -> Result<(), StoreError> {
        self.pages.publish(page)
    }
}

/// The wait of a refused request, and its client's standing with each quota.
type WaitAndStandings = (Option<Option<Span>>, Vec<Option<(Permits, Span)>>);

/// One of several instances that share a store.
struct Instance {
    plan: Plan,
    local: MemoryStore,
    leases: Leases,
    counters: Counters,
}

impl Instance {
    fn new() -> Self {
        Self { plan: Plan::new(), local: MemoryStore::new(10), leases: Leases::new(), counters: Counters::new(3, 2) }
    }

    fn send<S: Store>(
        &mut self,
        engine: &Engine,
        store: &mut S,
        request: &Request,
        now: Timestamp,
    ) -> WaitAndStandings {
        engine.plan(request, &mut self.plan);
        let decision = engine.decide(&mut self.plan, store, &mut self.local, &mut self.leases, &mut self.counters, now);
        let told = self.plan.charges().iter().map(|charge| {
            engine.standing(&self.plan, charge).map(|standing| (standing.remaining, standing.reset_after))
        });
        (decision.refusal.map(|refusal| refusal.retry_after), told.collect())
    }

    fn tick<S: Store>(&mut self, engine: &Engine, store: &mut S, idle: Span, now: Timestamp) {
        engine.end_leases(&mut self.leases, idle, store, &mut self.counters, now);
    }
}

fn limited(algorithm: &str, permits: u32, window: &str) -> String {
    format!(
        r#"{{ "version": 1, "client": {{ "trusted_headers": ["x-cost"] }}, "limits": [ {{ "name": "api",
        "key": ["address"], "algorithm": "{algorithm}", "cost": {{ "request_header": "x-cost", "min": 0 }}, "quota": {{ "permits": {permits}, "window": "{window}" }} }} ] }}"#
    )
}

fn request() -> Request {
    Request::get("/").from("192.0.2.1")
}

#[test]
fn a_busy_client_needs_few_reads_of_the_store_and_a_refused_one_fewer() {
    for (algorithm, most) in [("sliding-window", 400), ("fixed-window", 400), ("token-bucket", 10_100)] {
        let mut bench =
            Bench::new(&limited(algorithm, 10_000, "1d"), Counted { pages: MemoryStore::new(1_000), reads: 0 });
        for _ in 0..10_000 {
            assert_eq!(bench.send(&request(), 0), Ok(()), "{algorithm}");
        }
        assert!(bench.store.reads < most, "{algorithm}: {} reads", bench.store.reads);
        bench.store.reads = 0;
        for at_ms in 0..1_000 {
            assert!(bench.send(&request(), at_ms / 10).is_err(), "{algorithm}");
        }
        assert!(bench.store.reads <= 2, "{algorithm}: {} reads", bench.store.reads);
    }
}

#[test]
fn a_quiet_client_gets_no_lease() {
    let mut bench = Bench::new(&limited("sliding-window", 10_000, "1d"), MemoryStore::new(1_000));
    for at in 0..100 {
        assert_eq!(bench.send(&request(), at * 50), Ok(()));
        assert!(!bench.leases.hold_permits());
    }
}

#[test]
fn an_unused_lease_is_returned() {
    let mut bench = Bench::new(&limited("sliding-window", 10_000, "1d"), MemoryStore::new(1_000));
    for _ in 0..5 {
        assert_eq!(bench.send(&request(), 0), Ok(()));
    }
    assert!(bench.leases.hold_permits());
    let mut tick = |at_ms, idle| {
        bench.engine.end_leases(&mut bench.leases, idle, &mut bench.store, &mut bench.counters, ms(at_ms));
        (bench.leases.hold_permits(), bench.counters.take_total(Total::RefundsLost))
    };
    assert_eq!(tick(199, LEASE_IDLE), (true, 0));
    assert_eq!(tick(200, LEASE_IDLE), (false, 0));
    assert_eq!(bench.left(&request(), 0, 200), 10_000 - 5);
    // A lease in constant use ends when it reaches its maximum age.
    for at in (300..1_250).step_by(10) {
        assert_eq!(bench.send(&request().with("x-cost", if at < 350 { "1" } else { "0" }), at), Ok(()));
    }
    assert!(bench.leases.hold_permits());
    bench.engine.end_leases(
        &mut bench.leases,
        Span::from_secs(60),
        &mut bench.store,
        &mut bench.counters,
        ms(340).after(LEASE_LASTS),
    );
    assert!(!bench.leases.hold_permits());
    assert_eq!(bench.left(&request(), 0, 1_340), 10_000 - 10);
}

#[test]
fn a_request_that_leases_admit_is_counted_once_for_each_limit_whatever_its_quotas() {
    let policy = r#"{ "version": 1, "limits": [
        { "name": "wide", "key": ["address"], "algorithm": "fixed-window",
          "quotas": [{ "permits": 10000, "window": "1d" }, { "permits": 5000, "window": "1h" }] },
        { "name": "all", "quota": { "permits": 10000, "window": "1d" } } ] }"#;
    let mut bench = Bench::new(policy, Counted { pages: MemoryStore::new(1_000), reads: 0 });
    for _ in 0..1_000 {
        assert_eq!(bench.send(&request(), 0), Ok(()));
    }
    assert!(bench.store.reads < 500, "leases admit most of them: {} reads", bench.store.reads);
    let admitted = [0, 1].map(|limit| bench.counters.take_requests(limit, TierIndex::default(), Fate::Admitted));
    assert_eq!(admitted, [1_000, 1_000]);
}

#[test]
fn a_request_refused_by_another_limit_is_not_taken_from_a_lease() {
    let policy = r#"{ "version": 1, "limits": [
        { "name": "wide", "key": ["address"], "quota": { "permits": 10000, "window": "1d" } },
        { "name": "narrow", "key": ["address"], "quota": { "permits": 50, "window": "1d" } } ] }"#;
    let mut bench = Bench::new(policy, MemoryStore::new(1_000));
    let admitted = (0..200).filter(|_| bench.send(&request(), 0).is_ok()).count();
    assert_eq!(admitted, 50);
    bench.engine.end_leases(&mut bench.leases, Span::ZERO, &mut bench.store, &mut bench.counters, ms(0));
    assert_eq!((bench.left(&request(), 0, 0), bench.left(&request(), 1, 0)), (9_950, 0));
}

#[test]
fn a_limit_with_penalties_or_bans_uses_no_leases() {
    for punishment in
        [r#""penalty": { "cost": 1, "max": 5 }"#, r#""ban": { "after": 20, "within": "1m", "for": "5m" }"#]
    {
        let policy = format!(
            r#"{{ "version": 1, "limits": [ {{ "name": "api", "key": ["address"], {punishment},
            "quota": {{ "permits": 1000, "window": "1d" }} }} ] }}"#
        );
        let mut bench = Bench::new(&policy, Counted { pages: MemoryStore::new(1_000), reads: 0 });
        for _ in 0..1_100 {
            let _ = bench.send(&request(), 0);
            assert!(!bench.leases.hold_permits(), "{punishment}");
        }
        assert!(bench.store.reads >= 1_100, "{punishment}: {}", bench.store.reads);
    }
}

#[test]
fn an_instance_holds_back_at_most_a_sixteenth_for_a_moment() {
    let engine = engine(&limited("fixed-window", 1_600, "1d"));
    let mut store = MemoryStore::new(1_000);
    let (mut one, mut other) = (Instance::new(), Instance::new());
    let mut admitted = 0;
    for _ in 0..500 {
        admitted += u32::from(one.send(&engine, &mut store, &request(), ms(0)).0.is_none());
    }
    while other.send(&engine, &mut store, &request(), ms(0)).0.is_none() {
        admitted += 1;
    }
    assert!((1_500..1_600).contains(&admitted), "{admitted}");
    one.tick(&engine, &mut store, LEASE_IDLE, ms(200));
    while other.send(&engine, &mut store, &request(), ms(200)).0.is_none() {
        admitted += 1;
    }
    assert_eq!(admitted, 1_600);
}

#[derive(Clone, Copy, Debug)]
enum Step {
    /// The instance gets a request of this cost from this client, in the larger plan or not.
    Send(usize, u32, u8, bool),
    /// Time passes, in microseconds.
    Pass(u64),
    /// The clock of all instances steps back, in microseconds.
    Back(u64),
    Tick(usize),
    /// The instance dies with all that it holds.
    Die(usize),
}

fn step(back: u32, die: u32) -> impl Strategy<Value = Step> {
    let cost = prop_oneof![6 => Just(1_u32), 1 => 0_u32..7];
    prop_oneof![
        24 => (0..3_usize, cost, 0..2_u8, prop::bool::weighted(0.1)).prop_map(|(at, cost, client, more)| Step::Send(at, cost, client, more)),
        3 => (0..4_000_u64).prop_map(Step::Pass),
        1 => (0..400_000_u64).prop_map(Step::Pass),
        1 => (0..3_usize).prop_map(Step::Tick),
        back => (0..600_000_u64).prop_map(Step::Back),
        die => (0..3_usize).prop_map(Step::Die),
    ]
}

/// A limit of two quotas, both larger in the premium plan.
fn plans(algorithm: &str, permits: u32) -> String {
    let quotas = |permits: u32| {
        format!(r#"[{{ "permits": {permits}, "window": "500ms" }}, {{ "permits": {}, "window": "2s" }}]"#, permits * 3)
    };
    format!(
        r#"{{ "version": 1, "tiers": ["free", "premium"],
        "client": {{ "tier": {{ "header": "x-plan" }}, "trusted_headers": ["x-plan", "x-cost"] }}, "limits": [
        {{ "name": "api", "key": ["address"], "algorithm": "{algorithm}", "cost": {{ "request_header": "x-cost", "min": 0 }},
        "quotas": {}, "by_tier": {{ "premium": {} }} }} ] }}"#,
        quotas(permits),
        quotas(permits * 2)
    )
}

fn send(cost: u32, client: u8, more: bool) -> Request {
    let request = Request::get("/").from(&format!("192.0.2.{client}")).with("x-cost", &cost.to_string());
    if more { request.with("x-plan", "premium") } else { request }
}

const ALGORITHMS: [&str; 3] = ["sliding-window", "fixed-window", "token-bucket"];

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    /// Compared with an instance whose memory is discarded after each request.
    #[test]
    fn a_single_instance_decides_exactly_as_without_leases(
        algorithm in prop::sample::select(&ALGORITHMS),
        permits in 30_u32..400,
        steps in prop::collection::vec(step(1, 0), 1..800),
    ) {
        let engine = engine(&plans(algorithm, permits));
        let (mut leasing, mut store) = (Instance::new(), MemoryStore::new(1_000));
        let mut plain_store = MemoryStore::new(1_000);
        let mut now = ms(0);
        for step in steps {
            match step {
                Step::Send(_, cost, client, more) => {
                    let request = send(cost, client, more);
                    let told = leasing.send(&engine, &mut store, &request, now);
                    let plain = Instance::new().send(&engine, &mut plain_store, &request, now);
                    prop_assert_eq!(told, plain, "at {:?}", now);
                }
                Step::Pass(us) => now = now.after(Span::from_nanos(us * 1_000)),
                Step::Back(us) => now = now.before(Span::from_nanos(us * 1_000)),
                Step::Tick(_) | Step::Die(_) => leasing.tick(&engine, &mut store, LEASE_IDLE, now),
            }
        }
        leasing.tick(&engine, &mut store, Span::ZERO, now);
        for client in 0..2 {
            let request = send(0, client, false);
            let told = Instance::new().send(&engine, &mut store, &request, now);
            prop_assert_eq!(told, Instance::new().send(&engine, &mut plain_store, &request, now));
        }
    }

    /// Every admitted request also goes, at its time, to the naive model: the same limit without leases, which must
    /// admit it. Clients keep their tiers, because a client that changes to a smaller plan may still use what it has
    /// drawn in the larger one.
    #[test]
    fn several_instances_never_admit_more_than_the_rule(
        algorithm in prop::sample::select(&ALGORITHMS),
        permits in 30_u32..400,
        steps in prop_oneof![
            prop::collection::vec(step(0, 0), 1..1_200),
            prop::collection::vec(step(0, 1), 1..1_200),
        ],
    ) {
        let engine = engine(&plans(algorithm, permits));
        let mut store = MemoryStore::new(1_000);
        let mut instances = [Instance::new(), Instance::new(), Instance::new()];
        let mut model = MemoryStore::new(1_000);
        let mut now = ms(0);
        let mut dead = false;
        for step in steps {
            match step {
                Step::Send(at, cost, client, _) => {
                    let request = send(cost, client, client == 0);
                    if instances[at].send(&engine, &mut store, &request, now).0.is_none() {
                        let mut naive = Instance::new();
                        let (refused, _) = naive.send(&engine, &mut model, &request, now);
                        prop_assert_eq!(refused, None, "at {:?}", now);
                        let admitted = |charge: &tidegate::engine::Charge| charge.outcome().is_some_and(|it| it.verdict == Verdict::Admit);
                        prop_assert!(naive.plan.charges().iter().all(admitted));
                    }
                }
                Step::Pass(us) | Step::Back(us) => now = now.after(Span::from_nanos(us * 1_000)),
                Step::Tick(at) => {
                    let instance = &mut instances[at];
                    instance.tick(&engine, &mut store, LEASE_IDLE, now);
                }
                Step::Die(at) => {
                    dead = true;
                    instances[at] = Instance::new();
                }
            }
        }
        // After all leases are returned, the store holds exactly what was admitted.
        for instance in &mut instances {
            instance.tick(&engine, &mut store, Span::ZERO, now);
        }
        for client in 0..2 {
            let request = send(0, client, client == 0);
            let told = Instance::new().send(&engine, &mut store, &request, now);
            prop_assert!(dead || told == Instance::new().send(&engine, &mut model, &request, now));
        }
    }
}
