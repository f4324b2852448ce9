//! The effects of refusals: penalties that lock no client out, and bans that are neither lifted early nor prolonged.

use super::{Bench, FaultyStore};
use crate::harness::{Request, engine, ms};
use proptest::prelude::*;
use tidegate::decision::{Cause, Decision};
use tidegate::lease::Leases;
use tidegate::metrics::{Fate, Total};
use tidegate::policy::TierIndex;
use tidegate::store::memory::MemoryStore;
use tidegate::store::{Store, StoreError};
use tidegate::units::{Span, Timestamp};

/// A policy of one limit named `api` with these fields.
fn policy(fields: &str) -> String {
    format!(r#"{{ "version": 1, "limits": [{{ "name": "api", "key": ["address"], {fields} }}] }}"#)
}

const QUOTA: &str = r#""algorithm": "fixed-window", "quota": { "permits": 2, "window": "1h" }"#;
const BAN: &str = r#""ban": { "after": 3, "within": "60s", "for": "10m" }"#;

fn banning() -> String {
    policy(&[QUOTA, BAN].join(","))
}

fn client(number: u32) -> Request {
    Request::get("/").from(&std::net::Ipv4Addr::from(0x0a00_0000 + number).to_string())
}

impl<S: Store> Bench<S> {
    fn decide(&mut self, request: &Request, now: Timestamp) -> Decision {
        self.engine.plan(request, &mut self.plan);
        self.engine.decide(&mut self.plan, &mut self.store, &mut self.local, &mut self.leases, &mut self.counters, now)
    }

    /// The cause of the refusal and its wait, in seconds.
    fn refusal(&mut self, request: &Request, at_ms: u64) -> Option<(Cause, u64)> {
        let refusal = self.decide(request, ms(at_ms)).refusal?;
        Some((refusal.cause, refusal.retry_after.map_or(u64::MAX, Span::as_secs_ceil)))
    }

    fn fates(&mut self) -> [u64; 4] {
        let tier = TierIndex::new(0).unwrap();
        let fates = [Fate::Admitted, Fate::Refused, Fate::Observed, Fate::Banned];
        fates.map(|fate| self.counters.take_requests(0, tier, fate))
    }
}

#[test]
fn a_client_refused_too_often_is_banned_and_nothing_prolongs_the_ban() {
    let mut bench = Bench::new(&banning(), MemoryStore::new(1_000));
    let (one, other) = (client(1), client(2));
    let minutes = |minutes: u64| minutes * 60_000;
    assert_eq!([bench.refusal(&one, 0), bench.refusal(&one, 0)], [None, None]);
    assert_eq!(bench.refusal(&one, 1_000), Some((Cause::Exceeded, 3_599)));
    assert_eq!(bench.refusal(&one, 2_000), Some((Cause::Exceeded, 3_598)));
    // The announced wait must suffice for the quota too, which has no room before the hour is over.
    assert_eq!(bench.refusal(&one, 3_000), Some((Cause::Banned, 3_597)));
    assert_eq!(bench.refusal(&one, minutes(10)), Some((Cause::Banned, 3_000)));
    assert_eq!(bench.refusal(&other, 3_000), None, "another client");
    // After the ban the client starts from zero: two more refusals bring no ban.
    assert_eq!(bench.refusal(&one, minutes(11)), Some((Cause::Exceeded, 2_940)));
    assert_eq!(bench.refusal(&one, minutes(11)), Some((Cause::Exceeded, 2_940)));
    assert_eq!(bench.refusal(&one, minutes(60)), None);
    assert_eq!((bench.total(Total::Bans), bench.fates()), (1, [4, 5, 0, 1]));
}

#[test]
fn refusals_too_far_apart_do_not_ban() {
    let mut bench = Bench::new(&banning(), MemoryStore::new(1_000));
    let one = client(1);
    for minute in 0..30 {
        // Two in each 61 seconds.
        bench.refusal(&one, minute * 61_000);
        bench.refusal(&one, minute * 61_000 + 59_000);
    }
    assert_eq!((bench.total(Total::Bans), bench.fates()), (0, [2, 58, 0, 0]));
}

#[test]
fn a_banned_request_is_charged_to_no_other_limit() {
    let policy = format!(
        r#"{{ "version": 1, "limits": [
        {{ "name": "wide", "key": ["address"], "algorithm": "fixed-window", "quota": {{ "permits": 100, "window": "1h" }} }},
        {{ "name": "api", "key": ["address"], "algorithm": "fixed-window", "quota": {{ "permits": 2, "window": "1s" }}, {BAN} }},
        {{ "name": "next", "key": ["address"], "quota": {{ "permits": 1, "window": "1h" }},
           "ban": {{ "after": 1, "within": "60s", "for": "1m" }} }}] }}"#
    );
    let mut bench = Bench::new(&policy, MemoryStore::new(1_000));
    let one = client(1);
    assert_eq!(bench.refusal(&one, 0), None);
    // `next` bans. From then on nothing else happens, although `api` has room again.
    assert_eq!(bench.refusal(&one, 0).map(|(cause, _)| cause), Some(Cause::Banned));
    for second in 1..50 {
        assert_eq!(bench.refusal(&one, second * 1_000).map(|(cause, _)| cause), Some(Cause::Banned), "{second}");
    }
    assert_eq!((bench.left(&one, 0, 50_000), bench.left(&one, 1, 50_000)), (99, 2));
    assert_eq!(bench.total(Total::Bans), 1);
    assert_eq!(bench.fates(), [1, 0, 0, 0]);
}

#[test]
fn a_banned_client_is_told_to_wait_until_every_quota_has_room() {
    let policy = r#"{ "version": 1, "limits": [
        { "name": "api", "key": ["address"], "algorithm": "fixed-window",
          "quotas": [{ "permits": 1, "window": "1s" }, { "permits": 3, "window": "1h" }],
          "ban": { "after": 1, "within": "60s", "for": "10s" } },
        { "name": "day", "key": ["address"], "algorithm": "fixed-window", "quota": { "permits": 4, "window": "1d" } }] }"#;
    let mut bench = Bench::new(policy, MemoryStore::new(1_000));
    let one = client(1);
    for (second, told) in [
        (0, None),
        // The ban alone.
        (0, Some(10)),
        (10, None),
        (20, None),
        // The hour's quota, when the ban begins and during it.
        (21, Some(3_579)),
        (22, Some(3_578)),
        (3_600, None),
        // The quota of another limit, until midnight.
        (3_600, Some(43_200 - 3_600)),
        (3_602, Some(43_200 - 3_602)),
    ] {
        let expected = told.map(|wait| (Cause::Banned, wait));
        assert_eq!(bench.refusal(&one, second * 1_000), expected, "at {second} s");
    }
}

#[test]
fn a_limit_that_observes_only_counts_its_bans() {
    let mut watching =
        Bench::new(&policy(&[QUOTA, BAN, r#""on_exceed": "observe""#].join(",")), MemoryStore::new(1_000));
    let observing = banning().replacen("\"version\": 1", "\"version\": 1, \"mode\": \"observe\"", 1);
    let mut observing = Bench::new(&observing, MemoryStore::new(1_000));
    for bench in [&mut watching, &mut observing] {
        for _ in 0..9 {
            assert_eq!(bench.refusal(&client(1), 0), None);
        }
        assert_eq!((bench.total(Total::Bans), bench.fates()), (1, [2, 0, 7, 0]));
    }
}

#[test]
fn a_ban_that_another_worker_begins_first_is_counted_once() {
    let mut bench = Bench::new(&banning(), FaultyStore::new(vec![]));
    let one = client(1);
    for _ in 0..4 {
        bench.refusal(&one, 0);
    }
    // At the third refusal, another worker publishes one of its own first.
    bench.store.publish = vec![Err(StoreError::Conflict)];
    let elsewhere = one.clone();
    bench.store.meanwhile = Some(Box::new(move |shared| {
        let mut other = Bench::new(&banning(), MemoryStore::new(1_000));
        std::mem::swap(shared, &mut other.store);
        assert_eq!(other.refusal(&elsewhere, 0).map(|(cause, _)| cause), Some(Cause::Banned));
        std::mem::swap(shared, &mut other.store);
    }));
    assert_eq!(bench.refusal(&one, 0).map(|(cause, _)| cause), Some(Cause::Banned));
    assert_eq!((bench.total(Total::Bans), bench.total(Total::Conflicts)), (0, 1));
}

#[test]
fn a_refusal_that_cannot_be_recorded_still_refuses_with_bounded_retries() {
    let mut bench = Bench::new(&banning(), FaultyStore::new(vec![]));
    let one = client(1);
    assert_eq!([bench.refusal(&one, 0), bench.refusal(&one, 0)], [None, None]);
    bench.store.publishes = 0;
    bench.store.publish = vec![Err(StoreError::Conflict); 1_000];
    for _ in 0..5 {
        assert_eq!(bench.refusal(&one, 0).map(|(cause, _)| cause), Some(Cause::Exceeded));
    }
    assert!(bench.store.publishes <= 5 * 32, "{}", bench.store.publishes);
    // A banned client causes no writes.
    bench.store.publish.clear();
    for _ in 0..3 {
        bench.refusal(&one, 0);
    }
    bench.store.publishes = 0;
    for _ in 0..5 {
        assert_eq!(bench.refusal(&one, 0).map(|(cause, _)| cause), Some(Cause::Banned));
    }
    assert_eq!(bench.store.publishes, 0);
}

#[test]
fn refusals_count_in_local_memory_when_the_store_fails() {
    let mut bench = Bench::new(&banning(), FaultyStore::new(vec![]));
    bench.store.read = Err(StoreError::Unavailable);
    for _ in 0..5 {
        bench.refusal(&client(1), 0);
    }
    assert_eq!(bench.refusal(&client(1), 1_000), Some((Cause::Banned, 3_599)));
}

#[test]
fn a_clock_that_steps_back_prolongs_no_ban() {
    let mut bench =
        Bench::new(&policy(&[r#""quota": { "permits": 1, "window": "1s" }"#, BAN].join(",")), MemoryStore::new(1_000));
    let (one, day) = (client(1), 86_400_000);
    for _ in 0..4 {
        bench.refusal(&one, 10 * day);
    }
    // Nine days back: ten minutes from the first request on.
    assert_eq!(bench.refusal(&one, day), Some((Cause::Banned, 600)));
    assert_eq!(bench.refusal(&one, day + 599_000).map(|(cause, _)| cause), Some(Cause::Banned));
    assert_eq!(bench.refusal(&one, day + 600_000), None);
}

/// The table has room for 1,000 keys, and 200,000 new keys arrive once each: bans and refusal counts stay.
#[test]
fn a_flood_of_new_keys_lifts_no_ban() {
    let mut bench = Bench::new(&banning(), MemoryStore::new(1_000));
    let banned: Vec<_> = (1..=200).map(client).collect();
    for (one, requests) in banned.iter().zip([5, 4].into_iter().cycle()) {
        for _ in 0..requests {
            bench.refusal(one, 0);
        }
    }
    for number in 0..200_000 {
        assert_eq!(bench.refusal(&client(1_000 + number), 1_000), None);
    }
    for one in &banned {
        // Half had been banned; the others had two of the three refusals.
        assert_eq!(bench.refusal(one, 2_000).map(|(cause, _)| cause), Some(Cause::Banned));
    }
}

/// Clients that use up their quota stay in the table as long as banned ones. Not even these lift a ban, unless they are
/// banned themselves and fill whole pages.
#[test]
fn a_flood_of_clients_that_use_up_their_quota_lifts_no_ban_either() {
    let mut bench =
        Bench::new(&policy(&[r#""quota": { "permits": 1, "window": "60s" }"#, BAN].join(",")), MemoryStore::new(1_000));
    let banned: Vec<_> = (1..=200).map(client).collect();
    for one in &banned {
        for _ in 0..4 {
            bench.refusal(one, 0);
        }
    }
    for number in 0..50_000 {
        assert_eq!(bench.refusal(&client(1_000 + number), 1_000), None);
    }
    for one in &banned {
        assert_eq!(bench.refusal(one, 2_000).map(|(cause, _)| cause), Some(Cause::Banned));
    }
}

#[test]
fn a_penalty_makes_the_wait_longer_but_no_longer_than_its_bound() {
    let fields = r#""algorithm": "token-bucket", "quota": { "permits": 10, "window": "100s" }, "penalty": { "cost": 2, "max": 5 }"#;
    let mut bench = Bench::new(&policy(fields), MemoryStore::new(1_000));
    let one = client(1);
    for _ in 0..10 {
        assert_eq!(bench.refusal(&one, 0), None);
    }
    // An empty bucket goes no lower: a penalty only takes what has come back since.
    assert_eq!(bench.refusal(&one, 9_000), Some((Cause::Exceeded, 10)));
    assert_eq!(bench.refusal(&one, 18_000), Some((Cause::Exceeded, 10)));
    // Four of at most five penalty permits are charged. Two more would exceed the bound.
    assert_eq!(bench.refusal(&one, 27_000), Some((Cause::Exceeded, 1)));
    assert_eq!(bench.refusal(&one, 28_000), None);
    assert_eq!((bench.total(Total::PenaltyPermits), bench.fates()), (4, [11, 3, 0, 0]));
}

/// A client that keeps trying, and the part of the quota that penalties cannot take.
#[derive(Clone, Debug)]
struct Case {
    algorithm: &'static str,
    /// Permits, and how many of them penalties may take.
    permits: u64,
    max: u64,
    cost: u64,
    charged: u64,
    mode: &'static str,
    /// Nanoseconds since the previous request.
    requests: Vec<u64>,
}

prop_compose! {
    fn case()(
        algorithm in prop::sample::select(vec!["sliding-window", "token-bucket"]),
        // Numbers that divide the window, so that a bucket's intervals are exact.
        (permits, max) in prop::sample::select(vec![(2_u64, 1_u64), (10, 5), (10, 2), (12, 4), (20, 19), (100, 20)]),
        cost in 1_u64..3,
        charged in 1_u64..4,
        mode in prop::sample::select(vec!["enforce", "strict"]),
        requests in prop::collection::vec(
            prop_oneof![6 => 0..2 * SECOND, 2 => 0..20 * SECOND, 1 => 0..150 * SECOND], 1..200,
        ),
    ) -> Case {
        let cost = cost.min(permits - max);
        Case { algorithm, permits, max, cost, charged: charged.min(max), mode, requests }
    }
}

impl Case {
    fn policy(&self) -> String {
        let Self { algorithm, permits, max, cost, charged, mode, .. } = self;
        // Strict mode halves what the policy says.
        let [permits, max] = [permits, max].map(|number| if *mode == "strict" { number * 2 } else { *number });
        format!(
            r#"{{ "version": 1, "mode": "{mode}", "strict": {{ "factor_percent": 50 }}, "limits": [{{ "name": "api",
            "key": ["address"], "algorithm": "{algorithm}", "quota": {{ "permits": {permits}, "window": "60s" }},
            "cost": {cost}, "penalty": {{ "cost": {charged}, "max": {max} }} }}] }}"#
        )
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(800))]

    /// Whatever passes a quota of `permits - max`, given what was admitted, passes here too, after any number of
    /// refusals.
    #[test]
    fn penalties_never_take_more_than_their_bound(case in case()) {
        let mut bench = Bench::new(&case.policy(), MemoryStore::new(1_000));
        let mut left = Left { permits: case.permits - case.max, bucket: case.algorithm == "token-bucket", admitted: Vec::new() };
        let (one, mut now) = (client(1), 1_700_000_000 * SECOND);
        for step in &case.requests {
            now += step;
            let passes = left.passes(case.cost, now);
            let admitted = bench.decide(&one, Timestamp::from_nanos(now)).refusal.is_none();
            prop_assert!(admitted || !passes, "at {}", now);
            if admitted {
                left.admitted.push((now, case.cost));
            }
        }
    }

    /// The announced wait suffices, with penalties and bans too; a nanosecond less does not.
    #[test]
    fn the_announced_wait_suffices(case in case(), after in 1_u32..6, lasts in prop::sample::select(vec!["1s", "20s", "5m"])) {
        let ban = format!(r#""ban": {{ "after": {after}, "within": "30s", "for": "{lasts}" }}, "penalty""#);
        let policy = case.policy().replacen("\"penalty\"", &ban, 1);
        let mut bench = Bench::new(&policy, MemoryStore::new(1_000));
        let (one, mut now) = (client(1), 1_700_000_000 * SECOND);
        for step in &case.requests {
            now += step;
            let Some(refusal) = bench.decide(&one, Timestamp::from_nanos(now)).refusal else { continue };
            let wait = refusal.retry_after.expect("a request within its quota").as_nanos();
            prop_assert!(wait > 0);
            let mut later = Bench { engine: engine(&policy), store: copy(&mut bench.store), local: MemoryStore::new(1_000), leases: Leases::new(),
                counters: bench.counters.clone(), plan: tidegate::engine::Plan::new() };
            prop_assert!(later.decide(&one, Timestamp::from_nanos(now + wait - 1)).refusal.is_some(), "{:?}", refusal);
            let mut later = Bench { store: copy(&mut bench.store), ..later };
            prop_assert!(later.decide(&one, Timestamp::from_nanos(now + wait)).refusal.is_none(), "{:?}", refusal);
        }
    }
}

/// A quota of 60 seconds, computed from the list of all admitted requests, including those beyond this quota.
struct Left {
    permits: u64,
    bucket: bool,
    admitted: Vec<(u64, u64)>,
}

impl Left {
    fn passes(&self, cost: u64, now: u64) -> bool {
        let window = 60 * SECOND;
        if self.bucket {
            // The debt decreases evenly, down to zero.
            let paid = |debt: u64, since: u64, until: u64| debt.saturating_sub((until - since) * self.permits);
            let (debt, last) = self
                .admitted
                .iter()
                .fold((0, now), |(debt, last), (at, cost)| (paid(debt, last.min(*at), *at) + cost * window, *at));
            return paid(debt, last.min(now), now) + cost * window <= self.permits * window;
        }
        let sum = |index: u64| -> u64 {
            self.admitted.iter().filter(|(at, _)| at / window == index).map(|(_, cost)| cost).sum()
        };
        let length_ms = 60_000;
        let left_ms = length_ms - now % window / 1_000_000;
        let index = now / window;
        (sum(index) + cost) * length_ms + sum(index - 1) * left_ms <= self.permits * length_ms
    }
}

fn copy(store: &mut MemoryStore) -> MemoryStore {
    let mut copy = MemoryStore::new(1_000);
    for page in 0..store.pages() {
        *copy.write(page).unwrap() = store.read(page).unwrap().clone();
    }
    copy
}

const SECOND: u64 = 1_000_000_000;
