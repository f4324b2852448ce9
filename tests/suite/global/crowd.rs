//! Instances with requests in flight, an authority, and what lies between them, on a virtual clock.

use super::world::{Faults, Plain, Random};
use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use tidegate::authority::{Ask, Authority, Instance};
use tidegate::engine::{Answer, Engine, Plan, Ticket};
use tidegate::key::Seed;
use tidegate::lease::Leases;
use tidegate::metrics::{Counters, Total};
use tidegate::policy::Policy;
use tidegate::store::memory::MemoryStore;
use tidegate::units::{Span, Timestamp};

pub const LEASE_MS: u64 = 10_000;
/// No request lasts longer: less than half a lease, for which each has its permit in any case.
const LONGEST_MS: u64 = 4_900;
const DEADLINE_MS: u64 = 20;
/// When it begins, by the true clock, in microseconds.
const BEGIN_US: u64 = 1_700_000_000_000_000;

pub struct Setup {
    pub permits: u64,
    pub sharing: &'static str,
    pub on_store_failure: &'static str,
    /// Requests of each instance in a thousand seconds.
    pub rates: Vec<u64>,
    /// How long requests last, mostly.
    pub lasts_ms: u64,
}

/// What one instance has seen.
#[derive(Clone, Copy, Debug, Default)]
pub struct Seen {
    pub requests: u64,
    pub admitted: u64,
    pub waited: u64,
    /// The longest time between two admissions, in ms.
    pub longest_gap_ms: u64,
    last_us: u64,
}

pub struct Crowd {
    random: Random,
    faults: Faults,
    engine: Engine,
    authority: Authority,
    authority_skew_ms: u64,
    pub sites: Vec<Site>,
    setup: Setup,
    now_us: u64,
    queue: BinaryHeap<Reverse<(u64, u64, usize)>>,
    events: Vec<Option<Event>>,
    /// The most that were in flight at one time.
    pub most_in_flight: u64,
    /// Permits times microseconds that were in flight.
    in_use: u64,
    in_use_since: u64,
    last_change_us: u64,
}

enum Event {
    Arrival(usize),
    End { at: usize, life: u32, number: u64 },
    Asked { ask: Ask, from: usize, life: u32 },
    Answered { answer: Answer, to: usize, life: u32 },
    Tend(usize),
    Renew,
    Minute,
    Joined(usize),
}

pub struct Site {
    store: MemoryStore,
    local: MemoryStore,
    leases: Leases,
    counters: Counters,
    plan: Plan,
    skew_ms: u64,
    waiting: BTreeMap<u32, u64>,
    next_id: u32,
    /// Messages and requests of an earlier life are gone.
    life: u32,
    parted: bool,
    tends_at: u64,
    in_flight: BTreeMap<u64, Ticket>,
    next_number: u64,
    pub seen: Seen,
}

impl Crowd {
    pub fn new(seed: u64, setup: Setup, faults: Faults) -> Self {
        let Setup { permits, sharing, on_store_failure, .. } = &setup;
        let policy = format!(
            r#"{{ "version": 1, "limits": [ {{ "name": "a", "key": [], "algorithm": "concurrency", "lease": "{LEASE_MS}ms",
                "quota": {{ "permits": {permits} }}, "scope": "global", "sharing": "{sharing}",
                "on_store_failure": "{on_store_failure}" }} ] }}"#
        );
        let mut random = Random(seed);
        let engine = Engine::new(Policy::parse(&policy).unwrap(), Seed::new([random.next(), random.next()]));
        let now_us = BEGIN_US + random.below(2_000_000);
        let mut crowd = Self {
            authority_skew_ms: random.below(faults.skew_ms + 1),
            faults,
            authority: Authority::new(10),
            sites: Vec::new(),
            now_us,
            queue: BinaryHeap::new(),
            events: Vec::new(),
            most_in_flight: 0,
            in_use: 0,
            in_use_since: now_us,
            last_change_us: now_us,
            engine,
            random,
            setup,
        };
        for at in 0..crowd.setup.rates.len() {
            let site = crowd.site(0);
            crowd.sites.push(site);
            crowd.arrive_later(at);
        }
        crowd.after(1_000, Event::Minute);
        crowd.after(2_000_000, Event::Renew);
        crowd
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
        self.count();
        (self.in_use, self.in_use_since) = (0, self.now_us);
        for site in &mut self.sites {
            site.seen = Seen { last_us: self.now_us, ..Seen::default() };
            site.counters.take_total(Total::Asks);
        }
    }

    /// Which part of the permits was in use on average.
    pub fn used(&mut self) -> f64 {
        self.count();
        self.in_use as f64 / (self.now_us - self.in_use_since) as f64 / self.setup.permits as f64
    }

    pub fn asks(&mut self) -> u64 {
        self.sites.iter_mut().map(|site| site.counters.take_total(Total::Asks)).sum()
    }

    pub fn in_flight(&self) -> u64 {
        self.sites.iter().map(|site| site.in_flight.len() as u64).sum()
    }

    /// How many requests an instance has in flight.
    pub fn in_flight_at(&self, at: usize) -> usize {
        self.sites[at].in_flight.len()
    }

    pub fn set_rates(&mut self, rates: Vec<u64>) {
        self.setup.rates = rates;
        (0..self.sites.len()).for_each(|at| self.arrive_later(at));
    }

    pub fn crash(&mut self, at: usize) {
        self.count();
        let (life, seen) = (self.sites[at].life + 1, self.sites[at].seen);
        self.sites[at] = Site { seen, ..self.site(life) };
    }

    pub fn part_all(&mut self) {
        self.sites.iter_mut().for_each(|site| site.parted = true);
    }

    pub fn join_all(&mut self) {
        self.sites.iter_mut().for_each(|site| site.parted = false);
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
            in_flight: BTreeMap::new(),
            next_number: 0,
            seen: Seen::default(),
        }
    }

    fn step(&mut self, event: Event) {
        match event {
            Event::Arrival(at) => {
                let site = &mut self.sites[at];
                site.seen.requests += 1;
                site.next_id += 1;
                let id = site.next_id;
                self.decide(at, id, None);
                self.settle(at);
                self.arrive_later(at);
            }
            Event::End { at, life, number } => {
                self.count();
                let now = self.site_now(at);
                let Site { store, local, leases, counters, in_flight, life: now_living, .. } = &mut self.sites[at];
                if life == *now_living
                    && let Some(ticket) = in_flight.remove(&number)
                {
                    self.engine.release(ticket, store, local, leases, counters, now);
                    self.settle(at);
                }
            }
            Event::Asked { ask, from, life } => {
                let now_ms = self.now_us / 1_000 + self.authority_skew_ms;
                let answer = Answer::to(&ask, Some(self.authority.answer(&ask, now_ms)));
                self.send(from, || Event::Answered { answer, to: from, life });
            }
            Event::Answered { answer, to, life } => {
                if life == self.sites[to].life {
                    let now = self.site_now(to);
                    let Site { store, leases, counters, .. } = &mut self.sites[to];
                    self.engine.granted(&answer, leases, store, counters, now);
                    self.settle(to);
                }
            }
            Event::Tend(at) => {
                let now = self.site_now(at);
                let Site { store, leases, counters, tends_at, .. } = &mut self.sites[at];
                *tends_at = u64::MAX;
                self.engine.tend(leases, store, counters, now);
                self.settle(at);
            }
            Event::Renew => {
                for at in 0..self.sites.len() {
                    let now = self.site_now(at);
                    let Site { store, local, leases, counters, in_flight, .. } = &mut self.sites[at];
                    for ticket in in_flight.values_mut() {
                        self.engine.renew(ticket, store, local, leases, counters, now);
                    }
                }
                self.after(2_000_000, Event::Renew);
            }
            Event::Minute => {
                for at in 0..self.sites.len() {
                    if self.random.below(10_000) < self.faults.crashes {
                        self.crash(at);
                    }
                    if self.random.below(10_000) < self.faults.parts {
                        self.sites[at].parted = true;
                        let most = 30_000 * self.random.below(1_000);
                        let lasts = self.random.below(1 + most);
                        self.after(lasts, Event::Joined(at));
                    }
                }
                self.after(50_000, Event::Minute);
            }
            Event::Joined(at) => self.sites[at].parted = false,
        }
    }

    fn decide(&mut self, at: usize, id: u32, since: Option<Timestamp>) {
        self.count();
        let now = self.site_now(at);
        let site = &mut self.sites[at];
        self.engine.plan(&Plain, &mut site.plan);
        if let Some(since) = since {
            site.plan.resume(since);
        }
        let Site { store, local, leases, counters, plan, .. } = site;
        let decision = self.engine.decide(plan, store, local, leases, counters, now);
        if decision.awaits.is_some() {
            site.seen.waited += u64::from(!site.waiting.contains_key(&id));
            site.waiting.entry(id).or_insert(self.now_us);
            self.engine.await_grant(&site.plan, id, &mut site.leases);
            return;
        }
        site.waiting.remove(&id);
        if decision.refusal.is_some() {
            return;
        }
        site.seen.admitted += 1;
        site.seen.longest_gap_ms = site.seen.longest_gap_ms.max((self.now_us - site.seen.last_us) / 1_000);
        site.seen.last_us = self.now_us;
        // Without a ticket it holds nothing, since it was let pass uncounted.
        let Some(ticket) = site.plan.ticket() else { return };
        site.next_number += 1;
        let (number, life) = (site.next_number, site.life);
        site.in_flight.insert(number, ticket);
        // Some last much longer than the others.
        let most = if self.random.below(40) == 0 { LONGEST_MS } else { 2 * self.setup.lasts_ms };
        let us = self.random.below(most.min(LONGEST_MS) * 1_000);
        self.after(us, Event::End { at, life, number });
        self.most_in_flight = self.most_in_flight.max(self.in_flight());
    }

    /// Adds up how much was in use, before that changes.
    fn count(&mut self) {
        self.in_use += self.in_flight() * (self.now_us - self.last_change_us);
        self.last_change_us = self.now_us;
    }

    /// Sends what is to be sent, and decides those again who are ready.
    fn settle(&mut self, at: usize) {
        let mut asks = Vec::new();
        let now = self.site_now(at);
        while let Some(wake) = self.sites[at].leases.global().unwrap().ready() {
            self.decide(at, wake.id, Some(wake.since));
        }
        self.sites[at].leases.global().unwrap().asks(now, &mut asks);
        let life = self.sites[at].life;
        for ask in asks {
            self.send(at, || Event::Asked { ask, from: at, life });
        }
        let due = self.sites[at].leases.global().unwrap().next_due(now);
        if let Some(due) = due.map(|due| self.now_us + due.as_nanos().div_ceil(1_000))
            && due < self.sites[at].tends_at
        {
            self.sites[at].tends_at = due;
            self.after(due - self.now_us, Event::Tend(at));
        }
    }

    /// One way between an instance and the authority.
    fn send(&mut self, of: usize, event: impl Fn() -> Event) {
        let copies = 1 + u64::from(self.random.below(1_000) < self.faults.doubled);
        for _ in 0..copies {
            if self.sites[of].parted || self.random.below(1_000) < self.faults.lost {
                continue;
            }
            let is_late = self.random.below(1_000) < self.faults.late;
            let most = if is_late { 15_000 * self.random.below(1_000) } else { 0 };
            let late_us = self.random.below(1 + most);
            let us = 250 + self.random.below(500) + late_us;
            self.after(us, event());
        }
    }

    fn arrive_later(&mut self, at: usize) {
        let Some(mean) = 1_000_000_000_u64.checked_div(self.setup.rates[at]) else { return };
        // Evenly between nothing and twice the mean.
        let us = self.random.below(2 * mean + 1);
        self.after(us, Event::Arrival(at));
    }

    fn after(&mut self, us: u64, event: Event) {
        self.queue.push(Reverse((self.now_us + us, self.random.next(), self.events.len())));
        self.events.push(Some(event));
    }

    /// What an instance takes for the time; at times it has read its clock a while ago.
    fn site_now(&mut self, at: usize) -> Timestamp {
        let ago_us = if self.random.below(4) == 0 { self.random.below(3_000) } else { 0 };
        Timestamp::from_nanos((self.now_us - ago_us) * 1_000).after(Span::from_millis(self.sites[at].skew_ms))
    }
}
