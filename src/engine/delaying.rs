//! Requests that wait: which charges make one wait, how it comes to wait, and how that ends.
//!
//! ```text
//! offer     whether there is room for it to wait     before decide, once the plan is there
//! enter     it waits                                  after decide, when the decision has a delay
//! finish    its time has come, or it is refused       when the room says so
//! leave     its client is gone
//! ```
//!
//! What a request is charged is charged when it begins to wait, and taken back if it is not released.

use super::charging::take_back;
use super::lending::release;
use super::plan::Counted;
use super::{Charge, Engine, Plan, Stage};
use crate::decision::{Cause, Decision, Refusal};
use crate::delay::{Arrival, Claim, Left, Line, WaitingRoom, Why};
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
pub type Room = WaitingRoom<Held>;

/// What is kept of a request that waits.
#[derive(Debug)]
pub struct Held {
    pub(super) tier: TierIndex,
    pub(super) charges: Vec<Charge>,
}

/// What the waiting room has for one charge.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Chance {
    /// Requests can wait at the limit at all. Kept here, so that others need not be looked up.
    waits: bool,
    /// Nobody more may wait, before so long.
    full: Option<Span>,
    /// A less important request's turn is to be had, and when it comes.
    take_over: Option<Span>,
    /// That turn was taken: nothing has to be charged.
    pub(super) taken_over: bool,
    /// When the client would be promised a turn of his own, where he has taken over another's.
    own: Option<Span>,
    /// Only the want of room refuses the request.
    pub(super) crowded: bool,
}

/// The state that a request which comes to wait or waits no more is decided with.
pub struct Books<'a, S> {
    /// The shared state.
    pub store: &'a mut S,
    /// This instance's own memory.
    pub local: &'a mut MemoryStore,
    /// What is known of permits that instances share.
    pub leases: &'a mut Leases,
    /// What is counted.
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
    /// An empty room for those who wait under this policy.
    #[must_use]
    pub fn waiting_room(&self) -> Room {
        let limits = (0..).zip(&self.policy.limits);
        WaitingRoom::new(limits.filter_map(|(index, limit)| Some((index, usize::from(limit.delays?.max_waiting)))))
    }

    /// Tells a plan that [may wait](Plan::may_wait) whether there is room. Without this there always is.
    pub fn offer(&self, plan: &mut Plan, room: &Room, now: Timestamp) {
        for charge in &mut plan.charges {
            let Some(delays) = self.delays(charge) else { continue };
            let full = !room.has_room(charge.limit, charge.key, plan.priority);
            charge.chance.full = full.then(|| room.next_leaves(charge.limit, now));
            if delays.slow_down.is_none() {
                charge.chance.take_over = room.to_take_over(charge.limit, &charge.line(), plan.priority, now);
            }
        }
    }

    /// Lets the request of a decided plan wait under this number, unlike that of any other that waits. Answers the limit at
    /// which it waits; `None` when the plan was not delayed.
    pub fn enter<S: Store>(&self, plan: &Plan, id: u32, room: &mut Room, books: &mut Books<'_, S>) -> Option<u32> {
        let deciding = plan.deciding()?;
        let wait = deciding.wait()?;
        let delays = self.delays(deciding)?;
        let claim = match (delays.slow_down, deciding.chance.taken_over, deciding.outcome) {
            (Some(_), ..) => Claim::Slowed,
            (None, false, Some(outcome)) => Claim::Turn { wait, charged: outcome.state },
            (None, ..) => Claim::TakenOver,
        };
        let others = plan.charges.iter().filter(|charge| !core::ptr::eq(*charge, deciding));
        let others = others.filter_map(Charge::wait).max().unwrap_or(Span::ZERO);
        let slowed = claim == Claim::Slowed;
        let arrival = Arrival {
            id,
            priority: plan.priority,
            line: deciding.line(),
            claim,
            at_least: if slowed { wait } else { others },
            at_most: if slowed { wait } else { delays.max_delay },
            held: Held { tier: plan.tier, charges: plan.charges.clone() },
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

    /// Decides on a request that waits no more. The plan is then the request's own, as its client stands by now.
    pub fn finish<S: Store>(
        &self,
        mut left: Left<Held>,
        plan: &mut Plan,
        books: &mut Books<'_, S>,
        now: Timestamp,
    ) -> Decision {
        let released = left.why == Why::Released;
        if !released {
            books.counters.add(if left.why == Why::Overdue { Total::Overdue } else { Total::Displaced }, 1);
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

    /// How a plan's request waits: as long as the limit that keeps it longest. `None` when it does not, or is only observed.
    pub(super) fn delay(&self, plan: &Plan) -> Option<Span> {
        let waits = || plan.deciding().and_then(Charge::wait);
        if self.policy.mode == Mode::Observe { None } else { waits() }
    }

    /// What a quota's answer comes to where requests can wait: within a limit that slows down some wait, and where there is
    /// no room to wait they are refused.
    pub(super) fn with_room(
        &self,
        charge: &mut Charge,
        meter: &Meter,
        mut outcome: Outcome,
        now: Timestamp,
    ) -> Outcome {
        if !charge.chance.waits {
            return outcome;
        }
        (charge.chance.taken_over, charge.chance.crowded) = (false, false);
        let Some(delays) = self.delays(charge) else { return outcome };
        if let (Some(slow_down), Verdict::Admit) = (delays.slow_down, outcome.verdict) {
            let wait = slowed(meter, &outcome, slow_down, now).min(delays.max_delay);
            if wait > Span::ZERO {
                outcome.verdict = Verdict::Delay { wait };
            }
        }
        match (outcome.verdict, charge.chance.take_over, charge.chance.full) {
            (Verdict::Refuse { retry_after }, Some(wait), _) => {
                (charge.chance.taken_over, charge.chance.own) = (true, retry_after);
                outcome.verdict = Verdict::Delay { wait };
            }
            (Verdict::Delay { wait }, _, Some(full)) => {
                charge.chance.crowded = true;
                // Others than this client may wait for longer.
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

    /// Takes back what a request was charged that is not released: the turn that it leaves behind, and all else. What was
    /// taken back once is not again.
    fn take_all_back<S: Store>(&self, left: &mut Left<Held>, books: &mut Books<'_, S>, now: Timestamp) {
        let Held { tier, charges } = &mut left.held;
        for charge in charges {
            if charge.counted == Counted::Held {
                release(charge, books.leases, now);
                continue;
            }
            let waited_here = charge.limit == left.limit && charge.line() == left.line;
            let turn = waited_here && self.delays(charge).is_some_and(|delays| delays.slow_down.is_none());
            let charged = match (turn, charge.outcome) {
                (true, _) => left.spare.take(),
                (false, Some(outcome)) if charge.pays() => Some(outcome.state),
                _ => None,
            };
            let local = charge.stage == Stage::Local;
            let was_charged =
                local || matches!(charge.stage, Stage::Charged | Stage::Known) || charge.chance.taken_over;
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

    /// Brings a charge up to date: the client is told how he stands when he is answered.
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

    fn turned_away(&self, left: &Left<Held>, plan: &Plan) -> Decision {
        let deciding = plan.charges.iter().find(|charge| charge.limit == left.limit && charge.line() == left.line);
        let retry_after = match deciding.and_then(|charge| charge.outcome).map(|outcome| outcome.verdict) {
            Some(Verdict::Refuse { retry_after }) => retry_after,
            // Its state could not be had.
            _ => Some(Span::ZERO),
        };
        let window = deciding.and_then(|charge| self.window(charge, plan.tier));
        let limit = Some(left.limit as usize);
        Decision { refusal: Some(Refusal { limit, window, cause: Cause::Exceeded, retry_after }), ..Decision::admit() }
    }
}

impl Plan {
    /// The charge that keeps the request waiting: the one whose turn was taken over, or else the longest.
    fn deciding(&self) -> Option<&Charge> {
        let waiting = self.charges.iter().filter(|charge| charge.wait().is_some());
        waiting.max_by_key(|charge| (charge.chance.taken_over, charge.wait()))
    }
}

impl Chance {
    /// That of a charge of this limit, as if there was room.
    pub(super) fn at(limit: &Limit) -> Self {
        Self { waits: limit.delays.is_some(), ..Self::default() }
    }
}

impl Charge {
    fn line(&self) -> Line {
        Line { quota: self.quota, key: self.key, cost: self.cost }
    }

    /// Refuses instead of taking over a turn.
    pub(super) fn decline_turn(&mut self) {
        if let Some(outcome) = self.outcome.as_mut().filter(|_| self.chance.taken_over) {
            outcome.verdict = Verdict::Refuse { retry_after: self.chance.own };
        }
        self.chance.taken_over = false;
    }

    /// How long it makes the request wait, if at all.
    pub(super) fn wait(&self) -> Option<Span> {
        match self.outcome?.verdict {
            Verdict::Delay { wait } => Some(wait),
            _ => None,
        }
    }
}

/// How long a request waits by which its client comes to this state.
fn slowed(meter: &Meter, outcome: &Outcome, slow_down: SlowDown, now: Timestamp) -> Span {
    let steps = meter.used(outcome.state, now).minus(slow_down.slow_after);
    Span::from_nanos(slow_down.step.as_nanos().saturating_mul(steps.get().into()))
}
