//! Limits that many instances share: instances, the authority and the messages between them, on a virtual clock.
//!
//! The instances run the engine; the authority is the one that a Durable Object runs. A failure prints its seed.

mod authority;
mod clocks;
mod crowd;
mod engine;
mod flights;
mod held;
mod timeline;
mod world;

use crate::harness::seeds;
use timeline::{DEADLINE_MS, Faults};
use world::{Setup, World};

/// Every algorithm, with a quota of 200 per second and a window of 1 s or 2 s. The last bucket is too small to lend.
const ALGORITHMS: [(&str, &str); 4] = [
    ("fixed-window", r#"{ "permits": 200, "window": "1s" }"#),
    ("sliding-window", r#"{ "permits": 400, "window": "2s" }"#),
    ("token-bucket", r#"{ "permits": 200, "window": "1s", "burst": 120 }"#),
    ("token-bucket", r#"{ "permits": 200, "window": "1s", "burst": 20 }"#),
];

#[test]
fn under_any_faults_no_more_is_admitted_than_the_algorithm_allows() {
    let kinds: Vec<_> = ALGORITHMS.iter().flat_map(|kind| ["lease", "exact"].map(|sharing| (kind, sharing))).collect();
    for (seed, ((algorithm, quota), sharing)) in seeds(SEEDS).zip(kinds.into_iter().cycle()) {
        let setup = Setup { algorithm, quota, sharing, on_store_failure: "deny", ..Setup::default() };
        let mut world = World::new(seed, &setup, Faults::of(seed));
        world.run(3_000);
        if let Err(problem) = world.verify() {
            panic!("seed {seed}, {algorithm}, {quota}, {sharing}: {problem}");
        }
    }
}

#[test]
fn a_hundred_instances_with_a_few_permits_each_wait_no_more_than_three() {
    for (algorithm, waits_below) in [("fixed-window", 0.02), ("sliding-window", 0.02), ("token-bucket", 0.01)] {
        for (demand, waits_below) in [(3, 0.005), (1, waits_below)] {
            // A fifth of the instances gets eight tenths of the requests.
            let rates = (0..100).map(|at| if at < 20 { 84_000 * demand } else { 5_250 * demand }).collect();
            let quota = r#"{ "permits": 3000, "window": "1s" }"#;
            let mut world = World::new(5, &Setup { algorithm, quota, rates, ..Setup::default() }, Faults::none());
            world.run(3_000);
            world.begin_measuring();
            world.run(5_000);
            world.verify().unwrap();
            let measured = world.measured();
            let (requests, used) = (measured.requests as f64, measured.admitted as f64 / 15_000.0);
            let waited = measured.waited as f64 / requests;
            println!("{algorithm}, demand {demand}: {:.1}% used, {:.2}% waited", used * 100.0, waited * 100.0);
            assert!(waited < waits_below, "{algorithm}, demand {demand}: {waited} waited");
            let refused = (requests - measured.admitted as f64) / requests;
            assert!(
                if demand == 1 { refused < 0.005 } else { used > 0.97 },
                "{algorithm}: {used} used, {refused} refused"
            );
        }
    }
}

#[test]
fn a_sliding_window_is_used_up_by_however_many_instances() {
    // With 30 permits for each instance, and with so few that many requests have to wait.
    let cases =
        [(100, 3_000, 0.005), (300, 9_000, 0.005), (100, 1_000, 0.04), (300, 1_000, 0.13), (1_000, 1_000, 0.23)];
    for (instances, permits, waits_below) in cases {
        // Demand is three times the quota; a fifth of the instances gets eight tenths of it.
        let busy = instances / 5;
        let of = |tenths: u64, among: u64| permits * 300 * tenths / among;
        let rates = (0..instances).map(|at| if at < busy { of(8, busy) } else { of(2, instances - busy) }).collect();
        let quota = format!(r#"{{ "permits": {permits}, "window": "1s" }}"#);
        let setup = Setup { algorithm: "sliding-window", quota: &quota, rates, ..Setup::default() };
        let mut world = World::new(6, &setup, Faults::none());
        world.run(2_000);
        world.begin_measuring();
        world.run(6_000);
        world.verify().unwrap();
        let measured = world.measured();
        let used = measured.admitted as f64 / (6 * permits) as f64;
        let waited = measured.waited as f64 / measured.requests as f64;
        println!("{instances} instances, {permits}: {:.1}% used, {:.2}% waited", used * 100.0, waited * 100.0);
        assert!(used >= 0.97, "{instances} instances, {permits} permits: {used} used");
        assert!(waited < waits_below, "{instances} instances, {permits} permits: {waited} waited");
    }
}

#[test]
fn under_full_demand_nearly_all_of_the_quota_is_used_and_few_requests_wait() {
    for (algorithm, quota) in [
        ("fixed-window", r#"{ "permits": 1000, "window": "1s" }"#),
        ("sliding-window", r#"{ "permits": 1000, "window": "1s" }"#),
        ("token-bucket", r#"{ "permits": 1000, "window": "1s" }"#),
    ] {
        let setup = Setup { algorithm, quota, rates: vec![2_400_000, 450_000, 150_000], ..Setup::default() };
        let mut world = World::new(1, &setup, Faults::none());
        world.run(1_000);
        world.begin_measuring();
        world.run(10_000);
        world.verify().unwrap();
        let measured = world.measured();
        let used = measured.admitted as f64 / 10_000.0;
        let waited = measured.waited as f64 / measured.requests as f64;
        println!("{algorithm}: {:.1}% used, {:.2}% waited, {} asks", used * 100.0, waited * 100.0, measured.asks);
        assert!((0.97..=1.01).contains(&used), "{algorithm}: {used} of the quota was used");
        assert!(waited < 0.01, "{algorithm}: {waited} of all requests waited");
    }
}

#[test]
fn below_the_quota_all_requests_are_admitted_and_few_wait() {
    for (algorithm, quota) in [
        ("fixed-window", r#"{ "permits": 1000, "window": "1s" }"#),
        ("sliding-window", r#"{ "permits": 1000, "window": "1s" }"#),
        ("token-bucket", r#"{ "permits": 1000, "window": "1s" }"#),
    ] {
        let setup = Setup { algorithm, quota, rates: vec![560_000, 105_000, 35_000], ..Setup::default() };
        let mut world = World::new(2, &setup, Faults::none());
        world.run(1_000);
        world.begin_measuring();
        world.run(10_000);
        let measured = world.measured();
        let refused = (measured.requests - measured.admitted) as f64 / measured.requests as f64;
        let waited = measured.waited as f64 / measured.requests as f64;
        println!("{algorithm}: {:.2}% refused, {:.2}% waited, {} asks", refused * 100.0, waited * 100.0, measured.asks);
        assert!(refused < 0.001, "{algorithm}: {refused} refused");
        assert!(waited < 0.01, "{algorithm}: {waited} waited");
    }
}

#[test]
fn permits_lost_in_a_crash_are_back_when_they_expire() {
    for (algorithm, quota) in ALGORITHMS {
        let setup = Setup { algorithm, quota, rates: vec![1_000_000, 0], ..Setup::default() };
        let mut world = World::new(3, &setup, Faults::none());
        world.run(500);
        world.crash(0);
        world.set_rates(vec![0, 1_000_000]);
        // After two windows, or after the time that a bucket lends for.
        world.run(4_000);
        world.begin_measuring();
        world.run(4_000);
        let used = world.measured().admitted as f64 / 800.0;
        assert!(used >= 0.97, "{algorithm}: {used} of the quota after the crash");
        world.verify().unwrap();
    }
}

#[test]
fn without_the_store_instances_keep_to_their_shares_and_it_returns_without_a_burst() {
    for (algorithm, quota) in ALGORITHMS {
        let setup = Setup { algorithm, quota, rates: vec![800_000, 150_000, 50_000], ..Setup::default() };
        let mut world = World::new(4, &setup, Faults::none());
        world.run(4_000);
        world.disconnect_all();
        world.run(2_000);
        world.begin_measuring();
        world.run(4_000);
        let away = world.measured();
        let used = away.admitted as f64 / 800.0;
        println!("{algorithm}: {used:.3} of the quota without the store, {} waited of {}", away.waited, away.requests);
        assert!((0.3..=1.2).contains(&used), "{algorithm}: {used} of the quota without the store");
        assert!(away.asks > 0 && !world.store_answers(), "{algorithm}: now and then one tries");
        assert!(away.waited * 100 < away.requests, "{algorithm}: {} of {} waited", away.waited, away.requests);
        world.reconnect_all();
        world.begin_measuring();
        world.run(12_000);
        let back = world.measured().admitted as f64 / 2_400.0;
        assert!(world.store_answers(), "{algorithm}: it is not asked again");
        println!("{algorithm}: {back:.3} of the quota after it came back");
        assert!((0.85..=1.1).contains(&back), "{algorithm}: {back} of the quota after it came back");
    }
}

#[test]
fn no_request_waits_beyond_the_deadline() {
    for seed in 0..50 {
        let setup = Setup::default();
        let mut world = World::new(seed, &setup, Faults::of(seed));
        world.run(3_000);
        assert!(world.longest_wait_ms() <= DEADLINE_MS + 1, "seed {seed}: {} ms", world.longest_wait_ms());
    }
}

/// About half a minute of work.
const SEEDS: u64 = 6_000;
