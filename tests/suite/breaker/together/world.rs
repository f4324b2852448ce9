//! Instances with their workers, their messages to and from one authority, and the upstream that they call.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, HashMap};
use std::rc::Rc;
use tidegate::authority::Instance;
use tidegate::breaker::global::{Record, ReportMessage, Standing, standings_from_bytes, standings_to_bytes};
use tidegate::breaker::{Ledger, Part, State};
use tidegate::engine::Engine;
use tidegate::fallback::{Context, Ended, Ledgers, Progress, Round, Step, Upstreams};
use tidegate::key::Seed;
use tidegate::policy::{CallEnd, Policy};
use tidegate::store::StoreError;
use tidegate::units::{Draw, Timestamp};

pub const PROBES: u32 = 3;
pub const MAX_WAIT_MS: u64 = 1_000;
pub const MAX_OPEN_MS: u64 = 4_000;
pub const RAMP_MS: u64 = 1_000;
pub const TICK_MS: u64 = 100;
/// The adapter's deadline for an answer.
pub const PATIENCE_MS: u64 = 1_000;

pub fn policy() -> Policy {
    let document = format!(
        r#"{{ "version": 1, "stores": {{ "redis": {{ "cluster": "redis" }} }},
        "breakers": {{ "b": {{ "scope": "global", "window": {{ "time": "5s" }}, "min_calls": 10, "consecutive_failures": 5,
            "open": {{ "initial": "500ms", "factor": 2, "max": "{MAX_OPEN_MS}ms", "jitter_percent": 20 }},
            "half_open": {{ "probes": {PROBES}, "max_wait": "{MAX_WAIT_MS}ms" }},
            "ramp": {{ "from_percent": 10, "over": "{RAMP_MS}ms" }} }} }},
        "upstreams": {{ "origin": {{ "cluster": "origin", "breaker": "b" }} }},
        "routes": [{{ "name": "all", "upstreams": ["origin"] }}] }}"#
    );
    Policy::parse(&document).unwrap()
}

/// The values that the workers of one instance publish, each with its version.
#[derive(Clone, Default)]
pub struct Places(Rc<RefCell<HashMap<(String, Part), Value>>>);

type Value = (u64, Vec<u8>);

/// A worker's access to [`Places`]. Some publications fail with a conflict.
pub struct WorkerLedger {
    pub places: Places,
    pub identity: String,
    pub seen: HashMap<Part, u64>,
    pub bytes: Vec<u8>,
    pub overtaken: u64,
    pub draws: u64,
}

impl Ledgers for WorkerLedger {
    fn of(&mut self, identity: &str) -> &mut impl Ledger {
        self.identity = identity.to_owned();
        self.seen.clear();
        self
    }
}

impl Ledger for WorkerLedger {
    fn read(&mut self, part: Part) -> Result<Option<&[u8]>, StoreError> {
        let places = self.places.0.borrow();
        let value = places.get(&(self.identity.clone(), part));
        self.seen.insert(part, value.map_or(0, |(version, _)| *version));
        let Some((_, bytes)) = value else { return Ok(None) };
        self.bytes.clone_from(bytes);
        Ok(Some(&self.bytes))
    }

    fn publish(&mut self, part: Part, bytes: &[u8]) -> Result<(), StoreError> {
        self.draws = self.draws.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        let mut places = self.places.0.borrow_mut();
        let place = places.entry((self.identity.clone(), part)).or_default();
        if self.seen.get(&part) != Some(&place.0) || (self.draws >> 33) % 1_000 < self.overtaken {
            return Err(StoreError::Conflict);
        }
        *place = (place.0 + 1, bytes.to_vec());
        Ok(())
    }
}

#[derive(Clone, Copy, Default)]
pub struct Faults {
    /// Of a thousand messages, in either direction.
    pub lost: u64,
    pub doubled: u64,
    /// The maximum delay of a message.
    pub late_ms: u64,
    /// Of a thousand publications.
    pub overtaken: u64,
    /// Of a thousand, per millisecond.
    pub death: u64,
    pub forgets: u64,
    /// Of a thousand calls.
    pub failing: u64,
    pub hanging: u64,
    pub abandoned: u64,
}

pub struct Worker {
    pub instance: usize,
    pub upstreams: Upstreams,
}

pub struct Host {
    pub number: u64,
    pub places: Places,
    /// How far its clock is ahead of real time.
    pub ahead_ms: u64,
    /// Whether all of its messages are lost.
    pub cut_off: bool,
}

pub struct Call {
    pub worker: usize,
    pub progress: Progress,
    pub host: u64,
    pub ends_ms: u64,
    pub end: CallEnd,
    pub elected: Option<u64>,
}

pub enum Message {
    ToAuthority { worker: usize, host: u64, round: Rc<Round>, asked: Vec<u8>, sent_ms: u64 },
    ToWorker { worker: usize, host: u64, round: Rc<Round>, standings: Option<Vec<u8>>, sent_ms: u64 },
}

pub struct World {
    pub policy: Policy,
    pub engine: Engine,
    pub hosts: Vec<Host>,
    pub workers: Vec<Worker>,
    pub records: BTreeMap<u64, Record>,
    pub messages: Vec<(u64, Message)>,
    pub calls: Vec<Call>,
    pub faults: Faults,
    pub random: Cell<u64>,
    pub now_ms: u64,
    /// For each generation of the authority, the probes in flight or with an outcome.
    pub probes: HashMap<u64, u32>,
    pub newest: u64,
    /// When the authority last lost its state, by its own clock, from which it numbers generations.
    pub forgot_ms: u64,
    /// Probes without an election, and calls that reached the upstream.
    pub own: u64,
    pub asked: u64,
}

pub const AUTHORITY_AHEAD_MS: u64 = 3_333_333;

impl World {
    pub fn new(instances: usize, workers_each: usize, seed: u64) -> Self {
        let policy = policy();
        let engine = Engine::new(policy.clone(), Seed::new([1, 2]));
        let mut world = Self {
            policy,
            engine,
            hosts: Vec::new(),
            workers: Vec::new(),
            records: BTreeMap::new(),
            messages: Vec::new(),
            calls: Vec::new(),
            faults: Faults::default(),
            random: Cell::new(seed),
            now_ms: 1_800_000_000_000,
            probes: HashMap::new(),
            newest: 0,
            forgot_ms: 0,
            own: 0,
            asked: 0,
        };
        for instance in 0..instances {
            let (number, ahead_ms) = (world.draw(), world.below(7_200_000));
            world.hosts.push(Host { number, places: Places::default(), ahead_ms, cut_off: false });
            for _ in 0..workers_each {
                let upstreams = world.upstreams(instance);
                world.workers.push(Worker { instance, upstreams });
            }
        }
        world
    }

    pub fn upstreams(&self, instance: usize) -> Upstreams {
        let mut upstreams = Upstreams::new(&self.policy);
        self.engine.share_breakers(&mut upstreams, Instance::new(self.hosts[instance].number));
        upstreams
    }

    /// SplitMix64.
    pub fn draw(&self) -> u64 {
        let state = self.random.get().wrapping_add(0x9e37_79b9_7f4a_7c15);
        self.random.set(state);
        let mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    pub fn below(&self, end: u64) -> u64 {
        self.draw() % end.max(1)
    }

    pub fn happens(&self, of_thousand: u64) -> bool {
        of_thousand > 0 && self.below(1_000) < of_thousand
    }

    pub fn with<T>(
        &mut self,
        worker: usize,
        act: impl FnOnce(&mut Upstreams, &mut Context<'_, WorkerLedger>, &Policy) -> T,
    ) -> T {
        let (draw, draws) = (Draw(self.draw()), self.draw());
        let Worker { instance, upstreams } = &mut self.workers[worker];
        let host = &self.hosts[*instance];
        let (places, overtaken) = (host.places.clone(), self.faults.overtaken);
        let mut ledger =
            WorkerLedger { places, identity: String::new(), seen: HashMap::new(), bytes: Vec::new(), overtaken, draws };
        let now = Timestamp::from_millis(self.now_ms + host.ahead_ms);
        act(upstreams, &mut Context { ledgers: &mut ledger, draw, now }, &self.policy)
    }

    /// A call arrives at this worker. Returns whether it reached the upstream.
    pub fn ask(&mut self, worker: usize) -> bool {
        let (progress, is_sent) = self.with(worker, |upstreams, context, policy| {
            let (progress, step) = upstreams.begin(policy, 0, None, true, context);
            (progress, matches!(step, Step::Send { .. }))
        });
        if !is_sent {
            return false;
        }
        self.asked += 1;
        let local = self.workers[worker].upstreams.breakers().get(0).unwrap();
        let is_probe = local.statistics().take().probes > 0;
        let (elected, governed) = (local.shared().elected().filter(|_| is_probe), local.is_governed());
        if let Some(generation) = elected {
            let given = self.probes.entry(generation).or_default();
            *given += 1;
            assert!(*given <= PROBES, "{given} probes in one generation");
            // An authority that has lost an election may hold another before the first is over.
            let is_forgotten = generation <= self.forgot_ms;
            assert!(generation >= self.newest || is_forgotten, "a probe of an election that is over");
            self.newest = generation.max(self.newest);
        } else if is_probe {
            assert!(!governed, "a probe that nobody was elected for");
            self.own += 1;
        }
        let (took, end) = match () {
            () if self.happens(self.faults.hanging) => (100_000, CallEnd::TimedOut),
            () if self.happens(self.faults.abandoned) => (self.below(200), CallEnd::Abandoned),
            () if self.happens(self.faults.failing) => (self.below(40), CallEnd::Answered(500)),
            () => (self.below(40), CallEnd::Answered(200)),
        };
        let host = self.hosts[self.workers[worker].instance].number;
        self.calls.push(Call { worker, progress, host, ends_ms: self.now_ms + took, end, elected });
        true
    }

    pub fn end(&mut self, mut call: Call) {
        if call.end == CallEnd::Abandoned
            && let Some(generation) = call.elected
        {
            *self.probes.get_mut(&generation).unwrap() -= 1;
        }
        if self.hosts[self.workers[call.worker].instance].number != call.host {
            return;
        }
        self.with(call.worker, |upstreams, context, policy| match call.end {
            CallEnd::Abandoned => upstreams.abandoned(&mut call.progress, context),
            end => {
                upstreams.ended(policy, &mut call.progress, Ended::from(end), context);
            }
        });
    }

    pub fn tick(&mut self, worker: usize) {
        let round = self.with(worker, |upstreams, context, _| {
            upstreams.tick(context);
            upstreams.next_round(context)
        });
        let Some(round) = round else { return };
        let host = &self.hosts[self.workers[worker].instance];
        let (host, sent_ms) = (host.number, self.now_ms);
        let (asked, round) = (round.message.to_bytes(), Rc::new(round));
        let copies = 1 + u64::from(self.happens(self.faults.doubled));
        for _ in 0..copies {
            let (round, asked) = (Rc::clone(&round), asked.clone());
            self.post(worker, Message::ToAuthority { worker, host, round, asked, sent_ms });
        }
        // Without an answer in time, the adapter reports a failure.
        let message = Message::ToWorker { worker, host, round, standings: None, sent_ms };
        self.messages.push((self.now_ms + PATIENCE_MS, message));
    }

    pub fn post(&mut self, worker: usize, message: Message) {
        if !self.hosts[self.workers[worker].instance].cut_off && !self.happens(self.faults.lost) {
            let late = self.below(self.faults.late_ms + 2);
            self.messages.push((self.now_ms + late, message));
        }
    }

    pub fn deliver(&mut self, message: Message) {
        match message {
            Message::ToAuthority { worker, host, round, asked, sent_ms } => {
                let asked = ReportMessage::from_bytes(&asked).unwrap();
                let now_ms = self.now_ms + AUTHORITY_AHEAD_MS;
                let answer = |report: &_| {
                    let report: &tidegate::breaker::global::Report = report;
                    self.records.entry(report.breaker.get()).or_default().answer(report, asked.instance, now_ms)
                };
                let standings: Vec<Standing> = asked.reports.iter().map(answer).collect();
                let standings = Some(standings_to_bytes(&standings));
                self.post(worker, Message::ToWorker { worker, host, round, standings, sent_ms });
            }
            Message::ToWorker { worker, host, round, standings, sent_ms } => {
                let is_late = standings.is_some() && self.now_ms >= sent_ms + PATIENCE_MS;
                if self.hosts[self.workers[worker].instance].number != host || is_late {
                    return;
                }
                let standings = standings.map(|bytes| standings_from_bytes(&bytes).unwrap());
                self.with(worker, |upstreams, context, _| {
                    upstreams.apply_answer(&round, standings.as_deref(), context)
                });
            }
        }
    }

    /// Advances by a millisecond, in which with a chance of one in `every` a call arrives at a random worker.
    pub fn step(&mut self, every: u64) {
        self.now_ms += 1;
        if self.happens(self.faults.death) && self.below(20) == 0 {
            let instance = self.below(self.hosts.len() as u64) as usize;
            let (number, ahead_ms) = (self.draw(), self.below(7_200_000));
            self.hosts[instance] = Host { number, places: Places::default(), ahead_ms, cut_off: false };
            for worker in 0..self.workers.len() {
                if self.workers[worker].instance == instance {
                    self.workers[worker].upstreams = self.upstreams(instance);
                }
            }
        }
        if self.happens(self.faults.forgets) && self.below(20) == 0 {
            self.records.clear();
            self.forgot_ms = self.now_ms + AUTHORITY_AHEAD_MS;
        }
        let now = self.now_ms;
        let (due, later) = core::mem::take(&mut self.messages).into_iter().partition(|(at, _)| *at <= now);
        self.messages = later;
        let due: Vec<_> = due;
        due.into_iter().for_each(|(_, message)| self.deliver(message));
        for worker in 0..self.workers.len() {
            if (now + 37 * worker as u64).is_multiple_of(TICK_MS) {
                self.tick(worker);
            }
        }
        let (ended, others): (Vec<_>, Vec<_>) =
            core::mem::take(&mut self.calls).into_iter().partition(|call| call.ends_ms <= now);
        self.calls = others;
        ended.into_iter().for_each(|call| self.end(call));
        if every < u64::MAX && self.below(every) == 0 {
            let worker = self.below(self.workers.len() as u64) as usize;
            self.ask(worker);
        }
    }

    pub fn state(&mut self, worker: usize) -> State {
        let now = Timestamp::from_millis(self.now_ms + self.hosts[self.workers[worker].instance].ahead_ms);
        self.workers[worker].upstreams.breakers().get(0).unwrap().state(now)
    }

    pub fn all(&mut self, state: State) -> bool {
        (0..self.workers.len()).all(|worker| self.state(worker) == state)
    }

    pub fn until(&mut self, state: State, bound_ms: u64, every: u64) -> u64 {
        let began = self.now_ms;
        while !self.all(state) {
            let took = self.now_ms - began;
            let states: Vec<_> = (0..self.workers.len()).map(|it| self.state(it)).collect();
            assert!(took <= bound_ms, "not {state:?} after {took} ms: {states:?}, {:?}", self.records);
            self.step(every);
        }
        self.now_ms - began
    }

    pub fn steps(&mut self, ms: u64, every: u64) {
        (0..ms).for_each(|_| self.step(every));
    }

    /// One instance gets enough failures to open.
    pub fn fail_at(&mut self, worker: usize) {
        let before = self.faults;
        self.faults.failing = 1_000;
        while self.state(worker) != State::Open {
            self.ask(worker);
            self.steps(50, u64::MAX);
        }
        self.faults = before;
    }
}
