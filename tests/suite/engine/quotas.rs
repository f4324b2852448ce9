//! Limits of several quotas: a request is charged to all or none, each quota counts by itself, and the request once.

use super::{Bench, FaultyStore};
use crate::harness::{Answer, Request};
use proptest::prelude::*;
use std::fmt::Write;
use tidegate::decision::Cause;
use tidegate::metrics::{Fate, Total};
use tidegate::policy::TierIndex;
use tidegate::store::memory::MemoryStore;
use tidegate::store::{Store, StoreError};

/// A limit of these quotas, in permits and seconds, with further fields.
fn limited(algorithm: &str, quotas: &[(u32, u64)], more: &str) -> String {
    let mut list = String::new();
    for (permits, secs) in quotas {
        let comma = if list.is_empty() { "" } else { ", " };
        write!(list, r#"{comma}{{ "permits": {permits}, "window": "{secs}s" }}"#).unwrap();
    }
    format!(
        r#"{{ "version": 1, "tiers": ["free", "premium"], "client": {{ "tier": {{ "header": "x-plan" }}, "trusted_headers": ["x-plan", "x-cost"] }}, "limits": [
        {{ "name": "api", "key": ["address"], "algorithm": "{algorithm}", "quotas": [{list}]{more} }} ] }}"#
    )
}

fn request() -> Request {
    Request::get("/").from("192.0.2.1")
}

fn refused() -> Result<(), (String, Cause)> {
    Err(("api".to_owned(), Cause::Exceeded))
}

fn counted<S: Store>(bench: &mut Bench<S>) -> [u64; 3] {
    let tier = TierIndex::new(0).unwrap();
    [Fate::Admitted, Fate::Refused, Fate::Observed].map(|fate| bench.counters.take_requests(0, tier, fate))
}

#[test]
fn a_request_is_charged_to_all_quotas_or_to_none() {
    for algorithm in ["sliding-window", "token-bucket", "fixed-window"] {
        let mut bench = Bench::new(&limited(algorithm, &[(2, 10), (3, 3_600)], ""), MemoryStore::new(1_000));
        assert_eq!([bench.send(&request(), 0), bench.send(&request(), 0)], [Ok(()), Ok(())]);
        for _ in 0..5 {
            assert_eq!(bench.send(&request(), 0), refused());
        }
        assert_eq!((bench.left(&request(), 0, 0), bench.left(&request(), 1, 0)), (0, 1), "{algorithm}");
        // After twenty seconds the short window is over, and the long one has one permit left.
        assert_eq!(bench.send(&request(), 20_000), Ok(()));
        assert_eq!(bench.send(&request(), 20_000), refused());
        assert_eq!((bench.left(&request(), 0, 20_000), bench.left(&request(), 1, 20_000)), (1, 0), "{algorithm}");
        assert_eq!(counted(&mut bench), [3, 6, 0], "each request once");
    }
}

#[test]
fn a_limit_that_observes_charges_all_of_its_quotas_or_none() {
    let policy = limited("fixed-window", &[(2, 10), (3, 3_600)], r#", "on_exceed": "observe""#);
    let mut bench = Bench::new(&policy, MemoryStore::new(1_000));
    for _ in 0..5 {
        assert_eq!(bench.send(&request(), 0), Ok(()));
    }
    assert_eq!((bench.left(&request(), 0, 0), bench.left(&request(), 1, 0)), (0, 1));
    assert_eq!(counted(&mut bench), [2, 0, 3]);
}

#[test]
fn a_tier_may_have_one_quota_where_others_have_several_and_keeps_the_first_ones_count() {
    let tiers = r#", "by_tier": { "premium": { "permits": 9, "window": "10s" } }"#;
    let mut bench = Bench::new(&limited("fixed-window", &[(2, 10), (3, 3_600)], tiers), MemoryStore::new(1_000));
    assert_eq!([bench.send(&request(), 0), bench.send(&request(), 0)], [Ok(()), Ok(())]);
    let premium = request().with("x-plan", "premium");
    assert_eq!(bench.send(&premium, 0), Ok(()));
    assert_eq!(bench.plan.charges().len(), 1);
    assert_eq!(bench.left(&premium, 0, 0), 6);
    assert_eq!(bench.left(&request(), 1, 0), 1);
}

#[test]
fn a_charge_by_response_goes_to_all_quotas() {
    let cost = r#", "cost": { "response_header": "x-cost" }, "only_on": ["2xx"]"#;
    let mut bench = Bench::new(&limited("fixed-window", &[(10, 10), (20, 3_600)], cost), MemoryStore::new(1_000));
    assert!(bench.answer_with(&request(), &Answer::of(500).with("x-cost", "4")));
    assert!(bench.answer_with(&request(), &Answer::of(200).with("x-cost", "14")));
    assert_eq!((bench.left(&request(), 0, 0), bench.left(&request(), 1, 0)), (0, 6));
    assert!(!bench.answer_with(&request(), &Answer::of(200)));
}

#[test]
fn a_charge_to_one_quota_is_refunded_if_another_worker_takes_the_last_of_the_next() {
    for (more, last) in [("", refused()), (r#", "on_exceed": "observe""#, Ok(()))] {
        let policy = limited("fixed-window", &[(9, 10), (3, 3_600)], more);
        let mut bench = Bench::new(&policy, FaultyStore::new(vec![]));
        assert_eq!([bench.send(&request(), 0), bench.send(&request(), 0)], [Ok(()), Ok(())]);
        // The first quota is published. Meanwhile the last permit of the second goes to another instance.
        bench.store.publish = vec![Ok(()), Err(StoreError::Conflict)];
        bench.store.meanwhile = Some(Box::new({
            let policy = policy.clone();
            move |shared| {
                let mut other = Bench::new(&policy, std::mem::replace(shared, MemoryStore::new(1_000)));
                assert_eq!(other.send(&request(), 0), Ok(()));
                *shared = other.store;
            }
        }));
        assert_eq!(bench.send(&request(), 0), last);
        assert_eq!((bench.left(&request(), 0, 0), bench.left(&request(), 1, 0)), (6, 0), "{more}");
        assert_eq!(bench.total(Total::RefundsLost), 0);
    }
}

#[derive(Clone, Debug)]
struct Case {
    quotas: Vec<(u32, u64)>,
    observes: bool,
    /// Milliseconds since the previous request, and a cost.
    requests: Vec<(u64, u32)>,
    /// Whether each publication succeeds.
    published: Vec<bool>,
}

prop_compose! {
    fn case()(
        windows in prop::collection::btree_set(prop::sample::select(vec![1_u64, 2, 5, 60]), 1..=4),
        permits in prop::collection::vec(3_u32..12, 4),
        observes in any::<bool>(),
        requests in prop::collection::vec((0_u64..900, 1_u32..4), 1..40),
        // So few conflicts that no request runs out of rounds.
        published in prop::collection::vec(prop::bool::weighted(0.6), 0..31),
    ) -> Case {
        Case { quotas: permits.into_iter().zip(windows).collect(), observes, requests, published }
    }
}

proptest! {
    /// The naive model adds up, for each quota, what was admitted in its window.
    #[test]
    fn all_or_none_of_the_quotas_are_charged_under_conflicts(case in case()) {
        let mut more = r#", "cost": { "request_header": "x-cost" }"#.to_owned();
        if case.observes {
            more += r#", "on_exceed": "observe""#;
        }
        let script = case.published.iter().map(|good| if *good { Ok(()) } else { Err(StoreError::Conflict) });
        let policy = limited("fixed-window", &case.quotas, &more);
        let mut bench = Bench::new(&policy, FaultyStore::new(script.collect()));
        let (mut now, mut admitted) = (0, Vec::<(u64, u32)>::new());
        let (mut good, mut over) = (0, 0);
        for (step, cost) in case.requests {
            now += step;
            // The suite's noon is a whole minute, and therefore a boundary of every window here.
            let used = |secs: u64| -> u32 {
                admitted.iter().filter(|(at, _)| at / (secs * 1_000) == now / (secs * 1_000)).map(|(_, cost)| cost).sum()
            };
            let fits = case.quotas.iter().all(|(permits, secs)| used(*secs) + cost <= *permits);
            let sent = bench.send(&request().with("x-cost", &cost.to_string()), now);
            prop_assert_eq!(sent.is_ok(), fits || case.observes, "at {}", now);
            if fits {
                admitted.push((now, cost));
                good += 1;
            } else {
                over += 1;
            }
            for (place, (permits, secs)) in case.quotas.iter().enumerate() {
                let used: u32 =
                    admitted.iter().filter(|(at, _)| at / (secs * 1_000) == now / (secs * 1_000)).map(|(_, cost)| cost).sum();
                prop_assert_eq!(bench.left(&request(), place, now), permits - used, "quota {} at {}", place, now);
            }
        }
        let expected = if case.observes { [good, 0, over] } else { [good, over, 0] };
        prop_assert_eq!(counted(&mut bench), expected);
        prop_assert_eq!(bench.total(Total::StoreFailures) + bench.total(Total::RefundsLost), 0);
    }
}
