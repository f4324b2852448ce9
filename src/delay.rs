//! The waiting room: requests wait for their turn at a token bucket, or because their client is slowed down.
//!
//! The limit's shared state promises turns one after another, in the order of the requests. Which request gets which
//! turn is settled here, among the requests that wait in this instance:
//!
//! - Requests of one client with the same cost share their turns. When a turn has come, the most important of them
//!   goes; among equals, the earliest.
//! - A request that others keep overtaking is refused when it has waited as long as it may. A request that leaves for
//!   any reason leaves the last turn of its line behind, so that all requests after it move up.
//! - The number of requests that wait at one limit is bounded. When there is one too many, one leaves: of the least
//!   important requests, the latest one of the client that has the most of them here. So no client can keep others out
//!   by sending many requests.
//!
//! Time follows the host's clock, but never goes back: time waited stays waited.

mod queue;

use queue::{Queue, Turn, Waiter};

use crate::key::KeyHash;
use crate::limiter::State;
use crate::policy::Priority;
use crate::units::{Permits, Span, Timestamp};

/// All requests that wait in one instance, each with what the host or the engine keeps for it.
#[derive(Debug)]
pub struct WaitingRoom<T> {
    /// One for each limit at which requests can wait, in the policy's order.
    queues: Vec<Queue<T>>,
    /// The queue that is served first the next time, so that none is always last.
    first: usize,
    /// Requests that others have displaced, until their hosts are told.
    displaced: Vec<Departed<T>>,
    /// The room's own time, which never goes back, and the host's clock when it was last advanced.
    time: Timestamp,
    seen: Timestamp,
    /// When the kept values were last renewed, in the room's own time.
    renewed: Timestamp,
}

/// A group of requests that share their turns: requests of one client at one quota with the same cost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Line {
    /// The quota's index among those of its limit.
    pub quota: u8,
    /// The client.
    pub key: KeyHash,
    /// What each of the requests costs.
    pub cost: Permits,
}

/// A request that starts to wait.
#[derive(Debug)]
pub struct Arrival<T> {
    /// The host's number for the request. No other waiting request may have it.
    pub id: u32,
    /// How important it is.
    pub priority: Priority,
    /// Where it waits.
    pub line: Line,
    /// What it waits for.
    pub waits_for: WaitsFor,
    /// The shortest wait, even if others leave: until the turns that other limits have promised.
    pub at_least: Span,
    /// The longest wait.
    pub at_most: Span,
    /// What is kept for it.
    pub held: T,
}

/// What a request waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WaitsFor {
    /// A turn: the next one of its line after those already promised.
    Turn {
        /// How long until it comes.
        wait: Span,
        /// The state that promised it.
        charged: State,
    },
    /// The turn of a less important request of its line, which leaves.
    TakenOver,
    /// Only for time to pass.
    Slowed,
}

/// A request whose wait has ended.
#[derive(Debug)]
pub struct Departed<T> {
    /// The host's number for the request.
    pub id: u32,
    /// The limit at which it waited, as an index into the policy's limits.
    pub limit: u32,
    /// Where it waited.
    pub line: Line,
    /// Why its wait ended.
    pub reason: DepartureReason,
    /// The state that promised the turn it leaves behind, the last one of its line.
    pub freed_turn: Option<State>,
    /// What was kept for it.
    pub held: T,
}

/// Why a wait ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DepartureReason {
    /// Its time has come.
    Released,
    /// It has waited as long as it may, in vain.
    Overdue,
    /// Another request needed its place.
    Displaced,
    /// Its client is gone.
    Gone,
}

impl<T> WaitingRoom<T> {
    /// An empty room for these limits, each with the number of requests that may wait there.
    #[must_use]
    pub fn new(limits: impl Iterator<Item = (u32, usize)>) -> Self {
        let queue = |(limit, capacity)| Queue { limit, capacity, waiters: Vec::new(), turns: Vec::new() };
        Self {
            queues: limits.map(queue).collect(),
            first: 0,
            displaced: Vec::new(),
            time: Timestamp::EPOCH,
            seen: Timestamp::EPOCH,
            renewed: Timestamp::EPOCH,
        }
    }

    /// How many requests wait.
    #[must_use]
    pub fn len(&self) -> usize {
        self.queues.iter().map(|queue| queue.waiters.len()).fold(self.displaced.len(), usize::saturating_add)
    }

    /// Whether no request waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.displaced.is_empty() && self.queues.iter().all(|queue| queue.waiters.is_empty())
    }

    /// Whether a request of this client and priority may wait at the limit, because there is room or because another
    /// request would leave.
    #[must_use]
    pub fn has_room(&self, limit: u32, key: KeyHash, priority: Priority) -> bool {
        self.queue(limit).is_some_and(|queue| {
            queue.waiters.len() < queue.capacity || (self.may_displace() && !queue.would_leave(key, priority))
        })
    }

    /// How long until the next request leaves the limit's queue, so that there is room again.
    #[must_use]
    pub fn next_leaves(&self, limit: u32, now: Timestamp) -> Span {
        let next = self.queue(limit).and_then(Queue::next_due);
        next.map_or(Span::ZERO, |at| at.since(self.time_at(now)))
    }

    /// If a less important request waits in the line: how long until the last turn of the line. A request that was
    /// promised no turn can take over that one.
    #[must_use]
    pub fn turn_to_take_over(&self, limit: u32, line: &Line, priority: Priority, now: Timestamp) -> Option<Span> {
        let queue = self.queue(limit).filter(|_| self.may_displace())?;
        queue.last_of(line).filter(|last| last.priority > priority)?;
        queue.turns.iter().rfind(|turn| turn.line == *line).map(|turn| turn.at.since(self.time_at(now)))
    }

    /// Lets a request wait. Returns the request that leaves for it: none if there was room; the new one itself if no
    /// other had to leave. Pass the result to [`tell_later`](Self::tell_later), so that its host learns of it.
    pub fn enter(&mut self, limit: u32, arrival: Arrival<T>, now: Timestamp) -> Option<Departed<T>> {
        self.time = self.time_at(now);
        self.seen = now;
        let time = self.time;
        let Some(queue) = self.queues.iter_mut().find(|queue| queue.limit == limit) else {
            // Requests cannot wait at this limit, so there is no room.
            let Arrival { id, line, waits_for, held, .. } = arrival;
            let freed_turn = if let WaitsFor::Turn { charged, .. } = waits_for { Some(charged) } else { None };
            return Some(Departed { id, limit, line, reason: DepartureReason::Displaced, freed_turn, held });
        };
        let taken_over = match arrival.waits_for {
            WaitsFor::TakenOver => queue.waiters.iter().rposition(|other| other.is_in(&arrival.line)),
            _ => None,
        };
        // The turn stays for the new request.
        let mut left = taken_over.map(|at| queue.remove(at, DepartureReason::Displaced, None));
        if let WaitsFor::Turn { wait, charged } = arrival.waits_for {
            let at = time.after(wait);
            let place = queue.turns.partition_point(|turn| turn.at <= at);
            queue.turns.insert(place, Turn { at, line: arrival.line, charged });
        }
        let place = queue.waiters.partition_point(|other| other.priority <= arrival.priority);
        queue.waiters.insert(
            place,
            Waiter {
                id: arrival.id,
                priority: arrival.priority,
                line: arrival.line,
                waits_for_turn: arrival.waits_for != WaitsFor::Slowed,
                not_before: time.after(arrival.at_least),
                deadline: time.after(arrival.at_most),
                held: arrival.held,
            },
        );
        if queue.waiters.len() > queue.capacity {
            left = queue.to_leave().map(|at| queue.leave(at, DepartureReason::Displaced));
        }
        left
    }

    /// Keeps a displaced request until its host asks which requests have left.
    pub fn tell_later(&mut self, left: Departed<T>) {
        self.displaced.push(left);
    }

    /// Removes a request whose client is gone.
    pub fn leave(&mut self, limit: u32, id: u32) -> Option<Departed<T>> {
        if let Some(at) = self.displaced.iter().position(|left| left.id == id) {
            return Some(Departed { reason: DepartureReason::Gone, ..self.displaced.swap_remove(at) });
        }
        let queue = self.queues.iter_mut().find(|queue| queue.limit == limit)?;
        let at = queue.waiters.iter().position(|waiter| waiter.id == id)?;
        Some(queue.leave(at, DepartureReason::Gone))
    }

    /// Adds the requests whose wait has ended at `now` to `left`, until it holds `most`.
    pub fn due(&mut self, now: Timestamp, most: usize, left: &mut Vec<Departed<T>>) {
        self.time = self.time_at(now);
        self.seen = now;
        while left.len() < most
            && let Some(displaced) = self.displaced.pop()
        {
            left.push(displaced);
        }
        let first = self.first.min(self.queues.len());
        let (later, sooner) = self.queues.split_at_mut(first);
        for queue in sooner.iter_mut().chain(later) {
            queue.due(self.time, most, left);
        }
        self.first = if first.saturating_add(1) < self.queues.len() { first.saturating_add(1) } else { 0 };
    }

    /// Calls `renew` with what is kept for each waiting request; does nothing within a second of the last time.
    pub fn renew(&mut self, now: Timestamp, renew: &mut dyn FnMut(&mut T)) {
        let time = self.time_at(now);
        if time < self.renewed.after(RENEWED_EVERY) {
            return;
        }
        self.renewed = time;
        self.queues.iter_mut().flat_map(|queue| &mut queue.waiters).for_each(|waiter| renew(&mut waiter.held));
    }

    /// How long until the wait of a request may end; `None` while no request waits.
    #[must_use]
    pub fn next_due(&self, now: Timestamp) -> Option<Span> {
        if !self.displaced.is_empty() {
            return Some(Span::ZERO);
        }
        let time = self.time_at(now);
        self.queues.iter().filter_map(Queue::next_due).min().map(|at| at.since(time))
    }

    fn queue(&self, limit: u32) -> Option<&Queue<T>> {
        self.queues.iter().find(|queue| queue.limit == limit)
    }

    fn may_displace(&self) -> bool {
        self.displaced.len() < MAX_DISPLACED
    }

    fn time_at(&self, now: Timestamp) -> Timestamp {
        self.time.after(now.since(self.seen))
    }
}

/// How many displaced requests may await their host's question, which comes within milliseconds. Beyond that, new
/// requests are refused.
const MAX_DISPLACED: usize = 1_000;

/// Often enough for the shortest lease, of which at least half is left when permits are taken; seldom enough to visit
/// all waiting requests.
const RENEWED_EVERY: Span = Span::from_secs(1);
