//! The engine over stores that misbehave: requests are charged to all limits or none, under conflicts, failures and
//! clock changes.

mod costs;
mod delays;
mod leases;
mod quotas;
mod refusals;

use crate::harness::{Answer, Request, digits, engine, engine_of, ms};
use tidegate::decision::Cause;
use tidegate::engine::{Engine, Plan};
use tidegate::lease::Leases;
use tidegate::metrics::{Counters, Fate, Total};
use tidegate::policy::TierIndex;
use tidegate::store::memory::MemoryStore;
use tidegate::store::{Store, StoreError};
use tidegate::table::Page;
use tidegate::units::Span;

/// A store whose publications fail as a script says, and that others publish to in the meantime.
struct FaultyStore {
    shared: MemoryStore,
    round: Vec<Read>,
    /// The results of the next calls of `publish`; after these, all succeed.
    publish: Vec<Result<(), StoreError>>,
    read: Result<(), StoreError>,
    publishes: u32,
    /// What another worker does to the pages when a publication first fails.
    meanwhile: Option<Meanwhile>,
}

type Meanwhile = Box<dyn FnOnce(&mut MemoryStore)>;

struct Read {
    number: u32,
    page: Page,
    published: Option<Result<(), StoreError>>,
}

impl FaultyStore {
    fn new(publish: Vec<Result<(), StoreError>>) -> Self {
        Self {
            shared: MemoryStore::new(1_000),
            round: Vec::new(),
            publish,
            read: Ok(()),
            publishes: 0,
            meanwhile: None,
        }
    }

    fn at(&mut self, page: u32) -> Result<usize, StoreError> {
        self.read?;
        if let Some(at) = self.round.iter().position(|read| read.number == page) {
            return Ok(at);
        }
        self.round.push(Read { number: page, page: self.shared.read(page)?.clone(), published: None });
        Ok(self.round.len() - 1)
    }
}

impl Store for FaultyStore {
    fn pages(&self) -> u32 {
        self.shared.pages()
    }

    fn begin(&mut self) {
        self.round.clear();
    }

    fn read(&mut self, page: u32) -> Result<&Page, StoreError> {
        self.at(page).map(|at| &self.round[at].page)
    }

    fn write(&mut self, page: u32) -> Result<&mut Page, StoreError> {
        self.at(page).map(|at| &mut self.round[at].page)
    }

    fn publish(&mut self, page: u32) -> Result<(), StoreError> {
        let at = self.at(page)?;
        if let Some(answer) = self.round[at].published {
            return answer;
        }
        self.publishes += 1;
        let answer = if self.publish.is_empty() { Ok(()) } else { self.publish.remove(0) };
        if answer.is_ok() {
            *self.shared.write(page)? = self.round[at].page.clone();
        } else if let Some(meanwhile) = self.meanwhile.take() {
            meanwhile(&mut self.shared);
        }
        self.round[at].published = Some(answer);
        answer
    }
}

struct Bench<S> {
    engine: Engine,
    store: S,
    local: MemoryStore,
    leases: Leases,
    counters: Counters,
    plan: Plan,
}

impl<S: Store> Bench<S> {
    fn new(policy: &str, store: S) -> Self {
        let engine = engine(policy);
        let counters = Counters::new(engine.policy().limits().len(), engine.policy().tiers().len());
        Self { engine, store, local: MemoryStore::new(1_000), leases: Leases::new(), counters, plan: Plan::new() }
    }

    /// Sends a request; a refusal names the limit and the cause.
    fn send(&mut self, request: &Request, at_ms: u64) -> Result<(), (String, Cause)> {
        self.engine.plan(request, &mut self.plan);
        let decision = self.engine.decide(
            &mut self.plan,
            &mut self.store,
            &mut self.local,
            &mut self.leases,
            &mut self.counters,
            ms(at_ms),
        );
        match decision.refusal {
            None => Ok(()),
            Some(refusal) => {
                let name = self.engine.policy().limits()[refusal.limit.expect("a limit")].name().as_str().to_owned();
                Err((name, refusal.cause))
            }
        }
    }

    /// The permits left in the store, after all leases have ended, at the quota of the plan's charge with this number.
    fn left(&mut self, request: &Request, charge: usize, at_ms: u64) -> u32 {
        self.engine.end_leases(&mut self.leases, Span::ZERO, &mut self.store, &mut self.counters, ms(at_ms));
        self.engine.plan(request, &mut self.plan);
        let charge = self.plan.charges()[charge];
        let key = charge.key();
        let page = tidegate::table::page_of(key, self.store.pages());
        self.store.begin();
        let state = self.store.read(page).unwrap().probe(key, ms(at_ms)).state();
        let policy = self.engine.policy();
        let (rule, tier) = (&policy.limits()[charge.limit()], self.plan.tier());
        let meter = tidegate::limiter::Meter::new(rule.algorithm(), &rule.quotas(tier)[charge.quota()]);
        meter.standing(state, ms(at_ms)).remaining.get()
    }

    fn total(&mut self, total: Total) -> u64 {
        self.counters.take_total(total)
    }
}

#[test]
fn bytes_of_pages_of_version_1_do_not_change() {
    let limit = |algorithm: &str, quota: &str| {
        format!(
            r#"{{ "name": "{algorithm}", "key": ["address"], "algorithm": "{algorithm}", "quota": {{ "permits": 9{quota} }} }}"#
        )
    };
    let window = r#", "window": "1h" "#;
    let limits = ["fixed-window", "sliding-window", "token-bucket"].map(|algorithm| limit(algorithm, window)).join(",");
    let policy = format!(
        r#"{{ "version": 1, "limits": [{limits}, {},
            {{ "name": "ban", "quota": {{ "permits": 1{window} }}, "ban": {{ "after": 1, "within": "1m", "for": "1h" }} }}] }}"#,
        limit("concurrency", "")
    );
    let mut bench = Bench::new(&policy, MemoryStore::new(100));
    let request = Request::get("/").from("192.0.2.1");
    for at_ms in [0, 1, 2, 3_600_000] {
        let _ = bench.send(&request, at_ms);
    }
    let (mut all, mut page) = (Vec::new(), Vec::new());
    for number in 0..bench.store.pages() {
        bench.store.read(number).unwrap().encode(&mut page);
        all.extend_from_slice(&page);
    }
    assert_eq!((tidegate::table::VERSION, digits(&all).as_str()), (2, "af3b0914c645"));
}

const WIDE_AND_NARROW: &str = r#"{
  "version": 1,
  "limits": [
    { "name": "wide", "key": ["address"], "algorithm": "fixed-window", "quota": { "permits": 100, "window": "1h" } },
    { "name": "narrow", "key": ["address"], "algorithm": "token-bucket", "quota": { "permits": 3, "window": "1h" } }
  ]
}"#;

fn deciding(on_store_failure: &str) -> String {
    format!(
        r#"{{ "version": 1, "limits": [ {{ "name": "api", "key": ["address"], "algorithm": "fixed-window",
        "quota": {{ "permits": 2, "window": "1h" }}, "on_store_failure": "{on_store_failure}" }} ] }}"#
    )
}

#[test]
fn a_request_refused_by_one_limit_is_charged_to_none() {
    let mut bench = Bench::new(WIDE_AND_NARROW, MemoryStore::new(1_000));
    let request = Request::get("/").from("192.0.2.1");
    for _ in 0..3 {
        assert_eq!(bench.send(&request, 0), Ok(()));
    }
    for _ in 0..5 {
        assert_eq!(bench.send(&request, 0), Err(("narrow".to_owned(), Cause::Exceeded)));
    }
    assert_eq!(bench.left(&request, 0, 0), 97);
}

#[test]
fn a_conflict_is_decided_again_and_nothing_is_charged_twice() {
    use StoreError::Conflict;
    // The first page is published and the second is not, then the reverse; each twice.
    let script = vec![Ok(()), Err(Conflict), Err(Conflict), Ok(()), Err(Conflict), Ok(()), Ok(()), Ok(())];
    let mut bench = Bench::new(WIDE_AND_NARROW, FaultyStore::new(script));
    let request = Request::get("/").from("192.0.2.1");
    for _ in 0..3 {
        assert_eq!(bench.send(&request, 0), Ok(()));
    }
    assert_eq!(bench.left(&request, 0, 0), 97);
    assert_eq!(bench.left(&request, 1, 0), 0);
    assert!(bench.total(Total::Conflicts) >= 2);
}

#[test]
fn a_charge_is_refunded_when_a_later_round_refuses() {
    let mut bench = Bench::new(WIDE_AND_NARROW, FaultyStore::new(vec![]));
    let request = Request::get("/").from("192.0.2.1");
    for _ in 0..2 {
        assert_eq!(bench.send(&request, 0), Ok(()));
    }
    // `wide` is published. The page of `narrow` conflicts, because another worker takes the last permit first.
    let mut other = Bench::new(WIDE_AND_NARROW, FaultyStore::new(vec![]));
    std::mem::swap(&mut bench.store.shared, &mut other.store.shared);
    assert_eq!(other.send(&request, 0), Ok(()));
    std::mem::swap(&mut bench.store.shared, &mut other.store.shared);
    bench.store.publish = vec![Ok(())];
    assert_eq!(bench.send(&request, 0), Err(("narrow".to_owned(), Cause::Exceeded)));
    assert_eq!(bench.left(&request, 0, 0), 97);
    assert_eq!(bench.total(Total::RefundsLost), 0);
}

#[test]
fn endless_conflicts_end_in_the_failure_policy() {
    let request = Request::get("/").from("192.0.2.1");
    let endless = || FaultyStore::new(vec![Err(StoreError::Conflict); 1_000]);
    let mut local = Bench::new(&deciding("local"), endless());
    assert_eq!(local.send(&request, 0), Ok(()));
    assert_eq!(local.send(&request, 0), Ok(()));
    assert_eq!(local.send(&request, 0), Err(("api".to_owned(), Cause::Exceeded)));
    assert!(local.store.publishes <= 100, "{} publishes for three requests", local.store.publishes);
    let mut allow = Bench::new(&deciding("allow"), endless());
    for _ in 0..5 {
        assert_eq!(allow.send(&request, 0), Ok(()));
    }
    let mut deny = Bench::new(&deciding("deny"), endless());
    assert_eq!(deny.send(&request, 0), Err(("api".to_owned(), Cause::StoreFailed)));
    assert_eq!(deny.total(Total::StoreFailures), 1);
}

#[test]
fn damaged_state_is_a_store_failure_and_no_panic() {
    for (policy, expected) in
        [("local", Ok(())), ("allow", Ok(())), ("deny", Err(("api".to_owned(), Cause::StoreFailed)))]
    {
        let mut bench = Bench::new(&deciding(policy), FaultyStore::new(vec![]));
        bench.store.read = Err(StoreError::Corrupt);
        assert_eq!(bench.send(&Request::get("/").from("192.0.2.1"), 0), expected, "{policy}");
        assert_eq!(bench.total(Total::StoreFailures), 1);
    }
}

#[test]
fn a_limit_that_observes_counts_and_changes_nothing() {
    let policy = r#"{ "version": 1, "limits": [ { "name": "api", "key": ["address"], "algorithm": "fixed-window",
        "quota": { "permits": 2, "window": "1h" }, "on_exceed": "observe" } ] }"#;
    let mut bench = Bench::new(policy, MemoryStore::new(1_000));
    let request = Request::get("/").from("192.0.2.1");
    for _ in 0..5 {
        assert_eq!(bench.send(&request, 0), Ok(()));
    }
    let tier = TierIndex::new(0).unwrap();
    assert_eq!(bench.counters.take_requests(0, tier, Fate::Admitted), 2);
    assert_eq!(bench.counters.take_requests(0, tier, Fate::Observed), 3);
    assert_eq!(bench.counters.take_requests(0, tier, Fate::Refused), 0);
}

/// Five failed logins per hour.
const LOGINS: &str = r#"{ "version": 1, "limits": [ { "name": "logins", "key": ["address"], "algorithm": "sliding-window",
    "quota": { "permits": 5, "window": "1h" }, "only_on": ["401", "5xx"] } ] }"#;

impl<S: Store> Bench<S> {
    /// Sends a request and, if it is admitted, answers it with this status. Returns whether it was admitted.
    fn answer(&mut self, request: &Request, status: u16) -> bool {
        self.answer_with(request, &Answer::of(status))
    }

    fn answer_with(&mut self, request: &Request, answer: &Answer) -> bool {
        let admitted = self.send(request, 0).is_ok();
        if let Some(mut ticket) = self.plan.ticket().filter(|_| admitted) {
            self.engine.observe(&mut ticket, answer, &mut self.store, &mut self.local, &mut self.counters, ms(0));
        }
        admitted
    }
}

#[test]
fn a_limit_on_certain_responses_counts_only_those() {
    let mut bench = Bench::new(LOGINS, MemoryStore::new(1_000));
    let request = Request::get("/").from("192.0.2.1");
    for status in [200, 401, 204, 500, 404, 401, 302, 599, 403] {
        assert!(bench.answer(&request, status));
    }
    assert_eq!(bench.left(&request, 0, 0), 1);
    assert!(bench.answer(&request, 401));
    assert!(!bench.answer(&request, 200));
    assert!(bench.answer(&Request::get("/").from("192.0.2.2"), 401));
}

#[test]
fn responses_beyond_the_quota_are_charged_too() {
    let mut bench = Bench::new(LOGINS, MemoryStore::new(1_000));
    let request = Request::get("/").from("192.0.2.1");
    // Ten concurrent logins: each was admitted, and each fails.
    let mut tickets: Vec<_> = (0..10)
        .map(|_| {
            assert_eq!(bench.send(&request, 0), Ok(()));
            bench.plan.ticket().unwrap()
        })
        .collect();
    for ticket in &mut tickets {
        let answer = Answer::of(401);
        bench.engine.observe(ticket, &answer, &mut bench.store, &mut bench.local, &mut bench.counters, ms(0));
    }
    // All ten count and fade with their window: half-way through the next hour they still count as five.
    assert!(bench.send(&request, 3_600_000 + 1_799_999).is_err());
    assert!(bench.send(&request, 3_600_000 + 2_160_000).is_ok());
}

#[test]
fn a_response_is_charged_despite_conflicts_or_else_in_local_memory() {
    use StoreError::Conflict;
    let request = Request::get("/").from("192.0.2.1");
    let mut bench = Bench::new(LOGINS, FaultyStore::new(vec![Err(Conflict), Err(Conflict), Ok(())]));
    assert!(bench.answer(&request, 401));
    assert_eq!((bench.left(&request, 0, 0), bench.total(Total::Conflicts)), (4, 2));
    let mut bench = Bench::new(LOGINS, FaultyStore::new(vec![]));
    bench.store.read = Err(StoreError::Unavailable);
    for _ in 0..5 {
        assert!(bench.answer(&request, 401));
    }
    assert!(!bench.answer(&request, 401));
}

#[test]
fn a_refused_client_whose_clock_stepped_back_is_admitted_after_its_wait() {
    let mut bench = Bench::new(&deciding("local"), MemoryStore::new(1_000));
    let request = Request::get("/").from("192.0.2.1");
    let day = 86_400_000;
    assert_eq!(bench.send(&request, 10 * day), Ok(()));
    assert_eq!(bench.send(&request, 10 * day), Ok(()));
    // Nine days back: still refused, but only for the rest of this window.
    assert!(bench.send(&request, day).is_err());
    assert_eq!(bench.send(&request, day + 3_600_000), Ok(()));
}

#[test]
fn a_request_without_a_limit_accesses_no_state() {
    let policy = r#"{ "version": 1, "limits": [ { "name": "api", "match": { "path": "/api/**" }, "key": [],
        "quota": { "permits": 1, "window": "1h" } } ] }"#;
    let mut bench = Bench::new(policy, FaultyStore::new(vec![]));
    for _ in 0..3 {
        assert_eq!(bench.send(&Request::get("/other"), 0), Ok(()));
    }
    assert_eq!(bench.store.publishes, 0);
}

#[test]
fn counts_are_kept_when_a_new_policy_keeps_name_key_and_algorithm() {
    let old = engine(&deciding("local"));
    let mut bench = Bench::new(&deciding("local"), MemoryStore::new(1_000));
    let request = Request::get("/").from("192.0.2.1");
    assert_eq!(bench.send(&request, 0), Ok(()));
    assert_eq!(bench.send(&request, 0), Ok(()));
    // Another limit before it, another quota, another failure policy: still the same counter.
    let new = r#"{ "version": 1, "limits": [
        { "name": "first", "key": ["host"], "quota": { "permits": 5, "window": "1s" } },
        { "name": "api", "key": ["address"], "algorithm": "fixed-window", "quota": { "permits": 3, "window": "1h" },
          "on_store_failure": "allow" } ] }"#;
    bench.engine = engine_of(new, old.seed());
    assert_eq!(bench.send(&request, 0), Ok(()));
    assert_eq!(bench.send(&request, 0), Err(("api".to_owned(), Cause::Exceeded)));
    // With another algorithm the count starts from zero.
    bench.engine = engine_of(&deciding("local").replace("fixed-window", "token-bucket"), old.seed());
    assert_eq!(bench.send(&request, 0), Ok(()));
}

/// Two requests in flight for each address.
const SLOTS: &str = r#"{ "version": 1, "limits": [ { "name": "slots", "algorithm": "concurrency", "lease": "10s",
    "quota": { "permits": 2 } } ] }"#;

impl<S: Store> Bench<S> {
    fn hold(&mut self, request: &Request, at_ms: u64) -> tidegate::engine::Ticket {
        assert_eq!(self.send(request, at_ms), Ok(()));
        self.plan.ticket().expect("a permit is held")
    }

    fn release(&mut self, ticket: tidegate::engine::Ticket, at_ms: u64) {
        let Self { engine, store, local, leases, counters, .. } = self;
        engine.release(ticket, store, local, leases, counters, ms(at_ms));
    }
}

#[test]
fn a_permit_is_returned_despite_conflicts_or_expires_with_its_lease() {
    use StoreError::Conflict;
    let request = Request::get("/").from("192.0.2.1");
    let mut bench = Bench::new(SLOTS, FaultyStore::new(vec![]));
    let (first, second) = (bench.hold(&request, 0), bench.hold(&request, 0));
    bench.store.publish = vec![Err(Conflict), Err(Conflict), Ok(())];
    bench.release(first, 1);
    assert_eq!((bench.left(&request, 0, 1), bench.total(Total::Conflicts)), (1, 2));
    bench.store.publish = vec![Err(Conflict); 32];
    bench.release(second, 1);
    assert_eq!((bench.left(&request, 0, 1), bench.total(Total::ReleasesLost)), (1, 1));
    assert_eq!(bench.left(&request, 0, 10_000), 2);
}

#[test]
fn permits_taken_in_local_memory_are_returned_there() {
    let request = Request::get("/").from("192.0.2.1");
    let mut bench = Bench::new(SLOTS, FaultyStore::new(vec![]));
    bench.store.read = Err(StoreError::Unavailable);
    let (first, _second) = (bench.hold(&request, 0), bench.hold(&request, 0));
    assert!(bench.send(&request, 0).is_err());
    // The store is available again: permits that were taken in local memory are not returned to the store.
    bench.store.read = Ok(());
    let _third = bench.hold(&request, 1);
    bench.release(first, 2);
    assert_eq!(bench.left(&request, 0, 2), 1);
    bench.store.read = Err(StoreError::Unavailable);
    assert_eq!(bench.send(&request, 3), Ok(()));
    assert_eq!(bench.total(Total::ReleasesLost), 0);
}
