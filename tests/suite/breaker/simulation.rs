//! Many workers and one published state: workers conflict between a read and the following publication, merge late or
//! never, die with the calls they have not merged, and the clock jumps.

use super::{Memory, ReadVersions, rules};
use crate::harness::{ms, seeds};
use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use tidegate::breaker::{Admission, Ledger, Local, Outcome, Part, State, Ticket};
use tidegate::policy::Breaker;
use tidegate::store::StoreError;
use tidegate::units::{Draw, Span, Timestamp};

/// Faults, each with its rate per thousand.
#[derive(Clone, Copy, Default)]
struct Faults {
    /// Another worker acts between a read and its publication.
    overtaken: u64,
    /// A merge of calls fails.
    lost_merge: u64,
    /// A tick is skipped.
    late_tick: u64,
    /// A worker dies and a new one takes its place; per millisecond.
    death: u64,
    /// The client goes away before the response.
    abandoned: u64,
    /// The clock jumps by up to an hour either way; per millisecond.
    jump: u64,
}

struct Simulation {
    rules: Breaker,
    memory: RefCell<Memory>,
    workers: Vec<RefCell<Local>>,
    faults: Cell<Faults>,
    random: Cell<u64>,
    under_way: RefCell<Vec<Call>>,
    /// Real time, which the breaker does not see, and the offset of the clock from it.
    real_ms: Cell<u64>,
    clock_ms: Cell<u64>,
    /// How many of a thousand calls fail, and how many never get a response.
    failing: Cell<u64>,
    hanging: Cell<u64>,
    /// For each generation with probes, those in flight or successful.
    probes: RefCell<HashMap<u64, u32>>,
    most_probes: Cell<u32>,
}

struct Call {
    worker: usize,
    ticket: Ticket,
    generation: u64,
    ends_ms: u64,
    began_ms: u64,
    outcome: Outcome,
}

/// A worker's access to the memory. With the fault `overtaken`, another worker acts before this one publishes.
struct WorkerLedger<'s> {
    simulation: &'s Simulation,
    worker: usize,
    seen: ReadVersions,
    bytes: Vec<u8>,
    overtakes: bool,
}

impl Ledger for WorkerLedger<'_> {
    fn read(&mut self, part: Part) -> Result<Option<&[u8]>, StoreError> {
        let mut memory = self.simulation.memory.borrow_mut();
        let Some(bytes) = memory.read(part, &mut self.seen)? else { return Ok(None) };
        self.bytes = bytes.to_vec();
        Ok(Some(&self.bytes))
    }

    fn publish(&mut self, part: Part, bytes: &[u8]) -> Result<(), StoreError> {
        let simulation = self.simulation;
        let faults = simulation.faults.get();
        if part == Part::Calls && simulation.happens(faults.lost_merge) {
            return Err(StoreError::Unavailable);
        }
        if !self.overtakes && simulation.happens(faults.overtaken) {
            let others = simulation.workers.len() - 1;
            let other = (self.worker + 1 + simulation.below(others as u64) as usize) % simulation.workers.len();
            if simulation.happens(500) { simulation.ask(other, true) } else { simulation.tick(other, true) }
        }
        simulation.memory.borrow_mut().publish(part, bytes, &self.seen)
    }
}

impl Simulation {
    fn new(fields: &str, workers: usize, seed: u64) -> Self {
        let rules = rules(fields);
        Self {
            memory: RefCell::default(),
            workers: (0..workers).map(|_| RefCell::new(Local::new(&rules))).collect(),
            rules,
            faults: Cell::default(),
            random: Cell::new(seed),
            under_way: RefCell::default(),
            real_ms: Cell::new(0),
            clock_ms: Cell::new(100_000_000),
            failing: Cell::new(0),
            hanging: Cell::new(0),
            probes: RefCell::default(),
            most_probes: Cell::new(0),
        }
    }

    /// SplitMix64.
    fn draw(&self) -> u64 {
        let state = self.random.get().wrapping_add(0x9e37_79b9_7f4a_7c15);
        self.random.set(state);
        let mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&self, end: u64) -> u64 {
        self.draw() % end
    }

    fn happens(&self, of_thousand: u64) -> bool {
        of_thousand > 0 && self.below(1_000) < of_thousand
    }

    fn now(&self) -> Timestamp {
        ms(self.real_ms.get() + self.clock_ms.get())
    }

    fn ledger(&self, worker: usize, overtakes: bool) -> WorkerLedger<'_> {
        WorkerLedger { simulation: self, worker, seen: ReadVersions::default(), bytes: Vec::new(), overtakes }
    }

    /// A call arrives at this worker. Returns whether it was admitted.
    fn asks(&self, worker: usize, overtakes: bool) -> bool {
        let (admission, generation) = {
            let mut local = self.workers[worker].borrow_mut();
            let admission = local.admit(&mut self.ledger(worker, overtakes), Draw(self.draw()), self.now());
            (admission, local.generation())
        };
        let Admission::Pass(ticket) = admission else { return false };
        if ticket.is_probe() {
            let mut probes = self.probes.borrow_mut();
            let given = probes.entry(generation).or_default();
            *given += 1;
            self.most_probes.set(self.most_probes.get().max(*given));
        }
        let (took, outcome) = match () {
            () if self.happens(self.hanging.get()) => (100_000, Outcome::Failure),
            () if self.happens(self.faults.get().abandoned) => (self.below(300), Outcome::Ignored),
            () if self.happens(self.failing.get()) => (self.below(60), Outcome::Failure),
            () => (self.below(60), Outcome::Success),
        };
        let began_ms = self.real_ms.get();
        let call = Call { worker, ticket, generation, ends_ms: began_ms + took, began_ms, outcome };
        self.under_way.borrow_mut().push(call);
        true
    }

    fn ask(&self, worker: usize, overtakes: bool) {
        self.asks(worker, overtakes);
    }

    fn tick(&self, worker: usize, overtakes: bool) {
        let mut local = self.workers[worker].borrow_mut();
        local.tick(&mut self.ledger(worker, overtakes), Draw(self.draw()), self.now());
    }

    fn end(&self, call: &Call) {
        let took = Span::from_millis(call.ends_ms - call.began_ms);
        if call.ticket.is_probe() && call.outcome == Outcome::Ignored {
            *self.probes.borrow_mut().get_mut(&call.generation).expect("a probe that was given") -= 1;
        }
        let mut local = self.workers[call.worker].borrow_mut();
        let draw = Draw(self.draw());
        local.observe(&mut self.ledger(call.worker, false), call.ticket, call.outcome, took, draw, self.now());
    }

    /// Advances by a millisecond, in which with a chance of one in `every` a call arrives at a random worker.
    fn step(&self, every: u64) {
        self.real_ms.set(self.real_ms.get() + 1);
        let faults = self.faults.get();
        if self.happens(faults.jump) {
            self.clock_ms.set((self.clock_ms.get() + self.below(7_200_000)).saturating_sub(3_600_000));
        }
        let workers = self.workers.len();
        if self.happens(faults.death) {
            let worker = self.below(workers as u64) as usize;
            *self.workers[worker].borrow_mut() = Local::new(&self.rules);
            self.under_way.borrow_mut().retain(|call| call.worker != worker);
        }
        for worker in 0..workers {
            // The workers' ticks are staggered.
            if (self.real_ms.get() + 37 * worker as u64).is_multiple_of(TICK_MS) && !self.happens(faults.late_tick) {
                self.tick(worker, false);
            }
        }
        let now = self.real_ms.get();
        let ended = {
            let mut under_way = self.under_way.borrow_mut();
            let (ended, others) = under_way.drain(..).partition(|call: &Call| call.ends_ms <= now);
            *under_way = others;
            ended as Vec<_>
        };
        ended.iter().for_each(|call| self.end(call));
        if self.below(every) == 0 {
            self.ask(self.below(workers as u64) as usize, false);
        }
    }

    fn all(&self, state: State) -> bool {
        self.workers.iter().all(|worker| worker.borrow().state(self.now()) == state)
    }

    /// Advances until all workers are in this state; returns how long that took.
    fn until(&self, state: State, bound_ms: u64, every: u64) -> u64 {
        let began = self.real_ms.get();
        while !self.all(state) {
            let took = self.real_ms.get() - began;
            assert!(took <= bound_ms, "not {state:?} after {took} ms: {:?}", self.workers[0].borrow().shared());
            self.step(every);
        }
        self.real_ms.get() - began
    }
}

/// Runs a simulation for each seed and prints the seed of a failure. The seed is the only source of randomness.
pub fn for_seeds(count: u64, test: impl Fn(u64)) {
    let given = std::env::var("TIDEGATE_SEED").ok().and_then(|seed| seed.parse().ok());
    for seed in given.map_or_else(|| seeds(count), |seed: u64| seed..seed + 1) {
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| test(seed)));
        if let Err(panic) = outcome {
            eprintln!("TIDEGATE_SEED={seed}");
            std::panic::resume_unwind(panic);
        }
    }
}

/// The longest recovery: the maximum time open, then probes one after the other with a full wait for each, then the
/// ramp. A clock that was set back may double the remainder of each.
fn longest_recovery_ms(every: u64, workers: u64) -> u64 {
    let calls = 40 * every * workers;
    MAX_OPEN_MS + u64::from(PROBES + 1) * MAX_WAIT_MS + RAMP_MS + calls + 3_000
}

fn fields() -> String {
    format!(
        r#""window": {{ "time": "5s" }}, "min_calls": 10, "failure_rate_percent": 50, "consecutive_failures": 20,
        "open": {{ "initial": "500ms", "factor": 2, "max": "{MAX_OPEN_MS}ms", "jitter_percent": 30 }},
        "half_open": {{ "probes": {PROBES}, "max_wait": "{MAX_WAIT_MS}ms" }},
        "ramp": {{ "from_percent": 10, "over": "{RAMP_MS}ms" }}"#
    )
}

#[test]
fn never_more_probes_than_allowed_and_never_stuck_whatever_goes_wrong() {
    let (opened, elected) = (Cell::new(0), Cell::new(0));
    for_seeds(40, |seed| {
        let workers = 1 + seed as usize % 8;
        let window = if seed % 3 == 0 { r#""count": 50"# } else { r#""time": "5s""# };
        let simulation = Simulation::new(&fields().replace(r#""time": "5s""#, window), workers, seed);
        for _ in 0..8 {
            let often = simulation.below(2) * 10;
            simulation.faults.set(Faults {
                overtaken: if workers > 1 { simulation.below(600) } else { 0 },
                lost_merge: simulation.below(900),
                late_tick: simulation.below(900),
                death: simulation.below(4),
                abandoned: simulation.below(300),
                jump: simulation.below(2) * often / 10,
            });
            simulation.failing.set(simulation.below(1_001));
            simulation.hanging.set(simulation.below(4) * often);
            let every = 1 + simulation.below(20);
            for _ in 0..4_000 {
                simulation.step(every);
            }
            // The upstream recovers, and the faults end.
            simulation.faults.set(Faults::default());
            simulation.failing.set(0);
            simulation.hanging.set(0);
            simulation.until(State::Closed, longest_recovery_ms(every, workers as u64), every);
        }
        assert!(simulation.most_probes.get() <= PROBES, "{} probes", simulation.most_probes.get());
        opened.set(opened.get() + simulation.workers[0].borrow().shared().opened());
        elected.set(elected.get() + simulation.probes.borrow().len());
    });
    if std::env::var("TIDEGATE_SEED").is_err() {
        // Otherwise the faults were not exercised.
        assert!(opened.get() > 200 && elected.get() > 200, "opened {}, probed {}", opened.get(), elected.get());
    }
}

#[test]
fn workers_learn_what_one_knows_within_two_ticks() {
    for_seeds(50, |seed| {
        let simulation = Simulation::new(&fields(), 8, seed);
        // Few enough calls for each worker that none opens the breaker by itself.
        (0..200).for_each(|_| simulation.step(u64::MAX));
        simulation.failing.set(1_000);
        (0..16).for_each(|call| simulation.ask(call % 8, false));
        while !simulation.under_way.borrow().is_empty() {
            simulation.step(u64::MAX);
            assert!(simulation.real_ms.get() < 300, "a call takes at most 60 ms");
        }
        let took = simulation.until(State::Open, 2 * TICK_MS, u64::MAX);
        assert!(took <= 2 * TICK_MS);
        let opened = simulation.workers.iter().map(|worker| worker.borrow_mut().statistics().opened);
        assert_eq!(opened.sum::<u64>(), 1, "the breaker opened more than once");
    });
}

#[test]
fn a_worker_with_enough_calls_of_its_own_opens_at_once() {
    let simulation = Simulation::new(&fields(), 8, 1);
    simulation.failing.set(1_000);
    (0..10).for_each(|_| simulation.ask(3, false));
    while !simulation.under_way.borrow().is_empty() {
        // Without ticks.
        simulation.real_ms.set(simulation.real_ms.get() + 1);
        let calls = simulation.under_way.take();
        calls.iter().for_each(|call| simulation.end(call));
    }
    assert_eq!(simulation.workers[3].borrow().state(simulation.now()), State::Open);
    assert!(!simulation.asks(3, false));
}

#[test]
fn probes_are_elected_once_over_all_workers_that_ask_at_once() {
    for_seeds(50, |seed| {
        let simulation = Simulation::new(&fields(), 8, seed);
        simulation.failing.set(1_000);
        (0..40).for_each(|call| simulation.ask(call % 8, false));
        simulation.until(State::Open, 1_000, u64::MAX);
        simulation.failing.set(0);
        simulation.faults.set(Faults { overtaken: 700, ..Faults::default() });
        simulation.real_ms.set(simulation.real_ms.get() + 500);
        simulation.under_way.borrow_mut().clear();
        (0..64).for_each(|call| simulation.ask(call % 8, false));
        let probes = simulation.under_way.borrow().iter().filter(|call| call.ticket.is_probe()).count();
        assert_eq!(probes, PROBES as usize);
        assert_eq!(simulation.under_way.borrow().len(), PROBES as usize);
    });
}

#[test]
fn the_ramp_admits_its_share_within_three_standard_deviations() {
    for_seeds(10, |seed| {
        let simulation = Simulation::new(&fields(), 4, seed);
        simulation.failing.set(1_000);
        (0..40).for_each(|call| simulation.ask(call % 4, false));
        simulation.until(State::Open, 1_000, u64::MAX);
        simulation.failing.set(0);
        simulation.until(State::Ramping, 10_000, 2);
        let since = simulation.workers[0].borrow().shared().since().expect("a ramp that began");
        for _ in 0..RAMP_MS / 100 - 1 {
            (0..100).for_each(|_| simulation.step(u64::MAX));
            let asked = 400;
            let admitted = (0..asked).filter(|call| simulation.asks(call % 4, false)).count() as f64;
            let risen = simulation.now().since(since).as_nanos() as f64 / (RAMP_MS as f64 * 1e6);
            let share = (0.1 + 0.9 * risen).min(1.0);
            let (mean, deviation) = (asked as f64 * share, (asked as f64 * share * (1.0 - share)).sqrt());
            assert!((admitted - mean).abs() <= 3.0 * deviation + 1.0, "{admitted} of {asked}, not {mean}");
        }
    });
}

#[test]
fn a_clock_set_back_keeps_nothing_open_for_more_than_twice_its_time() {
    for back_ms in [500, 1_500, 60_000, 90_000_000] {
        let simulation = Simulation::new(&fields(), 3, back_ms);
        simulation.failing.set(1_000);
        (0..40).for_each(|call| simulation.ask(call % 3, false));
        simulation.until(State::Open, 1_000, u64::MAX);
        simulation.failing.set(0);
        simulation.clock_ms.set(simulation.clock_ms.get() - back_ms);
        // The allowed clock skew, and a tick.
        simulation.until(State::Ramping, 500 + 1_000 + 500 + 2 * TICK_MS, 2);
        simulation.clock_ms.set(simulation.clock_ms.get() - back_ms.min(1_000_000));
        simulation.until(State::Closed, 2 * RAMP_MS + 1_000, 2);
    }
}

const TICK_MS: u64 = 100;
const PROBES: u32 = 3;
const MAX_WAIT_MS: u64 = 1_000;
const MAX_OPEN_MS: u64 = 4_000;
const RAMP_MS: u64 = 3_000;
