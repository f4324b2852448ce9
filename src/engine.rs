//! A request's way: plan, decide, observe. The one place where the order of the stages stands.
//!
//! ```text
//! plan      the pages of status, maintenance, the lists deny      needs the request
//!           and allow, which limits apply, which keys they
//!           charge, and whether the request is shed
//! consult   what a rate-limit service says of it                 only where one counts
//! offer     whether there is room to wait                         needs those who wait; only where requests may
//! decide    every quota is checked, then all or none is charged   needs state and the time
//! (send)    the route's upstreams, one after another: fallback    needs breakers, and how the last call ended
//! enter     the request waits, where decide says so               and then: see [`delaying`]
//! observe   charge the limits that wait for the answer            needs the answer
//! release   give back what a request in flight has held           needs its end
//! ```
//!
//! Nothing here waits, and nothing allocates once a [`Plan`] has served its first requests.

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
use delaying::Chance;
use plan::{Counted, Entry, Stage};
use refusing::{Refusals, Sentence};
use sharing::Sharing;

use crate::decision::{Cause, Decision, QuotaItem, Refusal};
use crate::key::{self, Seed};
use crate::lease::Leases;
use crate::limiter::Meter;
use crate::lookup::Lookup;
use crate::matching::Matcher;
use crate::metrics::{Counters, Total};
use crate::mode::{Door, Mode, UnknownMode};
use crate::policy::{Cost, Limit, OnExceed, Policy, Quota};
use crate::request::RequestFacts;
use crate::rls::ServiceOutcome;
use crate::status::Order;
use crate::store::memory::MemoryStore;
use crate::store::{MAX_ROUNDS, Store};
use crate::table::page_of;
use crate::units::{Permits, Span, Timestamp};

/// A policy made ready to decide.
#[derive(Debug)]
pub struct Engine {
    policy: Policy,
    seed: Seed,
    /// The seed of keys that all instances know.
    shared_seed: Seed,
    matcher: Matcher,
    routes: Matcher,
    limits: Vec<ReadyLimit>,
    /// Under maintenance: who is let in.
    door: Option<Door>,
    /// A stage before the limits may have something to say.
    asks_first: bool,
}

#[derive(Debug)]
struct ReadyLimit {
    /// One for each quota, as many as a tier has at most.
    identities: Vec<u64>,
    /// One for each quota, for each tier.
    meters: Vec<Vec<Meter>>,
    /// The same, for clients.
    items: Vec<Vec<QuotaItem>>,
    refusals: Refusals,
    /// For a limit that many instances share.
    sharing: Option<Sharing>,
}

impl Engine {
    /// Makes a policy ready. `seed` must come from a random source: whoever knows it can choose keys that meet in one page.
    #[must_use]
    pub fn new(mut policy: Policy, seed: Seed) -> Self {
        for quota in policy.limits.iter_mut().flat_map(|limit| &mut limit.quotas).flatten() {
            *quota = policy.mode.in_force(*quota);
        }
        for slow_down in policy.limits.iter_mut().filter_map(|limit| limit.delays.as_mut()?.slow_down.as_mut()) {
            slow_down.slow_after = policy.mode.share(slow_down.slow_after);
        }
        let door = policy.mode.maintenance().map(Door::new);
        let matcher = Matcher::new(policy.limits.iter().map(|limit| &limit.matches));
        let routes = Matcher::new(policy.routes().iter().map(|route| &route.matches));
        let limits = policy.limits.iter().map(|limit| ReadyLimit::new(limit, &policy.mode)).collect();
        let shared_seed = Seed::shared(policy.stores().secret());
        let lists = !policy.deny.is_empty() || !policy.allow.is_empty();
        let asks_first = lists || door.is_some() || policy.status.is_some();
        Self { policy, seed, shared_seed, matcher, routes, limits, door, asks_first }
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

    /// Whether the request is let in at all; then which limits apply to it, and which keys they charge.
    pub fn plan(&self, facts: &dyn RequestFacts, plan: &mut Plan) {
        let lookup = Lookup::new(facts);
        let client = key::Client::new(&lookup, &self.policy);
        plan.charges.clear();
        plan.route = None;
        plan.may_wait = false;
        plan.since = None;
        plan.heard = ServiceOutcome::NotAsked;
        plan.entry = if self.asks_first { self.entry(&lookup, &client, &mut plan.found) } else { Entry::Limited };
        let is_watched = matches!((&plan.entry, &self.policy.mode), (Entry::TurnedAway(_), Mode::Observe));
        if !matches!(plan.entry, Entry::Limited | Entry::Allowed) && !is_watched {
            return;
        }
        // Also of a client that is denied where the policy only observes: he goes on, and so along his route.
        self.routes.find(&lookup, &mut plan.found);
        plan.route = plan.found.first().map(|route| *route as usize);
        if plan.entry != Entry::Limited {
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
            // One quota, nearly always.
            let quotas = limit.quotas(plan.tier).len();
            for (quota, identity) in (0..).zip(&ready.identities).take(quotas) {
                let sharing = ready.sharing.as_ref();
                let shared_key = sharing
                    .map(|it| client.key(self.shared_seed, it.identity(*identity, plan.tier, quota), &limit.key));
                plan.charges.push(Charge {
                    limit: index,
                    quota,
                    key: match shared_key {
                        // Where it lies in the table, strangers cannot know.
                        Some(key) => self.seed.rekey(key),
                        None => client.key(self.seed, *identity, &limit.key),
                    },
                    page: 0,
                    cost,
                    awaits_answer: limit.awaits_answer(),
                    holds: limit.holds(),
                    found: None,
                    beyond: false,
                    held: false,
                    sentence: Sentence::Free,
                    stage: Stage::Open,
                    outcome: None,
                    charged_at: Timestamp::EPOCH,
                    probe: None,
                    chance: Chance::at(limit),
                    before: None,
                    ahead: Permits::ZERO,
                    counted: if limit.by_service { Counted::Elsewhere } else { Counted::Here },
                    shared_key,
                    told: None,
                });
            }
        }
        plan.priority = priority.unwrap_or_default();
    }

    /// Checks every limit of the plan, then charges all of them or none.
    ///
    /// What `store` cannot give is decided by each limit's `on_store_failure`; `local` is this instance's own memory for
    /// those that count on. While `leases` have permits for a key, its state is not asked for at all.
    pub fn decide<S: Store>(
        &self,
        plan: &mut Plan,
        store: &mut S,
        local: &mut MemoryStore,
        leases: &mut Leases,
        counters: &mut Counters,
        now: Timestamp,
    ) -> Decision {
        if plan.entry != Entry::Limited {
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
        charging.consult(&mut plan.charges, &plan.heard);
        if charging.recall(&mut plan.charges) {
            // Apart from all the rest, which would stand between these few steps in the machine's code, too.
            charging.spend(&plan.charges);
            return Decision::admit();
        }
        self.decide_by_state(plan, charging)
    }

    /// Decides where permits drawn in advance do not.
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
            // It is counted when it is decided.
            return Decision { awaits, ..Decision::admit() };
        }
        if consults {
            return Decision { consults, ..Decision::admit() };
        }
        let counters = charging.counters;
        if refused {
            if plan.charges.iter().any(|charge| charge.chance.crowded) {
                counters.add(Total::RoomFull, 1);
            }
            self.count(plan, counters, refused);
            return self.decline(&plan.charges, plan.tier);
        }
        let delay = self.delay(plan);
        if delay.is_none() {
            // One that waits is counted when it is known what becomes of it.
            self.count(plan, counters, refused);
        }
        let observed = self.refusal_by(&plan.charges, plan.tier, Charge::exceeds);
        Decision { delay, observed, ..Decision::admit() }
    }

    /// Decides where the stages before the limits have.
    #[cold]
    #[inline(never)]
    fn decide_unlimited(&self, plan: &Plan, counters: &mut Counters) -> Decision {
        match plan.entry {
            Entry::Limited | Entry::Answered(_) => Decision::admit(),
            Entry::Allowed => {
                counters.add(Total::Allowed, 1);
                Decision::admit()
            }
            Entry::TurnedAway(cause) => self.turn_away(cause, counters),
            Entry::Shed(priority) => self.shed(priority, plan.draw, counters),
        }
    }

    /// What the request orders to be changed, for hosts that can: asked before anything is planned, since whoever may order is
    /// limited by nothing.
    #[must_use]
    pub fn order(&self, facts: &dyn RequestFacts) -> Option<Result<Order, UnknownMode>> {
        self.policy.status.as_ref()?.order(&Lookup::new(facts))
    }

    /// The stages before the limits.
    #[inline(never)]
    fn entry<'a>(&'a self, request: &Lookup<'a>, client: &key::Client<'_, 'a>, found: &mut Vec<u32>) -> Entry {
        let address = || client.ip();
        if let Some(page) = self.policy.status.as_ref().and_then(|status| status.page(request, address)) {
            return Entry::Answered(page);
        }
        if self.door.as_ref().is_some_and(|door| !door.lets_in(request, found, address)) {
            return Entry::TurnedAway(Cause::Maintenance);
        }
        // To allow somebody is to free him of limits, and not of a ban: deny comes first.
        if self.policy.deny.find(client, true).is_some() {
            return Entry::TurnedAway(Cause::Denied);
        }
        if self.policy.allow.find(client, false).is_some() {
            return Entry::Allowed;
        }
        Entry::Limited
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
    fn new(limit: &Limit, mode: &Mode) -> Self {
        let ahead = limit.delays.map_or(Span::ZERO, |delays| delays.ahead());
        let observes = *mode == Mode::Observe || limit.on_exceed == OnExceed::Observe;
        let meter = |quota: &Quota| Meter::new(limit.algorithm, quota).running_ahead(ahead).observing(observes);
        let meters = |quotas: &Vec<Quota>| quotas.iter().map(meter).collect();
        let items = |quotas: &[Quota]| quotas.iter().map(|quota| QuotaItem::new(limit, quotas, quota)).collect();
        let most = limit.quotas.iter().map(Vec::len).max().unwrap_or(0);
        Self {
            identities: (0..).take(most).map(|place| key::identity(limit, place)).collect(),
            sharing: Sharing::new(limit),
            meters: limit.quotas.iter().map(meters).collect(),
            items: limit.quotas.iter().map(|quotas| items(quotas)).collect(),
            refusals: Refusals::new(limit, mode),
        }
    }
}

/// What the request needs room for.
fn cost_of<'a>(cost: &'a Cost, request: &Lookup<'a>) -> Permits {
    match cost {
        Cost::Request(header) => header.read(request.header(&header.name)),
        cost => cost.least(),
    }
}
