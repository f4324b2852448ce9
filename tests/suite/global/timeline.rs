//! The parts of the simulations of shared limits: a virtual clock, messages that can be lost, and one instance.

#![allow(dead_code, reason = "the benchmark and the tests do not need the same of it")]

use std::borrow::Cow;
use std::collections::BTreeMap;
use tidegate::authority::{Ask, Instance};
use tidegate::engine::{Answer, Engine, Plan};
use tidegate::key::Seed;
use tidegate::lease::Leases;
use tidegate::metrics::{Counters, Total};
use tidegate::request::RequestFacts;
use tidegate::store::memory::MemoryStore;
use tidegate::units::{Span, Timestamp};

/// How long an instance waits for the authority.
pub const DEADLINE_MS: u64 = 20;
/// The true time at the start, in microseconds. Not zero, so that clocks can be behind it.
const BEGIN_US: u64 = 1_700_000_000_000_000;

/// Rates of faults: for messages of a thousand, for crashes and disconnections of ten thousand, each time that a
/// simulation asks.
#[derive(Clone, Copy, Debug)]
pub struct Faults {
    pub lost: u64,
    pub doubled: u64,
    pub late: u64,
    pub crashes: u64,
    pub disconnections: u64,
    pub skew_ms: u64,
}

impl Faults {
    pub fn none() -> Self {
        Self { lost: 0, doubled: 0, late: 0, crashes: 0, disconnections: 0, skew_ms: 0 }
    }

    /// A random rate for each fault; with a chance of one in three it is zero.
    pub fn of(seed: u64) -> Self {
        let mut random = Random(seed ^ 0xfa17);
        let mut upto = |most: u64| if random.below(3) == 0 { 0 } else { random.below(most) };
        Self {
            lost: upto(300),
            doubled: upto(300),
            late: upto(300),
            crashes: upto(20),
            disconnections: upto(20),
            skew_ms: upto(5_000),
        }
    }
}

/// The true time, and the events to come.
pub struct Timeline<E> {
    pub random: Random,
    pub faults: Faults,
    pub now_us: u64,
    /// By time. A random number orders events of the same microsecond.
    events: BTreeMap<(u64, u64), E>,
}

impl<E> Timeline<E> {
    pub fn new(mut random: Random, faults: Faults) -> Self {
        Self { now_us: BEGIN_US + random.below(2_000_000), random, faults, events: BTreeMap::new() }
    }

    /// Advances to the next event, or to `until_us` if there is none before.
    pub fn next(&mut self, until_us: u64) -> Option<E> {
        let next = self.events.first_entry().filter(|next| next.key().0 <= until_us);
        let Some(((at, _), event)) = next.map(|next| next.remove_entry()) else {
            self.now_us = until_us;
            return None;
        };
        self.now_us = at;
        Some(event)
    }

    pub fn after(&mut self, us: u64, event: E) {
        self.events.insert((self.now_us + us, self.random.next()), event);
    }

    /// The next request at `rate` per thousand seconds, evenly distributed between now and twice the mean interval.
    pub fn arrive_later(&mut self, rate: u64, event: E) {
        let Some(mean) = 1_000_000_000_u64.checked_div(rate) else { return };
        let us = self.random.below(2 * mean + 1);
        self.after(us, event);
    }

    /// Sends a message between an instance and the authority; `late_us` draws the delay of a late message.
    pub fn send(&mut self, is_disconnected: bool, late_us: impl Fn(&mut Random) -> u64, event: impl Fn() -> E) {
        let copies = 1 + u64::from(self.random.below(1_000) < self.faults.doubled);
        for _ in 0..copies {
            if is_disconnected || self.random.below(1_000) < self.faults.lost {
                continue;
            }
            let is_late = self.random.below(1_000) < self.faults.late;
            let us = 250 + self.random.below(500) + if is_late { late_us(&mut self.random) } else { 0 };
            self.after(us, event());
        }
    }

    /// How far a clock is ahead of the true time.
    pub fn skew_ms(&mut self) -> u64 {
        self.random.below(self.faults.skew_ms + 1)
    }
}

/// One instance.
pub struct Site {
    pub store: MemoryStore,
    pub local: MemoryStore,
    pub leases: Leases,
    pub counters: Counters,
    pub plan: Plan,
    skew_ms: u64,
    /// Waiting requests, each with its time of arrival.
    waiting: BTreeMap<u32, u64>,
    next_id: u32,
    /// Raised by a crash: messages and requests of an earlier life are dropped.
    pub life: u32,
    pub disconnected: bool,
    tends_at: u64,
}

/// The result of one decision on a request.
pub enum Outcome {
    Waits { for_the_first_time: bool },
    Decided { is_admitted: bool, waited_us: u64 },
}

impl Site {
    pub fn new<E>(life: u32, engine: &Engine, time: &mut Timeline<E>) -> Self {
        let mut leases = Leases::none();
        let instance = Instance::new(time.random.next());
        leases.share(engine.sharing(instance, Span::from_millis(DEADLINE_MS)).unwrap());
        Self {
            store: MemoryStore::new(1_000),
            local: MemoryStore::new(1_000),
            leases,
            counters: Counters::new(1, 1),
            plan: Plan::new(),
            skew_ms: time.skew_ms(),
            waiting: BTreeMap::new(),
            next_id: 0,
            life,
            disconnected: false,
            tends_at: u64::MAX,
        }
    }

    /// This instance's clock at the true time `us`.
    pub fn clock(&self, us: u64) -> Timestamp {
        Timestamp::from_nanos(us * 1_000).after(Span::from_millis(self.skew_ms))
    }

    /// The number of a new request.
    pub fn arrival(&mut self) -> u32 {
        self.next_id += 1;
        self.next_id
    }

    /// Decides on a request, again if it has waited since `since`. `now` is this instance's clock, `us`
    /// the true time.
    pub fn decide(&mut self, engine: &Engine, id: u32, since: Option<Timestamp>, now: Timestamp, us: u64) -> Outcome {
        engine.plan(&Plain, &mut self.plan);
        if let Some(since) = since {
            self.plan.resume(since);
        }
        let Self { store, local, leases, counters, plan, .. } = self;
        let decision = engine.decide(plan, store, local, leases, counters, now);
        if decision.awaits.is_some() {
            let for_the_first_time = !self.waiting.contains_key(&id);
            self.waiting.entry(id).or_insert(us);
            engine.await_grant(&self.plan, id, &mut self.leases);
            return Outcome::Waits { for_the_first_time };
        }
        let is_admitted = decision.refusal.is_none();
        let waited_us = self.waiting.remove(&id).map_or(0, |began| us - began);
        Outcome::Decided { is_admitted, waited_us }
    }

    pub fn granted(&mut self, engine: &Engine, answer: &Answer, now: Timestamp) {
        engine.granted(answer, &mut self.leases, &mut self.store, &mut self.counters, now);
    }

    pub fn tend(&mut self, engine: &Engine, now: Timestamp) {
        self.tends_at = u64::MAX;
        engine.tend(&mut self.leases, &mut self.store, &mut self.counters, now);
    }

    /// The asks to send now.
    pub fn asks(&mut self, now: Timestamp) -> Vec<Ask> {
        let mut asks = Vec::new();
        self.leases.global().unwrap().asks(now, &mut asks);
        asks
    }

    /// The microseconds until the leases next need attention, unless that is already scheduled.
    pub fn due_us(&mut self, now: Timestamp, us: u64) -> Option<u64> {
        let due_us = self.leases.global().unwrap().next_due(now)?.as_nanos().div_ceil(1_000);
        if us + due_us >= self.tends_at {
            return None;
        }
        self.tends_at = us + due_us;
        Some(due_us)
    }

    /// The number of asks since the last call.
    pub fn take_asks(&mut self) -> u64 {
        self.counters.take_total(Total::Asks)
    }
}

/// The request that every client sends.
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

/// SplitMix64.
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

    /// A seed for an engine.
    pub fn seed(&mut self) -> Seed {
        Seed::new([self.next(), self.next()])
    }
}
