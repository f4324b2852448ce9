//! A policy in force in an isolate, and the way of one request through it.

use crate::chain::Known;
use crate::facts::{Facts, without_empty_body};
use crate::flight::Flight;
use crate::host::{self, Request};
use crate::memory::{Memory, Working};
use crate::names;
use crate::now;
use crate::order;
use crate::redis;
use crate::reply;
use crate::shared_limits::{self, GrantWait};
use crate::task::Task;
use crate::verdict::Verdict;
use crate::wait::{self, Ended, Wait};
use std::cell::RefCell;
use std::rc::Rc;
use tidegate::assets::Assets;
use tidegate::decision::Fields;
use tidegate::delay::Departed;
use tidegate::engine::delaying::{Room, WaitingRequest};
use tidegate::engine::{Engine, Plan, Ticket};
use tidegate::fallback::Upstreams;
use tidegate::health::monitor::Monitor;
use tidegate::lease::Leases;
use tidegate::metrics::Counters;
use tidegate::mode::ModeWord;
use tidegate::policy::Policy;
use tidegate::rls::ServiceOutcome;
use tidegate::sorted_map::SortedMap;
use tidegate::stale::{KeyHasher, Recent};
use tidegate::status::{Fingerprint, Page, Sources, UpstreamsNow};
use tidegate::store::memory::MemoryStore;
use tidegate::table::Survey;
use tidegate::units::{Draw, Span, Timestamp};
use wasm_bindgen::JsValue;

/// A policy in force, and the memory that its decisions use.
pub struct Gate {
    pub engine: Engine,
    pub assets: Assets,
    fingerprint: Fingerprint,
    pub memory: Rc<Memory>,
    /// The authority over shared limits, if that is Redis.
    pub redis: Option<Rc<redis::Store>>,
    work: RefCell<Work>,
}

/// The state that a decision uses. No borrow outlives a call, and calls into workerd do not call back.
pub struct Work {
    /// The counts of limits of the scope `instance`: this isolate is the instance. Lent by [`Memory`] for each call, as
    /// is `local`.
    pub store: MemoryStore,
    pub local: MemoryStore,
    /// The permits leased from shared limits.
    pub leases: Leases,
    /// The requests whose wait for the authority is over but who have not polled since, and when each began to wait.
    pub woken: SortedMap<u32, Timestamp>,
    pub counters: Counters,
    pub plan: Plan,
    fields: Fields,
    pub room: Room,
    /// Spare memory for the list of requests that leave the room.
    pub left: Vec<Departed<WaitingRequest>>,
    /// The requests that have left the room but have not polled since.
    pub ended: SortedMap<u32, Ended>,
    /// The number of the last request that began to wait.
    pub last_id: u32,
    /// Present if the policy uses the service's health.
    pub health: Option<Health>,
    pub known: Known,
    /// The responses kept recently, and how many are being collected.
    pub recent: Recent,
    pub collected: u32,
    survey: Survey,
}

/// The service's health as seen by this isolate, updated once a second.
pub struct Health {
    pub monitor: Monitor,
    known: Vec<u8>,
    merged: Vec<u8>,
    merged_at: Timestamp,
}

impl Gate {
    /// Puts a policy in force. `mode` overrides the policy's own mode. Counts continue from the policy before.
    ///
    /// # Errors
    /// All problems of the policy, one per line.
    pub fn new(text: &str, mode: Option<ModeWord>, env: &JsValue, before: Option<&Self>) -> Result<Self, String> {
        let policy = mode.map_or_else(|| Policy::parse(text), |mode| Policy::parse_in(mode, text));
        let policy = policy.map_err(|problems| {
            problems.iter().map(|problem| format!("tidegate: policy error: {problem}")).collect::<Vec<_>>().join("\n")
        })?;
        let memory = match before.filter(|before| before.memory.max_keys == policy.max_keys()) {
            Some(before) => Rc::clone(&before.memory),
            None => Memory::new(policy.max_keys())?,
        };
        let counters = Counters::new(policy.limits().len(), policy.tiers().len());
        let health = Monitor::new(&policy).map(Health::new);
        let assets = Assets::new(&policy, KeyHasher::Everywhere);
        let (redis, secret) = redis::Store::of(&policy, env)?.unzip();
        let mut engine = Engine::new(policy, memory.seed);
        if let Some(secret) = secret.flatten() {
            engine.set_shared_secret(secret.as_bytes());
        }
        let has_objects = host::has(env, "TIDEGATE_AUTHORITY");
        let leases = shared_limits::leases(&engine, has_objects || redis.is_some())?;
        let mut upstreams = Upstreams::new(engine.policy());
        if has_objects || redis.is_some() {
            engine.share_breakers(&mut upstreams, memory.instance);
        }
        // Shared breakers agree through their authority, so they are left out of what is published to other locations.
        memory.broadcast.borrow_mut().leave_out(upstreams.agreed().map(str::to_owned));
        let known = Known::new(upstreams, &memory.ledgers);
        log_counting_places(engine.policy(), redis.is_some(), has_objects);
        names::clear();
        let room = engine.waiting_room();
        Ok(Self {
            engine,
            assets,
            fingerprint: Fingerprint::of(text),
            memory,
            redis: redis.map(Rc::new),
            work: RefCell::new(Work {
                store: MemoryStore::new(0),
                local: MemoryStore::new(0),
                leases,
                woken: SortedMap::new(),
                counters,
                plan: Plan::new(),
                fields: Fields::default(),
                room,
                left: Vec::new(),
                ended: SortedMap::new(),
                last_id: 0,
                health,
                known,
                recent: Recent::default(),
                collected: 0,
                survey: Survey::default(),
            }),
        })
    }

    /// The state for a decision. Only one call at a time may borrow it.
    pub fn work(&self) -> Working<'_> {
        Working::new(self.work.borrow_mut(), &self.memory)
    }

    /// Decides on a request.
    pub fn decide(self: &Rc<Self>, request: &Request, now: Timestamp) -> Verdict {
        match order::verdict(self, &Facts::new(request)) {
            Some(verdict) => verdict,
            None => self.judge(request, None, now),
        }
    }

    /// Decides on a request that may have waited for the authority: `resumed` is its number and the time since which it
    /// waited.
    pub fn judge(self: &Rc<Self>, request: &Request, resumed: Option<(u32, Timestamp)>, now: Timestamp) -> Verdict {
        let facts = Facts::new(request);
        let work = &mut *self.work();
        if let Some(health) = &mut work.health {
            health.update(now);
            work.plan.set_pressure(health.monitor.pressure(), draw());
        }
        self.engine.plan(&facts, &mut work.plan);
        if work.plan.is_clear() {
            return self.admit(work, request, None, None, Some(String::new()));
        }
        if let Some(page) = work.plan.page() {
            return self.page(work, page, now);
        }
        if work.plan.may_wait() {
            // Waits may have ended without any other request polling.
            self.finish_due_before(work, &facts, now);
            self.engine.offer(&mut work.plan, &work.room, now);
        }
        if let Some((_, since)) = resumed {
            work.plan.resume(since);
        }
        // A Worker cannot call gRPC, so limits of a rate-limit service act as if it were down. This comes after all
        // planning, which would reset it.
        work.plan.set_service_outcome(ServiceOutcome::Failed);
        let Work { store, local, leases, counters, plan, .. } = work;
        let decision = self.engine.decide(plan, store, local, leases, counters, now);
        if decision.awaits.is_some() {
            return GrantWait::enter(self, work, resumed.map(|(id, _)| id));
        }
        if let Some(wait) = decision.delay.and_then(|delay| Wait::enter(self, work, request, delay)) {
            return Verdict::Waits(wait);
        }
        match decision.refusal {
            Some(refusal) => {
                let fields = work.fields(&self.engine);
                Verdict::Responds(reply::response(&refusal.reply(&self.engine, &facts), &fields))
            }
            None => {
                let (route, ticket) = (work.plan.route(), work.plan.ticket());
                self.admit(work, request, route, ticket, None)
            }
        }
    }

    /// Responds with a status page. It shows the counts of this isolate, because a Worker exports none.
    fn page(&self, work: &mut Work, page: Page, now: Timestamp) -> Verdict {
        let live_keys = work.live_keys(now);
        let (known, counters) = (&mut work.known, &mut work.counters);
        known.act(now, |upstreams, context| {
            upstreams.refresh(context);
            upstreams.count_rounds(counters);
        });
        let (engine, fingerprint) = (&self.engine, self.fingerprint);
        let monitor = work.health.as_ref().map(|health| &health.monitor);
        let known = work.known.upstreams();
        let upstreams = Some(UpstreamsNow { known, counted: known });
        let (store, counters) = (work.leases.global_ref(), Some(&work.counters));
        let sources =
            Sources { engine, fingerprint, monitor, upstreams, store, service: None, counters, live_keys, now };
        Verdict::Responds(reply::response(&sources.reply(page), ""))
    }

    /// Ends the waits that are due. That overwrites the plan, so this plans again.
    fn finish_due_before(&self, work: &mut Work, facts: &Facts<'_>, now: Timestamp) {
        if work.room.next_due(now) == Some(Span::ZERO) {
            wait::finish_due(&self.engine, work, now);
            self.engine.plan(facts, &mut work.plan);
        }
    }

    /// Forwards an admitted request: unchanged if nothing depends on its response, else as a task. `fields` are its
    /// response's, as [`Work::fields`] returns them, if they are no longer those of the plan.
    pub fn admit(
        self: &Rc<Self>,
        work: &mut Work,
        request: &Request,
        route: Option<usize>,
        mut ticket: Option<Ticket>,
        fields: Option<String>,
    ) -> Verdict {
        if ticket.is_none() && route.is_none() && work.health.is_none() {
            return match fields {
                Some(lines) => Verdict::passes(reply::pairs(&lines)),
                None => Verdict::passes(work.planned_fields(&self.engine)),
            };
        }
        let fields = fields.unwrap_or_else(|| work.fields(&self.engine));
        let request = without_empty_body(request);
        let has_body = !request.body().is_null();
        if let Some(ticket) = &mut ticket
            && has_body
        {
            ticket.leave_untimed();
        }
        let began = work.health.as_ref().map(|_| now());
        let flight = Flight { gate: Rc::clone(self), request, has_body, route, ticket, began, lost: false, fields };
        Verdict::Runs(Task::new(flight.run()))
    }
}

impl Work {
    /// The response fields for the plan's limits: names and values alternating, one per line.
    pub fn fields(&mut self, engine: &Engine) -> String {
        let mut lines = String::new();
        for (name, value) in self.planned_fields(engine) {
            if lines.is_empty() {
                lines.reserve(ROOM_FOR_FIELDS);
            }
            for part in [name, "\n", value, "\n"] {
                lines.push_str(part);
            }
        }
        lines
    }

    fn planned_fields(&mut self, engine: &Engine) -> impl Iterator<Item = (&'static str, &str)> {
        self.fields.clear();
        self.fields.push_limits(engine, &self.plan);
        self.fields.iter()
    }

    /// A number that no other waiting request has: fewer than 2^32 wait at one time.
    pub fn next_id(&mut self) -> u32 {
        self.last_id = self.last_id.wrapping_add(1);
        self.last_id
    }

    fn live_keys(&mut self, now: Timestamp) -> u64 {
        self.survey.step(&mut self.store, now)
    }
}

impl Health {
    fn new(monitor: Monitor) -> Self {
        Self { monitor, known: Vec::new(), merged: Vec::new(), merged_at: Timestamp::EPOCH }
    }

    fn update(&mut self, now: Timestamp) {
        // If the clock has stepped back, update now instead of waiting for it to catch up.
        if now >= self.merged_at && now.since(self.merged_at) < UPDATES_APART {
            return;
        }
        self.merged_at = now;
        let known = Some(self.known.as_slice()).filter(|known| !known.is_empty());
        if self.monitor.merge(known, &mut self.merged, now) {
            core::mem::swap(&mut self.known, &mut self.merged);
            self.monitor.published();
        }
    }
}

/// Logs where shared limits and breakers are counted, and what a policy asks for that a Worker cannot do.
fn log_counting_places(policy: &Policy, has_redis: bool, has_objects: bool) {
    if policy.shared_limits().next().is_some() {
        let host = policy.stores().redis().and_then(|redis| redis.host()).unwrap_or_default();
        match (has_redis, has_objects) {
            (true, _) => host::log(&["tidegate: limits of the scope \"global\" count in Redis, ", host].concat()),
            (false, true) => host::log("tidegate: limits of the scope \"global\" count in Durable Objects"),
            (false, false) => host::log_warning(
                "tidegate: limits of the scope \"global\" count in each isolate: there is no Durable Object bound as TIDEGATE_AUTHORITY, and no URL of a Redis",
            ),
        }
    }
    if policy.shares_breakers() {
        let host = policy.stores().redis().and_then(|redis| redis.host()).unwrap_or_default();
        match (has_redis, has_objects) {
            (true, _) => host::log(&["tidegate: breakers of the scope \"global\" agree by Redis, ", host].concat()),
            (false, true) => host::log("tidegate: breakers of the scope \"global\" agree by a Durable Object"),
            (false, false) => host::log_warning(
                "tidegate: breakers of the scope \"global\" are each isolate's own: there is no Durable Object bound as TIDEGATE_AUTHORITY, and no URL of a Redis",
            ),
        }
    }
    if policy.limits_by_service().next().is_some() {
        host::log_warning(
            "tidegate: limits with the store \"rls\" are as if the service was down: a Worker cannot call it",
        );
    }
}

/// A random draw, such as for shedding: 53 random bits, the upper ones of 64. It need not be secret.
pub fn draw() -> Draw {
    let draw = Draw(((js_sys::Math::random() * TWO_TO_53) as u64) << 11);
    #[cfg(feature = "test-clock")]
    let draw = crate::clock::instead_of_draw(draw);
    draw
}

const TWO_TO_53: f64 = 9_007_199_254_740_992.0;

/// Enough for the fields of one limit. Without it, the string would be reallocated and copied four times.
const ROOM_FOR_FIELDS: usize = 128;

/// How often counts are merged, as in Envoy.
const UPDATES_APART: Span = Span::from_secs(1);
