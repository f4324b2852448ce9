//! Requests that cost more or less than one permit, set by the policy, by a request header or by a response header.

use super::Bench;
use crate::harness::{Answer, Request, ms};
use proptest::prelude::*;
use tidegate::decision::Cause;
use tidegate::store::memory::MemoryStore;

/// A limit of twenty permits per hour with this cost and further fields.
fn costing(algorithm: &str, cost: &str, more: &str) -> String {
    format!(
        r#"{{ "version": 1, "client": {{ "trusted_headers": ["x-cost"] }},
        "limits": [ {{ "name": "api", "key": ["address"], "algorithm": "{algorithm}",
        "quota": {{ "permits": 20, "window": "1h" }}, "cost": {cost}{more} }} ] }}"#
    )
}

fn bench(algorithm: &str, cost: &str, more: &str) -> Bench<MemoryStore> {
    Bench::new(&costing(algorithm, cost, more), MemoryStore::new(1_000))
}

fn request() -> Request {
    Request::get("/").from("192.0.2.1")
}

const ALGORITHMS: [&str; 3] = ["sliding-window", "token-bucket", "fixed-window"];
const BY_REQUEST: &str = r#"{ "request_header": "X-Cost", "default": 2, "max": 30 }"#;
const BY_ANSWER: &str = r#"{ "response_header": "X-Cost", "default": 2, "max": 100 }"#;

#[test]
fn a_request_costs_what_the_policy_says() {
    for algorithm in ALGORITHMS {
        let mut bench = bench(algorithm, "6", "");
        for left in [14, 8, 2] {
            assert_eq!(bench.send(&request(), 0), Ok(()));
            assert_eq!(bench.left(&request(), 0, 0), left, "{algorithm}");
        }
        assert_eq!(bench.send(&request(), 0), Err(("api".to_owned(), Cause::Exceeded)), "{algorithm}");
        assert_eq!(bench.left(&request(), 0, 0), 2, "{algorithm}");
    }
}

#[test]
fn a_request_costs_what_its_header_says_and_at_least_one() {
    let mut bench = bench("fixed-window", BY_REQUEST, "");
    for (value, left) in [("5", 15), ("seven", 13), ("0", 12), ("-5", 10), (" 8 ", 2)] {
        assert_eq!(bench.send(&request().with("x-cost", value), 0), Ok(()), "{value}");
        assert_eq!(bench.left(&request(), 0, 0), left, "{value}");
    }
    assert!(bench.send(&request().with("x-cost", "3"), 0).is_err());
    assert_eq!(bench.send(&request(), 0), Ok(()));
    assert!(bench.send(&request().with("x-cost", "0"), 0).is_err());
}

#[test]
fn a_cost_above_the_whole_quota_is_refused_without_retry_after() {
    for algorithm in ALGORITHMS {
        let mut bench = bench(algorithm, BY_REQUEST, "");
        for (value, told) in [("21", false), ("4000000000", false), ("20", true)] {
            bench.engine.plan(&request().with("x-cost", value), &mut bench.plan);
            let decision = bench.engine.decide(
                &mut bench.plan,
                &mut bench.store,
                &mut bench.local,
                &mut bench.leases,
                &mut bench.counters,
                ms(0),
            );
            assert_eq!(decision.refusal.is_none(), told, "{algorithm}, {value}");
            if let Some(refusal) = decision.refusal {
                let reply = refusal.reply(&bench.engine, &request());
                assert_eq!((reply.status, reply.retry_after_secs), (429, None));
                assert_eq!(reply.body, r#"{"error":"request costs more than its rate limit allows"}"#);
            }
        }
    }
}

#[test]
fn an_answer_may_cost_more_than_is_left_and_the_debt_is_bounded() {
    for (algorithm, waits_ms) in [
        // All 95 count until their window ends; then they fade, and count as 19 when a fifth of the next window is
        // left.
        ("sliding-window", 3_600_000 + 2_880_000),
        // An empty bucket is the lower bound: one permit is back after a twentieth of the hour.
        ("token-bucket", 180_000),
        ("fixed-window", 3_600_000),
    ] {
        let mut bench = bench(algorithm, BY_ANSWER, "");
        assert!(bench.answer_with(&request(), &Answer::of(200).with("x-cost", "15")));
        assert_eq!(bench.left(&request(), 0, 0), 5, "{algorithm}");
        assert!(bench.answer_with(&request(), &Answer::of(200).with("x-cost", "80")));
        assert_eq!(bench.left(&request(), 0, 0), 0, "{algorithm}");
        assert!(bench.send(&request(), waits_ms - 1).is_err(), "{algorithm}");
        assert_eq!(bench.send(&request(), waits_ms), Ok(()), "{algorithm}");
    }
}

#[test]
fn a_response_without_a_cost_and_a_missing_response_cost_the_default() {
    let mut bench = bench("fixed-window", BY_ANSWER, "");
    for (answer, left) in [
        (Answer::of(200), 18),
        (Answer::of(200).with("x-cost", "much"), 16),
        (Answer::none(), 14),
        (Answer::of(500).with("x-cost", "0"), 13),
        (Answer::of(500).with("x-cost", "1000"), 0),
    ] {
        assert!(bench.answer_with(&request(), &answer));
        assert_eq!(bench.left(&request(), 0, 0), left, "{answer:?}");
    }
}

#[test]
fn only_certain_answers_are_charged_what_they_cost() {
    let only = r#", "only_on": ["5xx"]"#;
    let mut fixed = bench("fixed-window", "6", only);
    let mut by_request = bench("fixed-window", BY_REQUEST, only);
    let mut by_answer = bench("fixed-window", BY_ANSWER, only);
    let request = request().with("x-cost", "7");
    for (answer, left) in [
        (Answer::of(200).with("x-cost", "9"), [20, 20, 20]),
        (Answer::none(), [20, 20, 20]),
        (Answer::of(503).with("x-cost", "9"), [14, 13, 11]),
    ] {
        for (bench, left) in [&mut fixed, &mut by_request, &mut by_answer].into_iter().zip(left) {
            assert!(bench.answer_with(&request, &answer));
            assert_eq!(bench.left(&request, 0, 0), left, "{answer:?}");
        }
    }
    // The cost is known before the request, and there is no room for it.
    assert!(fixed.answer(&request, 500) && fixed.answer(&request, 500));
    assert!(!fixed.answer(&request, 200));
}

#[test]
fn a_free_request_passes_and_takes_no_slot_in_the_table() {
    let cost = r#"{ "request_header": "x-cost", "default": 0, "min": 0 }"#;
    let mut bench = bench("fixed-window", cost, "");
    for _ in 0..100 {
        assert_eq!(bench.send(&request(), 0), Ok(()));
    }
    assert_eq!(bench.left(&request(), 0, 0), 20);
    assert_eq!(bench.send(&request().with("x-cost", "20"), 0), Ok(()));
    assert_eq!(bench.send(&request(), 0), Ok(()));
    assert!(bench.send(&request().with("x-cost", "1"), 0).is_err());
}

proptest! {
    /// The naive model adds up what was admitted and what the responses cost.
    #[test]
    fn costs_add_up_as_in_the_naive_model(
        by_answer in any::<bool>(),
        said in prop::collection::vec(prop_oneof![(0_u32..40).prop_map(|n| n.to_string()), "[a-z0-9 ]{0,3}"], 1..30),
    ) {
        let mut bench = bench("fixed-window", if by_answer { BY_ANSWER } else { BY_REQUEST }, "");
        let mut used = 0_u64;
        for said in said {
            let number = said.trim_matches(' ').parse::<u64>();
            let cost = number.map_or(2, |number| number.clamp(1, if by_answer { 100 } else { 30 }));
            let (sent, answer) = (request().with("x-cost", &said), Answer::of(200).with("x-cost", &said));
            let admitted = bench.answer_with(&sent, &answer);
            prop_assert_eq!(admitted, used + if by_answer { 1 } else { cost } <= 20, "{} at {}", said, used);
            if admitted {
                used += cost;
            }
            prop_assert_eq!(u64::from(bench.left(&request(), 0, 0)), 20_u64.saturating_sub(used));
        }
    }
}
