//! Delayed requests: which charges delay one, how its wait begins, and how it ends.
//!
//! ```text
//! offer     whether there is room for it to wait     before decide, once the plan is there
//! enter     it starts to wait                         after decide, if the decision has a delay
//! finish    its time has come, or it is refused       when the waiting room says so
//! leave     its client is gone
//! ```
//!
//! A request is charged when it begins to wait. If it is not released in the end, the charge is taken back.

use super::charging::take_back;
use super::lending::release;
use super::plan::Counted;
use super::{Charge, Engine, Plan, Stage};
use crate::decision::{Cause, Decision, Refusal};
use crate::delay::{Arrival, Departed, DepartureReason, Line, WaitingRoom, WaitsFor};
use crate::lease::Leases;
use crate::limiter::{Meter, Outcome, Verdict};
use crate::metrics::{Counters, Total};
use crate::mode::Mode;
use crate::policy::{Delays, Limit, SlowDown, TierIndex};
use crate::store::Store;
use crate::store::memory::MemoryStore;
use crate::table::page_of;
use crate::units::{Span, Timestamp};

/// Where the requests of one engine wait.
pub type Room = WaitingRoom<WaitingRequest>;

/// What is kept for a waiting request.
#[derive(Debug)]
pub struct WaitingRequest {
    pub(super) tier: TierIndex,
    pub(super) charges: Vec<Charge>,
}

/// What the waiting room offers to one charge.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct WaitOffer {
    /// Whether requests can wait at the limit at all. Kept here to avoid a lookup for other limits.
    can_wait: bool,
    /// There is no room to wait. There may be after this long.
    room_after: Option<Span>,
    /// The wait for a less important request's turn, if one can be taken over.
    take_over_after: Option<Span>,
    /// That turn was taken over, so nothing has to be charged.
    pub(super) taken_over: bool,
    /// For a request that takes over a turn: the `retry_after` of the refusal that it would have got otherwise.
    own_retry_after: Option<Span>,
    /// The quota would delay the request, but there is no room to wait.
    pub(super) no_room: bool,
}

/// The state that is used when a request begins or ends its wait.
pub struct Books<'a, S> {
    /// The shared state.
    pub store: &'a mut S,
    /// This instance's own memory.
    pub local: &'a mut MemoryStore,
    /// The leases, and what is known of shared limits.
    pub leases: &'a mut Leases,
    /// The metrics.
    pub counters: &'a mut Counters,
}

impl Plan {
    /// Whether a limit of the plan may make the request wait.
    #[must_use]
    pub fn may_wait(&self) -> bool {
        self.may_wait
    }
}

impl Engine {
    /// An empty waiting room for this policy.
    #[must_use]
    pub fn waiting_room(&self) -> Room {
        let limits = (0..).zip(&self.policy.limits);
        WaitingRoom::new(limits.filter_map(|(index, limit)| Some((index, usize::from(limit.delays?.max_waiting)))))
    }

    /// Tells a plan that [may wait](Plan::may_wait) whether there is room to wait. Without this call, there always is.
    pub fn offer(&self, plan: &mut Plan, room: &Room, now: Timestamp) {
        for charge in &mut plan.charges {
            let Some(delays) = self.delays(charge) else { continue };
            let full = !room.has_room(charge.limit, charge.key, plan.priority);
            charge.wait_offer.room_after = full.then(|| room.next_leaves(charge.limit, now));
            if delays.slow_down.is_none() {
                charge.wait_offer.take_over_after =
                    room.turn_to_take_over(charge.limit, &charge.line(), plan.priority, now);
            }
        }
    }

    /// Lets the request of a decided plan wait under the number `id`, which no other waiting request may have. Returns
    /// the limit at which it waits; `None` if the plan was not delayed.
    pub fn enter<S: Store>(&self, plan: &Plan, id: u32, room: &mut Room, books: &mut Books<'_, S>) -> Option<u32> {
        let deciding = plan.deciding()?;
        let wait = deciding.wait()?;
        let delays = self.delays(deciding)?;
        let waits_for = match (delays.slow_down, deciding.wait_offer.taken_over, deciding.outcome) {
            (Some(_), ..) => WaitsFor::Slowed,
            (None, false, Some(outcome)) => WaitsFor::Turn { wait, charged: outcome.state },
            (None, ..) => WaitsFor::TakenOver,
        };
        let others = plan.charges.iter().filter(|charge| !core::ptr::eq(*charge, deciding));
        let others = others.filter_map(Charge::wait).max().unwrap_or(Span::ZERO);
        let slowed = waits_for == WaitsFor::Slowed;
        let arrival = Arrival {
            id,
            priority: plan.priority,
            line: deciding.line(),
            waits_for,
            at_least: if slowed { wait } else { others },
            at_most: if slowed { wait } else { delays.max_delay },
            held: WaitingRequest { tier: plan.tier, charges: plan.charges.clone() },
        };
        if let Some(mut left) = room.enter(deciding.limit, arrival, plan.now) {
            self.take_all_back(&mut left, books, plan.now);
            room.tell_later(left);
        }
        Some(deciding.limit)
    }

    /// Ends the wait of a request whose client is gone.
    pub fn leave<S: Store>(&self, limit: u32, id: u32, room: &mut Room, books: &mut Books<'_, S>, now: Timestamp) {
        if let Some(mut left) = room.leave(limit, id) {
            books.counters.add(Total::Abandoned, 1);
            self.take_all_back(&mut left, books, now);
        }
    }

    /// Decides a request whose wait has ended. The plan is overwritten with the request's own, updated to the client's
    /// present state.
    pub fn finish<S: Store>(
        &self,
        mut left: Departed<WaitingRequest>,
        plan: &mut Plan,
        books: &mut Books<'_, S>,
        now: Timestamp,
    ) -> Decision {
        let released = left.reason == DepartureReason::Released;
        if !released {
            books
                .counters
                .add(if left.reason == DepartureReason::Overdue { Total::Overdue } else { Total::Displaced }, 1);
            self.take_all_back(&mut left, books, now);
        }
        plan.charges.clone_from(&left.held.charges);
        (plan.tier, plan.refused, plan.now) = (left.held.tier, !released, now);
        books.store.begin();
        for charge in &mut plan.charges {
            let deciding = charge.limit == left.limit && charge.line() == left.line;
            self.restate(charge, plan.tier, released, deciding, books, now);
        }
        self.count(plan, books.counters, !released);
        if released { Decision::admit() } else { self.turned_away(&left, plan) }
    }

    /// How long a plan's request waits: the longest wait of its limits. `None` if it does not wait, or if the policy
    /// only observes.
    pub(super) fn delay(&self, plan: &Plan) -> Option<Span> {
        let waits = || plan.deciding().and_then(Charge::wait);
        if self.policy.mode == Mode::Observe { None } else { waits() }
    }

    /// Applies waiting to a quota's outcome: an admitted request may be slowed down, and a delayed one is refused if
    /// there is no room to wait.
    pub(super) fn with_room(
        &self,
        charge: &mut Charge,
        meter: &Meter,
        mut outcome: Outcome,
        now: Timestamp,
    ) -> Outcome {
        if !charge.wait_offer.can_wait {
            return outcome;
        }
        (charge.wait_offer.taken_over, charge.wait_offer.no_room) = (false, false);
        let Some(delays) = self.delays(charge) else { return outcome };
        if let (Some(slow_down), Verdict::Admit) = (delays.slow_down, outcome.verdict) {
            let wait = slowed(meter, &outcome, slow_down, now).min(delays.max_delay);
            if wait > Span::ZERO {
                outcome.verdict = Verdict::Delay { wait };
            }
        }
        match (outcome.verdict, charge.wait_offer.take_over_after, charge.wait_offer.room_after) {
            (Verdict::Refuse { retry_after }, Some(wait), _) => {
                (charge.wait_offer.taken_over, charge.wait_offer.own_retry_after) = (true, retry_after);
                outcome.verdict = Verdict::Delay { wait };
            }
            (Verdict::Delay { wait }, _, Some(full)) => {
                charge.wait_offer.no_room = true;
                // The room may be full of other clients' requests, which may wait for longer than this one would.
                outcome.verdict = Verdict::Refuse { retry_after: Some(wait.max(full)) };
                outcome.state = meter.refund(outcome.state, charge.cost, now);
            }
            _ => {}
        }
        outcome
    }

    fn delays(&self, charge: &Charge) -> Option<&Delays> {
        self.policy.limits.get(charge.limit())?.delays.as_ref()
    }

    /// Takes back every charge of a request that is not released, including the turn that it leaves behind. Each charge
    /// is taken back once only.
    fn take_all_back<S: Store>(&self, left: &mut Departed<WaitingRequest>, books: &mut Books<'_, S>, now: Timestamp) {
        let WaitingRequest { tier, charges } = &mut left.held;
        for charge in charges {
            if charge.counted == Counted::Held {
                release(charge, books.leases, now);
                continue;
            }
            let waited_here = charge.limit == left.limit && charge.line() == left.line;
            let turn = waited_here && self.delays(charge).is_some_and(|delays| delays.slow_down.is_none());
            let charged = match (turn, charge.outcome) {
                (true, _) => left.freed_turn.take(),
                (false, Some(outcome)) if charge.pays() => Some(outcome.state),
                _ => None,
            };
            let local = charge.stage == Stage::Local;
            let was_charged =
                local || matches!(charge.stage, Stage::Charged | Stage::Known) || charge.wait_offer.taken_over;
            if let (Some(charged), Some(meter), true) = (charged, self.meter(charge, *tier), was_charged) {
                let permits = (charge.key, charge.cost);
                let at = (charge.charged_at, now);
                if local {
                    take_back(books.local, books.counters, &meter, permits, charged, at);
                } else {
                    take_back(books.store, books.counters, &meter, permits, charged, at);
                }
            }
            charge.stage = Stage::Settled;
        }
    }

    /// Updates a charge to the client's present state, which the response reports.
    fn restate<S: Store>(
        &self,
        charge: &mut Charge,
        tier: TierIndex,
        released: bool,
        deciding: bool,
        books: &mut Books<'_, S>,
        now: Timestamp,
    ) {
        let Some(meter) = self.meter(charge, tier) else { return };
        let page = page_of(charge.key, books.store.pages());
        let probe = books.store.read(page).map(|page| page.probe(charge.key, now));
        let (Ok(probe), Some(outcome)) = (probe, &mut charge.outcome) else {
            charge.outcome = None;
            return;
        };
        if let Some(state) = probe.state() {
            outcome.state = state;
        }
        if !released && deciding {
            let retry_after = match meter.check(probe.state(), charge.cost, now).verdict {
                Verdict::Admit => Some(Span::ZERO),
                Verdict::Delay { wait } => Some(wait),
                Verdict::Refuse { retry_after } => retry_after,
            };
            outcome.verdict = Verdict::Refuse { retry_after };
        } else if !released && matches!(outcome.verdict, Verdict::Delay { .. }) {
            outcome.verdict = Verdict::Admit;
        }
        (charge.before, charge.probe) = (probe.state(), Some(probe));
    }

    fn turned_away(&self, left: &Departed<WaitingRequest>, plan: &Plan) -> Decision {
        let deciding = plan.charges.iter().find(|charge| charge.limit == left.limit && charge.line() == left.line);
        let retry_after = match deciding.and_then(|charge| charge.outcome).map(|outcome| outcome.verdict) {
            Some(Verdict::Refuse { retry_after }) => retry_after,
            // The state was not available.
            _ => Some(Span::ZERO),
        };
        let window = deciding.and_then(|charge| self.window(charge, plan.tier));
        let limit = Some(left.limit as usize);
        Decision { refusal: Some(Refusal { limit, window, cause: Cause::Exceeded, retry_after }), ..Decision::admit() }
    }
}

impl Plan {
    /// The charge that determines the wait: the one that took over a turn, or else the one with the longest wait.
    fn deciding(&self) -> Option<&Charge> {
        let waiting = self.charges.iter().filter(|charge| charge.wait().is_some());
        waiting.max_by_key(|charge| (charge.wait_offer.taken_over, charge.wait()))
    }
}

impl WaitOffer {
    /// For a charge of this limit, as if there were room.
    pub(super) fn of(limit: &Limit) -> Self {
        Self { can_wait: limit.delays.is_some(), ..Self::default() }
    }
}

impl Charge {
    fn line(&self) -> Line {
        Line { quota: self.quota, key: self.key, cost: self.cost }
    }

    /// Refuses the request if it would take over a turn.
    pub(super) fn decline_turn(&mut self) {
        if let Some(outcome) = self.outcome.as_mut().filter(|_| self.wait_offer.taken_over) {
            outcome.verdict = Verdict::Refuse { retry_after: self.wait_offer.own_retry_after };
        }
        self.wait_offer.taken_over = false;
    }

    /// How long this charge delays the request, if at all.
    pub(super) fn wait(&self) -> Option<Span> {
        match self.outcome?.verdict {
            Verdict::Delay { wait } => Some(wait),
            _ => None,
        }
    }
}

/// How long a client with this state is slowed down.
fn slowed(meter: &Meter, outcome: &Outcome, slow_down: SlowDown, now: Timestamp) -> Span {
    let steps = meter.used(outcome.state, now).minus(slow_down.slow_after);
    Span::from_nanos(slow_down.step.as_nanos().saturating_mul(steps.get().into()))
}
