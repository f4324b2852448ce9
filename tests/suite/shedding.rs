//! Load shedding against a simulated service: two workers, a service that collapses under twice its capacity, and
//! clients that give up after a wait.

use std::collections::VecDeque;
use std::fmt::Write as _;

use crate::harness::{Answer, Request, engine, ms};
use tidegate::engine::{Engine, Plan};
use tidegate::health::Health;
use tidegate::health::monitor::Monitor;
use tidegate::lease::Leases;
use tidegate::metrics::{Counters, Total};
use tidegate::policy::Priority;
use tidegate::store::memory::MemoryStore;
use tidegate::units::Draw;

const POLICY: &str = r#"{
    "version": 1,
    "client": { "tier": { "header": "x-plan" }, "trusted_headers": ["x-plan"] },
    "tiers": ["normal", "bulk", "paying", "doctor"],
    "priorities": { "bulk": "low", "paying": "high", "doctor": "critical" },
    "health": { "latency": { "degraded": "300ms", "critical": "800ms" } }
    SHEDDING
}"#;

/// The share of requests of each tier in percent, least important first.
const MIX: [(&str, u64); 4] = [("bulk", 40), ("normal", 30), ("paying", 20), ("doctor", 10)];

/// The requests that the service works on at once; each takes `WORK_MS`, so it serves 400 per second.
const CAPACITY: usize = 20;
const WORK_MS: u64 = 50;
/// Requests that wait; further ones are refused at once.
const QUEUE: usize = 1_000;
/// How long a client waits. The service still works on its request afterwards, as real services do.
const PATIENCE_MS: u64 = 1_000;

struct Worker {
    plan: Plan,
    store: MemoryStore,
    local: MemoryStore,
    counters: Counters,
    monitor: Monitor,
}

/// A request that has reached the service.
#[derive(Clone, Copy)]
struct Job {
    came_ms: u64,
    worker: usize,
    tier: usize,
}

struct Simulation {
    engine: Engine,
    workers: Vec<Worker>,
    shared: Vec<u8>,
    queue: VecDeque<Job>,
    /// The completion time of each request that the service is working on.
    working: Vec<(u64, Job)>,
    /// Requests whose clients still wait, in order of arrival, and whether each has been answered.
    waiting: VecDeque<(Job, bool)>,
    random: u64,
    now_ms: u64,
    asked: [u64; MIX.len()],
    /// Answered while the client was still waiting.
    served: [u64; MIX.len()],
    shed: [u64; MIX.len()],
    trace: String,
}

impl Simulation {
    fn new(sheds: bool, seed: u64) -> Self {
        let policy = POLICY.replace("SHEDDING", if sheds { r#", "shedding": {}"# } else { "" });
        let engine = engine(&policy);
        let worker = |_| Worker {
            plan: Plan::new(),
            store: MemoryStore::new(1_000),
            local: MemoryStore::new(1_000),
            counters: Counters::new(0, 4),
            monitor: Monitor::new(engine.policy()).expect("watches health"),
        };
        let workers = (0..2).map(worker).collect();
        Self {
            engine,
            workers,
            shared: Vec::new(),
            queue: VecDeque::new(),
            working: Vec::new(),
            waiting: VecDeque::new(),
            random: seed,
            now_ms: 0,
            asked: [0; MIX.len()],
            served: [0; MIX.len()],
            shed: [0; MIX.len()],
            trace: String::new(),
        }
    }

    /// SplitMix64.
    fn draw(&mut self) -> u64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.random ^ (self.random >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// Runs for `secs` seconds at `rate` requests per second.
    fn run(&mut self, secs: u64, rate: u64) {
        for _ in 0..secs * 1_000 {
            self.now_ms += 1;
            self.work();
            // A Bernoulli trial for each of five slices of the millisecond, close to a Poisson process.
            for _ in 0..5 {
                if self.draw() % 5_000 < rate {
                    self.arrive();
                }
            }
            for worker in 0..self.workers.len() {
                // The workers' ticks are staggered.
                if self.now_ms % 1_000 == 300 * worker as u64 {
                    self.tick(worker);
                }
            }
        }
    }

    fn work(&mut self) {
        let now = self.now_ms;
        for (_, job) in self.working.extract_if(.., |(done, _)| *done <= now).collect::<Vec<_>>() {
            self.answer(job, 200);
        }
        while self.working.len() < CAPACITY
            && let Some(job) = self.queue.pop_front()
        {
            self.working.push((now + WORK_MS, job));
        }
        // Clients that have waited too long leave.
        while let Some((job, _)) = self.waiting.front().filter(|(job, _)| now - job.came_ms > PATIENCE_MS) {
            let job = *job;
            let (_, answered) = self.waiting.pop_front().expect("there is one");
            if !answered {
                self.workers[job.worker].monitor.abandoned(ms(job.came_ms), ms(now));
            }
        }
    }

    fn answer(&mut self, job: Job, status: u16) {
        if self.now_ms - job.came_ms > PATIENCE_MS {
            return;
        }
        self.workers[job.worker].monitor.answered(&Answer::of(status), Some(ms(job.came_ms)), ms(self.now_ms));
        self.served[job.tier] += u64::from(status == 200);
        let waiting = self.waiting.iter_mut().find(|(it, answered)| !answered && it.came_ms == job.came_ms);
        waiting.expect("its client waits").1 = true;
    }

    fn arrive(&mut self) {
        let (worker, mut percent, draw) = (self.draw() as usize % self.workers.len(), self.draw() % 100, self.draw());
        let mut tier = 0;
        while percent >= MIX[tier].1 {
            percent -= MIX[tier].1;
            tier += 1;
        }
        self.asked[tier] += 1;
        let it = &mut self.workers[worker];
        it.plan.set_pressure(it.monitor.pressure(), Draw(draw));
        self.engine.plan(&Request::get("/").with("x-plan", MIX[tier].0), &mut it.plan);
        let now = ms(self.now_ms);
        let decision =
            self.engine.decide(&mut it.plan, &mut it.store, &mut it.local, &mut Leases::new(), &mut it.counters, now);
        if decision.refusal.is_some() {
            self.shed[tier] += 1;
            return;
        }
        let job = Job { came_ms: self.now_ms, worker, tier };
        self.waiting.push_back((job, false));
        if self.queue.len() < QUEUE { self.queue.push_back(job) } else { self.answer(job, 503) }
    }

    fn tick(&mut self, worker: usize) {
        let known = std::mem::take(&mut self.shared);
        let monitor = &mut self.workers[worker].monitor;
        let known = (!known.is_empty()).then_some(known);
        if monitor.merge(known.as_deref(), &mut self.shared, ms(self.now_ms)) {
            monitor.published();
        } else {
            self.shared = known.unwrap_or_default();
        }
        if worker == 0 {
            let (state, pressure) = (monitor.standing().health, monitor.pressure());
            let recent = monitor.recent();
            let p95 = recent.latencies().quantile(tidegate::units::BasisPoints::new(9_500));
            let [low, medium] = [Priority::Low, Priority::Medium].map(|it| pressure.share(it).as_basis_points() / 100);
            let (secs, p95) = (self.now_ms / 1_000, p95.unwrap_or_default());
            let line = format!("{secs:>4} s {state:?}, sheds {low}% {medium}%, p95 {p95}, queue {}", self.queue.len());
            writeln!(self.trace, "{line}, served {:?}, shed {:?}", self.served, self.shed).expect("a string");
        }
    }

    fn health(&self) -> Health {
        self.workers[0].monitor.standing().health
    }
}

/// Ten quiet seconds, then two minutes at twice the capacity; the results are those of the last hundred seconds.
fn overload(sheds: bool, seed: u64) -> (Simulation, [u64; MIX.len()], [u64; MIX.len()]) {
    let mut simulation = Simulation::new(sheds, seed);
    simulation.run(10, 200);
    assert_eq!(simulation.health(), Health::Healthy, "{}", simulation.trace);
    simulation.run(20, 800);
    let (served, asked) = (simulation.served, simulation.asked);
    simulation.run(100, 800);
    let served = std::array::from_fn(|tier| simulation.served[tier] - served[tier]);
    let asked = std::array::from_fn(|tier| simulation.asked[tier] - asked[tier]);
    (simulation, served, asked)
}

#[test]
fn under_twice_the_load_shedding_protects_important_requests() {
    for seed in [1, 2, 3] {
        let (without, served_without, _) = overload(false, seed);
        let (with, served, asked) = overload(true, seed);
        println!("{}{served_without:?} {served:?} {asked:?}", with.trace);
        let why = format!("seed {seed}: {served_without:?} without, {served:?} with, of {asked:?}\n{}", with.trace);
        assert_eq!(with.shed[3], 0, "critical requests are never shed: {why}");
        assert_eq!(without.shed, [0; 4], "{why}");
        let [goodput, goodput_without] = [served, served_without].map(|it| it.iter().sum::<u64>());
        assert!(goodput > 3 * goodput_without, "{why}");
        // Compared with the service's capacity.
        assert!(goodput > 100 * 400 * 7 / 10, "{why}");
        let share = |tier: usize| served[tier] as f64 / asked[tier] as f64;
        assert!(share(3) > 0.9 && share(2) > 0.9, "{why}");
        assert!(share(0) < share(1) && share(1) <= share(2), "{why}");
        let _ = &without;
    }
}

#[test]
fn when_the_load_is_gone_all_requests_pass_again() {
    let (mut simulation, ..) = overload(true, 7);
    assert_ne!(simulation.shed[0], 0, "{}", simulation.trace);
    // The window, the wait of both steps, and the time for the pressure to fall from its maximum.
    simulation.run(10 + 2 * 5 + 60, 200);
    let shed = simulation.shed;
    simulation.run(10, 200);
    assert_eq!((simulation.health(), simulation.shed), (Health::Healthy, shed), "{}", simulation.trace);
    let counted = |total| simulation.workers.iter_mut().map(|it| it.counters.take_total(total)).sum::<u64>();
    let mut counted = counted;
    assert_eq!([Total::ShedLow, Total::ShedMedium, Total::ShedHigh].map(&mut counted), [shed[0], shed[1], shed[2]]);
}
