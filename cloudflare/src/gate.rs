//! A policy in force in an isolate, and one request's way through it.

use crate::chain::Known;
use crate::facts::{Facts, without_nothing};
use crate::flight::Flight;
use crate::host::{self, Request};
use crate::memory::{Memory, Working};
use crate::now;
use crate::order;
use crate::redis;
use crate::reply;
use crate::sharing::{self, Asking};
use crate::task::Task;
use crate::verdict::Verdict;
use crate::wait::{self, Ended, Wait};
use std::cell::RefCell;
use std::rc::Rc;
use tidegate::assets::Assets;
use tidegate::decision::Fields;
use tidegate::delay::Left;
use tidegate::engine::delaying::{Held, Room};
use tidegate::engine::{Engine, Plan, Ticket};
use tidegate::fallback::Upstreams;
use tidegate::health::monitor::Monitor;
use tidegate::lease::Leases;
use tidegate::metrics::Counters;
use tidegate::mode::ModeWord;
use tidegate::policy::Policy;
use tidegate::rls::ServiceOutcome;
use tidegate::sorted_map::SortedMap;
use tidegate::stale::{Keyed, Recent};
use tidegate::status::{Fingerprint, Page, Sources, UpstreamsNow};
use tidegate::store::memory::MemoryStore;
use tidegate::table::Survey;
use tidegate::units::{Draw, Span, Timestamp};
use wasm_bindgen::JsValue;

/// A policy in force, and the memory that its decisions work in.
pub struct Gate {
    pub engine: Engine,
    pub assets: Assets,
    fingerprint: Fingerprint,
    pub memory: Rc<Memory>,
    /// The authority over shared limits, where it is not Durable Objects.
    pub redis: Option<Rc<redis::Store>>,
    work: RefCell<Work>,
}

/// What a decision works with. No borrow outlives a call, and what is called of workerd meanwhile does not call back.
pub struct Work {
    /// What limits of the scope `instance` count: this isolate is the instance. Lent by [`Memory`] for each call, as is `local`.
    pub store: MemoryStore,
    pub local: MemoryStore,
    /// What is drawn of limits that others share.
    pub leases: Leases,
    /// Those who have waited for the authority and do not know yet, and since when they have.
    pub woken: SortedMap<u32, Timestamp>,
    pub counters: Counters,
    pub plan: Plan,
    fields: Fields,
    pub room: Room,
    /// Room for those who leave it.
    pub left: Vec<Left<Held>>,
    /// Those who have left it and do not know yet.
    pub ended: SortedMap<u32, Ended>,
    /// The number of the last request that came to wait.
    pub last_id: u32,
    /// Where the policy asks how the service is.
    pub health: Option<Health>,
    /// The upstreams.
    pub known: Known,
    /// Which answers were kept lately, and how many are being collected.
    pub recent: Recent,
    pub collected: u32,
    survey: Survey,
}

/// What this isolate knows of the service's health, brought up to date once a second.
pub struct Health {
    pub monitor: Monitor,
    known: Vec<u8>,
    merged: Vec<u8>,
    merged_at: Timestamp,
}

impl Gate {
    /// Puts a policy in force, in a mode that stands in place of its own where there is one. It goes on from what was counted under
    /// the policy before.
    ///
    /// # Errors
    /// Everything that is wrong with the document, a line each.
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
        let assets = Assets::new(&policy, Keyed::Everywhere);
        let (redis, secret) = redis::Store::of(&policy, env)?.unzip();
        let mut engine = Engine::new(policy, memory.seed);
        if let Some(secret) = secret.flatten() {
            engine.share_by(secret.as_bytes());
        }
        let has_objects = host::has(env, "TIDEGATE_AUTHORITY");
        let leases = sharing::leases(&engine, has_objects || redis.is_some())?;
        let mut upstreams = Upstreams::new(engine.policy());
        if has_objects || redis.is_some() {
            engine.agree(&mut upstreams, memory.instance);
        }
        // They agree by themselves, and what they publish is in nobody else's generations.
        memory.broadcast.borrow_mut().leave_out(upstreams.agreed().map(str::to_owned));
        let known = Known::new(upstreams, &memory.ledgers);
        tell(engine.policy(), redis.is_some(), has_objects);
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

    /// What decisions work with. Only one call at a time does.
    pub fn work(&self) -> Working<'_> {
        Working::new(self.work.borrow_mut(), &self.memory)
    }

    /// Decides on a request.
    pub fn decide(self: &Rc<Self>, request: &Request, now: Timestamp) -> Verdict {
        match order::ordered(self, &Facts::new(request)) {
            Some(verdict) => verdict,
            None => self.judge(request, None, now),
        }
    }

    /// The same for a request that may have waited for the authority, under this number and since this time.
    pub fn judge(self: &Rc<Self>, request: &Request, resumed: Option<(u32, Timestamp)>, now: Timestamp) -> Verdict {
        let facts = Facts::new(request);
        let work = &mut *self.work();
        if let Some(health) = &mut work.health {
            health.update(now);
            work.plan.press(health.monitor.pressure(), draw());
        }
        self.engine.plan(&facts, &mut work.plan);
        if work.plan.is_clear() {
            return self.admit(work, request, None, None, String::new());
        }
        if let Some(page) = work.plan.page() {
            return self.page(work, page, now);
        }
        if work.plan.may_wait() {
            // Nobody else need have looked since the last one's time came.
            self.finish_due_before(work, &facts, now);
            self.engine.offer(&mut work.plan, &work.room, now);
        }
        if let Some((_, since)) = resumed {
            work.plan.resume(since);
        }
        // A Worker cannot call gRPC: such limits are as those of a service that is down. Not before all planning is done, which forgets it.
        work.plan.hear(ServiceOutcome::Failed);
        let Work { store, local, leases, counters, plan, .. } = work;
        let decision = self.engine.decide(plan, store, local, leases, counters, now);
        if decision.awaits.is_some() {
            return Asking::enter(self, work, resumed.map(|(id, _)| id));
        }
        if let Some(wait) = decision.delay.and_then(|delay| Wait::enter(self, work, request, delay)) {
            return Verdict::Waits(wait);
        }
        let fields = work.fields(&self.engine);
        match decision.refusal {
            Some(refusal) => Verdict::Answered(reply::response(&refusal.reply(&self.engine, &facts), &fields)),
            None => {
                let (route, ticket) = (work.plan.route(), work.plan.ticket());
                self.admit(work, request, route, ticket, fields)
            }
        }
    }

    /// Answers with a page of status: of this isolate, since nobody exports what it counts.
    fn page(&self, work: &mut Work, page: Page, now: Timestamp) -> Verdict {
        let live_keys = work.live_keys(now);
        let (known, counters) = (&mut work.known, &mut work.counters);
        known.act(now, |upstreams, around| {
            upstreams.refresh(around);
            upstreams.count_rounds(counters);
        });
        let (engine, fingerprint) = (&self.engine, self.fingerprint);
        let monitor = work.health.as_ref().map(|health| &health.monitor);
        let known = work.known.upstreams();
        let upstreams = Some(UpstreamsNow { known, counted: known });
        let (store, counters) = (work.leases.global_ref(), Some(&work.counters));
        let sources =
            Sources { engine, fingerprint, monitor, upstreams, store, service: None, counters, live_keys, now };
        Verdict::Answered(reply::response(&sources.reply(page), ""))
    }

    /// Ends the waits that are due, which takes the plan, and plans anew.
    fn finish_due_before(&self, work: &mut Work, facts: &Facts<'_>, now: Timestamp) {
        if work.room.next_due(now) == Some(Span::ZERO) {
            wait::finish_due(&self.engine, work, now);
            self.engine.plan(facts, &mut work.plan);
        }
    }

    /// Sends a request on its way.
    pub fn admit(
        self: &Rc<Self>,
        work: &Work,
        request: &Request,
        route: Option<usize>,
        mut ticket: Option<Ticket>,
        fields: String,
    ) -> Verdict {
        if ticket.is_none() && route.is_none() && work.health.is_none() {
            return if fields.is_empty() { Verdict::Passes } else { Verdict::Told(fields) };
        }
        let request = without_nothing(request);
        let has_body = !request.body().is_null();
        if let Some(ticket) = &mut ticket
            && has_body
        {
            ticket.leave_untimed();
        }
        let began = work.health.as_ref().map(|_| now());
        let flight = Flight { gate: Rc::clone(self), request, has_body, route, ticket, began, lost: false, fields };
        Verdict::Sent(Task::new(flight.fly()))
    }
}

impl Work {
    /// What the answer says of the plan's limits: name and value by turns, a line each.
    pub fn fields(&mut self, engine: &Engine) -> String {
        self.fields.clear();
        self.fields.tell(engine, &self.plan);
        let mut lines = String::new();
        for (name, value) in self.fields.iter() {
            if lines.is_empty() {
                lines.reserve(ROOM_FOR_FIELDS);
            }
            for part in [name, "\n", value, "\n"] {
                lines.push_str(part);
            }
        }
        lines
    }

    /// A number unlike that of any other request that waits: there are never as many.
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
        // A clock that has stepped back would be waited for.
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

/// Tells the log who counts what is shared, and what a policy may lead one to expect of a Worker in vain.
fn tell(policy: &Policy, has_redis: bool, has_objects: bool) {
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

/// A draw decides who is shed, and is no secret: 53 random bits, the upper ones of 64.
pub fn draw() -> Draw {
    let draw = Draw(((js_sys::Math::random() * TWO_TO_53) as u64) << 11);
    #[cfg(feature = "test-clock")]
    let draw = crate::clock::instead_of_draw(draw);
    draw
}

const TWO_TO_53: f64 = 9_007_199_254_740_992.0;

/// What the fields of a limit take: grown to that step by step, they would be copied four times.
const ROOM_FOR_FIELDS: usize = 128;

/// How often what was seen is brought together, as in Envoy.
const UPDATES_APART: Span = Span::from_secs(1);
