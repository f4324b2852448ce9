//! One instance with shared requests in flight, and an authority that answers when the test says so.

use super::engine::{Bench, NOW_MS, at};
use tidegate::authority::{Ask, Grant, Instance};
use tidegate::decision::{Cause, Decision, Fields};
use tidegate::engine::delaying::Books;
use tidegate::engine::{Answer, Ticket};
use tidegate::units::{Permits, Span};

fn slots(more: &str) -> String {
    format!(r#"{{ "name": "s", "scope": "global", "algorithm": "concurrency", "lease": "10s" {more} }}"#)
}

impl Bench {
    /// Has request `id` admitted, and returns the ticket of what it holds.
    fn served(&mut self, id: u32, now: u64) -> Ticket {
        let mut decision = self.arrive(id, now);
        if decision.awaits.is_some() {
            decision = self.serve(now).into_iter().find(|(served, _)| *served == id).expect("it is served").1;
        }
        assert_eq!(decision, Decision::admit(), "at {now}");
        self.plan.ticket().expect("it holds a permit")
    }

    fn end(&mut self, ticket: Ticket, now: u64) {
        let Self { engine, store, local, leases, counters, .. } = self;
        engine.release(ticket, store, local, leases, counters, at(now));
    }

    fn refused(&mut self, id: u32, now: u64) -> Decision {
        let decision = self.arrive(id, now);
        if decision.awaits.is_none() {
            return decision;
        }
        self.serve(now).into_iter().find(|(served, _)| *served == id).expect("it is refused").1
    }

    /// The permits that all instances hold, according to the authority.
    fn held(&self, now: u64) -> u64 {
        let asked = self.last.expect("something was asked");
        self.authority.account(asked.key).map_or(0, |account| {
            let (need, want, back) = Default::default();
            let ask = Ask { instance: Instance::new(1 << 40), need, want, back, ..asked };
            account.clone().answer(&ask, NOW_MS + now).drawn
        })
    }
}

#[test]
fn a_held_permit_serves_one_request_after_the_other_and_is_returned_when_idle() {
    let mut bench = Bench::new(&slots(r#", "quota": { "permits": 2 }"#));
    let mut ticket = bench.served(1, 0);
    for now in 1..100 {
        bench.end(ticket, now);
        assert_eq!(bench.decide(now), Decision::admit(), "at {now}");
        ticket = bench.plan.ticket().unwrap();
        assert_eq!(bench.asks(now), [], "at {now}");
    }
    bench.end(ticket, 100);
    for now in [250, 500, 750] {
        bench.tend(now);
        bench.serve(now);
    }
    assert_eq!(bench.held(751), 0);
}

#[test]
fn in_exact_sharing_a_permit_is_held_exactly_as_long_as_its_request() {
    let mut bench = Bench::new(&slots(r#", "quota": { "permits": 2 }, "sharing": "exact""#));
    let (first, second) = (bench.served(1, 0), bench.served(2, 1));
    assert_eq!(bench.held(2), 2);
    assert!(bench.refused(3, 3).refusal.is_some());
    bench.end(first, 4);
    bench.serve(4);
    assert_eq!(bench.held(5), 1);
    bench.end(second, 6);
    bench.serve(6);
    assert_eq!(bench.held(7), 0);
}

#[test]
fn the_fields_show_the_permits_left_over_all_instances() {
    let mut bench = Bench::new(&slots(r#", "quota": { "permits": 5 }"#));
    let _first = bench.served(1, 0);
    let mut fields = Fields::default();
    fields.push_limits(&bench.engine, &bench.plan);
    let told: String = fields.iter().map(|(name, value)| format!("{name}: {value}\n")).collect();
    assert!(told.contains(r#"ratelimit: "s";r=4"#) && told.contains(r#"q=5;qu="concurrent-requests""#), "{told}");
}

#[test]
fn a_permit_called_back_is_returned_when_its_request_ends_and_not_used_again() {
    let mut bench = Bench::new(&slots(r#", "quota": { "permits": 1 }"#));
    let first = bench.served(1, 0);
    let other = Ask { instance: Instance::new(2), seq: 1, back: Permits::ZERO, ..bench.last.unwrap() };
    let needs = Ask { need: Permits::ONE, least: Permits::ONE, want: Permits::ONE, ..other };
    assert_eq!(bench.answer(&needs, 10).grant.unwrap().granted, Permits::ZERO);
    // A lease with little time left is renewed every second.
    for now in [400, 800, 1_200] {
        bench.tend(now);
        bench.serve(now);
        assert_eq!(bench.answer(&Ask { seq: now, ..needs }, now + 1).grant.unwrap().granted, Permits::ZERO);
    }
    bench.tend(2_300);
    bench.serve(2_300);
    bench.end(first, 2_400);
    bench.serve(2_400);
    assert_eq!(bench.answer(&Ask { seq: 2_401, ..needs }, 2_401).grant.unwrap().granted, Permits::ONE);
    assert!(bench.refused(2, 2_402).refusal.is_some());
}

#[test]
fn a_late_answer_counts_until_the_next_ask() {
    let mut bench = Bench::new(&slots(r#", "quota": { "permits": 3 }"#));
    assert!(bench.arrive(1, 0).awaits.is_some());
    let asked = bench.asks(0);
    let late = bench.answer(&asked[0], 1);
    bench.tend(30);
    bench.hand_in(&late, 40);
    assert_eq!(bench.decide(41), Decision::admit());
    let ticket = bench.plan.ticket().unwrap();
    bench.end(ticket, 50);
    // It returns idle permits, and the earlier grant no longer counts.
    let given = (0..10).find_map(|round| {
        bench.tend(300 + round * 200);
        bench.asks(300 + round * 200).first().copied()
    });
    let given = given.expect("it gives back");
    assert_eq!(given.keeps(), Permits::ZERO);
    bench.hand_in(&late, 2_301);
    assert!(bench.decide(2_302).awaits.is_some());
}

#[test]
fn a_lease_counts_from_the_time_of_the_ask() {
    let mut bench = Bench::new(&slots(r#", "quota": { "permits": 3 }"#));
    assert!(bench.arrive(1, 0).awaits.is_some());
    let asked = bench.asks(0);
    let late = bench.answer(&asked[0], 1);
    bench.tend(30);
    // Less than half of its ten seconds is left when it arrives.
    bench.hand_in(&late, 6_000);
    assert!(bench.decide(6_001).awaits.is_some());
}

#[test]
fn after_a_step_back_of_the_clock_no_possibly_expired_permit_is_used() {
    let mut bench = Bench::new(&slots(r#", "quota": { "permits": 3 }"#));
    let first = bench.served(1, 5_000);
    bench.end(first, 5_001);
    assert_eq!(bench.decide(4_500), Decision::admit(), "a little is not counted");
    let second = bench.plan.ticket().unwrap();
    bench.end(second, 4_501);
    assert!(bench.decide(3_000).awaits.is_some());
}

#[test]
fn in_the_last_half_of_a_lease_no_permit_is_handed_out() {
    let mut bench = Bench::new(&slots(r#", "quota": { "permits": 3 }"#));
    let first = bench.served(1, 0);
    bench.end(first, 1);
    assert_eq!(bench.decide(3_999), Decision::admit());
    assert!(bench.decide(4_001).awaits.is_some(), "a second of the lease is kept for clocks");
}

#[test]
fn a_request_that_leaves_while_it_waits_for_its_turn_returns_its_permit() {
    let turns = r#", { "name": "t", "algorithm": "token-bucket", "on_exceed": "delay", "max_delay": "10s",
        "quota": { "permits": 1, "window": "1s" } }"#;
    let mut bench = Bench::new(&[&slots(r#", "quota": { "permits": 2 }, "sharing": "exact""#), turns].concat());
    let _first = bench.served(1, 0);
    assert!(bench.arrive(2, 1).awaits.is_some());
    let waits = bench.serve(1).pop().unwrap().1;
    assert!(waits.delay > Some(Span::ZERO), "{waits:?}");
    let mut room = bench.engine.waiting_room();
    let Bench { engine, store, local, leases, counters, plan, .. } = &mut bench;
    let mut books = Books { store, local, leases, counters };
    let limit = engine.enter(plan, 2, &mut room, &mut books).unwrap();
    engine.leave(limit, 2, &mut room, &mut books, at(2));
    bench.serve(2);
    assert_eq!(bench.held(3), 1);
}

#[test]
fn a_banned_client_causes_no_asks() {
    let ban = r#", "quota": { "permits": 1 }, "sharing": "exact", "ban": { "after": 2, "within": "1m", "for": "1m" }"#;
    let mut bench = Bench::new(&slots(ban));
    let first = bench.served(1, 0);
    assert_eq!(bench.refused(2, 1).refusal.unwrap().cause, Cause::Exceeded);
    assert_eq!(bench.refused(3, 2).refusal.unwrap().cause, Cause::Banned);
    bench.end(first, 3);
    bench.serve(3);
    assert_eq!(bench.decide(4).refusal.unwrap().cause, Cause::Banned);
    assert_eq!(bench.asks(4), []);
    assert_eq!(bench.held(5), 0);
}

#[test]
fn a_grant_whose_lease_is_too_short_to_use_is_no_permit() {
    let mut bench = Bench::new(&slots(r#", "quota": { "permits": 3 }"#));
    assert!(bench.arrive(1, 0).awaits.is_some());
    let asked = bench.asks(0);
    let grant = Grant { granted: Permits::ONE, lasts_ms: 500, retry_after_ms: Some(0), ..Grant::default() };
    bench.hand_in(&Answer::to(&asked[0], Some(grant)), 1);
    assert!(bench.wake(1).is_empty(), "it asks again");
    assert_eq!(bench.asks(1).len(), 1);
}
