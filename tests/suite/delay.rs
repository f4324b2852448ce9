//! The waiting room against a naive model: who leaves, in which order, and that no turn is used twice.

use crate::harness::ms;
use proptest::prelude::*;
use std::collections::BTreeMap;
use tidegate::delay::{Arrival, Departed, DepartureReason, Line, WaitingRoom, WaitsFor};
use tidegate::key::KeyHash;
use tidegate::limiter::{State, UsedShare};
use tidegate::policy::Priority;
use tidegate::units::{Permits, Span};

const PRIORITIES: [Priority; 4] = [Priority::Critical, Priority::High, Priority::Medium, Priority::Low];
const CAPACITY: usize = 6;
const LIMIT: u32 = 3;

fn line(key: u64) -> Line {
    Line { quota: 0, key: KeyHash::from_bits(key), cost: Permits::ONE }
}

/// A state that identifies a turn.
fn charged(number: u64) -> State {
    State::new(ms(0), UsedShare::default(), number)
}

fn room() -> WaitingRoom<u32> {
    WaitingRoom::new([(LIMIT, CAPACITY)].into_iter())
}

fn arrival(id: u32, key: u64, priority: Priority, waits_for: WaitsFor, at_most: u64) -> Arrival<u32> {
    let at_most = Span::from_millis(at_most);
    Arrival { id, priority, line: line(key), waits_for, at_least: Span::ZERO, at_most, held: id }
}

fn turn(wait: u64, number: u64) -> WaitsFor {
    WaitsFor::Turn { wait: Span::from_millis(wait), charged: charged(number) }
}

/// The requests that leave at this time, and the reason.
fn due(room: &mut WaitingRoom<u32>, at: u64, most: usize) -> Vec<(u32, DepartureReason)> {
    let mut left = Vec::new();
    room.due(ms(at), most, &mut left);
    left.into_iter().map(|left| (left.id, left.reason)).collect()
}

#[test]
fn due_returns_at_most_as_many_as_requested_and_the_rest_later() {
    let mut room: WaitingRoom<u32> = WaitingRoom::new([(1, 500), (2, 500)].into_iter());
    for id in 0..400 {
        let slowed =
            Arrival { at_least: Span::from_millis(5), ..arrival(id, 1, Priority::Medium, WaitsFor::Slowed, 5) };
        assert!(room.enter(1 + id % 2, slowed, ms(0)).is_none());
    }
    assert_eq!(due(&mut room, 4, 64), []);
    assert_eq!(room.next_due(ms(4)), Some(Span::from_millis(1)));
    let mut told = Vec::new();
    for _ in 0..7 {
        let some = due(&mut room, 5, 64);
        assert!(some.len() <= 64);
        told.extend(some);
    }
    assert_eq!((told.len(), room.len(), room.next_due(ms(5))), (400, 0, None));
}

#[test]
fn a_step_back_of_the_clock_keeps_the_time_already_waited() {
    let mut room = room();
    room.enter(LIMIT, arrival(1, 1, Priority::Medium, turn(100, 1), 200), ms(3_600_000));
    assert_eq!(due(&mut room, 3_600_060, 64), []);
    // The clock goes back an hour: forty milliseconds are left, not an hour more.
    assert_eq!(due(&mut room, 0, 64), []);
    assert_eq!(room.next_due(ms(0)), Some(Span::from_millis(40)));
    assert_eq!(due(&mut room, 39, 64), []);
    assert_eq!(due(&mut room, 40, 64), [(1, DepartureReason::Released)]);
}

#[test]
fn a_client_with_many_waiting_requests_does_not_keep_others_out() {
    let mut room = room();
    for id in 0..6 {
        room.enter(LIMIT, arrival(id, 1, Priority::Medium, turn(100, 1), 100), ms(0));
    }
    let (greedy, honest) = (line(1).key, line(2).key);
    assert!(!room.has_room(LIMIT, greedy, Priority::Medium));
    assert!(room.has_room(LIMIT, honest, Priority::Medium));
    let leaves = |left: Option<Departed<u32>>| left.map(|left| left.id);
    for (id, gone) in [(6, 5), (7, 4)] {
        assert_eq!(leaves(room.enter(LIMIT, arrival(id, 2, Priority::Medium, turn(9, 1), 9), ms(0))), Some(gone));
    }
    // The clients now have four and two places. One more exchange makes it three each, and then it stops.
    assert!(room.has_room(LIMIT, honest, Priority::Medium));
    assert_eq!(leaves(room.enter(LIMIT, arrival(8, 2, Priority::Medium, turn(9, 1), 9), ms(0))), Some(3));
    assert!(!room.has_room(LIMIT, honest, Priority::Medium));
    // A more important request gets a place whoever its client is; a less important one does not.
    assert!(room.has_room(LIMIT, greedy, Priority::High));
    assert!(!room.has_room(LIMIT, line(3).key, Priority::Low));
}

#[derive(Clone, Debug)]
enum Step {
    Turn { key: u64, priority: usize, wait: u64, at_least: u64, patience: u64 },
    TakeOver { key: u64, priority: usize },
    Slowed { key: u64, wait: u64 },
    Gone { nth: usize },
    Pass { ms: u64 },
}

fn step() -> impl Strategy<Value = Step> {
    let (key, priority) = (0_u64..3, 0_usize..4);
    prop_oneof![
        4 => (key.clone(), priority.clone(), 0_u64..60, 0_u64..30, 0_u64..80).prop_map(
            |(key, priority, wait, at_least, patience)| Step::Turn { key, priority, wait, at_least, patience }
        ),
        1 => (key.clone(), priority).prop_map(|(key, priority)| Step::TakeOver { key, priority }),
        1 => (key, 0_u64..60).prop_map(|(key, wait)| Step::Slowed { key, wait }),
        1 => (0_usize..8).prop_map(|nth| Step::Gone { nth }),
        3 => (0_u64..40).prop_map(|ms| Step::Pass { ms }),
    ]
}

#[derive(Clone, Debug)]
struct Waiter {
    id: u32,
    key: u64,
    priority: Priority,
    for_turn: bool,
    not_before: u64,
    deadline: u64,
}

/// The model: plain lists in order of arrival.
#[derive(Default)]
struct Model {
    waiters: Vec<Waiter>,
    /// For each turn: its time, its client, its number.
    turns: Vec<(u64, u64, u64)>,
}

impl Model {
    fn take(&mut self, id: u32) -> Waiter {
        let at = self.waiters.iter().position(|waiter| waiter.id == id).expect("waits");
        self.waiters.remove(at)
    }

    /// A request leaves without having used a turn: the last turn of its line is left over.
    fn drop(&mut self, id: u32) -> Option<State> {
        let waiter = self.take(id);
        let last = self.turns.iter().filter(|turn| waiter.for_turn && turn.1 == waiter.key).max().copied()?;
        self.turns.retain(|turn| *turn != last);
        Some(charged(last.2))
    }

    /// Among the least important requests, the newest of the client that has the most of them.
    fn to_leave(&self) -> u32 {
        let least = self.waiters.iter().map(|waiter| waiter.priority).max().expect("somebody");
        let of_least = || self.waiters.iter().filter(move |waiter| waiter.priority == least);
        let mut crowd = BTreeMap::new();
        for waiter in of_least() {
            *crowd.entry(waiter.key).or_insert(0) += 1;
        }
        let most = crowd.values().max().expect("somebody");
        of_least().rfind(|waiter| crowd[&waiter.key] == *most).expect("somebody").id
    }

    /// For each line, as many requests leave as turns are due, the most important first.
    fn due(&mut self, now: u64) -> (Vec<u32>, Vec<(u32, Option<State>)>) {
        let mut released = Vec::new();
        for key in 0..3 {
            let mut ready: Vec<Waiter> = self
                .waiters
                .iter()
                .filter(|it| it.for_turn && it.key == key && it.not_before <= now)
                .cloned()
                .collect();
            ready.sort_by_key(|waiter| waiter.priority);
            let mut come: Vec<_> = self.turns.iter().filter(|turn| turn.1 == key && turn.0 <= now).copied().collect();
            come.sort_unstable();
            for (waiter, turn) in ready.iter().zip(come) {
                self.turns.retain(|other| *other != turn);
                released.push(waiter.id);
            }
        }
        released.extend(self.waiters.iter().filter(|it| !it.for_turn && it.not_before <= now).map(|it| it.id));
        for id in &released {
            self.take(*id);
        }
        released.sort_unstable();
        let mut late: Vec<_> = self.waiters.iter().filter(|it| it.deadline <= now).cloned().collect();
        late.sort_by_key(|waiter| waiter.priority);
        (released, late.iter().map(|waiter| (waiter.id, self.drop(waiter.id))).collect())
    }
}

proptest! {
    #[test]
    fn the_room_behaves_as_the_model(steps in prop::collection::vec(step(), 1..120)) {
        let (mut room, mut model, mut now) = (room(), Model::default(), 0);
        for (id, step) in (1..).zip(steps) {
            let number = u64::from(id);
            let (key, priority, waits_for, at_least, at_most) = match step {
                Step::Turn { key, priority, wait, at_least, patience } => {
                    // The turns of one line are at strictly increasing times.
                    let last = model.turns.iter().filter(|turn| turn.1 == key).map(|turn| turn.0).max();
                    let wait = (now + wait).max(last.map_or(0, |last| last + 1)) - now;
                    (key, PRIORITIES[priority], turn(wait, number), at_least, wait.max(at_least) + patience)
                }
                Step::Slowed { key, wait } => (key, Priority::Medium, WaitsFor::Slowed, wait, wait),
                Step::TakeOver { key, priority } => {
                    let priority = PRIORITIES[priority];
                    let mut in_line: Vec<_> =
                        model.waiters.iter().filter(|it| it.for_turn && it.key == key).cloned().collect();
                    in_line.sort_by_key(|waiter| waiter.priority);
                    let victim = in_line.pop().filter(|last| last.priority > priority);
                    let last = model.turns.iter().filter(|turn| turn.1 == key).map(|turn| turn.0).max();
                    let offered = room.turn_to_take_over(LIMIT, &line(key), priority, ms(now));
                    let expected = victim.as_ref().map(|_| Span::from_millis(last.unwrap().saturating_sub(now)));
                    prop_assert_eq!(offered, expected);
                    let Some(victim) = victim else { continue };
                    model.take(victim.id);
                    model.waiters.push(Waiter { id, key, priority, for_turn: true, not_before: now, deadline: now + 90 });
                    let left = room.enter(LIMIT, arrival(id, key, priority, WaitsFor::TakenOver, 90), ms(now)).unwrap();
                    prop_assert_eq!((left.id, left.reason, left.freed_turn), (victim.id, DepartureReason::Displaced, None));
                    continue;
                }
                Step::Gone { nth } => {
                    let Some(id) = model.waiters.get(nth).map(|waiter| waiter.id) else { continue };
                    let left = room.leave(LIMIT, id).unwrap();
                    prop_assert_eq!((left.id, left.held, left.reason, left.freed_turn), (id, id, DepartureReason::Gone, model.drop(id)));
                    continue;
                }
                Step::Pass { ms: passed } => {
                    now += passed;
                    let mut left = Vec::new();
                    room.due(ms(now), usize::MAX, &mut left);
                    let (released, late) = model.due(now);
                    let mut gone: Vec<_> =
                        left.iter().filter(|left| left.reason == DepartureReason::Released).map(|left| left.id).collect();
                    gone.sort_unstable();
                    prop_assert_eq!(gone, released);
                    let refused = left.iter().filter(|left| left.reason == DepartureReason::Overdue);
                    prop_assert_eq!(refused.map(|left| (left.id, left.freed_turn)).collect::<Vec<_>>(), late);
                    prop_assert!(room.next_due(ms(now)).is_none_or(|due| due > Span::ZERO || room.len() > 1));
                    continue;
                }
            };
            let claim_turn = waits_for != WaitsFor::Slowed;
            let (not_before, deadline) = (now + at_least, now + at_most);
            model.waiters.push(Waiter { id, key, priority, for_turn: claim_turn, not_before, deadline });
            if let WaitsFor::Turn { wait, .. } = waits_for {
                model.turns.push((now + wait.as_nanos() / 1_000_000, key, number));
            }
            let full = model.waiters.len() > CAPACITY;
            let leaves = full.then(|| model.to_leave());
            prop_assert_eq!(room.has_room(LIMIT, line(key).key, priority), leaves != Some(id));
            let arrival = Arrival { at_least: Span::from_millis(at_least), ..arrival(id, key, priority, waits_for, at_most) };
            let left = room.enter(LIMIT, arrival, ms(now)).map(|left| (left.id, left.freed_turn));
            prop_assert_eq!(left, leaves.map(|id| (id, model.drop(id))));
            prop_assert_eq!(room.len(), model.waiters.len());
        }
        // Finally every request has left.
        room.due(ms(now + 1_000), usize::MAX, &mut Vec::new());
        prop_assert!(room.is_empty() && room.next_due(ms(now)).is_none());
    }
}
