//! Instances with requests in flight, an authority, and the messages between them, on a virtual clock.

use super::timeline::{Faults, Outcome, Random, Site, Timeline};
use std::collections::BTreeMap;
use tidegate::authority::{Ask, Authority};
use tidegate::engine::{Answer, Engine, Ticket};
use tidegate::policy::Policy;
use tidegate::units::Timestamp;

pub const LEASE_MS: u64 = 10_000;
/// The longest request: less than half a lease, for which every request is guaranteed its permit.
const LONGEST_MS: u64 = 4_900;

pub struct Setup {
    pub permits: u64,
    pub sharing: &'static str,
    pub on_store_failure: &'static str,
    /// Requests per instance in a thousand seconds.
    pub rates: Vec<u64>,
    /// The mean duration of most requests.
    pub lasts_ms: u64,
}

/// What one instance has counted.
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
    time: Timeline<Event>,
    engine: Engine,
    authority: Authority,
    authority_skew_ms: u64,
    sites: Vec<Site>,
    /// For each instance, its requests in flight, by numbers that are never reused.
    in_flight: Vec<BTreeMap<u64, Ticket>>,
    next_number: u64,
    /// For each instance.
    pub seen: Vec<Seen>,
    setup: Setup,
    /// The maximum number in flight at once.
    pub most_in_flight: u64,
    /// Permits in use, times microseconds.
    in_use: u64,
    in_use_since: u64,
    last_change_us: u64,
}

enum Event {
    Arrival(usize),
    End { at: usize, number: u64 },
    Asked { ask: Ask, from: usize, life: u32 },
    Answered { answer: Answer, to: usize, life: u32 },
    Tend(usize),
    Renew,
    Minute,
    Reconnected(usize),
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
        let engine = Engine::new(Policy::parse(&policy).unwrap(), random.seed());
        let authority_skew_ms = random.below(faults.skew_ms + 1);
        let time = Timeline::new(random, faults);
        let mut crowd = Self {
            authority: Authority::new(10),
            authority_skew_ms,
            sites: Vec::new(),
            in_flight: setup.rates.iter().map(|_| BTreeMap::new()).collect(),
            next_number: 0,
            seen: vec![Seen::default(); setup.rates.len()],
            most_in_flight: 0,
            in_use: 0,
            in_use_since: time.now_us,
            last_change_us: time.now_us,
            engine,
            time,
            setup,
        };
        for at in 0..crowd.setup.rates.len() {
            let site = Site::new(0, &crowd.engine, &mut crowd.time);
            crowd.sites.push(site);
            crowd.arrive_later(at);
        }
        crowd.time.after(1_000, Event::Minute);
        crowd.time.after(2_000_000, Event::Renew);
        crowd
    }

    pub fn run(&mut self, ms: u64) {
        let until = self.time.now_us + ms * 1_000;
        while let Some(event) = self.time.next(until) {
            self.step(event);
        }
    }

    pub fn begin_measuring(&mut self) {
        self.count();
        (self.in_use, self.in_use_since) = (0, self.time.now_us);
        self.seen.fill(Seen { last_us: self.time.now_us, ..Seen::default() });
        self.sites.iter_mut().for_each(|site| _ = site.take_asks());
    }

    /// The average share of the permits that was in use.
    pub fn used(&mut self) -> f64 {
        self.count();
        self.in_use as f64 / (self.time.now_us - self.in_use_since) as f64 / self.setup.permits as f64
    }

    pub fn asks(&mut self) -> u64 {
        self.sites.iter_mut().map(Site::take_asks).sum()
    }

    pub fn in_flight(&self) -> u64 {
        self.in_flight.iter().map(|tickets| tickets.len() as u64).sum()
    }

    /// The number of requests that an instance has in flight.
    pub fn in_flight_at(&self, at: usize) -> usize {
        self.in_flight[at].len()
    }

    pub fn set_rates(&mut self, rates: Vec<u64>) {
        self.setup.rates = rates;
        (0..self.sites.len()).for_each(|at| self.arrive_later(at));
    }

    pub fn crash(&mut self, at: usize) {
        self.count();
        let life = self.sites[at].life + 1;
        self.sites[at] = Site::new(life, &self.engine, &mut self.time);
        self.in_flight[at].clear();
    }

    pub fn disconnect_all(&mut self) {
        self.sites.iter_mut().for_each(|site| site.disconnected = true);
    }

    pub fn reconnect_all(&mut self) {
        self.sites.iter_mut().for_each(|site| site.disconnected = false);
    }

    fn step(&mut self, event: Event) {
        match event {
            Event::Arrival(at) => {
                self.seen[at].requests += 1;
                let id = self.sites[at].arrival();
                self.decide(at, id, None);
                self.settle(at);
                self.arrive_later(at);
            }
            Event::End { at, number } => {
                self.count();
                let now = self.site_now(at);
                if let Some(ticket) = self.in_flight[at].remove(&number) {
                    let Site { store, local, leases, counters, .. } = &mut self.sites[at];
                    self.engine.release(ticket, store, local, leases, counters, now);
                    self.settle(at);
                }
            }
            Event::Asked { ask, from, life } => {
                let now_ms = self.time.now_us / 1_000 + self.authority_skew_ms;
                let answer = Answer::to(&ask, Some(self.authority.answer(&ask, now_ms)));
                self.send(from, || Event::Answered { answer, to: from, life });
            }
            Event::Answered { answer, to, life } => {
                if life == self.sites[to].life {
                    let now = self.site_now(to);
                    self.sites[to].granted(&self.engine, &answer, now);
                    self.settle(to);
                }
            }
            Event::Tend(at) => {
                let now = self.site_now(at);
                self.sites[at].tend(&self.engine, now);
                self.settle(at);
            }
            Event::Renew => {
                for at in 0..self.sites.len() {
                    let now = self.site_now(at);
                    let Site { store, local, leases, counters, .. } = &mut self.sites[at];
                    for ticket in self.in_flight[at].values_mut() {
                        self.engine.renew(ticket, store, local, leases, counters, now);
                    }
                }
                self.time.after(2_000_000, Event::Renew);
            }
            Event::Minute => {
                for at in 0..self.sites.len() {
                    if self.time.random.below(10_000) < self.time.faults.crashes {
                        self.crash(at);
                    }
                    if self.time.random.below(10_000) < self.time.faults.disconnections {
                        self.sites[at].disconnected = true;
                        let most = 30_000 * self.time.random.below(1_000);
                        let lasts = self.time.random.below(1 + most);
                        self.time.after(lasts, Event::Reconnected(at));
                    }
                }
                self.time.after(50_000, Event::Minute);
            }
            Event::Reconnected(at) => self.sites[at].disconnected = false,
        }
    }

    fn decide(&mut self, at: usize, id: u32, since: Option<Timestamp>) {
        self.count();
        let now = self.site_now(at);
        let seen = &mut self.seen[at];
        match self.sites[at].decide(&self.engine, id, since, now, self.time.now_us) {
            Outcome::Waits { for_the_first_time } => seen.waited += u64::from(for_the_first_time),
            Outcome::Decided { is_admitted: true, .. } => {
                seen.admitted += 1;
                seen.longest_gap_ms = seen.longest_gap_ms.max((self.time.now_us - seen.last_us) / 1_000);
                seen.last_us = self.time.now_us;
                self.begin(at);
            }
            Outcome::Decided { .. } => {}
        }
    }

    /// Puts the request that was admitted last in flight.
    fn begin(&mut self, at: usize) {
        // A request that was admitted without being counted has no ticket and holds nothing.
        let Some(ticket) = self.sites[at].plan.ticket() else { return };
        self.next_number += 1;
        let number = self.next_number;
        self.in_flight[at].insert(number, ticket);
        // Some last much longer than the others.
        let most = if self.time.random.below(40) == 0 { LONGEST_MS } else { 2 * self.setup.lasts_ms };
        let us = self.time.random.below(most.min(LONGEST_MS) * 1_000);
        self.time.after(us, Event::End { at, number });
        self.most_in_flight = self.most_in_flight.max(self.in_flight());
    }

    /// Adds up the permits in use, before their number changes.
    fn count(&mut self) {
        self.in_use += self.in_flight() * (self.time.now_us - self.last_change_us);
        self.last_change_us = self.time.now_us;
    }

    /// Sends the pending asks, and decides again on the requests that are ready.
    fn settle(&mut self, at: usize) {
        let now = self.site_now(at);
        while let Some(wake) = self.sites[at].leases.global().unwrap().ready() {
            self.decide(at, wake.id, Some(wake.since));
        }
        let life = self.sites[at].life;
        for ask in self.sites[at].asks(now) {
            self.send(at, || Event::Asked { ask, from: at, life });
        }
        if let Some(us) = self.sites[at].due_us(now, self.time.now_us) {
            self.time.after(us, Event::Tend(at));
        }
    }

    fn send(&mut self, of: usize, event: impl Fn() -> Event) {
        self.time.send(self.sites[of].disconnected, mostly_soon, event);
    }

    fn arrive_later(&mut self, at: usize) {
        self.time.arrive_later(self.setup.rates[at], Event::Arrival(at));
    }

    /// The instance's clock; sometimes it was read up to 3 ms ago.
    fn site_now(&mut self, at: usize) -> Timestamp {
        let ago_us = if self.time.random.below(4) == 0 { self.time.random.below(3_000) } else { 0 };
        self.sites[at].clock(self.time.now_us - ago_us)
    }
}

/// In microseconds, up to fifteen seconds, mostly much less.
fn mostly_soon(random: &mut Random) -> u64 {
    let most = 15_000 * random.below(1_000);
    random.below(1 + most)
}
