//! Instances, an authority, and what lies between them, on a virtual clock.

#![allow(dead_code, reason = "the benchmark and the tests do not need the same of it")]

use std::borrow::Cow;
use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use tidegate::authority::{Ask, Authority, Instance, Shared, Terms};
use tidegate::engine::{Answer, Engine, Plan};
use tidegate::key::Seed;
use tidegate::lease::Leases;
use tidegate::metrics::{Counters, Total};
use tidegate::policy::{Policy, TierIndex};
use tidegate::request::RequestFacts;
use tidegate::store::memory::MemoryStore;
use tidegate::units::{Span, Timestamp};

pub const DEADLINE_MS: u64 = 20;
/// When it begins, by the true clock, in microseconds: so that clocks may be behind it.
const BEGIN_US: u64 = 1_700_000_000_000_000;

pub struct Setup<'a> {
    pub algorithm: &'a str,
    pub quota: &'a str,
    pub sharing: &'a str,
    pub on_store_failure: &'a str,
    /// Requests of each instance in a thousand seconds.
    pub rates: Vec<u64>,
}

impl Default for Setup<'_> {
    fn default() -> Self {
        Self {
            algorithm: "fixed-window",
            quota: r#"{ "permits": 200, "window": "1s" }"#,
            sharing: "lease",
            on_store_failure: "local",
            rates: vec![600_000, 200_000, 60_000],
        }
    }
}

/// What goes wrong, in parts of a thousand.
#[derive(Clone, Copy, Debug)]
pub struct Faults {
    pub lost: u64,
    pub doubled: u64,
    pub late: u64,
    pub crashes: u64,
    pub parts: u64,
    pub skew_ms: u64,
}

impl Faults {
    pub fn none() -> Self {
        Self { lost: 0, doubled: 0, late: 0, crashes: 0, parts: 0, skew_ms: 0 }
    }

    /// Much or little of each, as the seed says.
    pub fn of(seed: u64) -> Self {
        let mut random = Random(seed ^ 0xfa17);
        let mut upto = |most: u64| if random.below(3) == 0 { 0 } else { random.below(most) };
        Self {
            lost: upto(300),
            doubled: upto(300),
            late: upto(300),
            crashes: upto(20),
            parts: upto(20),
            skew_ms: upto(5_000),
        }
    }
}

#[derive(Clone, Copy, Default)]
pub struct Measured {
    pub requests: u64,
    pub admitted: u64,
    pub waited: u64,
    pub asks: u64,
}

pub struct World {
    random: Random,
    faults: Faults,
    engine: Engine,
    authority: Authority,
    authority_skew_ms: u64,
    instances: Vec<Site>,
    rates: Vec<u64>,
    now_us: u64,
    queue: BinaryHeap<Reverse<(u64, u64, usize)>>,
    events: Vec<Option<Event>>,
    terms: Terms,
    /// When, by the authority's clock, permits were used that it has granted.
    used: Vec<u64>,
    measured: Measured,
    longest_wait_us: u64,
}

enum Event {
    Arrival(usize),
    Asked { ask: Ask, from: usize, life: u32 },
    Answered { answer: Answer, to: usize, life: u32 },
    Tend(usize),
    Minute,
    Joined(usize),
}

struct Site {
    store: MemoryStore,
    local: MemoryStore,
    leases: Leases,
    counters: Counters,
    plan: Plan,
    skew_ms: u64,
    waiting: BTreeMap<u32, u64>,
    next_id: u32,
    /// Messages of an earlier life do not arrive.
    life: u32,
    parted: bool,
    tends_at: u64,
}

impl World {
    pub fn new(seed: u64, setup: &Setup<'_>, faults: Faults) -> Self {
        let Setup { algorithm, quota, sharing, on_store_failure, .. } = setup;
        let policy = format!(
            r#"{{ "version": 1, "limits": [ {{ "name": "a", "key": [], "algorithm": "{algorithm}", "quota": {quota},
                "scope": "global", "sharing": "{sharing}", "on_store_failure": "{on_store_failure}" }} ] }}"#
        );
        let policy = Policy::parse(&policy).unwrap();
        let limit = &policy.limits()[0];
        let terms = Terms::new(limit.algorithm(), &limit.quotas(TierIndex::default())[0]).unwrap();
        let mut random = Random(seed);
        let engine = Engine::new(policy, Seed::new([random.next(), random.next()]));
        let mut world = Self {
            faults,
            authority: Authority::new(1_000),
            authority_skew_ms: random.below(faults.skew_ms + 1),
            instances: Vec::new(),
            rates: setup.rates.clone(),
            now_us: BEGIN_US + random.below(2_000_000),
            queue: BinaryHeap::new(),
            events: Vec::new(),
            terms,
            used: Vec::new(),
            measured: Measured::default(),
            longest_wait_us: 0,
            engine,
            random,
        };
        for at in 0..setup.rates.len() {
            let site = world.site(0);
            world.instances.push(site);
            world.arrive_later(at);
        }
        world.after(1_000, Event::Minute);
        world
    }

    pub fn run(&mut self, ms: u64) {
        let until = self.now_us + ms * 1_000;
        while let Some(Reverse((at, _, _))) = self.queue.peek()
            && *at <= until
        {
            let Some(Reverse((at, _, place))) = self.queue.pop() else { break };
            self.now_us = at;
            if let Some(event) = self.events[place].take() {
                self.step(event);
            }
        }
        self.now_us = until;
    }

    pub fn begin_measuring(&mut self) {
        self.measured = Measured::default();
        self.instances.iter_mut().for_each(|site| {
            site.counters.take_total(Total::Asks);
        });
    }

    pub fn measured(&mut self) -> Measured {
        let asks: u64 = self.instances.iter_mut().map(|site| site.counters.take_total(Total::Asks)).sum();
        Measured { asks, ..self.measured }
    }

    pub fn longest_wait_ms(&self) -> u64 {
        self.longest_wait_us / 1_000
    }

    /// Whether every instance takes the store for one that answers.
    pub fn store_answers(&mut self) -> bool {
        let answers = |at: usize| {
            let now = self.site_now(at);
            self.instances[at].leases.global_ref().unwrap().answers(now)
        };
        (0..self.instances.len()).all(answers)
    }

    pub fn set_rates(&mut self, rates: Vec<u64>) {
        self.rates = rates;
        (0..self.instances.len()).for_each(|at| self.arrive_later(at));
    }

    pub fn crash(&mut self, at: usize) {
        let life = self.instances[at].life + 1;
        self.instances[at] = self.site(life);
    }

    pub fn part_all(&mut self) {
        self.instances.iter_mut().for_each(|site| site.parted = true);
    }

    pub fn join_all(&mut self) {
        self.instances.iter_mut().for_each(|site| site.parted = false);
    }

    /// Whether what was used is what the algorithm allows, by the authority's clock.
    pub fn verify(&self) -> Result<(), String> {
        let Terms { permits, window_ms, burst, algorithm } = self.terms;
        let permits = permits.get();
        match algorithm {
            Shared::FixedWindow | Shared::SlidingWindow => {
                let slides = algorithm == Shared::SlidingWindow;
                let mut counts: BTreeMap<u64, u64> = BTreeMap::new();
                for at in &self.used {
                    let (index, left) = (at / 1_000 / window_ms, window_ms - (at / 1_000) % window_ms);
                    let before = if slides { counts.get(&(index - 1)).copied().unwrap_or(0) } else { 0 };
                    let count = counts.entry(index).or_default();
                    *count += 1;
                    let used = *count + (before * left).div_ceil(window_ms);
                    if used > u64::from(permits) {
                        return Err(format!("{used} of {permits} at {at}"));
                    }
                }
            }
            Shared::TokenBucket => {
                // Answers to those who wait are under way for so long at most.
                let under_way = tidegate::authority::bucket::SOON_MS as f64 * f64::from(permits) / window_ms as f64;
                let (mut level, mut last) = (f64::from(burst.get()) + under_way, 0);
                let full = level;
                for at in &self.used {
                    level += (at.saturating_sub(last)) as f64 * f64::from(permits) / window_ms as f64 / 1_000.0;
                    level = level.min(full) - 1.0;
                    last = *at;
                    if level < -0.001 {
                        return Err(format!("{level} of a bucket at {at}"));
                    }
                }
            }
            Shared::InFlight => return Err("requests in flight have a world of their own".to_owned()),
        }
        Ok(())
    }

    fn site(&mut self, life: u32) -> Site {
        let mut leases = Leases::none();
        let instance = Instance::new(self.random.next());
        leases.share(self.engine.sharing(instance, Span::from_millis(DEADLINE_MS)).unwrap());
        Site {
            store: MemoryStore::new(1_000),
            local: MemoryStore::new(1_000),
            leases,
            counters: Counters::new(1, 1),
            plan: Plan::new(),
            skew_ms: self.random.below(self.faults.skew_ms + 1),
            waiting: BTreeMap::new(),
            next_id: 0,
            life,
            parted: false,
            tends_at: u64::MAX,
        }
    }

    fn step(&mut self, event: Event) {
        match event {
            Event::Arrival(at) => {
                self.measured.requests += 1;
                let id = self.instances[at].next_id;
                self.instances[at].next_id += 1;
                self.decide(at, id, None);
                self.settle(at);
                self.arrive_later(at);
            }
            Event::Asked { ask, from, life } => {
                let grant = self.authority.answer(&ask, self.authority_us() / 1_000);
                let answer = Answer::to(&ask, Some(grant));
                self.send(from, || Event::Answered { answer, to: from, life });
            }
            Event::Answered { answer, to, life } => {
                if life == self.instances[to].life {
                    let now = self.site_now(to);
                    let Site { store, leases, counters, .. } = &mut self.instances[to];
                    self.engine.granted(&answer, leases, store, counters, now);
                    self.settle(to);
                }
            }
            Event::Tend(at) => {
                let now = self.site_now(at);
                let Site { store, leases, counters, tends_at, .. } = &mut self.instances[at];
                *tends_at = u64::MAX;
                self.engine.tend(leases, store, counters, now);
                self.settle(at);
            }
            Event::Minute => {
                for at in 0..self.instances.len() {
                    if self.random.below(10_000) < self.faults.crashes {
                        self.crash(at);
                    }
                    if self.random.below(10_000) < self.faults.parts {
                        self.instances[at].parted = true;
                        let lasts = self.random.below(1_000_000);
                        self.after(lasts, Event::Joined(at));
                    }
                }
                self.after(5_000, Event::Minute);
            }
            Event::Joined(at) => self.instances[at].parted = false,
        }
    }

    fn decide(&mut self, at: usize, id: u32, since: Option<Timestamp>) {
        let now = self.site_now(at);
        let site = &mut self.instances[at];
        self.engine.plan(&Plain, &mut site.plan);
        if let Some(since) = since {
            site.plan.resume(since);
        }
        let Site { store, local, leases, counters, plan, .. } = site;
        let decision = self.engine.decide(plan, store, local, leases, counters, now);
        if decision.awaits.is_some() {
            if !site.waiting.contains_key(&id) {
                self.measured.waited += 1;
            }
            site.waiting.entry(id).or_insert(self.now_us);
            self.engine.await_grant(&site.plan, id, &mut site.leases);
            return;
        }
        if let Some(began) = site.waiting.remove(&id) {
            self.longest_wait_us = self.longest_wait_us.max(self.now_us - began);
        }
        if decision.refusal.is_none() {
            self.measured.admitted += 1;
            self.used.push(self.authority_us());
        }
    }

    /// Sends what is to be sent, and decides those again who are ready.
    fn settle(&mut self, at: usize) {
        let mut asks = Vec::new();
        let now = self.site_now(at);
        while let Some(wake) = self.instances[at].leases.global().unwrap().ready() {
            self.decide(at, wake.id, Some(wake.since));
        }
        self.instances[at].leases.global().unwrap().asks(now, &mut asks);
        let life = self.instances[at].life;
        for ask in asks {
            self.send(at, || Event::Asked { ask, from: at, life });
        }
        let due = self.instances[at].leases.global().unwrap().next_due(now);
        if let Some(due) = due.map(|due| self.now_us + due.as_nanos().div_ceil(1_000))
            && due < self.instances[at].tends_at
        {
            self.instances[at].tends_at = due;
            self.after(due - self.now_us, Event::Tend(at));
        }
    }

    /// One way between an instance and the authority.
    fn send(&mut self, of: usize, event: impl Fn() -> Event) {
        let copies = 1 + u64::from(self.random.below(1_000) < self.faults.doubled);
        for _ in 0..copies {
            if self.instances[of].parted || self.random.below(1_000) < self.faults.lost {
                continue;
            }
            let is_late = self.random.below(1_000) < self.faults.late;
            let us = 250 + self.random.below(500) + if is_late { self.random.below(400_000) } else { 0 };
            self.after(us, event());
        }
    }

    fn arrive_later(&mut self, at: usize) {
        let Some(mean) = 1_000_000_000_u64.checked_div(self.rates[at]) else { return };
        // Evenly between nothing and twice the mean.
        let us = self.random.below(2 * mean + 1);
        self.after(us, Event::Arrival(at));
    }

    fn after(&mut self, us: u64, event: Event) {
        self.queue.push(Reverse((self.now_us + us, self.random.next(), self.events.len())));
        self.events.push(Some(event));
    }

    fn site_now(&self, at: usize) -> Timestamp {
        Timestamp::from_nanos(self.now_us * 1_000).after(Span::from_millis(self.instances[at].skew_ms))
    }

    fn authority_us(&self) -> u64 {
        self.now_us + self.authority_skew_ms * 1_000
    }
}

/// The algorithm of this word.
pub fn shared(word: &str) -> Shared {
    match word {
        "fixed-window" => Shared::FixedWindow,
        "sliding-window" => Shared::SlidingWindow,
        "concurrency" => Shared::InFlight,
        _ => Shared::TokenBucket,
    }
}

/// The request that everybody sends.
pub struct Plain;

impl RequestFacts for Plain {
    fn method(&self) -> Cow<'_, [u8]> {
        Cow::Borrowed(b"GET")
    }

    fn path(&self) -> Cow<'_, [u8]> {
        Cow::Borrowed(b"/")
    }

    fn authority(&self) -> Cow<'_, [u8]> {
        Cow::Borrowed(b"example.com")
    }

    fn peer(&self) -> Option<Cow<'_, [u8]>> {
        None
    }

    fn header(&self, _name: &str) -> Option<Cow<'_, [u8]>> {
        None
    }
}

/// splitmix64.
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    pub fn below(&mut self, most: u64) -> u64 {
        if most == 0 { 0 } else { self.next() % most }
    }
}
