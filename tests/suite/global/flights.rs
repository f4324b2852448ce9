//! Requests in flight of many instances, in the simulated crowd.

use super::crowd::{Crowd, LEASE_MS, Setup};
use super::timeline::Faults;
use crate::harness::seeds;

fn setup(sharing: &'static str) -> Setup {
    Setup {
        permits: 10,
        sharing,
        on_store_failure: "deny",
        // About twice the capacity.
        rates: vec![60_000, 25_000, 5_000],
        lasts_ms: 200,
    }
}

#[test]
fn under_any_faults_no_more_requests_are_in_flight_than_permits() {
    let (mut fullest, mut tried) = (0, 0);
    for seed in seeds(SEEDS) {
        tried += 1;
        for sharing in ["lease", "exact"] {
            let mut crowd = Crowd::new(seed, setup(sharing), Faults::of(seed));
            crowd.run(20_000);
            assert!(crowd.most_in_flight <= 10, "seed {seed}, {sharing}: {} in flight", crowd.most_in_flight);
            fullest += u64::from(crowd.most_in_flight == 10);
        }
    }
    assert!(fullest > tried, "only {fullest} came to the limit");
}

#[test]
fn under_full_demand_nearly_all_permits_are_in_use() {
    for (sharing, least) in [("lease", 0.85), ("exact", 0.85)] {
        let mut crowd = Crowd::new(1, setup(sharing), Faults::none());
        crowd.run(5_000);
        crowd.begin_measuring();
        crowd.run(60_000);
        let (used, asks) = (crowd.used(), crowd.asks());
        println!("{sharing}: {:.1}% in use, {asks} asks, {:?}", used * 100.0, seen(&crowd));
        assert!(used >= least, "{sharing}: {used} of the permits in use");
    }
}

#[test]
fn below_the_limit_all_requests_are_admitted_and_few_wait() {
    for (sharing, most_waits) in [("lease", 0.1), ("exact", 1.0)] {
        let below = Setup { permits: 60, rates: vec![80_000, 40_000, 4_000], ..setup(sharing) };
        let mut crowd = Crowd::new(2, below, Faults::none());
        crowd.run(5_000);
        crowd.begin_measuring();
        crowd.run(60_000);
        let asks = crowd.asks();
        let (requests, admitted, waited) = sums(&crowd);
        println!("{sharing}: {waited} of {requests} waited, {asks} asks, {:?}", seen(&crowd));
        // Some are still waiting for an answer at the end.
        assert!(admitted + 3 >= requests, "{sharing}: {admitted} of {requests}");
        assert!((waited as f64) < most_waits * requests as f64, "{sharing}: {waited} of {requests} waited");
    }
}

#[test]
fn a_greedy_instance_starves_no_other() {
    for sharing in ["lease", "exact"] {
        for permits in [1, 10] {
            let rates = vec![100_000, 3_000, 3_000];
            let mut crowd = Crowd::new(3, Setup { permits, rates, ..setup(sharing) }, Faults::none());
            crowd.run(5_000);
            crowd.begin_measuring();
            crowd.run(40_000);
            println!("{sharing}, {permits}: {:?}, {:.2} used", seen(&crowd), crowd.used());
            for (at, seen) in crowd.seen.iter().enumerate() {
                let gap = seen.longest_gap_ms;
                assert!(gap <= 10_000, "{sharing}, {permits} permits: {at} got nothing for {gap} ms");
            }
            let quiet = &crowd.seen[1];
            assert!(quiet.admitted * 10 >= quiet.requests, "{sharing}, {permits} permits: {quiet:?}");
        }
    }
}

#[test]
fn permits_lost_in_a_crash_are_back_exactly_when_their_lease_ends() {
    for sharing in ["lease", "exact"] {
        let rates = vec![200_000, 0];
        let mut crowd = Crowd::new(4, Setup { rates, ..setup(sharing) }, Faults::none());
        crowd.run(3_000);
        let lost = crowd.in_flight_at(0) as u64;
        crowd.crash(0);
        crowd.set_rates(vec![0, 200_000]);
        crowd.most_in_flight = 0;
        crowd.run(LEASE_MS / 2);
        assert!(
            lost > 5 && crowd.most_in_flight <= 10 - lost,
            "{sharing}: {} while {lost} are lost",
            crowd.most_in_flight
        );
        crowd.run(LEASE_MS / 2 + 500);
        crowd.most_in_flight = 0;
        crowd.run(1_000);
        assert_eq!(crowd.most_in_flight, 10, "{sharing}");
    }
}

#[test]
fn while_the_store_is_away_instances_keep_to_their_shares() {
    for sharing in ["lease", "exact"] {
        let here = Setup { on_store_failure: "local", permits: 20, rates: vec![300_000, 100_000], ..setup(sharing) };
        let mut crowd = Crowd::new(5, here, Faults::none());
        crowd.run(10_000);
        crowd.disconnect_all();
        crowd.run(2 * LEASE_MS);
        (crowd.most_in_flight, _) = (0, crowd.begin_measuring());
        crowd.run(10_000);
        let (used, most) = (crowd.used(), crowd.most_in_flight);
        println!("{sharing}: {used:.2} of the permits without the store, {most} at most");
        assert!(used > 0.5 && most <= 24, "{sharing}: {used}, {most}");
        crowd.reconnect_all();
        crowd.run(20_000);
        crowd.most_in_flight = 0;
        crowd.begin_measuring();
        crowd.run(10_000);
        assert!(crowd.most_in_flight <= 20 && crowd.used() > 0.8, "{sharing}: {} when it is back", crowd.used());
    }
}

fn seen(crowd: &Crowd) -> Vec<(u64, u64, u64)> {
    crowd.seen.iter().map(|seen| (seen.requests, seen.admitted, seen.longest_gap_ms)).collect()
}

fn sums(crowd: &Crowd) -> (u64, u64, u64) {
    crowd.seen.iter().fold((0, 0, 0), |sum, it| (sum.0 + it.requests, sum.1 + it.admitted, sum.2 + it.waited))
}

/// About three seconds of work.
const SEEDS: u64 = 60;
