//! The requests that wait at one limit: whose turn it is, and which one leaves when there are too many.

use super::{Departed, DepartureReason, Line};
use crate::key::KeyHash;
use crate::limiter::State;
use crate::policy::Priority;
use crate::units::Timestamp;

/// The requests that wait at one limit, and the turns that they wait for.
#[derive(Debug)]
pub(super) struct Queue<T> {
    pub(super) limit: u32,
    pub(super) capacity: usize,
    /// The most important first; among equals, the earliest first.
    pub(super) waiters: Vec<Waiter<T>>,
    /// The turns of the waiters, the earliest first. A line has as many turns as waiters that wait for one.
    pub(super) turns: Vec<Turn>,
}

/// A waiting request.
#[derive(Debug)]
pub(super) struct Waiter<T> {
    pub(super) id: u32,
    pub(super) priority: Priority,
    pub(super) line: Line,
    pub(super) waits_for_turn: bool,
    pub(super) not_before: Timestamp,
    pub(super) deadline: Timestamp,
    pub(super) held: T,
}

/// A turn that was promised.
#[derive(Clone, Copy, Debug)]
pub(super) struct Turn {
    pub(super) at: Timestamp,
    pub(super) line: Line,
    pub(super) charged: State,
}

impl<T> Queue<T> {
    /// Removes the requests whose wait has ended, in their order.
    pub(super) fn due(&mut self, time: Timestamp, most: usize, left: &mut Vec<Departed<T>>) {
        let mut at = 0;
        while let Some(waiter) = self.waiters.get(at).filter(|_| left.len() < most) {
            let turn = if waiter.waits_for_turn { self.turn_of(&waiter.line, time) } else { None };
            if waiter.not_before <= time && (turn.is_some() || !waiter.waits_for_turn) {
                left.push(self.remove(at, DepartureReason::Released, turn));
            } else if waiter.deadline <= time {
                left.push(self.leave(at, DepartureReason::Overdue));
            } else {
                at = at.saturating_add(1);
            }
        }
    }

    /// The first turn of a line that has come.
    fn turn_of(&self, line: &Line, time: Timestamp) -> Option<usize> {
        self.turns.iter().take_while(|turn| turn.at <= time).position(|turn| turn.line == *line)
    }

    pub(super) fn next_due(&self) -> Option<Timestamp> {
        let turn = self.turns.first().map(|turn| turn.at);
        let next = |waiter: &Waiter<T>| match turn.filter(|_| waiter.waits_for_turn) {
            // A lower bound: if the first turn belongs to another line, the queue is looked at once too often.
            Some(turn) => waiter.deadline.min(turn.max(waiter.not_before)),
            None => waiter.not_before,
        };
        self.waiters.iter().map(next).min()
    }

    /// The waiter of a line that would go last.
    pub(super) fn last_of(&self, line: &Line) -> Option<&Waiter<T>> {
        self.waiters.iter().rfind(|waiter| waiter.is_in(line))
    }

    /// Removes a waiter together with the last turn of its line.
    pub(super) fn leave(&mut self, at: usize, reason: DepartureReason) -> Departed<T> {
        let line = self.waiters.get(at).filter(|waiter| waiter.waits_for_turn).map(|waiter| waiter.line);
        let turn = line.and_then(|line| self.turns.iter().rposition(|turn| turn.line == line));
        self.remove(at, reason, turn)
    }

    /// Removes this waiter, which must exist, and this turn.
    pub(super) fn remove(&mut self, at: usize, reason: DepartureReason, turn: Option<usize>) -> Departed<T> {
        let turn = turn.map(|turn| self.turns.remove(turn));
        let Waiter { id, line, held, .. } = self.waiters.remove(at);
        let freed_turn = turn.filter(|_| reason != DepartureReason::Released).map(|turn| turn.charged);
        Departed { id, limit: self.limit, line, reason, freed_turn, held }
    }

    /// Whether a request of this client and priority would have to leave a full queue immediately.
    pub(super) fn would_leave(&self, key: KeyHash, priority: Priority) -> bool {
        let Some(least) = self.waiters.last().map(|waiter| waiter.priority) else { return true };
        match priority.cmp(&least) {
            core::cmp::Ordering::Less => false,
            core::cmp::Ordering::Greater => true,
            core::cmp::Ordering::Equal => {
                let crowd = Crowd::new(self.of_priority(least));
                crowd.most() <= crowd.of(key).saturating_add(1)
            }
        }
    }

    /// The waiter that has to leave.
    pub(super) fn to_leave(&self) -> Option<usize> {
        let least = self.waiters.last()?.priority;
        let crowd = Crowd::new(self.of_priority(least));
        let most = crowd.most();
        self.waiters.iter().rposition(|waiter| waiter.priority == least && crowd.of(waiter.line.key) == most)
    }

    fn of_priority(&self, priority: Priority) -> impl Iterator<Item = KeyHash> {
        self.waiters.iter().rev().take_while(move |waiter| waiter.priority == priority).map(|waiter| waiter.line.key)
    }
}

impl<T> Waiter<T> {
    /// Whether it waits for a turn of this line.
    pub(super) fn is_in(&self, line: &Line) -> bool {
        self.waits_for_turn && self.line == *line
    }
}

/// How many waiting requests each client has. Clients are told apart by some bits of their keys. Two clients that share
/// these bits count as one: this is rare and does little harm, and no client can choose whom it collides with.
struct Crowd([u16; Self::SIZE]);

impl Crowd {
    fn new(keys: impl Iterator<Item = KeyHash>) -> Self {
        let mut crowd = Self([0; Self::SIZE]);
        for key in keys {
            if let Some(count) = crowd.0.get_mut(Self::place(key)) {
                *count = count.saturating_add(1);
            }
        }
        crowd
    }

    fn of(&self, key: KeyHash) -> u16 {
        self.0.get(Self::place(key)).copied().unwrap_or(0)
    }

    fn most(&self) -> u16 {
        self.0.iter().copied().max().unwrap_or(0)
    }

    fn place(key: KeyHash) -> usize {
        key.get() as usize % Self::SIZE
    }

    /// At least as many as may wait at one limit (1,000), and a power of two.
    const SIZE: usize = 1_024;
}
