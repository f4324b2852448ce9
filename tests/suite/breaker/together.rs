//! Many instances that share a breaker, in a simulation: messages are lost, delayed and duplicated, clocks differ,
//! instances die, and the authority loses its state or is unreachable.

mod world;

use super::simulation::for_seeds;
use std::cell::Cell;
use tidegate::breaker::State;
use world::{Faults, MAX_OPEN_MS, MAX_WAIT_MS, PROBES, RAMP_MS, World};

#[test]
fn never_more_probes_than_allowed_over_all_instances_and_never_stuck() {
    let (generations, own, learnt) = (Cell::new(0), Cell::new(0), Cell::new(0));
    for_seeds(80, |seed| {
        let (instances, workers) = (1 + seed as usize % 5, 1 + seed as usize % 3);
        let mut world = World::new(instances, workers, seed);
        for _ in 0..5 {
            let often = world.below(2);
            world.faults = Faults {
                lost: world.below(2) * world.below(900),
                doubled: world.below(900),
                late_ms: world.below(2) * world.below(1_500),
                overtaken: world.below(300),
                death: world.below(2) * world.below(8),
                forgets: world.below(2) * world.below(4),
                failing: world.below(1_001),
                hanging: often * world.below(40),
                abandoned: world.below(300),
            };
            let every = 1 + world.below(15);
            for _ in 0..4 {
                for instance in 0..instances {
                    world.hosts[instance].cut_off = world.happens(250);
                }
                world.steps(1_500, every);
            }
            // The upstream recovers, and the faults end.
            world.faults = Faults { late_ms: 20, ..Faults::default() };
            world.hosts.iter_mut().for_each(|host| host.cut_off = false);
            // The maximum time open; a set of probes in which one never reports, and a second set; the ramp.
            let bound_ms = 2 * MAX_OPEN_MS + 4 * MAX_WAIT_MS + RAMP_MS + 200 * every * instances as u64 + 10_000;
            world.until(State::Closed, bound_ms, every);
        }
        generations.set(generations.get() + world.probes.len());
        own.set(own.get() + world.own);
        let mut counters = tidegate::metrics::Counters::new(0, 0);
        world.workers.iter_mut().for_each(|worker| worker.upstreams.count_rounds(&mut counters));
        learnt.set(learnt.get() + counters.total(tidegate::metrics::Total::BreakersLearnt));
    });
    if std::env::var("TIDEGATE_SEED").is_err() {
        let (generations, own, learnt) = (generations.get(), own.get(), learnt.get());
        println!("{generations} elections with probes, {own} probes without, {learnt} transitions learnt");
        assert!(generations > 200 && own > 50 && learnt > 500, "or nothing was tried");
    }
}

#[test]
fn a_transition_reaches_all_instances_within_a_second_and_a_half() {
    let longest = Cell::new([0; 2]);
    for_seeds(20, |seed| {
        let mut world = World::new(10, 2, seed);
        world.faults.late_ms = 30;
        // Every worker has had a call, and therefore ticks.
        (0..20).for_each(|worker| assert!(world.ask(worker)));
        world.steps(2_000, u64::MAX);
        world.fail_at(7);
        let opened = world.now_ms;
        // It opens for half a second first. A worker that learns of it after that sees an expired opening, not an open
        // state.
        while (0..20).any(|worker| world.workers[worker].upstreams.breakers().get(0).unwrap().shared().opened() == 0) {
            world.step(u64::MAX);
            assert!(world.now_ms - opened <= 1_500);
        }
        let took = world.now_ms - opened;
        // It closes in the same way, after the probes of a single instance.
        world.steps(600, 2);
        let closes = |world: &mut World| (0..20).any(|worker| matches!(world.state(worker), State::Ramping));
        while !closes(&mut world) {
            world.step(2);
        }
        let probes: u32 = world.probes.values().sum();
        assert_eq!((probes, world.own), (PROBES, 0));
        let closed = world.now_ms;
        while (0..20).any(|worker| !matches!(world.state(worker), State::Ramping | State::Closed)) {
            world.step(u64::MAX);
            assert!(world.now_ms - closed <= 1_500);
        }
        let [opens, closes] = longest.get();
        longest.set([took.max(opens), (world.now_ms - closed).max(closes)]);
    });
    println!("at most {:?} ms until all knew that it had opened, and closed", longest.get());
}

#[test]
fn without_the_authority_instances_decide_alone_and_later_agree_without_a_flap() {
    for_seeds(20, |seed| {
        let mut world = World::new(3, 2, seed);
        world.steps(2_000, 5);
        world.hosts.iter_mut().for_each(|host| host.cut_off = true);
        world.steps(4_500, 5);
        world.fail_at(0);
        assert_eq!(world.state(2), State::Closed, "it cannot have heard of that");
        // The instance probes by itself.
        world.until(State::Closed, 10_000, 5);
        assert!(world.own >= u64::from(PROBES), "{}", world.own);
        world.faults.failing = 1_000;
        world.until(State::Open, 5_000, 5);
        world.hosts.iter_mut().for_each(|host| host.cut_off = false);
        let before = world.records.clone();
        // All have it open: reconnecting must not close it on any of them.
        for _ in 0..1_500 {
            world.step(5);
            for worker in 0..6 {
                assert!(matches!(world.state(worker), State::Open | State::HalfOpen), "it closed");
            }
        }
        assert_ne!(world.records, before);
        world.faults.failing = 0;
        world.until(State::Closed, 20_000, 5);
        world.steps(2_000, 5);
        assert!((0..6).all(|worker| world.workers[worker].upstreams.breakers().get(0).unwrap().is_governed()));
    });
}

#[test]
fn an_instance_refused_just_before_the_breaker_may_be_probed_is_elected_without_a_further_call() {
    for_seeds(10, |seed| {
        let mut world = World::new(2, 1, seed);
        (0..2).for_each(|worker| assert!(world.ask(worker)));
        world.steps(1_500, u64::MAX);
        world.fail_at(0);
        let began = world.now_ms;
        // Open for half a second, less up to a fifth of jitter.
        world.steps(390, u64::MAX);
        assert!(!world.ask(0));
        while world.workers[0].upstreams.breakers().get(0).unwrap().shared().elected().is_none() {
            world.step(u64::MAX);
            assert!(world.now_ms - began <= 750, "nobody is elected without a further call");
        }
        assert!(world.ask(0), "the first call is a probe");
        assert_eq!((world.probes.len(), world.own), (1, 0));
    });
}

#[test]
fn an_instance_that_probed_alone_continues_when_the_authority_returns() {
    for_seeds(10, |seed| {
        let mut world = World::new(1, 1, seed);
        world.fail_at(0);
        world.until(State::Closed, 10_000, 5);
        world.steps(6_000, 5);
        world.hosts[0].cut_off = true;
        world.steps(4_500, 5);
        world.fail_at(0);
        while !world.ask(0) {
            world.step(u64::MAX);
        }
        world.steps(50, u64::MAX);
        assert_eq!((world.state(0), world.own), (State::HalfOpen, 1));
        // The authority is reachable again before the next call.
        world.hosts[0].cut_off = false;
        world.steps(1_500, u64::MAX);
        world.until(State::Closed, 5_000, 5);
        assert_eq!(world.own, 1);
    });
}

#[test]
fn an_elected_instance_without_further_calls_is_replaced() {
    for_seeds(10, |seed| {
        // Its call gets it elected, then no further call comes.
        let mut world = first_of_two_elected(seed);
        let began = world.now_ms;
        while !world.ask(1) {
            world.steps(20, u64::MAX);
            assert!(world.now_ms - began <= MAX_WAIT_MS + 1_000);
        }
        assert!(world.now_ms - began >= MAX_WAIT_MS - 100, "two were elected at one time");
        assert_eq!((world.probes.len(), world.own), (1, 0));
    });
}

#[test]
fn an_elected_instance_that_is_cut_off_stops_probing_before_another_is_elected() {
    for_seeds(10, |seed| {
        let mut world = first_of_two_elected(seed);
        // Its one probe reports, then the instance is cut off.
        assert!(world.ask(0));
        world.hosts[0].cut_off = true;
        while !world.ask(1) {
            world.steps(20, u64::MAX);
        }
        assert!(!world.ask(0), "the other one probes");
        assert_eq!((world.probes.len(), world.own), (2, 0));
    });
}

/// Two instances whose breaker was open; the first is elected to probe.
fn first_of_two_elected(seed: u64) -> World {
    let mut world = World::new(2, 1, seed);
    (0..2).for_each(|worker| assert!(world.ask(worker)));
    world.steps(1_500, u64::MAX);
    world.fail_at(0);
    world.steps(1_500, u64::MAX);
    assert!(!world.ask(0), "first it has to be elected");
    while world.workers[0].upstreams.breakers().get(0).unwrap().shared().elected().is_none() {
        world.step(u64::MAX);
    }
    world
}
