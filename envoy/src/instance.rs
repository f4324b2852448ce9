//! One policy in force in one VM: the state that its streams share.

use crate::authority::{Authority, DEADLINE};
use crate::breakers::{self, Round};
use crate::clusters::Clusters;
use crate::health;
use crate::host;
use crate::ledger::SharedLedgers;
use crate::metrics::{Gauge, Metrics, Totals, UpstreamMetrics};
use crate::random::Random;
use crate::rls::{self, RateLimits};
use crate::shelf::SharedShelf;
use crate::store::SharedStore;
use crate::waiting::Alarm;
use core::cell::RefCell;
use std::rc::Rc;
use tidegate::assets::Assets;
use tidegate::authority;
use tidegate::decision::{Fields, Reply};
use tidegate::delay::Departed;
use tidegate::engine::delaying::{Room, WaitingRequest};
use tidegate::engine::{Engine, Plan};
use tidegate::fallback::{Context, Pause, TICK, Upstreams};
use tidegate::health::Health;
use tidegate::health::monitor::Monitor;
use tidegate::key::Seed;
use tidegate::lease::Leases;
use tidegate::metrics::Counters;
use tidegate::policy::{KeptBytes, Policy};
use tidegate::stale::{Collecting, shelf};
use tidegate::status::{Fingerprint, Page, Sources, UpstreamsNow};
use tidegate::store::memory::MemoryStore;
use tidegate::table::Survey;
use tidegate::units::{Span, Timestamp};

/// A policy in force, and the memory that its decisions use.
pub struct Instance {
    pub engine: Engine,
    pub fingerprint: Fingerprint,
    pub assets: Assets,
    pub kept: KeptBytes,
    pub work: RefCell<Work>,
}

/// The other policies of the VM. If several would set the same gauge, only one does.
pub struct Others {
    /// The service's health by the policy that finds it worst.
    pub worst: Option<Health>,
    /// The policies that were configured later. One may replace this one, whose streams still run.
    pub newer: Vec<Rc<Instance>>,
}

impl Others {
    /// Whether a later policy has a limit of this name.
    fn have(&self, limit: &str) -> bool {
        self.newer.iter().flat_map(|other| other.engine.policy().limits()).any(|other| other.name().as_str() == limit)
    }
}

/// The state that a decision uses. Envoy calls a VM from one thread, one call at a time, and no borrow outlives a call.
pub struct Work {
    pub store: SharedStore,
    pub local: MemoryStore,
    pub leases: Leases,
    pub counters: Counters,
    pub metrics: Metrics,
    pub upstream_metrics: UpstreamMetrics,
    pub survey: Survey,
    pub plan: Plan,
    pub room: Room,
    /// Spare memory for the list of requests that leave the room.
    pub left: Vec<Departed<WaitingRequest>>,
    pub alarm: Alarm,
    pub random: Random,
    /// Present if the policy has shared limits or breakers: their store.
    pub authority: Option<Authority>,
    /// Present if the policy has limits that a rate-limit service counts.
    pub rate_limits: Option<RateLimits>,
    /// The rounds of breaker reports under way.
    pub rounds: Vec<Round>,
    pub upstreams: Upstreams,
    pub clusters: Clusters,
    ledgers: SharedLedgers,
    /// When breakers were last ticked.
    ticked: Timestamp,
    /// The streams that wait to call a further upstream.
    pub retries: Vec<(Pause, u32)>,
    /// The calls under way: token, and stream.
    pub calls: Vec<(u32, u32)>,
    /// Emptied field lists, kept for their memory.
    #[expect(clippy::vec_box, reason = "a stream takes the box as it is")]
    pub spare: Vec<Box<Fields>>,
    /// Present if the policy uses the service's health.
    pub monitor: Option<Monitor>,
    pub bytes: Vec<u8>,
    /// How many keys the table held when it was last counted.
    pub live_keys: u64,
    /// The responses that streams of this VM are collecting, each with a number of its own, the oldest first.
    pub collected: Vec<(u32, Collecting)>,
    /// The number of the last of them.
    pub last_collected: u32,
}

impl Work {
    /// Keeps the memory of sent fields for other streams.
    pub fn spare(&mut self, mut fields: Box<Fields>) {
        if self.spare.len() < SPARE {
            fields.clear();
            self.spare.push(fields);
        }
    }
}

impl Instance {
    /// Puts a policy in force.
    ///
    /// `authority`: the store of its shared limits, and the secret that their keys are derived from unless the policy
    /// itself contains that.
    pub fn new(policy: Policy, fingerprint: Fingerprint, authority: Option<(Authority, Option<String>)>) -> Self {
        let max_keys = policy.max_keys();
        let (limits, tiers) = (policy.limits().len(), policy.tiers().len());
        let (mut monitor, mut bytes) = (Monitor::new(&policy), Vec::new());
        if let Some(monitor) = &mut monitor {
            // A policy that starts in the middle of an outage knows of it from the first request.
            health::share(monitor, &mut bytes);
        }
        let (kept, seed) = (policy.kept(), shared_seed());
        #[cfg(feature = "test-clock")]
        let seed = crate::clock::instead_of_seed(seed);
        let assets = Assets::new(&policy, seed);
        if assets.keeps() {
            // If this fails, the next response that is kept trims its page.
            let _ = shelf::trim(&mut SharedShelf, kept.max_bytes, Timestamp::from_nanos(host::now_ns()));
        }
        let mut engine = Engine::new(policy, seed);
        let (authority, secret) = authority.unzip();
        if let Some(secret) = secret.flatten() {
            engine.set_shared_secret(secret.as_bytes());
        }
        let mut leases = Leases::new();
        let mut random = Random::new();
        if let Some(global) = engine.sharing(authority::Instance::new(random.draw().0), DEADLINE) {
            leases.share(global);
        }
        let rate_limits = rls::of(&engine, random.draw().0);
        let room = engine.waiting_room();
        let mut upstreams = Upstreams::new(engine.policy());
        if authority.is_some() {
            engine.share_breakers(&mut upstreams, breakers::instance_number(random.draw().0));
        }
        let upstream_metrics = UpstreamMetrics::new(engine.policy());
        Self {
            engine,
            fingerprint,
            assets,
            kept,
            work: RefCell::new(Work {
                store: SharedStore::new(max_keys),
                local: MemoryStore::new(max_keys),
                leases,
                counters: Counters::new(limits, tiers),
                metrics: Metrics::default(),
                upstream_metrics,
                survey: Survey::default(),
                plan: Plan::new(),
                room,
                left: Vec::new(),
                alarm: Alarm::default(),
                random,
                authority,
                rate_limits,
                rounds: Vec::new(),
                upstreams,
                clusters: Clusters::default(),
                ledgers: SharedLedgers::default(),
                ticked: Timestamp::EPOCH,
                retries: Vec::new(),
                calls: Vec::new(),
                spare: Vec::new(),
                monitor,
                bytes,
                live_keys: 0,
                collected: Vec::new(),
                last_collected: 0,
            }),
        }
    }

    /// The response to a request for a status page.
    pub fn page(&self, work: &mut Work, page: Page, now: Timestamp) -> Reply {
        let policy = self.engine.policy();
        if page == Page::Status {
            work.upstreams_around(now, |upstreams, context| upstreams.refresh(context));
            // Exports this worker's counts first. Those of the others since their last export follow with their next.
            work.upstream_metrics.export(policy, &mut work.upstreams, now);
        }
        let Work { monitor, live_keys, leases, rate_limits, upstreams, upstream_metrics: metrics, .. } = work;
        let counted = Totals { metrics, policy, upstreams };
        Sources {
            engine: &self.engine,
            fingerprint: self.fingerprint,
            monitor: monitor.as_ref(),
            store: leases.global_ref(),
            service: rate_limits.as_ref().map(rls::RateLimits::service),
            upstreams: Some(UpstreamsNow { known: upstreams, counted: &counted }),
            counters: None,
            live_keys: *live_keys,
            now,
        }
        .reply(page)
    }

    /// Returns leases that were not used for `idle`. Returns whether others are still out.
    pub fn end_leases(&self, idle: Span, now: Timestamp) -> bool {
        let work = &mut *self.work.borrow_mut();
        if work.leases.hold_permits() {
            self.engine.end_leases(&mut work.leases, idle, &mut work.store, &mut work.counters, now);
        }
        work.leases.hold_permits()
    }

    /// The service's health by this policy, if the policy uses it.
    pub fn health(&self) -> Option<Health> {
        self.work.borrow().monitor.as_ref().map(|monitor| monitor.standing().health)
    }

    /// Adds the counts since the last export to Envoy's statistics.
    pub fn export(&self, others: &Others, now: Timestamp) {
        let work = &mut *self.work.borrow_mut();
        work.upstreams.count_rounds(&mut work.counters);
        work.metrics.export(self.engine.policy(), &mut work.counters);
        let live = work.survey.step(&mut work.store, now);
        work.live_keys = live;
        if let Some(monitor) = &mut work.monitor {
            health::share(monitor, &mut work.bytes);
            let health = others.worst.unwrap_or_default().max(monitor.standing().health);
            work.metrics.record(Gauge::Health, health as u64);
        }
        work.metrics.record_own(Gauge::Waiting, u64::try_from(work.room.len()).unwrap_or(u64::MAX));
        let store = work.leases.global_ref().map(|global| global.answers(now));
        let service = work.rate_limits.as_ref().map(|limits| limits.service().answers(now));
        if store.is_some() || service.is_some() {
            let open = [store, service].into_iter().filter(|answers| *answers == Some(false)).count();
            work.metrics.record_own(Gauge::StoreBreakers, u64::try_from(open).unwrap_or(u64::MAX));
        }
        work.upstream_metrics.export(self.engine.policy(), &mut work.upstreams, now);
        if let Some(alone) = work.upstreams.alone() {
            work.metrics.record(Gauge::BreakersAlone, u64::try_from(alone).unwrap_or(u64::MAX));
        }
        if others.newer.is_empty() {
            work.metrics.record(Gauge::LiveKeys, live);
            work.metrics.record(Gauge::MaxKeys, u64::from(self.engine.policy().max_keys()));
        }
        let (engine, metrics) = (&self.engine, &mut work.metrics);
        engine.loads(&mut work.store, &work.leases, now, &mut |load| {
            metrics.record_load(engine.policy(), load, |limit| others.have(limit));
        });
    }
}

impl Work {
    /// Runs `act` on the upstreams.
    pub fn upstreams_around<T>(
        &mut self,
        now: Timestamp,
        act: impl FnOnce(&mut Upstreams, &mut Context<'_, SharedLedgers>) -> T,
    ) -> T {
        let mut context = Context { ledgers: &mut self.ledgers, draw: self.random.draw(), now };
        act(&mut self.upstreams, &mut context)
    }

    /// Ticks the breakers, if that is due.
    pub fn tick_breakers(&mut self, now: Timestamp) {
        let due = now < self.ticked || now >= self.ticked.after(TICK);
        if due && self.upstreams.ticks(now) {
            self.ticked = now;
            self.upstreams_around(now, |upstreams, context| upstreams.tick(context));
        }
    }

    /// The time until the next tick is needed, for waiting requests, breakers and the store; `None` if nothing is
    /// pending.
    pub fn next_due(&self, now: Timestamp) -> Option<Span> {
        let retries = self.retries.iter().map(|(pause, _)| pause.left(now)).min();
        let tick = self.upstreams.ticks(now).then(|| self.ticked.after(TICK).since(now).min(TICK));
        let store = self.leases.global_ref().and_then(|global| global.next_due(now));
        [self.room.next_due(now), retries, tick, store].into_iter().flatten().min()
    }
}

/// The seed of every key's hash. The first VM draws it and all share it, because they must find the same pages.
fn shared_seed() -> Seed {
    const KEY: &[u8] = b"tg/seed";
    let stored =
        || host::shared(KEY).ok().flatten().and_then(|value| value.bytes.try_into().ok().map(Seed::from_bytes));
    if let Some(seed) = stored() {
        return seed;
    }
    let mut bytes = [0; 16];
    if getrandom::fill(&mut bytes).is_err() {
        // The clock is a poor secret, but a client does not know it to the nanosecond.
        bytes = (u128::from(host::now_ns()).wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835)).to_le_bytes();
        host::log(host::Level::Warn, format_args!("no random source: keys are hashed with a seed from the clock"));
    }
    match host::set_shared(KEY, &bytes, None) {
        Ok(()) => Seed::from_bytes(bytes),
        // Another VM was first.
        Err(_) => stored().unwrap_or(Seed::from_bytes(bytes)),
    }
}

/// The spare field lists to keep. Streams under way hold their own.
const SPARE: usize = 64;
