//! The core alone, without a host: the calls that an adapter makes, one after the other, with the scenario's clock.

mod answering;
mod facts;
pub mod service;
mod sharing;

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use tidegate::assets::{AssetRequest, Assets};
use tidegate::authority::Authority;
use tidegate::decision::Fields;
use tidegate::engine::delaying::{Books, Room};
use tidegate::engine::{Engine, Plan, Ticket};
use tidegate::fallback::{Context, MemoryLedgers, Progress, TICK, Upstreams};
use tidegate::health::monitor::Monitor;
use tidegate::key::Seed;
use tidegate::lease::{LEASE_IDLE, Leases};
use tidegate::metrics::Counters;
use tidegate::policy::Policy;
use tidegate::rls::ServiceOutcome;
use tidegate::shed::Pressure;
use tidegate::status::{Fingerprint, Sources};
use tidegate::store::memory::MemoryStore;
use tidegate::units::{Draw, Timestamp};

use super::document::{Does, SEED, START_MS, Scenario, Step};
use super::memory::KeptAnswers;
use super::seen::{Report, Seen};
use facts::Request;
use service::Service;

/// Runs a scenario; returns the complaint if it fails.
pub fn run(scenario: &Scenario) -> Option<String> {
    play(scenario, true).map_or_else(Some, |played| played.report.complaint())
}

/// The result of a scenario.
pub struct Played<'s> {
    pub report: Report<'s>,
    /// The steps whose requests had to wait for their turn.
    pub waited: BTreeSet<usize>,
    /// Whether the authority over shared limits was asked.
    pub has_asked: bool,
}

/// Runs a scenario, as on a host that can or cannot call a rate-limit service.
///
/// # Errors
/// What is wrong with its policy.
pub fn play(scenario: &Scenario, has_service: bool) -> Result<Played<'_>, String> {
    let policy = Policy::parse(&scenario.policy.to_string())
        .map_err(|problems| format!("\n  tests/scenarios/{}.json: {problems}", scenario.name))?;
    let mut host = Host::new(scenario, policy, has_service);
    for (number, step) in scenario.numbered() {
        host.advance(moment(step.at));
        host.does.extend(step.upstreams.clone());
        if let Some(name) = &step.ends {
            host.end(name);
            host.settle();
        }
        if step.send.is_some() {
            for left in (0..step.times).rev() {
                host.request(number, step, left == 0);
                host.settle();
            }
        }
    }
    // Requests that still wait get their turn.
    while let Some(due) = host.due() {
        host.advance(due);
    }
    for flight in std::mem::take(&mut host.flights) {
        host.report.wrong(flight.seen.number, "nothing came of it");
    }
    Ok(Played { report: host.report, waited: host.waited, has_asked: host.has_asked })
}

fn moment(at_ms: u64) -> Timestamp {
    Timestamp::from_millis(START_MS + at_ms)
}

struct Host<'s> {
    engine: Rc<Engine>,
    assets: Assets,
    upstreams: Upstreams,
    breakers: MemoryLedgers,
    kept: KeptAnswers,
    kept_bytes: (u32, u32),
    store: MemoryStore,
    local: MemoryStore,
    leases: Leases,
    authority: Authority,
    service: Option<Service>,
    counters: Counters,
    plan: Plan,
    room: Room,
    monitor: Option<Monitor>,
    shared_health: Vec<u8>,
    merged_at: Timestamp,
    ticked_at: Timestamp,
    now: Timestamp,
    does: BTreeMap<String, Does>,
    /// Requests that wait for their turn, or for their upstream.
    flights: Vec<Flight<'s>>,
    last_id: u32,
    report: Report<'s>,
    waited: BTreeSet<usize>,
    has_asked: bool,
}

/// A request in flight.
struct Flight<'s> {
    id: u32,
    request: Request<'s>,
    seen: Partial,
    route: Option<usize>,
    ticket: Option<Ticket>,
    began: Option<Timestamp>,
    fields: Vec<(String, String)>,
    asset: Option<AssetRequest>,
    progress: Option<Progress>,
    /// The upstream that holds its response back.
    held_by: Option<String>,
    /// The answer of the rate-limit service.
    service_outcome: ServiceOutcome,
    /// The last HTTP response of an upstream, for the case that a later upstream gives none.
    failure: Option<Does>,
}

/// The result of a request as far as it is known.
struct Partial {
    number: usize,
    is_last: bool,
    sent: Timestamp,
    seen: Seen,
}

impl<'s> Host<'s> {
    fn new(scenario: &'s Scenario, policy: Policy, has_service: bool) -> Self {
        let seed = Seed::from_bytes(SEED);
        let max_keys = policy.max_keys();
        let counters = Counters::new(policy.limits().len(), policy.tiers().len());
        let (assets, monitor, kept) = (Assets::new(&policy, seed), Monitor::new(&policy), policy.kept());
        let engine = Rc::new(Engine::new(policy, seed));
        let leases = sharing::leases(&engine);
        Self {
            room: engine.waiting_room(),
            upstreams: Upstreams::new(engine.policy()),
            service: has_service.then(|| Service::of(&engine)).flatten(),
            engine,
            assets,
            breakers: MemoryLedgers::default(),
            kept: KeptAnswers::default(),
            kept_bytes: (kept.max_object, kept.max_bytes),
            store: MemoryStore::new(max_keys),
            local: MemoryStore::new(max_keys),
            leases,
            authority: sharing::authority(),
            counters,
            plan: Plan::new(),
            monitor,
            shared_health: Vec::new(),
            merged_at: moment(0),
            ticked_at: moment(0),
            now: moment(0),
            does: scenario.upstreams.clone(),
            flights: Vec::new(),
            last_id: 0,
            report: Report::new(scenario, "native"),
            waited: BTreeSet::new(),
            has_asked: false,
        }
    }

    /// Moves the clock, and does what becomes due on the way.
    fn advance(&mut self, to: Timestamp) {
        while let Some(due) = self.due().filter(|due| *due <= to) {
            // As on the other hosts, also check just before that no request passes too early.
            self.now = Timestamp::from_nanos(due.as_nanos().saturating_sub(1_000_000)).max(self.now);
            self.end_leases();
            self.now = due;
            self.finish_waits();
        }
        self.now = to;
        self.finish_waits();
        self.settle();
        // After a step back of the clock, tick at once.
        if (self.now < self.ticked_at || self.now >= self.ticked_at.after(TICK)) && self.upstreams.ticks(self.now) {
            self.ticked_at = self.now;
            let mut context = Context { ledgers: &mut self.breakers, draw: Draw(0), now: self.now };
            self.upstreams.tick(&mut context);
        }
        self.end_leases();
        for ticket in self.flights.iter_mut().filter_map(|flight| flight.ticket.as_mut()) {
            self.engine.renew(ticket, &mut self.store, &mut self.local, &mut self.leases, &mut self.counters, self.now);
        }
        if let Some(monitor) = &mut self.monitor
            && (self.now < self.merged_at || self.now.since(self.merged_at).as_secs() >= 1)
        {
            self.merged_at = self.now;
            let known = Some(self.shared_health.as_slice()).filter(|known| !known.is_empty());
            let mut merged = Vec::new();
            if monitor.merge(known, &mut merged, self.now) {
                self.shared_health = merged;
                monitor.published();
            }
        }
    }

    /// When the next waiting request is due, in whole milliseconds, as the hosts' clocks move.
    fn due(&self) -> Option<Timestamp> {
        let due = self.now.after(self.room.next_due(self.now)?);
        Some(Timestamp::from_millis(due.as_nanos().div_ceil(1_000_000)))
    }

    fn end_leases(&mut self) {
        self.engine.end_leases(&mut self.leases, LEASE_IDLE, &mut self.store, &mut self.counters, self.now);
    }

    fn finish_waits(&mut self) {
        let Self { store, local, leases, counters, room, .. } = self;
        self.engine.renew_waiting(room, &mut Books { store, local, leases, counters }, self.now);
        let mut left = Vec::new();
        self.room.due(self.now, usize::MAX, &mut left);
        for left in left {
            let at = self.flights.iter().position(|flight| flight.id == left.id).expect("who waits is known");
            let mut flight = self.flights.remove(at);
            let Self { store, local, leases, counters, .. } = self;
            let mut books = Books { store, local, leases, counters };
            let decision = self.engine.finish(left, &mut self.plan, &mut books, self.now);
            flight.seen.seen.after_ms = self.now.since(flight.seen.sent).as_nanos() / 1_000_000;
            flight.fields = self.fields();
            match decision.refusal {
                Some(refusal) => self.refuse(flight, &refusal),
                None => self.admit(flight),
            }
        }
    }

    fn request(&mut self, number: usize, step: &'s Step, is_last: bool) {
        let request = Request::of(step);
        self.plan(&request);
        self.last_id += 1;
        let seen = Partial { number, is_last, sent: self.now, seen: Seen::default() };
        let flight = Flight {
            id: self.last_id,
            request,
            seen,
            route: self.plan.route(),
            ticket: None,
            began: None,
            fields: Vec::new(),
            asset: None,
            progress: None,
            held_by: None,
            service_outcome: ServiceOutcome::NotAsked,
            failure: None,
        };
        if let Some(page) = self.plan.page() {
            let (fingerprint, monitor) = (Fingerprint::of(""), self.monitor.as_ref());
            let engine = &self.engine;
            let sources = Sources {
                engine,
                fingerprint,
                monitor,
                upstreams: None,
                store: None,
                service: None,
                counters: None,
                live_keys: 0,
                now: self.now,
            };
            let reply = sources.reply(page);
            return self.reply(flight, &reply);
        }
        self.decide(flight);
    }

    fn plan(&mut self, request: &Request<'_>) {
        if let Some(monitor) = &self.monitor {
            self.plan.set_pressure(monitor.pressure(), draw(request.step));
        }
        self.engine.plan(request, &mut self.plan);
    }

    /// Plans again for a request that has waited for an answer. It has passed shedding when it arrived.
    fn plan_again(&mut self, flight: &Flight<'_>) {
        self.plan.set_pressure(Pressure::default(), Draw::default());
        self.engine.plan(&flight.request, &mut self.plan);
        self.plan.set_service_outcome(flight.service_outcome.clone());
    }

    /// Decides on the planned request.
    fn decide(&mut self, mut flight: Flight<'s>) {
        if self.plan.may_wait() {
            self.engine.offer(&mut self.plan, &self.room, self.now);
        }
        let Self { engine, plan, store, local, leases, counters, now, room, .. } = self;
        let decision = engine.decide(plan, store, local, leases, counters, *now);
        if decision.awaits.is_some() {
            engine.await_grant(plan, flight.id, leases);
            self.flights.push(flight);
            return;
        }
        if decision.consults {
            flight.service_outcome = self.consult(&flight.request);
            self.plan_again(&flight);
            return self.decide(flight);
        }
        if decision.delay.is_some() {
            self.waited.insert(flight.seen.number);
            let mut books = Books { store, local, leases, counters };
            engine.enter(plan, flight.id, room, &mut books).expect("what is delayed can wait");
            self.flights.push(flight);
            return;
        }
        flight.fields = self.fields();
        match decision.refusal {
            Some(refusal) => self.refuse(flight, &refusal),
            None => self.admit(flight),
        }
    }

    fn fields(&self) -> Vec<(String, String)> {
        let mut fields = Fields::default();
        fields.push_limits(&self.engine, &self.plan);
        fields.iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
    }
}

fn draw(step: &Step) -> Draw {
    Draw(step.draw())
}
