//! A policy in force in an isolate, and one request's way through it.

use crate::facts::Facts;
use crate::flight::Flight;
use crate::host::{self, Request};
use crate::reply;
use crate::upstream::Upstreams;
use crate::wait::{self, Ended, Wait};
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use tidegate::decision::quota_headers;
use tidegate::delay::Left;
use tidegate::engine::delaying::{Held, Room};
use tidegate::engine::{Engine, Plan, Ticket};
use tidegate::health::monitor::Monitor;
use tidegate::key::Seed;
use tidegate::lease::Leases;
use tidegate::metrics::Counters;
use tidegate::policy::Policy;
use tidegate::status::{Fingerprint, Sources};
use tidegate::store::memory::MemoryStore;
use tidegate::table::Survey;
use tidegate::units::{Draw, Span, Timestamp};
use wasm_bindgen::JsValue;

/// A policy in force, and the memory that its decisions work in.
pub struct Gate {
    pub engine: Engine,
    fingerprint: Fingerprint,
    upstreams: Upstreams,
    pub work: RefCell<Work>,
}

/// What a decision works with. No borrow outlives a call, and what is called of workerd meanwhile does not call back.
pub struct Work {
    /// What limits of the scope `instance` count: this isolate is the instance.
    pub store: MemoryStore,
    pub local: MemoryStore,
    /// There is nobody to draw from: the state is here.
    leases: Leases,
    pub counters: Counters,
    pub plan: Plan,
    text: String,
    pub room: Room,
    /// Room for those who leave it.
    pub left: Vec<Left<Held>>,
    /// Those who have left it and do not know yet.
    pub ended: BTreeMap<u32, Ended>,
    /// The number of the last request that came to wait.
    pub last_id: u32,
    /// Where the policy asks how the service is.
    pub health: Option<Health>,
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
    /// Puts a policy in force.
    ///
    /// # Errors
    /// Everything that is wrong with the document, a line each.
    pub fn new(text: &str) -> Result<Self, String> {
        let policy = Policy::parse(text).map_err(|problems| {
            problems.iter().map(|problem| format!("tidegate: policy error: {problem}")).collect::<Vec<_>>().join("\n")
        })?;
        let mut seed = [0; 16];
        // At global scope there is no random source: the entry configures within the first request.
        getrandom::fill(&mut seed).map_err(|error| format!("tidegate: no random source: {error}"))?;
        for part in not_acted_on(&policy) {
            host::log_warning(&format!("tidegate: {part} is checked, but the Worker does not act on it yet"));
        }
        let max_keys = policy.max_keys();
        let counters = Counters::new(policy.limits().len(), policy.tiers().len());
        let health = Monitor::new(&policy).map(Health::new);
        let upstreams = Upstreams::new(&policy);
        let seed = Seed::from_bytes(seed);
        #[cfg(feature = "test-clock")]
        let seed = crate::clock::instead_of_seed(seed);
        let engine = Engine::new(policy, seed);
        let room = engine.waiting_room();
        Ok(Self {
            engine,
            fingerprint: Fingerprint::of(text),
            upstreams,
            work: RefCell::new(Work {
                store: MemoryStore::new(max_keys),
                local: MemoryStore::new(max_keys),
                leases: Leases::none(),
                counters,
                plan: Plan::new(),
                text: String::new(),
                room,
                left: Vec::new(),
                ended: BTreeMap::new(),
                last_id: 0,
                health,
                survey: Survey::default(),
            }),
        })
    }

    /// Decides on a request; see [`crate::decide`].
    pub fn decide(self: &Rc<Self>, request: &Request, now: Timestamp) -> JsValue {
        let facts = Facts::new(request);
        let work = &mut *self.work.borrow_mut();
        if let Some(health) = &mut work.health {
            health.update(now);
            work.plan.press(health.monitor.pressure(), draw());
        }
        self.engine.plan(&facts, &mut work.plan);
        if work.plan.is_clear() {
            return self.admit(work, request, &facts, None, String::new(), now);
        }
        if let Some(page) = work.plan.page() {
            let live_keys = work.live_keys(now);
            let monitor = work.health.as_ref().map(|health| &health.monitor);
            let (engine, fingerprint) = (&self.engine, self.fingerprint);
            let sources = Sources { engine, fingerprint, monitor, upstreams: None, store: None, live_keys, now };
            return reply::response(&sources.reply(page), "");
        }
        if work.plan.may_wait() {
            // Nobody else need have looked since the last one's time came.
            self.finish_due_before(work, &facts, now);
            self.engine.offer(&mut work.plan, &work.room, now);
        }
        let Work { store, local, leases, counters, plan, .. } = work;
        let decision = self.engine.decide(plan, store, local, leases, counters, now);
        if let Some(wait) = decision.delay.and_then(|delay| Wait::enter(self, work, request, delay)) {
            return wait.into();
        }
        let fields = work.fields(&self.engine);
        match decision.refusal {
            Some(refusal) => reply::response(&refusal.reply(&self.engine, &facts), &fields),
            None => {
                let ticket = work.plan.ticket();
                self.admit(work, request, &facts, ticket, fields, now)
            }
        }
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
        facts: &Facts<'_>,
        mut ticket: Option<Ticket>,
        fields: String,
        now: Timestamp,
    ) -> JsValue {
        let target = self.upstreams.target(facts);
        if ticket.is_none() && target.is_none() && work.health.is_none() {
            return if fields.is_empty() { JsValue::UNDEFINED } else { JsValue::from_str(&fields) };
        }
        if let Some(ticket) = &mut ticket
            && !request.body().is_null()
        {
            ticket.leave_untimed();
        }
        let began = work.health.as_ref().map(|_| now);
        Flight::new(Rc::clone(self), ticket, began, target, fields).into()
    }
}

impl Work {
    /// What the answer says of the plan's limits: name and value by turns, a line each.
    pub fn fields(&mut self, engine: &Engine) -> String {
        let mut fields = String::new();
        quota_headers(engine, &self.plan, &mut self.text, &mut |name, value| {
            for part in [name, "\n", value, "\n"] {
                fields.push_str(part);
            }
        });
        fields
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

/// What the policy says, that this version of the Worker leaves undone.
fn not_acted_on(policy: &Policy) -> Vec<&'static str> {
    let routes = policy.routes();
    let lacks_url = routes
        .iter()
        .flat_map(|route| route.upstreams())
        .any(|index| policy.upstreams().get(*index).is_some_and(|upstream| upstream.url().is_none()));
    [
        ("an upstream without \"url\"", lacks_url),
        ("\"breakers\"", !policy.breakers().is_empty()),
        ("the scope \"global\"", policy.shared_limits().next().is_some()),
        ("a route's \"fallback\"", routes.iter().any(|route| route.fallback().is_some())),
        ("what routes say of their answers", routes.iter().any(|route| route.serving().says_something())),
    ]
    .into_iter()
    .filter_map(|(part, present)| present.then_some(part))
    .collect()
}

/// A draw decides who is shed, and is no secret: 53 random bits, the upper ones of 64.
fn draw() -> Draw {
    let draw = Draw(((js_sys::Math::random() * TWO_TO_53) as u64) << 11);
    #[cfg(feature = "test-clock")]
    let draw = crate::clock::instead_of_draw(draw);
    draw
}

const TWO_TO_53: f64 = 9_007_199_254_740_992.0;

/// How often what was seen is brought together, as in Envoy.
const UPDATES_APART: Span = Span::from_secs(1);
