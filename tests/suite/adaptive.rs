//! The adaptive limit against a simulated upstream with a number of slots, a queue, and clients that do not adapt.
//!
//! Arrivals are an open loop: their rate does not depend on responses. The ideal limit for such an upstream, full use
//! without a queue, is the number of its slots. Everything is seeded; a failure prints its case.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};

use tidegate::engine::{Engine, Plan, Ticket};
use tidegate::lease::Leases;
use tidegate::metrics::Counters;
use tidegate::store::memory::MemoryStore;
use tidegate::units::Timestamp;

use crate::harness::{Answer, Request, engine, ms};

/// How long the upstream works on a request.
#[derive(Clone, Copy, Debug)]
enum Service {
    Constant,
    Uniform,
    Exponential,
}

#[derive(Clone, Copy, Debug)]
struct Upstream {
    slots: usize,
    service: Service,
    mean_ms: f64,
}

struct Simulation {
    engine: Engine,
    store: MemoryStore,
    local: MemoryStore,
    counters: Counters,
    plan: Plan,
    dice: u64,
    now_ns: u64,
    upstream: Upstream,
    /// Arrivals per second, as a multiple of the upstream's capacity.
    load: f64,
    /// If set, this many clients take the place of arrivals at a rate: each sends its next request when it has its
    /// response.
    clients: Option<usize>,
    /// The upstream's queue length; it refuses further requests at once.
    room: usize,
    status: u16,
    /// Whether requests have bodies that are still to come, which makes the response time unknown.
    untimed: bool,
    /// The upstream time that the host reports, if it knows one.
    upstream_ms: Option<u64>,
    next_arrival_ns: u64,
    in_flight: usize,
    /// The completion time of each request that the upstream is working on.
    working: BinaryHeap<Reverse<(u64, usize)>>,
    waiting: VecDeque<usize>,
    tickets: Vec<Option<Ticket>>,
    answered: usize,
}

impl Simulation {
    fn new(seed: u64, upstream: Upstream, load: f64) -> Self {
        Self {
            engine: adaptive(r#""min": 1, "max": 10000"#),
            store: MemoryStore::new(1_000),
            local: MemoryStore::new(1_000),
            counters: Counters::new(1, 1),
            plan: Plan::new(),
            dice: seed,
            now_ns: ms(0).as_nanos(),
            upstream,
            load,
            clients: None,
            room: usize::MAX,
            status: 200,
            untimed: false,
            upstream_ms: None,
            next_arrival_ns: ms(0).as_nanos(),
            in_flight: 0,
            working: BinaryHeap::new(),
            waiting: VecDeque::new(),
            tickets: Vec::new(),
            answered: 0,
        }
    }

    /// Uniform in (0, 1]: SplitMix64.
    fn draw(&mut self) -> f64 {
        self.dice = self.dice.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut bits = self.dice;
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (((bits ^ (bits >> 31)) >> 11) + 1) as f64 / (1_u64 << 53) as f64
    }

    fn service_ns(&mut self) -> u64 {
        let share = match self.upstream.service {
            Service::Constant => 1.0,
            Service::Uniform => 0.5 + self.draw(),
            Service::Exponential => -self.draw().ln(),
        };
        (share * self.upstream.mean_ms * 1e6) as u64
    }

    /// The limit found so far.
    fn found(&mut self) -> f64 {
        let mut found = 0;
        let now = Timestamp::from_nanos(self.now_ns);
        self.engine.loads(&mut self.store, &Leases::none(), now, &mut |load| found = load.permits.get());
        f64::from(found)
    }

    /// Runs until this many more requests have been answered.
    fn run(&mut self, answers: usize) {
        let end = self.answered + answers;
        while self.answered < end {
            let arrives = self.clients.is_none_or(|clients| self.in_flight < clients);
            match self.working.peek() {
                Some(Reverse((done_ns, _))) if !arrives || *done_ns <= self.next_arrival_ns => self.answer(),
                _ => self.arrive(),
            }
        }
    }

    fn arrive(&mut self) {
        self.now_ns = self.now_ns.max(self.next_arrival_ns);
        if self.clients.is_none() {
            let rate_per_ns = self.load * self.upstream.slots as f64 / (self.upstream.mean_ms * 1e6);
            self.next_arrival_ns = self.now_ns + (-self.draw().ln() / rate_per_ns) as u64;
        }
        self.engine.plan(&Request::get("/"), &mut self.plan);
        let now = Timestamp::from_nanos(self.now_ns);
        let decision = self.engine.decide(
            &mut self.plan,
            &mut self.store,
            &mut self.local,
            &mut Leases::new(),
            &mut self.counters,
            now,
        );
        if decision.refusal.is_none() {
            self.tickets.push(self.plan.ticket());
            self.in_flight += 1;
            let request = self.tickets.len() - 1;
            if self.waiting.len() < self.room {
                self.waiting.push_back(request);
                self.work();
            } else {
                self.end(request, 503);
            }
        }
    }

    fn work(&mut self) {
        while self.working.len() < self.upstream.slots
            && let Some(request) = self.waiting.pop_front()
        {
            let done_ns = self.now_ns + self.service_ns();
            self.working.push(Reverse((done_ns, request)));
        }
    }

    fn answer(&mut self) {
        let Some(Reverse((done_ns, request))) = self.working.pop() else { return };
        self.now_ns = done_ns;
        self.end(request, self.status);
        self.work();
    }

    fn end(&mut self, request: usize, status: u16) {
        self.answered += 1;
        self.in_flight -= 1;
        let now = Timestamp::from_nanos(self.now_ns);
        let mut ticket = self.tickets[request].take().expect("a permit is held");
        if self.untimed {
            ticket.leave_untimed();
        }
        let answer = Answer::of(status);
        let answer = self.upstream_ms.map_or(answer.clone(), |ms| answer.after(ms));
        let (store, local, counters) = (&mut self.store, &mut self.local, &mut self.counters);
        self.engine.observe(&mut ticket, &answer, store, local, counters, now);
        self.engine.release(ticket, store, local, &mut Leases::none(), counters, now);
    }
}

/// The number of responses after which the limit has settled: 75 windows, or 25 rounds of the requests in flight.
fn settling(slots: usize) -> usize {
    15_000.max(100 * slots)
}

/// Asserts that from here on the limit is within a fifth of the upstream's slots on average (or within one slot, if a
/// fifth is less), and within twice that at every sample.
fn assert_found(simulation: &mut Simulation, case: &str) {
    let slots = simulation.upstream.slots as f64;
    let found: Vec<f64> = (0..100)
        .map(|_| {
            simulation.run(100);
            simulation.found()
        })
        .collect();
    let mean = found.iter().sum::<f64>() / 100.0;
    let fifth = (slots / 5.0).max(1.0);
    assert!((mean - slots).abs() <= fifth, "{case}: {mean} on average: {found:?}");
    assert!(found.iter().all(|found| (found - slots).abs() <= 2.0 * fifth), "{case}: {found:?}");
}

#[test]
fn limit_is_found_within_a_fifth_whatever_the_upstream() {
    for (seed, service) in [(1, Service::Constant), (2, Service::Uniform), (3, Service::Exponential)] {
        for (slots, mean_ms) in [(2, 100.0), (5, 20.0), (10, 100.0), (40, 20.0), (200, 100.0)] {
            let upstream = Upstream { slots, service, mean_ms };
            let mut simulation = Simulation::new(seed, upstream, 2.0);
            simulation.run(settling(slots));
            assert_found(&mut simulation, &format!("seed {seed}, {upstream:?}"));
        }
    }
}

#[test]
fn limit_follows_an_upstream_that_becomes_weaker_stronger_or_slower() {
    let before = Upstream { slots: 40, service: Service::Uniform, mean_ms: 50.0 };
    for (seed, after) in [
        (4, Upstream { slots: 15, ..before }),
        (5, Upstream { slots: 100, ..before }),
        (6, Upstream { mean_ms: 150.0, ..before }),
        (7, Upstream { mean_ms: 15.0, ..before }),
    ] {
        let mut simulation = Simulation::new(seed, before, 2.0);
        simulation.run(settling(before.slots));
        simulation.upstream = after;
        // Half of the requests that arrived before the change have to be served first.
        simulation.run(2 * settling(after.slots));
        assert_found(&mut simulation, &format!("seed {seed}, {before:?}, then {after:?}"));
    }
}

#[test]
fn an_unused_limit_does_not_grow() {
    let upstream = Upstream { slots: 500, service: Service::Uniform, mean_ms: 50.0 };
    // Five in flight on average; the initial limit is twenty.
    let mut simulation = Simulation::new(8, upstream, 0.01);
    simulation.run(20_000);
    assert!(simulation.found() <= 45.0, "{}", simulation.found());
}

#[test]
fn limit_shrinks_while_the_upstream_fails_and_recovers_afterwards() {
    let upstream = Upstream { slots: 40, service: Service::Uniform, mean_ms: 50.0 };
    let mut simulation = Simulation::new(9, upstream, 2.0);
    simulation.run(settling(40));
    // Fast failures do not indicate capacity.
    simulation.status = 503;
    simulation.upstream.mean_ms = 1.0;
    simulation.run(5_000);
    assert!(simulation.found() < 10.0, "{}", simulation.found());
    simulation.status = 200;
    simulation.upstream = upstream;
    simulation.run(2 * settling(40));
    assert_found(&mut simulation, "after failing");
}

#[test]
fn limit_stays_within_its_bounds() {
    for (bounds, low, high) in [(r#""min": 8, "max": 12"#, 8.0, 12.0), (r#""min": 60, "max": 60"#, 60.0, 60.0)] {
        let upstream = Upstream { slots: 40, service: Service::Exponential, mean_ms: 50.0 };
        let mut simulation = Simulation::new(10, upstream, 2.0);
        simulation.engine = adaptive(bounds);
        for _ in 0..50 {
            simulation.run(200);
            let found = simulation.found();
            assert!((low..=high).contains(&found), "{bounds}: {found}");
        }
    }
}

/// The engine of one adaptive limit for all requests.
fn adaptive(bounds: &str) -> Engine {
    engine(&format!(
        r#"{{ "version": 1, "limits": [ {{ "name": "upstream", "key": [], "algorithm": "concurrency",
        "quota": {{ "adaptive": {{ {bounds} }} }} }} ] }}"#
    ))
}

/// The same limit in observe mode, set on the whole policy or on the limit.
fn observing(whole: bool) -> Engine {
    let (mode, on_exceed) = if whole { ("observe", "reject") } else { ("enforce", "observe") };
    engine(&format!(
        r#"{{ "version": 1, "mode": "{mode}", "limits": [ {{ "name": "upstream", "key": [], "algorithm": "concurrency",
        "on_exceed": "{on_exceed}", "quota": {{ "adaptive": {{ "min": 1, "max": 10000 }} }} }} ] }}"#
    ))
}

#[test]
fn a_slowly_sent_request_is_no_sample_of_the_upstream() {
    let upstream = Upstream { slots: 40, service: Service::Uniform, mean_ms: 50.0 };
    let mut simulation = Simulation::new(11, upstream, 2.0);
    simulation.untimed = true;
    simulation.run(20_000);
    assert_eq!(simulation.found(), 20.0, "nobody has said how long the upstream took");
    simulation.upstream_ms = Some(50);
    simulation.run(20_000);
    assert!(simulation.found() > 100.0, "the upstream says that nothing queues: {}", simulation.found());
}

#[test]
fn limit_that_only_observes_finds_the_capacity_of_an_overloaded_upstream() {
    for (seed, service) in [(21, Service::Constant), (22, Service::Uniform), (23, Service::Exponential)] {
        for (slots, mean_ms) in [(5, 20.0), (40, 20.0), (200, 100.0)] {
            let upstream = Upstream { slots, service, mean_ms };
            // Clients that wait for their responses; then twice the rate that the upstream can carry, with a longer and
            // a shorter queue.
            let loads = [(Some(3 * slots), usize::MAX), (None, 20 * slots), (None, 2 * slots)];
            for (clients, room) in loads.into_iter().take(if slots == 40 { 3 } else { 1 }) {
                let mut simulation = Simulation::new(seed, upstream, 0.5);
                simulation.engine = observing(seed % 2 == 0);
                simulation.room = room;
                // A period of low load, as every service has.
                simulation.run(settling(slots));
                (simulation.load, simulation.clients) = (2.0, clients);
                simulation.run(settling(slots));
                assert_found(&mut simulation, &format!("seed {seed}, {upstream:?}, {clients:?}, {room}"));
            }
        }
    }
}

#[test]
fn limit_that_only_observes_follows_an_upstream_that_changes() {
    let before = Upstream { slots: 40, service: Service::Uniform, mean_ms: 50.0 };
    for (seed, after) in [
        (24, Upstream { slots: 15, ..before }),
        (25, Upstream { slots: 100, ..before }),
        (26, Upstream { mean_ms: 150.0, ..before }),
        (27, Upstream { mean_ms: 15.0, ..before }),
    ] {
        let mut simulation = Simulation::new(seed, before, 0.5);
        simulation.engine = observing(true);
        simulation.run(settling(before.slots));
        simulation.clients = Some(120);
        simulation.run(settling(before.slots));
        assert_found(&mut simulation, &format!("seed {seed}, {before:?}"));
        simulation.upstream = after;
        if after.slots == before.slots {
            // The latency without a queue can only be measured when there is no queue.
            simulation.clients = Some(5);
            simulation.run(2 * settling(after.slots));
            simulation.clients = Some(120);
        }
        simulation.run(2 * settling(after.slots));
        assert_found(&mut simulation, &format!("seed {seed}, {before:?}, then {after:?}"));
    }
}
