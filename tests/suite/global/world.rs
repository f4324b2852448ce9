//! Instances, an authority, and the messages between them, on a virtual clock.

#![allow(dead_code, reason = "the benchmark and the tests do not need the same of it")]

use super::timeline::{Faults, Outcome, Random, Site, Timeline};
use std::collections::BTreeMap;
use tidegate::authority::{Ask, Authority, Shared, Terms};
use tidegate::engine::{Answer, Engine};
use tidegate::policy::{Policy, TierIndex};
use tidegate::units::Timestamp;

pub struct Setup<'a> {
    pub algorithm: &'a str,
    pub quota: &'a str,
    pub sharing: &'a str,
    pub on_store_failure: &'a str,
    /// Requests per instance in a thousand seconds.
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

#[derive(Clone, Copy, Default)]
pub struct Measured {
    pub requests: u64,
    pub admitted: u64,
    pub waited: u64,
    pub asks: u64,
}

pub struct World {
    time: Timeline<Event>,
    engine: Engine,
    authority: Authority,
    authority_skew_ms: u64,
    instances: Vec<Site>,
    rates: Vec<u64>,
    terms: Terms,
    /// The time of each admission, by the authority's clock.
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
    Reconnected(usize),
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
        let engine = Engine::new(policy, random.seed());
        let authority_skew_ms = random.below(faults.skew_ms + 1);
        let mut world = Self {
            time: Timeline::new(random, faults),
            authority: Authority::new(1_000),
            authority_skew_ms,
            instances: Vec::new(),
            rates: setup.rates.clone(),
            terms,
            used: Vec::new(),
            measured: Measured::default(),
            longest_wait_us: 0,
            engine,
        };
        for at in 0..setup.rates.len() {
            let site = Site::new(0, &world.engine, &mut world.time);
            world.instances.push(site);
            world.arrive_later(at);
        }
        world.time.after(1_000, Event::Minute);
        world
    }

    pub fn run(&mut self, ms: u64) {
        let until = self.time.now_us + ms * 1_000;
        while let Some(event) = self.time.next(until) {
            self.step(event);
        }
    }

    pub fn begin_measuring(&mut self) {
        self.instances.iter_mut().for_each(|site| _ = site.take_asks());
        self.measured = Measured::default();
    }

    pub fn measured(&mut self) -> Measured {
        let asks = self.instances.iter_mut().map(Site::take_asks).sum();
        Measured { asks, ..self.measured }
    }

    pub fn longest_wait_ms(&self) -> u64 {
        self.longest_wait_us / 1_000
    }

    /// Whether every instance considers the store available.
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
        self.instances[at] = Site::new(life, &self.engine, &mut self.time);
    }

    pub fn disconnect_all(&mut self) {
        self.instances.iter_mut().for_each(|site| site.disconnected = true);
    }

    pub fn reconnect_all(&mut self) {
        self.instances.iter_mut().for_each(|site| site.disconnected = false);
    }

    /// Whether all admissions conform to the algorithm, by the authority's clock.
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
                // A grant for waiting requests is in transit for at most this long.
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

    fn step(&mut self, event: Event) {
        match event {
            Event::Arrival(at) => {
                self.measured.requests += 1;
                let id = self.instances[at].arrival();
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
                    self.instances[to].granted(&self.engine, &answer, now);
                    self.settle(to);
                }
            }
            Event::Tend(at) => {
                let now = self.site_now(at);
                self.instances[at].tend(&self.engine, now);
                self.settle(at);
            }
            Event::Minute => {
                for at in 0..self.instances.len() {
                    if self.time.random.below(10_000) < self.time.faults.crashes {
                        self.crash(at);
                    }
                    if self.time.random.below(10_000) < self.time.faults.disconnections {
                        self.instances[at].disconnected = true;
                        let lasts = self.time.random.below(1_000_000);
                        self.time.after(lasts, Event::Reconnected(at));
                    }
                }
                self.time.after(5_000, Event::Minute);
            }
            Event::Reconnected(at) => self.instances[at].disconnected = false,
        }
    }

    fn decide(&mut self, at: usize, id: u32, since: Option<Timestamp>) {
        let now = self.site_now(at);
        match self.instances[at].decide(&self.engine, id, since, now, self.time.now_us) {
            Outcome::Waits { for_the_first_time } => self.measured.waited += u64::from(for_the_first_time),
            Outcome::Decided { is_admitted, waited_us } => {
                self.longest_wait_us = self.longest_wait_us.max(waited_us);
                if is_admitted {
                    self.measured.admitted += 1;
                    self.used.push(self.authority_us());
                }
            }
        }
    }

    /// Sends the pending asks, and decides again on the requests that are ready.
    fn settle(&mut self, at: usize) {
        let now = self.site_now(at);
        while let Some(wake) = self.instances[at].leases.global().unwrap().ready() {
            self.decide(at, wake.id, Some(wake.since));
        }
        let life = self.instances[at].life;
        for ask in self.instances[at].asks(now) {
            self.send(at, || Event::Asked { ask, from: at, life });
        }
        if let Some(us) = self.instances[at].due_us(now, self.time.now_us) {
            self.time.after(us, Event::Tend(at));
        }
    }

    fn send(&mut self, of: usize, event: impl Fn() -> Event) {
        self.time.send(self.instances[of].disconnected, |random| random.below(400_000), event);
    }

    fn arrive_later(&mut self, at: usize) {
        self.time.arrive_later(self.rates[at], Event::Arrival(at));
    }

    fn site_now(&self, at: usize) -> Timestamp {
        self.instances[at].clock(self.time.now_us)
    }

    fn authority_us(&self) -> u64 {
        self.time.now_us + self.authority_skew_ms * 1_000
    }
}

/// The algorithm of this name.
pub fn shared(word: &str) -> Shared {
    match word {
        "fixed-window" => Shared::FixedWindow,
        "sliding-window" => Shared::SlidingWindow,
        "concurrency" => Shared::InFlight,
        _ => Shared::TokenBucket,
    }
}
