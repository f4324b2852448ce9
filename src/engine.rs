//! The stages of a request: plan, decide, observe. This is the only place that fixes their order.
//!
//! ```text
//! plan      status pages, maintenance, deny and allow lists;      needs the request
//!           which limits apply, which keys they charge, and
//!           whether the request is shed
//! consult   a rate-limit service's verdict on the request         only if one counts limits
//! offer     whether there is room to wait                         needs the waiting room; only if a limit can delay
//! decide    every quota is checked, then all or none is charged   needs state and the time
//! (send)    the route's upstreams, one after another: fallback    needs breakers, and how the last call ended
//! enter     a delayed request starts to wait                      its end: see `delaying`
//! observe   charges the limits that depend on the response        needs the response
//! release   gives back what a request in flight has held          needs the end of its stream
//! ```
//!
//! Nothing here blocks. An ordinary request is planned and decided without allocating, once its [`Plan`] has served a
//! few requests.

mod agreeing;
mod charging;
mod consulting;
pub mod delaying;
mod holding;
mod judging;
mod leasing;
mod lending;
mod observing;
mod plan;
mod refusing;
mod sharing;
mod shedding;
mod standing;

pub use holding::Load;
pub use observing::Ticket;
pub use plan::{Charge, Plan};
pub use sharing::Answer;
#[cfg(feature = "cli")]
pub(crate) use shedding::priority;

use charging::Charging;
use delaying::WaitOffer;
use plan::{Counted, Precheck, Stage};
use refusing::{BanStatus, Refusals};
use sharing::Sharing;

use crate::decision::{Cause, Decision, QuotaItem, Refusal};
use crate::key::{self, Keys, Seed};
use crate::lease::Leases;
use crate::limiter::Meter;
use crate::lookup::Lookup;
use crate::matching::Matcher;
use crate::metrics::{Counters, Total};
use crate::mode::{MaintenanceExemptions, Mode, UnknownMode};
use crate::policy::{Cost, Limit, OnExceed, Policy, Quota};
use crate::request::RequestFacts;
use crate::rls::ServiceOutcome;
use crate::status::Order;
use crate::store::memory::MemoryStore;
use crate::store::{MAX_ROUNDS, Store};
use crate::table::page_of;
use crate::units::{Permits, Span, Timestamp};

/// A policy, prepared for deciding.
#[derive(Debug)]
pub struct Engine {
    policy: Policy,
    seed: Seed,
    /// The seed of the keys that all instances share.
    shared_seed: Seed,
    matcher: Matcher,
    routes: Matcher,
    limits: Vec<ReadyLimit>,
    /// Under maintenance: which requests are let in.
    exemptions: Option<MaintenanceExemptions>,
    /// A stage before the limits may decide: status pages, maintenance, or the deny and allow lists.
    has_prechecks: bool,
}

#[derive(Debug)]
struct ReadyLimit {
    /// One for each quota of the tier that has the most.
    keys: Vec<Keys>,
    /// By tier, then by quota.
    meters: Vec<Vec<Meter>>,
    /// What clients are told of each quota, in the same order.
    items: Vec<Vec<QuotaItem>>,
    refusals: Refusals,
    /// Whether leases and remembered refusals may decide, see [`leasing`].
    is_leasable: bool,
    /// For a limit that instances share.
    sharing: Option<Sharing>,
}

impl Engine {
    /// Prepares a policy. `seed` must come from a random source: whoever knows it can choose keys that collide in one
    /// page.
    #[must_use]
    pub fn new(mut policy: Policy, seed: Seed) -> Self {
        for quota in policy.limits.iter_mut().flat_map(|limit| &mut limit.quotas).flatten() {
            *quota = policy.mode.in_force(*quota);
        }
        for slow_down in policy.limits.iter_mut().filter_map(|limit| limit.delays.as_mut()?.slow_down.as_mut()) {
            slow_down.slow_after = policy.mode.share(slow_down.slow_after);
        }
        let exemptions = policy.mode.maintenance().map(MaintenanceExemptions::new);
        let matcher = Matcher::new(policy.limits.iter().map(|limit| &limit.matches));
        let routes = Matcher::new(policy.routes().iter().map(|route| &route.matches));
        let limits = policy.limits.iter().map(|limit| ReadyLimit::new(limit, &policy.mode, seed)).collect();
        let shared_seed = Seed::shared(policy.stores().secret());
        let lists = !policy.deny.is_empty() || !policy.allow.is_empty();
        let has_prechecks = lists || exemptions.is_some() || policy.status.is_some();
        Self { policy, seed, shared_seed, matcher, routes, limits, exemptions, has_prechecks }
    }

    /// The policy in force.
    #[must_use]
    pub fn policy(&self) -> &Policy {
        &self.policy
    }

    /// The seed of every key's hash.
    #[must_use]
    pub fn seed(&self) -> Seed {
        self.seed
    }

    /// Finds out whether the request is let in at all; then which limits apply to it, and which keys they charge.
    pub fn plan(&self, facts: &dyn RequestFacts, plan: &mut Plan) {
        let lookup = Lookup::new(facts);
        let client = key::Client::new(&lookup, &self.policy);
        plan.charges.clear();
        plan.route = None;
        plan.may_wait = false;
        plan.since = None;
        plan.service_outcome = ServiceOutcome::NotAsked;
        plan.precheck =
            if self.has_prechecks { self.precheck(&lookup, &client, &mut plan.found) } else { Precheck::Limited };
        let is_watched = matches!((&plan.precheck, &self.policy.mode), (Precheck::TurnedAway(_), Mode::Observe));
        if !matches!(plan.precheck, Precheck::Limited | Precheck::Allowed) && !is_watched {
            return;
        }
        // In observe mode, a request that the lists deny goes on, so it needs its route too.
        if !self.routes.is_empty() {
            self.routes.find(&lookup, &mut plan.found);
            plan.route = plan.found.first().map(|route| *route as usize);
        }
        if plan.precheck != Precheck::Limited {
            return;
        }
        self.matcher.find(&lookup, &mut plan.found);
        if self.sheds(plan, &client) {
            return;
        }
        if plan.found.is_empty() {
            return;
        }
        plan.tier = client.tier();
        let mut priority = self.policy.priorities.get(plan.tier.get()).copied().flatten();
        for &index in &plan.found {
            let (Some(limit), Some(ready)) = (self.policy.limits.get(index as usize), self.limits.get(index as usize))
            else {
                continue;
            };
            let cost = cost_of(&limit.cost, &lookup);
            plan.may_wait |= limit.delays.is_some();
            priority = [priority, limit.priority].into_iter().flatten().min();
            // Almost always one quota.
            let quotas = limit.quotas(plan.tier).len();
            for (quota, keys) in (0..).zip(&ready.keys).take(quotas) {
                let sharing = ready.sharing.as_ref();
                let shared = sharing.map(|it| it.keys(self.shared_seed, keys.identity(), plan.tier, quota));
                let shared_key = shared.map(|shared| client.key(&shared, &limit.key));
                plan.charges.push(Charge {
                    limit: index,
                    quota,
                    key: match shared_key {
                        // Hashed again with this instance's secret seed, so that outsiders cannot predict the key's
                        // place in the table.
                        Some(key) => self.seed.rekey(key),
                        None => client.key(keys, &limit.key),
                    },
                    page: 0,
                    cost,
                    awaits_answer: limit.awaits_answer(),
                    holds: limit.holds(),
                    adaptive: None,
                    beyond: false,
                    sibling_exceeded: false,
                    ban_status: BanStatus::NotBanned,
                    stage: Stage::Open,
                    outcome: None,
                    charged_at: Timestamp::EPOCH,
                    probe: None,
                    wait_offer: WaitOffer::of(limit),
                    before: None,
                    ahead: Permits::ZERO,
                    counted: if limit.by_service { Counted::ByService } else { Counted::Here },
                    shared_key,
                    shared_standing: None,
                });
            }
        }
        plan.priority = priority.unwrap_or_default();
    }

    /// Checks every limit of the plan, then charges all of them or none.
    ///
    /// If `store` fails, each limit's `on_store_failure` decides; with `local`, the limit counts in `local`, this
    /// instance's own memory. While `leases` hold permits for a key, its state is not read.
    pub fn decide<S: Store>(
        &self,
        plan: &mut Plan,
        store: &mut S,
        local: &mut MemoryStore,
        leases: &mut Leases,
        counters: &mut Counters,
        now: Timestamp,
    ) -> Decision {
        if plan.precheck != Precheck::Limited {
            return self.decide_unlimited(plan, counters);
        }
        if leases.shares() {
            for charge in plan.charges.iter_mut().filter(|charge| charge.shared_key.is_some()) {
                charge.counted = if charge.holds { Counted::Held } else { Counted::Drawn };
            }
        }
        (plan.refused, plan.now) = (false, now);
        let (tier, since) = (plan.tier, plan.since);
        let mut charging = Charging { engine: self, tier, store, local, leases, counters, now, since };
        charging.consult(&mut plan.charges, &plan.service_outcome);
        if charging.decide_by_leases(&mut plan.charges) {
            // The rest is a function of its own, so that its machine code does not lie between these few steps.
            charging.spend(&plan.charges);
            return Decision::admit();
        }
        self.decide_by_state(plan, charging)
    }

    /// Decides a request that leases alone do not admit.
    #[inline(never)]
    fn decide_by_state<S: Store>(&self, plan: &mut Plan, mut charging: Charging<'_, S>) -> Decision {
        for charge in &mut plan.charges {
            charge.page = page_of(charge.key, charging.store.pages());
            charge.charged_at = charging.now;
        }
        for _ in 0..MAX_ROUNDS {
            charging.begin();
            charging.check(&mut plan.charges);
            let is_open = !self.refuses(&plan.charges) && !charging.awaits(&plan.charges);
            if !is_open || charging.charge(&mut plan.charges) {
                break;
            }
            charging.conflict();
        }
        let refused = charging.settle(&mut plan.charges);
        let awaits = charging.awaited(&plan.charges);
        let consults = charging.awaits(&plan.charges);
        if awaits.is_none() && !consults && (!refused || self.policy.mode == Mode::Observe) {
            charging.hold_beyond(&mut plan.charges, refused);
        }
        plan.refused = refused;
        if awaits.is_some() {
            // The request is counted once it is decided.
            return Decision { awaits, ..Decision::admit() };
        }
        if consults {
            return Decision { consults, ..Decision::admit() };
        }
        let counters = charging.counters;
        if refused {
            if plan.charges.iter().any(|charge| charge.wait_offer.no_room) {
                counters.add(Total::RoomFull, 1);
            }
            self.count(plan, counters, refused);
            return self.decline(&plan.charges, plan.tier);
        }
        let delay = self.delay(plan);
        if delay.is_none() {
            // A delayed request is counted when its wait ends.
            self.count(plan, counters, refused);
        }
        let observed = self.refusal_by(&plan.charges, plan.tier, Charge::exceeds);
        Decision { delay, observed, ..Decision::admit() }
    }

    /// Decides a request that a stage before the limits has settled.
    #[cold]
    #[inline(never)]
    fn decide_unlimited(&self, plan: &Plan, counters: &mut Counters) -> Decision {
        match plan.precheck {
            Precheck::Limited | Precheck::Answered(_) => Decision::admit(),
            Precheck::Allowed => {
                counters.add(Total::Allowed, 1);
                Decision::admit()
            }
            Precheck::TurnedAway(cause) => self.turn_away(cause, counters),
            Precheck::Shed(priority) => self.shed(priority, plan.draw, counters),
        }
    }

    /// The change that the request orders, for hosts that support it; `None` if it orders none or may not. Ask before
    /// planning: no limit applies to such a request.
    #[must_use]
    pub fn order(&self, facts: &dyn RequestFacts) -> Option<Result<Order, UnknownMode>> {
        self.policy.status.as_ref()?.order(&Lookup::new(facts))
    }

    /// The stages before the limits.
    #[inline(never)]
    fn precheck<'a>(&'a self, request: &Lookup<'a>, client: &key::Client<'_, 'a>, found: &mut Vec<u32>) -> Precheck {
        let address = || client.ip();
        if let Some(page) = self.policy.status.as_ref().and_then(|status| status.page(request, address)) {
            return Precheck::Answered(page);
        }
        if self.exemptions.as_ref().is_some_and(|exemptions| !exemptions.exempt(request, found, address)) {
            return Precheck::TurnedAway(Cause::Maintenance);
        }
        // The deny list comes first: the allow list exempts a client from limits, but not from being denied.
        if self.policy.deny.find(client, true).is_some() {
            return Precheck::TurnedAway(Cause::Denied);
        }
        if self.policy.allow.find(client, false).is_some() {
            return Precheck::Allowed;
        }
        Precheck::Limited
    }

    fn turn_away(&self, cause: Cause, counters: &mut Counters) -> Decision {
        let (total, retry_after) = match self.policy.mode.maintenance() {
            Some(maintenance) if cause == Cause::Maintenance => (Total::Maintenance, Some(maintenance.retry_after)),
            _ => (Total::Denied, None),
        };
        counters.add(total, 1);
        self.refuse(Refusal { limit: None, window: None, cause, retry_after })
    }

    /// The decision to refuse, unless the policy only observes.
    fn refuse(&self, refusal: Refusal) -> Decision {
        match self.policy.mode {
            Mode::Observe => Decision { observed: Some(refusal), ..Decision::admit() },
            _ => Decision { refusal: Some(refusal), ..Decision::admit() },
        }
    }
}

impl ReadyLimit {
    fn new(limit: &Limit, mode: &Mode, seed: Seed) -> Self {
        let ahead = limit.delays.map_or(Span::ZERO, |delays| delays.ahead());
        let observes = *mode == Mode::Observe || limit.on_exceed == OnExceed::Observe;
        let meter = |quota: &Quota| Meter::new(limit.algorithm, quota).running_ahead(ahead).observing(observes);
        let meters = |quotas: &Vec<Quota>| quotas.iter().map(meter).collect();
        let items = |quotas: &[Quota]| quotas.iter().map(|quota| QuotaItem::new(limit, quotas, quota)).collect();
        let most = limit.quotas.iter().map(Vec::len).max().unwrap_or(0);
        Self {
            keys: (0..).take(most).map(|place| Keys::new(seed, key::identity(limit, place))).collect(),
            sharing: Sharing::new(limit),
            meters: limit.quotas.iter().map(meters).collect(),
            items: limit.quotas.iter().map(|quotas| items(quotas)).collect(),
            refusals: Refusals::new(limit, mode),
            is_leasable: leasing::is_leasable(limit),
        }
    }
}

/// The permits that the request must find available.
fn cost_of<'a>(cost: &'a Cost, request: &Lookup<'a>) -> Permits {
    match cost {
        Cost::Request(header) => header.read(request.header(&header.name)),
        cost => cost.least(),
    }
}
