//! Where requests wait: for their turn at a token bucket, or because their client is slowed down.
//!
//! Turns are promised by the limit's shared state, one after another, to whoever asks first. Who has which of them is
//! settled here, among the requests that wait in this instance:
//!
//! - Requests of one client that cost the same share their turns. When a turn has come, the most important of them goes, and
//!   of those as important the earliest.
//! - A request that others have gone ahead of is refused when it has waited as long as it may. Whoever leaves, whichever
//!   way, leaves the last of those turns behind, so that everybody after him moves up.
//! - At most so many wait at one limit. When there is one more, somebody leaves: one of the least important, of these one
//!   of the client that has the most of them here, and of these the latest. So nobody can keep others out by waiting often.
//!
//! Time goes by the host's clock, but never back: what waits has waited.

mod queue;

use queue::{Queue, Turn, Waiter};

use crate::key::KeyHash;
use crate::limiter::State;
use crate::policy::Priority;
use crate::units::{Permits, Span, Timestamp};

/// All that wait in one instance, each with what a host or an engine holds for it.
#[derive(Debug)]
pub struct WaitingRoom<T> {
    /// Of the limits at which requests can wait, in their order.
    queues: Vec<Queue<T>>,
    /// Which queue is asked first the next time, so that none is always last.
    first: usize,
    /// Those that others have displaced, until their hosts are told.
    displaced: Vec<Left<T>>,
    /// Nanoseconds that have passed here, and the clock when they had.
    time: Timestamp,
    seen: Timestamp,
    /// When what is held was last renewed, by that time.
    renewed: Timestamp,
}

/// Whose turns are each other's: requests of one client at one quota that cost the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Line {
    /// The quota's place among those of its limit.
    pub quota: u8,
    /// The client.
    pub key: KeyHash,
    /// What each of the requests costs.
    pub cost: Permits,
}

/// A request that comes to wait.
#[derive(Debug)]
pub struct Arrival<T> {
    /// The host's number for it, unlike that of any other that waits.
    pub id: u32,
    /// How important it is.
    pub priority: Priority,
    /// Where it waits.
    pub line: Line,
    /// For what.
    pub claim: Claim,
    /// The shortest wait, whoever leaves: until what other limits have promised.
    pub at_least: Span,
    /// The longest wait.
    pub at_most: Span,
    /// What is held for it.
    pub held: T,
}

/// What a request waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Claim {
    /// For a turn, that of its line which comes next after those promised before.
    Turn {
        /// When it comes.
        wait: Span,
        /// The state that says so.
        charged: State,
    },
    /// For the turn of a less important request of its line, which goes in its stead.
    TakenOver,
    /// For nothing but that time passes.
    Slowed,
}

/// A request that waits no more.
#[derive(Debug)]
pub struct Left<T> {
    /// The host's number for it.
    pub id: u32,
    /// The limit at which it waited, as an index into the policy's limits.
    pub limit: u32,
    /// Where it waited.
    pub line: Line,
    /// Why it waits no more.
    pub why: Why,
    /// The state that had promised the turn it leaves behind, the last of its line.
    pub spare: Option<State>,
    /// What was held for it.
    pub held: T,
}

/// Why a request waits no more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// Its time has come.
    Released,
    /// It has waited as long as it may.
    Overdue,
    /// Another one was to wait in its place.
    Displaced,
    /// Its client is gone.
    Gone,
}

impl<T> WaitingRoom<T> {
    /// An empty room for these limits, each with how many may wait there.
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

    /// How many are here.
    #[must_use]
    pub fn len(&self) -> usize {
        self.queues.iter().map(|queue| queue.waiters.len()).fold(self.displaced.len(), usize::saturating_add)
    }

    /// Whether nobody is here.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.displaced.is_empty() && self.queues.iter().all(|queue| queue.waiters.is_empty())
    }

    /// Whether a request of this client and this importance may wait at the limit: there is room, or somebody else leaves.
    #[must_use]
    pub fn has_room(&self, limit: u32, key: KeyHash, priority: Priority) -> bool {
        self.queue(limit).is_some_and(|queue| {
            queue.waiters.len() < queue.capacity || (self.may_displace() && !queue.would_leave(key, priority))
        })
    }

    /// How long it is until the next of those who wait at the limit goes, so that there is room again.
    #[must_use]
    pub fn next_leaves(&self, limit: u32, now: Timestamp) -> Span {
        let next = self.queue(limit).and_then(Queue::next_due);
        next.map_or(Span::ZERO, |at| at.since(self.time_at(now)))
    }

    /// Whether somebody waits in the line who is less important, and when the last of its turns comes: a request that is
    /// promised none can have that.
    #[must_use]
    pub fn to_take_over(&self, limit: u32, line: &Line, priority: Priority, now: Timestamp) -> Option<Span> {
        let queue = self.queue(limit).filter(|_| self.may_displace())?;
        queue.last_of(line).filter(|last| last.priority > priority)?;
        queue.turns.iter().rfind(|turn| turn.line == *line).map(|turn| turn.at.since(self.time_at(now)))
    }

    /// Lets a request wait. Answers who leaves for it: nobody if there was room; the request itself if nobody else had to.
    /// Whoever it is [`tell_later`](Self::tell_later) gets him to his host.
    pub fn enter(&mut self, limit: u32, arrival: Arrival<T>, now: Timestamp) -> Option<Left<T>> {
        self.time = self.time_at(now);
        self.seen = now;
        let time = self.time;
        let Some(queue) = self.queues.iter_mut().find(|queue| queue.limit == limit) else {
            // No limit at which requests wait, and so no room for it.
            let Arrival { id, line, claim, held, .. } = arrival;
            let spare = if let Claim::Turn { charged, .. } = claim { Some(charged) } else { None };
            return Some(Left { id, limit, line, why: Why::Displaced, spare, held });
        };
        let taken_over = match arrival.claim {
            Claim::TakenOver => queue.waiters.iter().rposition(|other| other.is_in(&arrival.line)),
            _ => None,
        };
        // The turn stays.
        let mut left = taken_over.map(|at| queue.remove(at, Why::Displaced, None));
        if let Claim::Turn { wait, charged } = arrival.claim {
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
                waits_for_turn: arrival.claim != Claim::Slowed,
                not_before: time.after(arrival.at_least),
                deadline: time.after(arrival.at_most),
                held: arrival.held,
            },
        );
        if queue.waiters.len() > queue.capacity {
            left = queue.to_leave().map(|at| queue.leave(at, Why::Displaced));
        }
        left
    }

    /// Keeps somebody who had to leave until his host asks who has left.
    pub fn tell_later(&mut self, left: Left<T>) {
        self.displaced.push(left);
    }

    /// Lets a request go whose client is gone.
    pub fn leave(&mut self, limit: u32, id: u32) -> Option<Left<T>> {
        if let Some(at) = self.displaced.iter().position(|left| left.id == id) {
            return Some(Left { why: Why::Gone, ..self.displaced.swap_remove(at) });
        }
        let queue = self.queues.iter_mut().find(|queue| queue.limit == limit)?;
        let at = queue.waiters.iter().position(|waiter| waiter.id == id)?;
        Some(queue.leave(at, Why::Gone))
    }

    /// Adds those who wait no more at `now` to `left`, until it holds `most`.
    pub fn due(&mut self, now: Timestamp, most: usize, left: &mut Vec<Left<T>>) {
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

    /// Calls `renew` with what is held for each who waits; does nothing within a second of the last time.
    pub fn renew(&mut self, now: Timestamp, renew: &mut dyn FnMut(&mut T)) {
        let time = self.time_at(now);
        if time < self.renewed.after(RENEWED_EVERY) {
            return;
        }
        self.renewed = time;
        self.queues.iter_mut().flat_map(|queue| &mut queue.waiters).for_each(|waiter| renew(&mut waiter.held));
    }

    /// How long nobody has to be told anything; `None` while nobody waits.
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

/// As many as may be displaced until a host asks who was. It does within milliseconds; beyond that newcomers are refused.
const MAX_DISPLACED: usize = 1_000;

/// Often enough for the shortest lease of what is held, of which at least half is left when it is taken, and seldom enough to
/// look at all who wait.
const RENEWED_EVERY: Span = Span::from_secs(1);
