//! One instance, its engine, and an authority that answers when the test says so.

use crate::harness::{Request, ms};
use serde_json::json;
use tidegate::authority::{Ask, Authority, Grant, Instance};
use tidegate::decision::{Cause, Decision};
use tidegate::engine::{Answer, Engine, Plan};
use tidegate::key::Seed;
use tidegate::lease::Leases;
use tidegate::metrics::{Counters, Fate, Total};
use tidegate::policy::{Policy, TierIndex};
use tidegate::status::{Fingerprint, Page, Sources};
use tidegate::store::memory::MemoryStore;
use tidegate::units::{Permits, Span, Timestamp};

pub(super) struct Bench {
    pub(super) engine: Engine,
    pub(super) store: MemoryStore,
    pub(super) local: MemoryStore,
    pub(super) leases: Leases,
    pub(super) counters: Counters,
    pub(super) plan: Plan,
    pub(super) authority: Authority,
    /// The ask that was last answered.
    pub(super) last: Option<Ask>,
}

impl Bench {
    pub(super) fn new(limits: &str) -> Self {
        Self::within(Span::from_millis(20), limits)
    }

    /// With this deadline for the authority.
    fn within(deadline: Span, limits: &str) -> Self {
        let policy = Policy::parse(&format!(r#"{{ "version": 1, "limits": [ {limits} ] }}"#)).unwrap();
        let engine = Engine::new(policy, Seed::new([1, 2]));
        let mut leases = Leases::none();
        leases.share(engine.sharing(Instance::new(7), deadline).unwrap());
        Self {
            counters: Counters::new(engine.policy().limits().len(), 1),
            engine,
            store: MemoryStore::new(1_000),
            local: MemoryStore::new(1_000),
            leases,
            plan: Plan::new(),
            authority: Authority::new(100),
            last: None,
        }
    }

    fn decide_since(&mut self, since: Option<Timestamp>, now: u64) -> Decision {
        self.engine.plan(&Request::get("/").from("10.0.0.1:1"), &mut self.plan);
        if let Some(since) = since {
            self.plan.resume(since);
        }
        let Self { store, local, leases, counters, plan, .. } = self;
        self.engine.decide(plan, store, local, leases, counters, at(now))
    }

    pub(super) fn decide(&mut self, now: u64) -> Decision {
        self.decide_since(None, now)
    }

    /// Decides on a request, and lets it wait if it has to.
    pub(super) fn arrive(&mut self, id: u32, now: u64) -> Decision {
        let decision = self.decide(now);
        if decision.awaits.is_some() {
            self.engine.await_grant(&self.plan, id, &mut self.leases);
        }
        decision
    }

    pub(super) fn asks(&mut self, now: u64) -> Vec<Ask> {
        let mut asks = Vec::new();
        self.leases.global().unwrap().asks(at(now), &mut asks);
        asks
    }

    pub(super) fn answer(&mut self, ask: &Ask, now: u64) -> Answer {
        self.last = Some(*ask);
        Answer::to(ask, Some(self.authority.answer(ask, NOW_MS + now)))
    }

    pub(super) fn hand_in(&mut self, answer: &Answer, now: u64) {
        let Self { store, leases, counters, .. } = self;
        self.engine.granted(answer, leases, store, counters, at(now));
    }

    /// Answers all asks until there are no more, and returns the decisions on the requests that waited.
    pub(super) fn serve(&mut self, now: u64) -> Vec<(u32, Decision)> {
        let mut served = Vec::new();
        for _ in 0..100 {
            let asks = self.asks(now);
            if asks.is_empty() {
                return served;
            }
            for ask in asks {
                let answer = self.answer(&ask, now);
                self.hand_in(&answer, now);
            }
            served.extend(self.wake(now));
        }
        panic!("it asks for ever");
    }

    pub(super) fn wake(&mut self, now: u64) -> Vec<(u32, Decision)> {
        let mut woken = Vec::new();
        while let Some(wake) = self.leases.global().unwrap().ready() {
            let decision = self.decide_since(Some(wake.since), now);
            if decision.awaits.is_some() {
                self.engine.await_grant(&self.plan, wake.id, &mut self.leases);
            } else {
                woken.push((wake.id, decision));
            }
        }
        woken
    }

    pub(super) fn tend(&mut self, now: u64) {
        let Self { store, leases, counters, .. } = self;
        self.engine.tend(leases, store, counters, at(now));
    }
}

pub(super) const NOW_MS: u64 = 1_700_000_000_000;

pub(super) fn at(now: u64) -> Timestamp {
    ms(NOW_MS + now)
}

const SHARED: &str =
    r#"{ "name": "s", "scope": "global", "algorithm": "fixed-window", "quota": { "permits": 100, "window": "10s" } }"#;

#[test]
fn only_the_first_request_of_an_active_client_waits() {
    let mut bench = Bench::new(SHARED);
    assert!(bench.arrive(1, 0).awaits.is_some());
    assert_eq!(bench.serve(1), [(1, Decision::admit())]);
    assert!(bench.arrive(2, 2).awaits.is_some(), "nothing was drawn ahead for the first");
    assert_eq!(bench.serve(3), [(2, Decision::admit())]);
    for now in 4..24 {
        assert_eq!(bench.decide(now), Decision::admit(), "at {now}");
        bench.serve(now);
    }
    assert_eq!(bench.counters.take_requests(0, TierIndex::default(), Fate::Admitted), 22);
}

#[test]
fn a_client_with_sequential_requests_gets_its_whole_quota() {
    for algorithm in ["fixed-window", "sliding-window", "token-bucket"] {
        let mut bench = Bench::new(&format!(
            r#"{{ "name": "s", "scope": "global", "algorithm": "{algorithm}", "quota": {{ "permits": 5, "window": "60s" }} }}"#
        ));
        for id in 1..=8_u32 {
            let now = 10_000 + u64::from(id) * 3;
            let mut decision = bench.arrive(id, now);
            for (served, answer) in bench.serve(now + 1) {
                assert_eq!(served, id);
                decision = answer;
            }
            assert_eq!(decision.refusal.is_none(), id <= 5, "{algorithm}, request {id}: {decision:?}");
        }
    }
}

#[test]
fn an_exact_limit_asks_for_every_request_and_draws_no_permits_ahead() {
    let mut bench = Bench::new(&SHARED.replace(r#""scope""#, r#""sharing": "exact", "scope""#));
    for now in 0..100 {
        assert!(bench.arrive(1, now).awaits.is_some(), "at {now}");
        assert_eq!(bench.serve(now), [(1, Decision::admit())]);
    }
    bench.arrive(1, 100);
    assert!(bench.serve(100).iter().all(|(_, decision)| decision.refusal.is_some()));
    assert!(bench.decide(101).refusal.is_some(), "what was refused a moment ago is not asked for again");
    assert!(bench.asks(101).is_empty());
}

#[test]
fn no_answer_of_the_authority_locks_a_client_out_for_longer_than_its_quota_could() {
    for (algorithm, longest_s) in [("fixed-window", 20), ("sliding-window", 20), ("token-bucket", 40)] {
        for retry_after_ms in [None, Some(u64::MAX), Some(1 << 53)] {
            let mut limit =
                SHARED.replace(r#""scope""#, r#""sharing": "exact", "scope""#).replace("fixed-window", algorithm);
            if algorithm == "token-bucket" {
                limit = limit.replace(r#""10s""#, r#""10s", "burst": 200"#);
            }
            let mut bench = Bench::new(&limit);
            bench.arrive(1, 0);
            let ask = bench.asks(0)[0];
            // As in the answer to a different ask, or from a clock that is years off.
            let none = Permits::ZERO;
            let lie = Grant {
                granted: none,
                left: none,
                lasts_ms: 0,
                retry_after_ms,
                reset_ms: u64::MAX,
                window: 0,
                drawn: 0,
            };
            bench.hand_in(&Answer::to(&ask, Some(lie)), 1);
            let refusal = bench.wake(1)[0].1.refusal.unwrap();
            let told = refusal.retry_after.unwrap();
            assert!(told <= Span::from_secs(longest_s), "{algorithm}: {told:?}");
            assert!(bench.arrive(2, longest_s * 1_000 + 2).awaits.is_some(), "{algorithm}, {retry_after_ms:?}");
        }
    }
}

#[test]
fn many_requests_wait_for_one_answer_and_as_many_are_served_as_there_are_permits() {
    let mut bench = Bench::new(SHARED);
    for id in 0..150 {
        assert!(bench.arrive(id, 0).awaits.is_some());
    }
    let asks = bench.asks(0);
    assert_eq!((asks.len(), asks[0].need.get()), (1, 150));
    let answer = bench.answer(&asks[0], 1);
    bench.hand_in(&answer, 1);
    let served = bench.wake(1);
    let admitted = served.iter().filter(|(_, decision)| decision.refusal.is_none()).count();
    assert_eq!(admitted, 100);
    let rest = bench.serve(2);
    assert_eq!(rest.len() + served.len(), 150);
    assert!(rest.iter().all(|(_, decision)| decision.refusal.is_some_and(|refusal| refusal.cause == Cause::Exceeded)));
}

#[test]
fn a_request_is_charged_to_shared_limits_and_others_all_or_none() {
    let own = r#"{ "name": "own", "quota": { "permits": 2, "window": "10s" } }"#;
    let mut bench = Bench::new(&[own, SHARED].join(","));
    for id in 0..2 {
        assert!(bench.arrive(id, 0).awaits.is_some());
        assert_eq!(bench.serve(1), [(id, Decision::admit())]);
    }
    let refused = bench.decide(2);
    assert_eq!(refused.refusal.and_then(|refusal| refusal.limit), Some(0));
    assert_eq!(refused.awaits, None, "what another limit refuses does not wait");
    assert!(bench.asks(2).is_empty(), "and draws nothing");

    let tight = SHARED.replace("100", "1");
    let mut bench = Bench::new(&[own, &tight].join(","));
    bench.arrive(0, 0);
    assert_eq!(bench.serve(1), [(0, Decision::admit())]);
    bench.arrive(1, 2);
    let refused = bench.serve(3);
    assert_eq!(refused[0].1.refusal.and_then(|refusal| refusal.limit), Some(1));
    // The local limit still has its second permit.
    let charge = bench.plan.charges()[0];
    assert_eq!(bench.engine.standing(&bench.plan, &charge).map(|it| it.remaining.get()), Some(1));
}

#[test]
fn a_request_refused_by_a_local_limit_still_shows_what_is_left_of_a_shared_one() {
    let own = r#"{ "name": "own", "quota": { "permits": 9, "window": "10s" } }"#;
    let mut bench = Bench::new(&[own, SHARED].join(","));
    let left = |bench: &Bench| {
        let charge = bench.plan.charges()[1];
        bench.engine.standing(&bench.plan, &charge).map(|it| it.remaining.get())
    };
    for now in 0..9 {
        bench.arrive(1, now);
        bench.serve(now);
        assert_eq!(left(&bench), Some(99 - u32::try_from(now).unwrap()));
    }
    for now in 9..12 {
        assert_eq!(bench.decide(now).refusal.and_then(|refusal| refusal.limit), Some(0));
        assert_eq!(left(&bench), Some(91));
    }
}

#[test]
fn without_an_answer_the_policy_decides() {
    for (word, cause) in [("deny", Some(Cause::StoreFailed)), ("allow", None), ("local", None)] {
        let limit = SHARED.replace(r#""scope""#, &format!(r#""on_store_failure": "{word}", "scope""#));
        let mut bench = Bench::new(&limit);
        // One answer that reports a failure, and one that never comes.
        bench.arrive(1, 0);
        let ask = bench.asks(0)[0];
        bench.hand_in(&Answer::to(&ask, None), 1);
        let first = bench.wake(1);
        assert_eq!(first.len(), 1, "{word}");
        assert_eq!(first[0].1.refusal.map(|refusal| refusal.cause), cause, "{word}");
        bench.arrive(2, 2);
        assert_eq!(bench.asks(2).len(), 1);
        bench.tend(21);
        assert!(bench.wake(21).is_empty(), "{word}: the deadline is not over");
        bench.tend(22);
        let second = bench.wake(22);
        assert_eq!(second[0].1.refusal.map(|refusal| refusal.cause), cause, "{word}");
        assert_eq!(bench.counters.take_total(Total::AskFailures), 2);
        assert_eq!(bench.counters.take_total(Total::StoreFailures), 2);
    }
}

#[test]
fn an_instance_without_answers_keeps_to_its_configured_share() {
    let mut bench = Bench::new(SHARED);
    let mut admitted = 0;
    for now in 0..200 {
        let mut decision = bench.arrive(now as u32, now * 20);
        if decision.awaits.is_some() {
            bench.asks(now * 20);
            bench.tend(now * 20 + 20);
            decision = bench.wake(now * 20 + 20)[0].1;
        }
        admitted += u32::from(decision.refusal.is_none());
    }
    assert_eq!(admitted, 10, "a tenth of 100");
}

#[test]
fn an_answer_counts_once_however_often_it_comes() {
    let mut bench = Bench::new(SHARED);
    bench.arrive(1, 0);
    let ask = bench.asks(0)[0];
    let answer = bench.answer(&ask, 1);
    bench.hand_in(&answer, 1);
    bench.wake(1);
    bench.hand_in(&answer, 1);
    assert!(bench.decide(2).awaits.is_some(), "the one permit was used");
}

#[test]
fn a_late_answer_serves_later_requests() {
    let mut bench = Bench::new(SHARED);
    bench.arrive(1, 0);
    let ask = bench.asks(0)[0];
    let answer = bench.answer(&ask, 1);
    bench.tend(30);
    assert_eq!(bench.wake(30).len(), 1);
    bench.hand_in(&answer, 40);
    assert_eq!(bench.decide(41), Decision::admit());
}

#[test]
fn the_status_page_tells_how_the_store_is_and_what_was_decided_without_it() {
    let mut bench = Bench::new(SHARED);
    for now in 0..4 {
        bench.arrive(now as u32, now);
        for ask in bench.asks(now) {
            bench.hand_in(&Answer::to(&ask, None), now);
        }
        bench.wake(now);
    }
    let page = |bench: &Bench, now: u64| {
        let sources = Sources {
            engine: &bench.engine,
            fingerprint: Fingerprint::of(""),
            monitor: None,
            store: bench.leases.global_ref(),
            service: None,
            upstreams: None,
            counters: None,
            live_keys: 0,
            now: at(now),
        };
        serde_json::from_str::<serde_json::Value>(&sources.reply(Page::Status).body).unwrap()
    };
    let told = page(&bench, 4);
    assert_eq!(
        told["store"],
        json!({ "answers": false, "breaker": "open", "deadline_ms": 20, "asks": 3, "failures": 3, "decided_without": 4 })
    );
    assert_eq!((&told["limits"][0]["scope"], &told["limits"][0]["sharing"]), (&json!("global"), &json!("lease")));
    bench.arrive(9, 2_000);
    bench.serve(2_001);
    assert_eq!(page(&bench, 2_002)["store"]["breaker"], "closed");
}

#[test]
fn the_number_of_waiting_requests_is_bounded() {
    let mut bench = Bench::new(&SHARED.replace(r#""scope""#, r#""on_store_failure": "deny", "scope""#));
    for id in 0..2_000 {
        bench.arrive(id, 0);
    }
    let refused = bench.wake(0);
    assert_eq!(refused.len(), 2_000 - 1_024);
    assert!(refused.iter().all(|(_, decision)| decision.refusal.is_some()));
    bench.leases.global().unwrap().leave(5);
    let ask = bench.asks(0)[0];
    bench.hand_in(&Answer::to(&ask, None), 1);
    assert_eq!(bench.wake(1).len(), 1_023, "one has gone");
}

#[test]
fn idle_permits_are_returned() {
    let mut bench = Bench::new(SHARED);
    for now in 0..40 {
        bench.arrive(now as u32, now);
        bench.serve(now);
    }
    let key = {
        bench.decide(40);
        bench.serve(40);
        bench.plan.charges()[0]
    };
    assert!(bench.engine.standing(&bench.plan, &key).is_some());
    bench.tend(300);
    let back = bench.asks(300);
    assert_eq!(back.len(), 1);
    assert!(back[0].back.get() > 0 && back[0].want.get() == 0);
    let answer = bench.answer(&back[0], 301);
    let left = answer.grant.unwrap().left.get();
    assert_eq!(left, 100 - 41, "all but what was used");
    bench.hand_in(&answer, 301);
    assert!(bench.decide(302).awaits.is_some(), "nothing is left here");
}

#[test]
fn permits_of_a_slow_authority_serve_the_requests_that_waited_for_them() {
    let mut bench = Bench::within(Span::from_secs(5), SHARED);
    assert!(bench.arrive(1, 0).awaits.is_some());
    let ask = bench.asks(0).remove(0);
    let answer = bench.answer(&ask, 600);
    bench.hand_in(&answer, 600);
    bench.tend(600);
    assert_eq!(bench.asks(600), [], "nothing is given back");
    assert_eq!(bench.wake(600), [(1, Decision::admit())]);
}

#[test]
fn a_request_is_refused_without_a_wait_while_others_use_all_permits() {
    let limit = SHARED.replace("fixed-window", "token-bucket").replace("\"10s\"", "\"1s\"");
    let mut bench = Bench::new(&limit);
    let terms = {
        bench.arrive(0, 0);
        let ask = bench.asks(0)[0];
        let answer = bench.answer(&ask, 1);
        bench.hand_in(&answer, 1);
        bench.wake(1);
        ask
    };
    let (mut waited, mut admitted, mut refused) = (0, 0, 0);
    for now in 2..6_000_u64 {
        // Another instance takes nearly all permits.
        let others = Ask { instance: Instance::new(8), seq: now, need: Permits::ONE, want: Permits::ONE, ..terms };
        if now % 100 < 90 {
            bench.authority.answer(&others, NOW_MS + now);
        }
        if now % 5 == 0 {
            let decision = bench.arrive(now as u32, now);
            waited += u32::from(decision.awaits.is_some() && now > 3_000);
            admitted += u32::from(decision.awaits.is_none() && decision.refusal.is_none());
            refused += u32::from(decision.refusal.is_some());
            let told = decision.refusal.and_then(|refusal| refusal.retry_after);
            assert!(told.is_none_or(|told| told >= Span::from_millis(10)), "{told:?}");
        }
        bench.serve(now);
    }
    assert!(waited <= 6, "{waited} of 600 waited");
    assert!(admitted >= 30 && refused > 600, "{admitted} admitted, {refused} refused at once");
    // Once the others have gone, a request that comes back after the announced wait is admitted.
    assert!(bench.arrive(1, 8_000).refusal.is_none());
}

#[test]
fn without_an_authority_each_instance_counts_alone() {
    let mut bench = Bench::new(SHARED);
    bench.leases = Leases::none();
    let admitted = (0..200).filter(|now| bench.decide(*now).refusal.is_none()).count();
    assert_eq!(admitted, 100);
}

#[test]
fn instances_with_the_same_secret_have_the_same_keys() {
    let key = |seed: u64, secret: &[u8]| {
        let mut bench = Bench::new(SHARED);
        let policy = bench.engine.policy().clone();
        bench.engine = Engine::new(policy, Seed::new([seed, seed]));
        bench.engine.set_shared_secret(secret);
        bench.arrive(1, 0);
        bench.asks(0)[0].key
    };
    assert_eq!(key(1, b"secret"), key(2, b"secret"));
    assert_ne!(key(1, b"secret"), key(1, b"another"));
}

#[test]
fn the_token_of_a_store_is_never_shown() {
    let text = r#"{ "version": 1, "stores": { "redis": { "cluster": "r", "token": "hunter2-hunter2" } } }"#;
    let policy = Policy::parse(text).unwrap();
    assert_eq!(policy.stores().redis().and_then(|redis| redis.token()), Some("hunter2-hunter2"));
    assert!(!format!("{policy:?}").contains("hunter2"));
    let engine = Engine::new(policy, Seed::new([1, 2]));
    assert!(!format!("{engine:?}").contains("hunter2"));
    let wrong = text.replace("hunter2-hunter2", "hunter2 hunter2");
    let errors = Policy::parse(&wrong).unwrap_err();
    assert!(errors.iter().all(|error| !error.to_string().contains("hunter2")));
}
