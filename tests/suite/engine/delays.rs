//! Requests that wait: their turns are exact over several instances, each is charged to all limits or none, and unused
//! charges are refunded.

use crate::harness::{Answer, Request, engine, ms};
use proptest::prelude::*;
use tidegate::decision::{Decision, Fields};
use tidegate::delay::DepartureReason;
use tidegate::engine::delaying::{Books, Room};
use tidegate::engine::{Engine, Plan};
use tidegate::lease::Leases;
use tidegate::limiter::{Meter, Verdict};
use tidegate::metrics::{Counters, Fate, Total};
use tidegate::policy::TierIndex;
use tidegate::store::memory::MemoryStore;
use tidegate::units::{Permits, Span};

/// Instances that share a store, each with its own waiting room.
struct Site {
    engine: Engine,
    store: MemoryStore,
    instances: Vec<Instance>,
}

struct Instance {
    room: Room,
    local: MemoryStore,
    counters: Counters,
    plan: Plan,
}

/// The result of a request.
#[derive(Debug, PartialEq, Eq)]
enum Sent {
    Passed,
    /// It waits at the limit with this number.
    Waits(u32),
    /// Refused; it may be repeated after this many seconds, if any.
    Refused(Option<u64>),
}

impl Site {
    fn new(policy: &str, instances: usize) -> Self {
        let engine = engine(policy);
        let (limits, tiers) = (engine.policy().limits().len(), engine.policy().tiers().len());
        let instance = |_| Instance {
            room: engine.waiting_room(),
            local: MemoryStore::new(1_000),
            counters: Counters::new(limits, tiers),
            plan: Plan::new(),
        };
        Self { store: MemoryStore::new(1_000), instances: (0..instances).map(instance).collect(), engine }
    }

    fn decide(&mut self, at: usize, request: &Request, now: u64) -> Decision {
        let Instance { room, local, counters, plan } = &mut self.instances[at];
        self.engine.plan(request, plan);
        assert!(plan.may_wait());
        self.engine.offer(plan, room, ms(now));
        self.engine.decide(plan, &mut self.store, local, &mut Leases::new(), counters, ms(now))
    }

    /// Sends request `id` to the instance at `at`.
    fn send(&mut self, at: usize, id: u32, request: &Request, now: u64) -> Sent {
        let decision = self.decide(at, request, now);
        let Instance { room, local, counters, plan } = &mut self.instances[at];
        match (decision.refusal, decision.delay) {
            (None, None) => Sent::Passed,
            (None, Some(_)) => {
                let mut books = Books { store: &mut self.store, local, leases: &mut Leases::none(), counters };
                Sent::Waits(self.engine.enter(plan, id, room, &mut books).expect("it waits"))
            }
            (Some(refusal), _) => Sent::Refused(refusal.retry_after.map(|wait| wait.as_secs_ceil())),
        }
    }

    fn leave(&mut self, at: usize, limit: u32, id: u32, now: u64) {
        let Instance { room, local, counters, .. } = &mut self.instances[at];
        let mut books = Books { store: &mut self.store, local, leases: &mut Leases::none(), counters };
        self.engine.leave(limit, id, room, &mut books, ms(now));
    }

    /// The requests that leave the room: each with its number, whether it passes, and its `RateLimit` field.
    fn due(&mut self, at: usize, now: u64) -> Vec<(u32, bool, String)> {
        let Instance { room, local, counters, plan } = &mut self.instances[at];
        let mut left = Vec::new();
        room.due(ms(now), 64, &mut left);
        left.into_iter()
            .map(|left| {
                let (id, released) = (left.id, left.reason == DepartureReason::Released);
                let mut books = Books { store: &mut self.store, local, leases: &mut Leases::none(), counters };
                let decision = self.engine.finish(left, plan, &mut books, ms(now));
                assert_eq!(decision.refusal.is_none(), released);
                let mut fields = Fields::default();
                fields.push_limits(&self.engine, plan);
                let standings = fields.iter().find(|(name, _)| *name == "ratelimit").map_or("", |(_, value)| value);
                let standings = standings.split(", ").filter_map(|item| item.split(";pk").next());
                let told = standings.collect::<Vec<_>>().join(", ");
                (id, released, told)
            })
            .collect()
    }

    fn total(&mut self, total: Total) -> u64 {
        self.instances.iter_mut().map(|instance| instance.counters.take_total(total)).sum()
    }

    fn counted(&mut self, limit: usize) -> [u64; 4] {
        let tier = TierIndex::default();
        [Fate::Admitted, Fate::Refused, Fate::Observed, Fate::Delayed].map(|fate| {
            self.instances.iter_mut().map(|instance| instance.counters.take_requests(limit, tier, fate)).sum()
        })
    }
}

/// A limit of one request per 100 ms after a burst of two, with further fields and further limits.
fn paced(more: &str, limits: &str) -> String {
    format!(
        r#"{{ "version": 1, "tiers": ["plain", "gold", "bulk"], "priorities": {{ "gold": "high", "bulk": "low" }},
        "client": {{ "tier": {{ "header": "x-plan" }}, "trusted_headers": ["x-plan"] }}, "limits": [{{ "name": "paced", "algorithm": "token-bucket",
        "quota": {{ "permits": 10, "window": "1s", "burst": 2 }}, "on_exceed": "delay"{more} }}{limits}] }}"#
    )
}

fn client() -> Request {
    Request::get("/").from("192.0.2.1")
}

#[test]
fn turns_are_one_interval_apart_over_all_instances() {
    let mut site = Site::new(&paced(r#", "max_delay": "1s""#, ""), 3);
    for id in 0..20 {
        let expected = match id {
            0 | 1 => Sent::Passed,
            2..12 => Sent::Waits(0),
            // In a tenth of a second the next turn is within the maximum delay.
            _ => Sent::Refused(Some(1)),
        };
        assert_eq!(site.send(id as usize % 3, id, &client(), 0), expected, "{id}");
    }
    for now in 0..=1_000 {
        let due: Vec<_> = (0..3).flat_map(|at| site.due(at, now)).collect();
        match now {
            100.. if now % 100 == 0 => {
                // At first 1.1 s of the bucket are owed, less the elapsed time; the burst accounts for two tenths.
                let turn = u32::try_from(now / 100).unwrap() + 1;
                let reset = (1_200 - now).div_ceil(1_000);
                assert_eq!(due, [(turn, true, format!(r#""paced";r=0;t={reset}"#))], "at {now}");
            }
            _ => assert_eq!(due, [], "at {now}"),
        }
    }
    assert_eq!(site.counted(0), [2, 8, 0, 10], "admitted, refused, observed, delayed");
    assert!(site.instances.iter().all(|instance| instance.room.is_empty()));
}

#[test]
fn a_waiting_request_is_charged_to_all_limits_or_none() {
    let other = r#", { "name": "other", "algorithm": "fixed-window", "quota": { "permits": 3, "window": "1h" } }"#;
    let mut site = Site::new(&paced(r#", "max_delay": "1s""#, other), 1);
    let sent: Vec<_> = (0..4).map(|id| site.send(0, id, &client(), 0)).collect();
    assert_eq!(sent[..3], [Sent::Passed, Sent::Passed, Sent::Waits(0)]);
    assert!(matches!(sent[3], Sent::Refused(Some(3_600))), "{sent:?}");
    // It leaves: both its place at the other limit and its turn are free again.
    site.leave(0, 0, 2, 10);
    assert_eq!(site.send(0, 4, &client(), 10), Sent::Waits(0));
    assert_eq!(site.due(0, 99), []);
    assert_eq!(site.due(0, 100).len(), 1);
    assert_eq!(site.counted(1), [3, 1, 0, 0]);
    assert_eq!((site.total(Total::Abandoned), site.total(Total::RefundsLost)), (1, 0));
}

#[test]
fn a_request_that_has_waited_is_charged_by_its_response() {
    let other = r#", { "name": "login", "algorithm": "fixed-window", "quota": { "permits": 1, "window": "1h" },
        "only_on": ["401"] }"#;
    let mut site = Site::new(&paced(r#", "max_delay": "1s""#, other), 1);
    for id in 0..3 {
        site.send(0, id, &client(), 0);
    }
    let due = site.due(0, 100);
    assert_eq!(due, [(2, true, r#""paced";r=0;t=1, "login";r=1;t=3600"#.to_owned())]);
    let Instance { local, counters, plan, .. } = &mut site.instances[0];
    let mut ticket = plan.ticket().expect("awaits its answer");
    site.engine.observe(&mut ticket, &Answer::of(401), &mut site.store, local, counters, ms(200));
    assert_eq!(site.send(0, 3, &client(), 200), Sent::Refused(Some(3_600)));
}

#[test]
fn a_leaving_request_frees_the_last_turn_unless_another_instance_has_a_later_one() {
    let mut site = Site::new(&paced(r#", "max_delay": "1s""#, ""), 2);
    for id in 0..5 {
        site.send(0, id, &client(), 0);
    }
    // Requests 2, 3 and 4 wait for 100, 200 and 300 ms. Request 3 leaves, and 5 takes the turn at 300.
    site.leave(0, 0, 3, 0);
    assert_eq!(site.send(1, 5, &client(), 0), Sent::Waits(0));
    // Request 4 has moved up to 200. It leaves too, but 300 belongs to another instance: the turn at 200 is lost.
    site.leave(0, 0, 4, 0);
    assert_eq!(site.total(Total::RefundsLost), 1);
    assert_eq!(site.send(0, 6, &client(), 0), Sent::Waits(0));
    let mut order = Vec::new();
    for now in (0..=1_000).step_by(50) {
        order.extend((0..2).flat_map(|at| site.due(at, now)).map(|(id, ..)| (now, id)));
    }
    assert_eq!(order, [(100, 2), (300, 5), (400, 6)]);
}

#[test]
fn an_important_request_takes_over_a_turn_without_a_further_charge() {
    let other = r#", { "name": "other", "algorithm": "fixed-window", "quota": { "permits": 5, "window": "1h" } }"#;
    let mut site = Site::new(&paced(r#", "max_delay": "200ms""#, other), 1);
    let (bulk, gold) = (client().with("x-plan", "bulk"), client().with("x-plan", "gold"));
    for id in 0..4 {
        site.send(0, id, &bulk, 0);
    }
    assert_eq!(site.send(0, 4, &bulk, 0), Sent::Refused(Some(1)));
    assert_eq!(site.send(0, 5, &gold, 0), Sent::Waits(0));
    // The other limit still has four charges: the fifth request was charged, and the displaced one refunded.
    let due = site.due(0, 0);
    assert_eq!(due.len(), 1);
    assert_eq!((due[0].0, due[0].1), (3, false));
    assert!(due[0].2.starts_with(r#""paced";r=0;t=1, "other";r=1;"#), "{due:?}");
    assert_eq!(site.due(0, 100).iter().map(|due| due.0).collect::<Vec<_>>(), [5]);
    assert_eq!(site.due(0, 200).iter().map(|due| due.0).collect::<Vec<_>>(), [2]);
    assert_eq!((site.total(Total::Displaced), site.total(Total::RefundsLost)), (1, 0));
}

#[test]
fn a_request_that_could_take_over_a_turn_but_is_refused_elsewhere_learns_when_it_has_its_own() {
    let other =
        r#", { "name": "all", "algorithm": "token-bucket", "quota": { "permits": 20, "window": "1s", "burst": 3 } }"#;
    let mut site = Site::new(&paced(r#", "max_delay": "100ms""#, other), 1);
    let (bulk, gold) = (client().with("x-plan", "bulk"), client().with("x-plan", "gold"));
    let sent = [0, 1, 2].map(|id| site.send(0, id, &bulk, 0));
    assert_eq!(sent, [Sent::Passed, Sent::Passed, Sent::Waits(0)]);
    // `all` has a permit after 50 ms. At that time the last turn is still the one at 100 ms.
    let told = site.decide(0, &gold, 0).refusal.and_then(|refusal| refusal.retry_after);
    assert_eq!(told, Some(Span::from_millis(100)));
    assert_eq!(site.send(0, 3, &gold, 50), Sent::Waits(0));
}

#[test]
fn a_request_overtaken_too_often_is_refused_and_its_turn_refunded() {
    let mut site = Site::new(&paced(r#", "max_delay": "300ms""#, ""), 1);
    let (bulk, gold) = (client().with("x-plan", "bulk"), client().with("x-plan", "gold"));
    for id in 0..3 {
        site.send(0, id, &bulk, 0);
    }
    // The request that waits for 100 ms is overtaken three times.
    let mut order = Vec::new();
    for now in (0..=400).step_by(50) {
        order.extend(site.due(0, now).into_iter().map(|(id, released, _)| (now, id, released)));
        if let Some(id) = [50, 150, 250].iter().position(|at| *at == now) {
            assert_eq!(site.send(0, 3 + u32::try_from(id).unwrap(), &gold, now), Sent::Waits(0));
        }
    }
    assert_eq!(order, [(100, 3, true), (200, 4, true), (300, 5, true), (300, 2, false)]);
    assert_eq!((site.total(Total::Overdue), site.total(Total::RefundsLost)), (1, 0));
    // If the turn at 400 had been used, the bucket would have only one permit at 500.
    assert_eq!([site.send(0, 6, &bulk, 500), site.send(0, 7, &bulk, 500)], [Sent::Passed, Sent::Passed]);
}

#[test]
fn a_full_room_refuses_before_anything_is_charged() {
    let mut site = Site::new(&paced(r#", "max_delay": "1s", "max_waiting": 2"#, ""), 1);
    for id in 0..4 {
        site.send(0, id, &client(), 0);
    }
    for id in 4..9 {
        // The wait after which it would pass without a delay.
        assert_eq!(site.send(0, id, &client(), 0), Sent::Refused(Some(1)));
    }
    assert_eq!(site.total(Total::RoomFull), 5);
    assert_eq!([100, 200].map(|now| site.due(0, now).len()), [1, 1]);
    assert_eq!(site.send(0, 9, &client(), 300), Sent::Passed);
}

#[test]
fn refusals_by_a_full_room_do_not_ban_and_refusals_by_the_limit_do() {
    let more = r#", "max_delay": "500ms", "max_waiting": 2, "ban": { "after": 3, "within": "1m", "for": "1m" }"#;
    let mut site = Site::new(&paced(more, ""), 2);
    for id in 0..20 {
        site.send(0, id, &client(), 0);
    }
    // The other instance's room has places, and the delay allows three more turns.
    for id in 20..23 {
        assert_eq!(site.send(1, id, &client(), 0), if id < 22 { Sent::Waits(0) } else { Sent::Refused(Some(1)) });
    }
    site.leave(1, 0, 20, 0);
    site.leave(1, 0, 21, 0);
    let mut three = Site::new(&paced(&more.replace(r#""max_waiting": 2"#, r#""max_waiting": 9"#), ""), 1);
    let sent: Vec<_> = (0..10).map(|id| three.send(0, id, &client(), 0)).collect();
    assert_eq!((&sent[7], &sent[9]), (&Sent::Refused(Some(1)), &Sent::Refused(Some(60))), "{sent:?}");
}

#[test]
fn under_a_policy_that_observes_nobody_waits() {
    let policy = paced(r#", "max_delay": "1s""#, "").replacen('{', r#"{ "mode": "observe","#, 1);
    let mut site = Site::new(&policy, 1);
    for id in 0..5 {
        assert_eq!(site.send(0, id, &client(), 0), Sent::Passed);
    }
    assert_eq!(site.counted(0), [2, 0, 3, 0]);
}

#[test]
fn a_client_near_its_limit_is_slowed_down_in_steps_under_every_algorithm() {
    for algorithm in ["sliding-window", "fixed-window", "token-bucket"] {
        let policy = |mode: &str| {
            format!(
                r#"{{ "version": 1, "mode": "{mode}", "limits": [{{ "name": "api", "algorithm": "{algorithm}",
                "quota": {{ "permits": 8, "window": "1h" }},
                "slow_down": {{ "slow_after": 4, "step": "100ms", "max_delay": "250ms" }} }}] }}"#
            )
        };
        for (mode, waits) in [("enforce", vec![0, 0, 0, 0, 100, 200, 250, 250]), ("strict", vec![0, 0, 100, 200])] {
            let mut site = Site::new(&policy(mode), 1);
            for (place, wait) in waits.iter().enumerate() {
                let decision = site.decide(0, &client(), 0);
                let expected = (*wait > 0).then_some(Span::from_millis(*wait));
                assert_eq!((decision.refusal, decision.delay), (None, expected), "{algorithm} {mode} {place}");
            }
            assert!(site.decide(0, &client(), 0).refusal.is_some());
        }
    }
}

#[test]
fn a_slowed_down_request_that_leaves_is_not_charged() {
    let policy = r#"{ "version": 1, "limits": [{ "name": "api", "algorithm": "fixed-window",
        "quota": { "permits": 3, "window": "1h" }, "max_waiting": 2,
        "slow_down": { "slow_after": 1, "step": "100ms", "max_delay": "1s" } }] }"#;
    let mut site = Site::new(policy, 1);
    for round in 0..5 {
        assert_eq!(site.send(0, round, &client(), 0), if round == 0 { Sent::Passed } else { Sent::Waits(0) });
        site.leave(0, 0, round, 10);
    }
    assert_eq!([site.send(0, 6, &client(), 10), site.send(0, 7, &client(), 10)], [Sent::Waits(0), Sent::Waits(0)]);
    assert!(matches!(site.send(0, 8, &client(), 10), Sent::Refused(Some(_))));
    assert_eq!(site.due(0, 109), []);
    assert_eq!(site.due(0, 110), [(6, true, r#""api";r=0;t=3600"#.to_owned())]);
}

fn bucket(burst: u32, ahead_ms: u64) -> Meter {
    let quota = format!(r#"{{ "permits": 10, "window": "1s", "burst": {burst} }}"#);
    crate::harness::limit("token-bucket", &quota).running_ahead(Span::from_millis(ahead_ms))
}

proptest! {
    #[test]
    fn a_refused_request_may_wait_after_its_retry_after_and_not_a_nanosecond_sooner(
        burst in 1_u32..5,
        ahead in 0_u64..500,
        costs in prop::collection::vec(1_u32..4, 1..30),
    ) {
        let meter = bucket(burst, ahead);
        let mut state = None;
        for cost in costs {
            let cost = Permits::new(cost);
            let outcome = meter.check(state, cost, ms(0));
            if let Verdict::Refuse { retry_after } = outcome.verdict {
                let Some(wait) = retry_after else {
                    prop_assert!(cost.get() > burst);
                    continue;
                };
                let refused = |verdict| matches!(verdict, Verdict::Refuse { .. });
                prop_assert!(!refused(meter.check(state, cost, ms(0).after(wait)).verdict));
                let sooner = ms(0).after(wait).before(Span::from_nanos(1));
                prop_assert!(refused(meter.check(state, cost, sooner).verdict));
            }
            state = Some(outcome.state);
        }
    }

    /// The requests that pass, in any order and at any instance, conform to the bucket. The naive bucket counts only
    /// those, and knows nothing of waiting requests.
    #[test]
    fn what_passes_never_exceeds_the_bucket(
        steps in prop::collection::vec((0_u64..60, 0_usize..3, 0_u32..3, any::<bool>()), 1..150),
    ) {
        let mut site = Site::new(&paced(r#", "max_delay": "700ms", "max_waiting": 4"#, ""), 3);
        let (mut now, mut passed, mut waiting) = (0, Vec::new(), Vec::new());
        for (id, (step, at, tier, leaves)) in (0..).zip(steps) {
            for _ in 0..step {
                now += 1;
                for at in 0..3 {
                    for (id, released, _) in site.due(at, now) {
                        waiting.retain(|(_, other)| *other != id);
                        passed.extend(released.then_some(now));
                    }
                }
            }
            if leaves && !waiting.is_empty() {
                let (at, id) = waiting.remove(waiting.len() / 2);
                site.leave(at, 0, id, now);
                continue;
            }
            let plan = ["plain", "gold", "bulk"][tier as usize];
            match site.send(at, id, &client().with("x-plan", plan), now) {
                Sent::Passed => passed.push(now),
                Sent::Waits(_) => waiting.push((at, id)),
                Sent::Refused(_) => {}
            }
        }
        // Two at once, then one per 100 ms.
        for (place, later) in passed.iter().enumerate() {
            for (other, earlier) in passed.iter().enumerate().take(place) {
                let count = (place - other + 1) as u64;
                prop_assert!(count <= 2 + (later - earlier) / 100, "{count} from {earlier} to {later}: {passed:?}");
            }
        }
    }
}
