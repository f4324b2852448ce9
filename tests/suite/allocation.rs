//! An ordinary request's path through the core allocates nothing.

use std::alloc::{GlobalAlloc, Layout, System};
use std::borrow::Cow;
use std::cell::Cell;

use tidegate::breaker::{Admission, Local, Outcome};
use tidegate::engine::{Engine, Plan};
use tidegate::health::monitor::Monitor;
use tidegate::health::orca::Load;
use tidegate::key::Seed;
use tidegate::policy::Policy;
use tidegate::request::{RequestFacts, ResponseFacts};
use tidegate::units::{Draw, Span, Timestamp};

/// The system's allocator with a count per thread, because tests run concurrently.
struct Counting;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

thread_local! {
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

// SAFETY: every call goes to the system's allocator unchanged; the counter neither allocates nor has a destructor.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.set(ALLOCATIONS.get() + 1);
        // SAFETY: the caller's guarantees are those that the system's allocator needs.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller's guarantees are those that the system's allocator needs.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[test]
fn planning_an_ordinary_request_allocates_nothing() {
    let policy = Policy::parse(POLICY).unwrap();
    let engine = Engine::new(policy, Seed::new([1, 2]));
    let mut plan = Plan::new();
    let plan_once = |plan: &mut Plan| engine.plan(&Ordinary, plan);
    // The first request reserves the plan's memory, which later ones use again.
    plan_once(&mut plan);
    assert_eq!(plan.charges().len(), 4);

    let before = ALLOCATIONS.get();
    for _ in 0..100 {
        plan_once(&mut plan);
    }
    assert_eq!(ALLOCATIONS.get() - before, 0);
}

#[test]
fn counting_an_answer_allocates_nothing() {
    let policy = r#"{ "version": 1, "health": { "orca": { "cpu_percent": { "degraded": 80, "critical": 90 } } } }"#;
    let mut monitor = Monitor::new(&Policy::parse(policy).unwrap()).unwrap();
    let before = ALLOCATIONS.get();
    for ms in 0..1_000 {
        let began = Timestamp::from_millis(1_800_000_000_000);
        monitor.answered(&Loaded, Some(began), began.after(Span::from_millis(ms)));
        monitor.abandoned(began, began.after(Span::from_millis(ms)));
    }
    assert_eq!(ALLOCATIONS.get() - before, 0);
    let mut merged = Vec::new();
    assert!(monitor.merge(None, &mut merged, Timestamp::from_millis(1_800_000_001_000)));
    assert_eq!((monitor.recent().calls(), monitor.recent().load(Load::Cpu)), (1_000, Some(500_000)));
}

/// A response from a service that reports its load.
struct Loaded;

impl ResponseFacts for Loaded {
    fn status(&self) -> Option<u16> {
        Some(200)
    }

    fn header(&self, name: &str) -> Option<Cow<'_, [u8]>> {
        (name == "endpoint-load-metrics").then_some(Cow::Borrowed(br#"JSON {"a":[{}],"cpu_utilization":0.5}"#))
    }
}

#[test]
fn a_call_through_a_closed_breaker_allocates_nothing() {
    for window in [r#""time": "30s""#, r#""count": 1000"#] {
        let breakers = format!(r#"{{ "b": {{ "window": {{ {window} }}, "slow_call": "1s" }} }}"#);
        let policy = Policy::parse(&format!(r#"{{ "version": 1, "breakers": {breakers} }}"#)).unwrap();
        let mut local = Local::new(&policy.breakers()[0]);

        let before = ALLOCATIONS.get();
        for call in 0..10_000 {
            let now = Timestamp::from_millis(1_800_000_000_000 + call * 11);
            let Some(Admission::Pass(ticket)) = local.judge(Draw(call), now) else { panic!("not closed") };
            let outcome = if call % 3 == 0 { Outcome::Failure } else { Outcome::Success };
            assert!(!local.record(ticket, outcome, Span::from_millis(call % 1_500), now));
        }
        assert_eq!(ALLOCATIONS.get() - before, 0);
    }
}

/// A request with an already normal path, from a host that lends its values without copying.
struct Ordinary;

impl RequestFacts for Ordinary {
    fn method(&self) -> Cow<'_, [u8]> {
        Cow::Borrowed(b"GET")
    }

    fn path(&self) -> Cow<'_, [u8]> {
        Cow::Borrowed(b"/api/users/17?page=2&key=k1")
    }

    fn authority(&self) -> Cow<'_, [u8]> {
        Cow::Borrowed(b"example.com:443")
    }

    fn peer(&self) -> Option<Cow<'_, [u8]>> {
        Some(Cow::Borrowed(b"10.0.0.1:4711"))
    }

    fn header(&self, name: &str) -> Option<Cow<'_, [u8]>> {
        match name {
            "x-forwarded-for" => Some(Cow::Borrowed(b"203.0.113.9, 2001:db8::1")),
            "x-plan" => Some(Cow::Borrowed(b"free")),
            "cookie" => Some(Cow::Borrowed(b"a=b; sid=s1")),
            _ => None,
        }
    }
}

const POLICY: &str = r#"{
    "version": 1,
    "client": {
        "address": { "header": "x-forwarded-for", "trusted_hops": 1, "ipv6_prefix": 64 },
        "tier": { "header": "x-plan", "default": "anonymous" }, "trusted_headers": ["x-plan"]
    },
    "tiers": ["anonymous", "free"],
    "limits": [
        {
            "name": "address", "match": { "path": "/api/**", "hosts": ["example.com"] }, "key": ["address"],
            "algorithm": "sliding-window", "quota": { "permits": 10, "window": "60s" }
        },
        {
            "name": "session", "match": { "path": "/api/users/*", "methods": ["GET"] },
            "key": ["cookie:sid", "query:key"],
            "algorithm": "token-bucket", "quota": { "permits": 10, "window": "60s" }
        },
        {
            "name": "plan", "match": { "headers": { "x-plan": "free" } }, "key": ["tier", "path", "method", "host"],
            "algorithm": "fixed-window", "quota": { "permits": 10, "window": "60s" }
        },
        {
            "name": "absent", "key": ["header:x-absent"],
            "algorithm": "fixed-window", "quota": { "permits": 10, "window": "60s" }
        },
        {
            "name": "other", "match": { "path": "/other" }, "key": ["address"],
            "algorithm": "fixed-window", "quota": { "permits": 10, "window": "60s" }
        }
    ]
}"#;
