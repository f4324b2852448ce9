//! What the status page reports about upstreams and breakers.

use std::collections::HashMap;

use serde_json::{Value, json};
use tidegate::authority::Instance;
use tidegate::breaker::Statistics;
use tidegate::engine::Engine;
use tidegate::fallback::{Context, MemoryLedgers, ServedBy, Step, Upstreams};
use tidegate::metrics::{Counters, Fate, Total};
use tidegate::policy::{CallEnd, TierIndex};
use tidegate::status::{Counted, Fingerprint, Page, Sources, UpstreamsNow};
use tidegate::units::Draw;

use crate::harness::{engine, ms};

/// What a host has added up: by route and server number, and by breaker.
#[derive(Debug, Default)]
struct Sums {
    served: HashMap<(usize, usize), u64>,
    misses: HashMap<usize, u64>,
    breakers: HashMap<usize, [u64; Statistics::NAMES.len()]>,
    /// The number of upstreams of each route.
    upstreams: usize,
}

impl Sums {
    /// Adds what a worker has counted since the last call.
    fn take(&mut self, upstreams: &mut Upstreams, routes: usize) {
        for route in 0..routes {
            for (by, count) in upstreams.served().take(route) {
                *self.served.entry((route, by.number(self.upstreams))).or_default() += count;
            }
            *self.misses.entry(route).or_default() += upstreams.served().take_misses(route);
        }
        for place in 0..upstreams.breakers().len() {
            let told = upstreams.breakers().get(place).unwrap().statistics().take().values();
            let sums = self.breakers.entry(place).or_default();
            sums.iter_mut().zip(told).for_each(|(sum, count)| *sum += count);
        }
    }
}

impl Counted for Sums {
    fn served(&self, route: usize, by: ServedBy) -> u64 {
        self.served.get(&(route, by.number(self.upstreams))).copied().unwrap_or_default()
    }

    fn misses(&self, route: usize) -> u64 {
        self.misses.get(&route).copied().unwrap_or_default()
    }

    fn breaker(&self, place: usize) -> [u64; Statistics::NAMES.len()] {
        self.breakers.get(&place).copied().unwrap_or_default()
    }
}

fn page(engine: &Engine, known: &Upstreams, counted: &Sums, at: u64) -> Value {
    let upstreams = Some(UpstreamsNow { known, counted });
    let sources = Sources {
        engine,
        fingerprint: Fingerprint::of(""),
        monitor: None,
        upstreams,
        store: None,
        service: None,
        counters: None,
        live_keys: 0,
        now: ms(at),
    };
    serde_json::from_str(&sources.reply(Page::Status).body).expect("JSON")
}

#[test]
fn page_shows_which_breakers_are_shared_and_whether_they_decide_alone() {
    let engine = engine(include_str!("../policies/good/shared-breakers.json"));
    let mut upstreams = Upstreams::new(engine.policy());
    let mut ledgers = MemoryLedgers::default();
    let mut told = |upstreams: &mut Upstreams, at: u64| -> Vec<Value> {
        let mut context = Context { ledgers: &mut ledgers, draw: Draw(0), now: ms(at) };
        let _ = upstreams.next_round(&mut context);
        let page = page(&engine, upstreams, &Sums::default(), at);
        ["origin/all", "mirror", "cdn"]
            .map(|name| page["breakers"].as_array().unwrap().iter().find(|it| it["name"] == name).unwrap().clone())
            .into()
    };
    // Without an authority to ask.
    let [origin, mirror, cdn] = &told(&mut upstreams, 0)[..] else { panic!() };
    assert_eq!((&origin["scope"], &origin["alone"]), (&json!("global"), &json!(true)));
    assert_eq!((&mirror["scope"], &cdn["scope"]), (&Value::Null, &Value::Null), "one only observes");
    engine.share_breakers(&mut upstreams, Instance::new(1));
    assert_eq!(told(&mut upstreams, 0)[0]["alone"], json!(false), "until it is known to be away");
    assert_eq!(told(&mut upstreams, 2_999)[0]["alone"], json!(false));
    assert_eq!(told(&mut upstreams, 3_000)[0]["alone"], json!(true));
    assert_eq!(upstreams.alone(), Some(1));
}

#[test]
fn page_shows_the_state_of_each_breaker_and_what_served_clients() {
    let engine = engine(
        r#"{ "version": 1,
        "breakers": {
            "own": { "window": { "count": 9 }, "consecutive_failures": 2, "slow_call": "1s", "slow_rate_percent": 100,
                     "open": { "initial": "5s", "jitter_percent": 0 }, "half_open": { "probes": 1 },
                     "ramp": { "from_percent": 100, "over": "10s" }, "per_route": true },
            "shut": { "window": { "count": 9 }, "mode": "forced-open" } },
        "upstreams": { "a": { "cluster": "a", "breaker": "own" }, "b": { "cluster": "b", "breaker": "shut" } },
        "routes": [{ "name": "r", "upstreams": ["a", "b"], "fallback": { "on": ["5xx"], "stale": "1h" } }] }"#,
    );
    let policy = engine.policy();
    let (mut worker, mut other) = (Upstreams::new(policy), Upstreams::new(policy));
    let (mut ledgers, mut sums) = (MemoryLedgers::default(), Sums { upstreams: 2, ..Sums::default() });
    let mut ask = |upstreams: &mut Upstreams, ledgers: &mut MemoryLedgers, status: u16, is_kept: bool, at: u64| {
        let context = &mut Context { ledgers, draw: Draw(0), now: ms(at) };
        let (mut progress, mut step) = upstreams.begin(policy, 0, Some(b"GET"), true, context);
        context.now = ms(at + 1);
        if let Step::Send { .. } = step {
            step = upstreams.ended(policy, &mut progress, CallEnd::Answered(status).into(), context);
        }
        match step {
            Step::Stale(_) if is_kept => upstreams.kept(&mut progress),
            Step::Stale(_) => drop(upstreams.last(policy, &mut progress)),
            _ => {}
        }
        sums.take(upstreams, 1);
        page(&engine, upstreams, &sums, at + 2)
    };
    let shut = |page: &Value| page["breakers"].as_array().unwrap().iter().find(|it| it["name"] == "b").unwrap().clone();
    let own =
        |page: &Value| page["breakers"].as_array().unwrap().iter().find(|it| it["name"] == "a/r").unwrap().clone();

    let told = ask(&mut worker, &mut ledgers, 200, false, 0);
    assert_eq!(
        own(&told),
        json!({ "name": "a/r", "mode": "enforce", "state": "closed", "window": { "calls": 1, "failures": 0, "slow": 0 },
            "calls": 1, "failures": 0, "slow": 0, "rejected": 0, "observed": 0, "probes": 0, "opened": 0 })
    );
    ask(&mut worker, &mut ledgers, 500, true, 10);
    ask(&mut worker, &mut ledgers, 500, true, 20);
    let told = ask(&mut worker, &mut ledgers, 500, false, 30);
    assert_eq!(
        own(&told),
        json!({ "name": "a/r", "mode": "enforce", "state": "open", "since_unix_ms": 1_800_014_400_021_u64, "for_ms": 11,
            "window": { "calls": 0, "failures": 0, "slow": 0 }, "calls": 3, "failures": 2, "slow": 0, "rejected": 1,
            "observed": 0, "probes": 0, "opened": 1 })
    );
    // A state that the policy forces has no start time.
    assert_eq!((&shut(&told)["state"], &shut(&told)["for_ms"]), (&json!("open"), &Value::Null));
    assert_eq!(shut(&told)["rejected"], 3);
    assert_eq!(
        told["served"],
        json!({ "upstreams": 1, "stale": 2, "static": 0, "unavailable": 1, "failure": 0, "failed": 1, "kept_hits": 2,
            "kept_misses": 1, "kept_hit_rate_percent": 66.66, "routes_left_out": 0 })
    );
    assert_eq!(
        told["upstreams"],
        json!([{ "name": "a", "breaker": "own", "served": 1 }, { "name": "b", "breaker": "shut", "served": 0 }])
    );

    // A worker that was never asked sees the same after its next refresh.
    assert_eq!(own(&page(&engine, &other, &Sums::default(), 40))["state"], "closed");
    other.refresh(&mut Context { ledgers: &mut ledgers, draw: Draw(0), now: ms(40) });
    assert_eq!(own(&page(&engine, &other, &Sums::default(), 40))["state"], "open");
    let told = ask(&mut other, &mut ledgers, 200, false, 5_100);
    assert_eq!((&own(&told)["state"], &own(&told)["probes"]), (&json!("ramping"), &json!(1)));
    assert_eq!(told["breakers_left_out"], 0);
}

#[test]
fn window_on_the_page_is_that_of_all_workers_and_ends_with_its_time() {
    let engine = engine(
        r#"{ "version": 1, "breakers": { "own": { "window": { "time": "30s" } } },
        "upstreams": { "a": { "cluster": "a", "breaker": "own" } }, "routes": [{ "name": "r", "upstreams": ["a"] }] }"#,
    );
    let policy = engine.policy();
    let (mut busy, mut other) = (Upstreams::new(policy), Upstreams::new(policy));
    let mut ledgers = MemoryLedgers::default();
    let context = &mut Context { ledgers: &mut ledgers, draw: Draw(0), now: ms(1_000) };
    for status in [200, 500] {
        let (mut progress, _) = busy.begin(policy, 0, Some(b"GET"), true, context);
        busy.ended(policy, &mut progress, CallEnd::Answered(status).into(), context);
    }
    busy.tick(context);
    for (at, calls) in [(2_000, 2), (40_000, 0)] {
        for worker in [&mut busy, &mut other] {
            worker.refresh(&mut Context { ledgers: &mut ledgers, draw: Draw(0), now: ms(at) });
            let told = page(&engine, worker, &Sums { upstreams: 1, ..Sums::default() }, at);
            assert_eq!(
                told["breakers"][0]["window"],
                json!({ "calls": calls, "failures": calls / 2, "slow": 0 }),
                "{at}"
            );
        }
    }
}

#[test]
fn page_leaves_out_healthy_breakers_if_there_are_too_many() {
    let routes: Vec<String> =
        (0..300).map(|index| format!(r#"{{ "name": "r{index}", "upstreams": ["a"] }}"#)).collect();
    let engine = engine(&format!(
        r#"{{ "version": 1,
        "breakers": {{ "own": {{ "window": {{ "count": 9 }}, "consecutive_failures": 1, "per_route": true }},
                       "shut": {{ "window": {{ "count": 9 }}, "mode": "forced-open" }} }},
        "upstreams": {{ "a": {{ "cluster": "a", "breaker": "own" }}, "b": {{ "cluster": "b", "breaker": "shut" }} }},
        "routes": [{}] }}"#,
        routes.join(",")
    ));
    let policy = engine.policy();
    let (mut upstreams, mut ledgers) = (Upstreams::new(policy), MemoryLedgers::default());
    let context = &mut Context { ledgers: &mut ledgers, draw: Draw(0), now: ms(0) };
    let (mut progress, _) = upstreams.begin(policy, 299, None, true, context);
    upstreams.ended(policy, &mut progress, CallEnd::NotConnected.into(), context);
    let told = page(&engine, &upstreams, &Sums { upstreams: 1, ..Sums::default() }, 1);
    let breakers = told["breakers"].as_array().unwrap();
    let names: Vec<_> = breakers.iter().map(|breaker| breaker["name"].as_str().unwrap()).collect();
    assert_eq!((names.len(), &names[..3]), (256, &["b", "a/r299", "a/r0"][..]));
    assert_eq!((&told["breakers_left_out"], &told["served"]["routes_left_out"]), (&json!(45), &json!(44)));
}

#[test]
fn page_shows_the_counters_on_hosts_without_metrics() {
    let engine = engine(
        r#"{ "version": 1, "client": { "tier": { "header": "x-plan" }, "trusted_headers": ["x-plan"] }, "tiers": ["free", "paid"],
        "limits": [{ "name": "one", "quota": { "permits": 1, "window": "1s" } },
                   { "name": "two", "quota": { "permits": 1, "window": "1s" } }],
        "upstreams": { "a": { "cluster": "a" } }, "routes": [{ "name": "r", "upstreams": ["a"] }] }"#,
    );
    let (policy, mut counters) = (engine.policy(), Counters::new(2, 2));
    counters.count(1, TierIndex::new(1).unwrap(), Fate::Refused);
    counters.add(Total::Bans, 3);
    let (mut upstreams, mut ledgers) = (Upstreams::new(policy), MemoryLedgers::default());
    let context = &mut Context { ledgers: &mut ledgers, draw: Draw(0), now: ms(0) };
    let (mut progress, _) = upstreams.begin(policy, 0, Some(b"GET"), true, context);
    upstreams.ended(policy, &mut progress, CallEnd::Answered(200).into(), context);
    let known = Some(UpstreamsNow { known: &upstreams, counted: &upstreams });
    let (fingerprint, counters) = (Fingerprint::of(""), Some(&counters));
    let sources = Sources {
        engine: &engine,
        fingerprint,
        monitor: None,
        upstreams: known,
        store: None,
        service: None,
        counters,
        live_keys: 0,
        now: ms(0),
    };
    let page: Value = serde_json::from_str(&sources.reply(Page::Status).body).expect("JSON");
    assert_eq!(
        page["requests"],
        json!([{ "limit": "two", "tier": "paid", "admitted": 0, "refused": 1, "observed": 0, "banned": 0, "delayed": 0 }])
    );
    assert_eq!((&page["totals"]["bans"], &page["totals"]["conflicts"]), (&json!(3), &json!(0)));
    // Rendering the page reads the counters without resetting them.
    assert_eq!((&page["served"]["upstreams"], upstreams.served_known().get(0, ServedBy::Upstream(0))), (&json!(1), 1));
}
