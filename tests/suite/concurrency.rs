//! Concurrency limits: the meter against a naive list of permits, its state packed into a page and unpacked at each
//! step; and the engine, which takes, renews and returns permits.

use proptest::prelude::*;
use tidegate::decision::Fields;
use tidegate::engine::{Engine, Plan, Ticket};
use tidegate::key::KeyHash;
use tidegate::lease::Leases;
use tidegate::limiter::concurrency::Slots;
use tidegate::limiter::{Meter, State, Verdict};
use tidegate::metrics::{Counters, Fate, Total};
use tidegate::policy::{Policy, TierIndex};
use tidegate::store::memory::MemoryStore;
use tidegate::table::Page;
use tidegate::units::{Permits, Timestamp};

use crate::harness::{Answer, Request, engine, ms};

/// A permit of the naive model: when it was taken, and whether it has been given back.
#[derive(Clone, Copy, Debug)]
struct Permit {
    cost: u32,
    taken_ms: u64,
    returned: bool,
}

#[derive(Clone, Copy, Debug)]
enum Step {
    /// This many milliseconds pass.
    Wait(u64),
    Take(u32),
    /// Returns the permit at this index, even if it has expired. A permit already returned is left alone.
    Return(prop::sample::Index),
    Renew(prop::sample::Index),
}

const EPOCH_MS: u64 = 5_000;
const KEY: KeyHash = KeyHash::from_bits(0x0123_4567_89ab_cdef);

fn meter(permits: u32) -> Meter {
    let document = format!(
        r#"{{ "version": 1, "limits": [ {{ "name": "a", "algorithm": "concurrency", "lease": "10s",
        "quota": {{ "permits": {permits} }} }} ] }}"#
    );
    let policy = Policy::parse(&document).unwrap();
    let limit = &policy.limits()[0];
    Meter::new(limit.algorithm(), &limit.quotas(TierIndex::default())[0])
}

fn slots(meter: &Meter) -> &Slots {
    meter.slots().expect("requests in flight")
}

/// The state after a round trip through the bytes of a page, as in a real store.
fn stored(state: Option<State>, now: Timestamp) -> Option<State> {
    let mut page = Page::EMPTY;
    if let Some(state) = state {
        let probe = page.probe(KEY, now);
        page.write(&probe, KEY, state);
    }
    let mut bytes = Vec::new();
    page.encode(&mut bytes);
    Page::decode(&bytes).unwrap().probe(KEY, now).state()
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        2 => (0..2 * EPOCH_MS).prop_map(Step::Wait),
        4 => (1_u32..4).prop_map(Step::Take),
        3 => any::<prop::sample::Index>().prop_map(Step::Return),
        1 => any::<prop::sample::Index>().prop_map(Step::Renew),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    /// A permit counts until it is returned, or until the end of the epoch after the one in which it was taken.
    #[test]
    fn permits_in_flight_are_those_of_the_naive_model(
        permits in 1_u32..20, start_ms in 0..EPOCH_MS, steps in prop::collection::vec(step(), 1..80),
    ) {
        let meter = meter(permits);
        let mut model: Vec<Permit> = Vec::new();
        let (mut now_ms, mut state) = (start_ms, None);
        for step in steps {
            let now = ms(now_ms);
            let epoch = |at_ms: u64| (ms(at_ms).as_nanos() / 1_000_000) / EPOCH_MS;
            let counts = |permit: &Permit| !permit.returned && epoch(permit.taken_ms) + 1 >= epoch(now_ms);
            match step {
                Step::Wait(more_ms) => now_ms += more_ms,
                Step::Take(cost) => {
                    let taken: u32 = model.iter().filter(|permit| counts(permit)).map(|permit| permit.cost).sum();
                    let outcome = meter.check(state, Permits::new(cost), now);
                    prop_assert_eq!(outcome.verdict == Verdict::Admit, taken + cost <= permits);
                    if outcome.verdict == Verdict::Admit {
                        state = stored(Some(outcome.state), now);
                        model.push(Permit { cost, taken_ms: now_ms, returned: false });
                    }
                }
                Step::Return(place) if !model.is_empty() => {
                    let place = place.index(model.len());
                    let permit = &mut model[place];
                    // Possibly after it has expired, but never twice: the ticket guarantees that.
                    if !permit.returned {
                        permit.returned = true;
                        let given = state.map(|state| meter.refund(state, Permits::new(permit.cost), ms(permit.taken_ms)));
                        state = stored(given, now);
                    }
                }
                Step::Renew(place) if !model.is_empty() => {
                    let place = place.index(model.len());
                    let permit = &mut model[place];
                    if !permit.returned && !slots(&meter).is_current(ms(permit.taken_ms), now) {
                        let cost = Permits::new(permit.cost);
                        let left = state.map(|state| meter.refund(state, cost, ms(permit.taken_ms)));
                        state = stored(Some(meter.charge(left, cost, now)), now);
                        permit.taken_ms = now_ms;
                    }
                }
                _ => {}
            }
            let counts = |permit: &&Permit| !permit.returned && epoch(permit.taken_ms) + 1 >= epoch(now_ms);
            let in_flight: u32 = model.iter().filter(counts).map(|permit| permit.cost).sum();
            prop_assert_eq!(slots(&meter).in_flight(state, ms(now_ms)).get(), in_flight);
            let left = meter.standing(state, ms(now_ms)).remaining.get();
            prop_assert_eq!(left, permits.saturating_sub(in_flight));
            // The table may reuse the slot as soon as no permit counts, up to its time resolution, and not before.
            let live = state.is_some_and(|state| state.fresh_at() > ms(now_ms + 10));
            prop_assert!(in_flight == 0 || state.is_some_and(|state| state.fresh_at() > ms(now_ms)));
            prop_assert!(in_flight > 0 || !live, "{:?}", state);
        }
    }

    /// The clock steps back once, by up to 140 days. Permits in flight stay counted until they are returned.
    #[test]
    fn a_clock_that_steps_back_frees_no_permit_and_locks_no_client_out(
        costs in prop::collection::vec(1_u32..4, 1..8), apart_ms in 0..EPOCH_MS / 8, back_ms in 0_u64..12_096_000_000,
    ) {
        let meter = meter(40);
        let (mut state, mut taken) = (None, Vec::new());
        for (place, cost) in (0..).zip(&costs) {
            let at = ms(place * apart_ms);
            state = stored(Some(meter.check(state, Permits::new(*cost), at).state), at);
            taken.push((*cost, at));
        }
        let sum: u32 = costs.iter().sum();
        let now = ms(costs.len() as u64 * apart_ms);
        let now = Timestamp::from_nanos(now.as_nanos() - back_ms * 1_000_000);
        prop_assert_eq!(slots(&meter).in_flight(state, now).get(), sum);
        let outcome = meter.check(state, Permits::ONE, now);
        let mut state = stored(Some(outcome.state), now).unwrap();
        for (cost, at) in taken {
            state = meter.refund(state, Permits::new(cost), at);
        }
        prop_assert_eq!(slots(&meter).in_flight(Some(state), now), Permits::ONE);
        prop_assert_eq!(slots(&meter).in_flight(Some(meter.refund(state, Permits::ONE, now)), now), Permits::ZERO);
    }
}

struct Bench {
    engine: Engine,
    store: MemoryStore,
    local: MemoryStore,
    counters: Counters,
    plan: Plan,
}

impl Bench {
    fn new(policy: &str) -> Self {
        let engine = engine(policy);
        let counters = Counters::new(engine.policy().limits().len(), engine.policy().tiers().len());
        Self { engine, store: MemoryStore::new(1_000), local: MemoryStore::new(1_000), counters, plan: Plan::new() }
    }

    /// Sends a request; returns the ticket of an admitted one, if it has one, or the seconds that a refused one has to
    /// wait.
    fn send(&mut self, request: &Request, at_ms: u64) -> Result<Option<Ticket>, u64> {
        self.engine.plan(request, &mut self.plan);
        let now = ms(at_ms);
        let decision = self.engine.decide(
            &mut self.plan,
            &mut self.store,
            &mut self.local,
            &mut Leases::new(),
            &mut self.counters,
            now,
        );
        match decision.refusal {
            None => Ok(self.plan.ticket()),
            Some(refusal) => Err(refusal.reply(&self.engine, request).retry_after_secs.unwrap_or(0)),
        }
    }

    fn held(&mut self, at_ms: u64) -> Ticket {
        let request = Request::get("/").from("192.0.2.1");
        self.send(&request, at_ms).expect("admitted").expect("a ticket")
    }

    fn is_full(&mut self, at_ms: u64) -> bool {
        match self.send(&Request::get("/").from("192.0.2.1"), at_ms) {
            Ok(Some(ticket)) => {
                self.end(ticket, at_ms);
                false
            }
            Ok(None) => false,
            Err(_) => true,
        }
    }

    fn end(&mut self, ticket: Ticket, at_ms: u64) {
        let Self { engine, store, local, counters, .. } = self;
        engine.release(ticket, store, local, &mut Leases::none(), counters, ms(at_ms));
    }

    fn renew(&mut self, ticket: &mut Ticket, at_ms: u64) {
        let Self { engine, store, local, counters, .. } = self;
        engine.renew(ticket, store, local, &mut Leases::none(), counters, ms(at_ms));
    }

    fn quota_fields(&mut self) -> Vec<String> {
        let mut fields = Fields::default();
        fields.push_limits(&self.engine, &self.plan);
        fields.iter().map(|(name, value)| format!("{name}: {value}")).collect()
    }
}

/// A policy of two requests in flight for each address, with further fields of that limit and further limits.
fn two(more: &str, limits: &str) -> String {
    format!(
        r#"{{ "version": 1, "limits": [ {{ "name": "slots", "algorithm": "concurrency", "lease": "10s",
        "quota": {{ "permits": 2 }} {more} }} {limits} ] }}"#
    )
}

#[test]
fn a_permit_is_free_again_when_its_request_has_ended() {
    let mut bench = Bench::new(&two("", ""));
    let (first, second) = (bench.held(0), bench.held(1));
    assert_eq!(bench.send(&Request::get("/").from("192.0.2.1"), 2).err(), Some(1), "told to come back in a second");
    assert!(bench.send(&Request::get("/").from("192.0.2.2"), 2).is_ok());
    bench.end(first, 3);
    let third = bench.held(4);
    assert!(bench.is_full(5));
    bench.end(second, 6);
    bench.end(third, 7);
    assert!(!bench.is_full(8));
}

#[test]
fn the_fields_show_requests_in_flight_and_no_time() {
    let mut bench = Bench::new(&two("", ""));
    let ticket = bench.held(0);
    let told = bench.quota_fields();
    assert_eq!(told[0], r#"ratelimit-policy: "slots";q=2;qu="concurrent-requests""#);
    assert!(told[1].starts_with(r#"ratelimit: "slots";r=1;pk=:"#), "{}", told[1]);
    let _second = bench.held(0);
    assert!(bench.is_full(0));
    assert!(bench.quota_fields()[1].starts_with(r#"ratelimit: "slots";r=0;pk=:"#));
    let request = Request::get("/").from("192.0.2.1");
    bench.engine.plan(&request, &mut bench.plan);
    let decision = bench.engine.decide(
        &mut bench.plan,
        &mut bench.store,
        &mut bench.local,
        &mut Leases::new(),
        &mut bench.counters,
        ms(0),
    );
    let reply = decision.refusal.expect("refused").reply(&bench.engine, &request);
    assert_eq!((reply.status, reply.body.as_str()), (429, r#"{"error":"too many requests at once","retryAfter":1}"#));
    bench.end(ticket, 0);
}

#[test]
fn a_permit_that_is_never_given_back_is_free_after_its_lease() {
    let mut bench = Bench::new(&two("", ""));
    let lost = [bench.held(0), bench.held(4_999)];
    assert!(bench.is_full(9_999));
    assert!(!bench.is_full(10_000));
    // Returning expired permits late does not free those that other requests hold by now.
    let _now = [bench.held(10_000), bench.held(10_000)];
    for ticket in lost {
        bench.end(ticket, 10_001);
    }
    assert!(bench.is_full(10_002));
}

#[test]
fn a_long_request_keeps_its_permit_and_returns_it_once() {
    let mut bench = Bench::new(&two("", ""));
    let (mut first, mut second) = (bench.held(0), bench.held(4_000));
    for at_ms in (0..200_000).step_by(4_000) {
        bench.renew(&mut first, at_ms);
        bench.renew(&mut second, at_ms);
        assert!(bench.is_full(at_ms), "at {at_ms} ms");
    }
    bench.end(first, 200_000);
    let third = bench.held(200_000);
    assert!(bench.is_full(200_000));
    bench.end(second, 200_001);
    bench.end(third, 200_001);
    let _both = [bench.held(200_002), bench.held(200_002)];
    assert!(bench.is_full(200_003));
}

#[test]
fn a_request_that_another_limit_refuses_holds_nothing() {
    let once = r#", { "name": "once", "algorithm": "fixed-window", "quota": { "permits": 1, "window": "1h" } }"#;
    let mut bench = Bench::new(&two("", once));
    let first = bench.held(0);
    for _ in 0..5 {
        assert!(bench.is_full(1), "by the other limit");
    }
    assert_eq!(bench.engine.standing(&bench.plan, &bench.plan.charges()[0]).unwrap().remaining, Permits::ONE);
    bench.end(first, 2);
}

#[test]
fn a_limit_that_observes_refuses_no_request_and_returns_its_permits() {
    let mut bench = Bench::new(&two(r#", "on_exceed": "observe""#, ""));
    let request = Request::get("/").from("192.0.2.1");
    for _ in 0..3 {
        let tickets: Vec<_> = (0..5).map(|_| bench.send(&request, 0).expect("admitted")).collect();
        assert_eq!(tickets.iter().filter(|ticket| ticket.is_some()).count(), 2, "what was over held nothing");
        tickets.into_iter().flatten().for_each(|ticket| bench.end(ticket, 0));
    }
    let counted = Fate::ALL.map(|fate| bench.counters.take_requests(0, TierIndex::default(), fate));
    assert_eq!(counted, [6, 0, 9, 0, 0], "in the order of Fate::ALL");
}

#[test]
fn an_adaptive_limit_in_observe_mode_counts_every_request_at_the_upstream() {
    let adaptive = |mode: &str, on_exceed: &str, more: &str| {
        format!(
            r#"{{ "version": 1, "mode": "{mode}", "limits": [ {{ "name": "found", "key": [], "algorithm": "concurrency",
            "lease": "10s", "on_exceed": "{on_exceed}", "quota": {{ "adaptive": {{ "min": 2, "max": 2 }} }} }} {more} ] }}"#
        )
    };
    let once = r#", { "name": "once", "algorithm": "fixed-window", "quota": { "permits": 1, "window": "1h" } }"#;
    let policies = [
        adaptive("enforce", "observe", ""),
        adaptive("observe", "reject", ""),
        // In observe mode a request that `once` would refuse still reaches the upstream, so it must count as in flight.
        adaptive("observe", "reject", once),
    ];
    let in_flight = |bench: &mut Bench, at_ms| {
        let mut seen = 0;
        bench.engine.loads(&mut bench.store, &Leases::none(), ms(at_ms), &mut |load| seen = load.in_flight.get());
        seen
    };
    for policy in policies {
        let mut bench = Bench::new(&policy);
        let mut tickets: Vec<_> = (0..5).map(|_| bench.held(0)).collect();
        assert_eq!(in_flight(&mut bench, 0), 5, "{policy}");
        for at_ms in (0..40_000).step_by(4_000) {
            tickets.iter_mut().for_each(|ticket| bench.renew(ticket, at_ms));
            assert_eq!(in_flight(&mut bench, at_ms), 5, "at {at_ms} ms: {policy}");
        }
        tickets.into_iter().for_each(|ticket| bench.end(ticket, 40_000));
        assert_eq!(in_flight(&mut bench, 40_000), 0, "{policy}");
        let _lost = bench.held(41_000);
        assert_eq!(in_flight(&mut bench, 55_000), 0, "a lease ends: {policy}");
    }
}

#[test]
fn a_request_takes_as_many_permits_as_it_costs() {
    let mut bench = Bench::new(&two(r#", "cost": 2"#, ""));
    let ticket = bench.held(0);
    assert!(bench.is_full(0));
    bench.end(ticket, 0);
    assert!(!bench.is_full(0));
}

#[test]
fn a_strict_policy_lowers_the_number_in_flight() {
    let strict = two("", "").replacen(r#""limits""#, r#""mode": "strict", "limits""#, 1);
    let mut bench = Bench::new(&strict);
    let _first = bench.held(0);
    assert!(bench.is_full(0));
}

#[test]
fn a_response_does_not_return_permits_before_the_stream_ends() {
    let mut bench = Bench::new(&two(r#", "cost": 2"#, ""));
    let mut ticket = bench.held(0);
    for answer in [Answer::of(200), Answer::none()] {
        let (store, local, counters) = (&mut bench.store, &mut bench.local, &mut bench.counters);
        bench.engine.observe(&mut ticket, &answer, store, local, counters, ms(1));
        assert!(ticket.holds());
        assert!(bench.is_full(2));
    }
    bench.end(ticket, 3);
    assert!(!bench.is_full(4));
    assert_eq!(bench.counters.take_total(Total::ReleasesLost), 0);
}

#[test]
fn loads_are_reported_for_limits_with_a_single_counter() {
    let all = r#", "key": []"#;
    let more = r#", { "name": "each", "algorithm": "concurrency", "quota": { "permits": 9 } },
        { "name": "found", "key": [], "algorithm": "concurrency", "quota": { "adaptive": { "min": 3, "max": 7 } } }"#;
    let mut bench = Bench::new(&two(all, more));
    let ticket = bench.held(0);
    let mut loads = Vec::new();
    bench.engine.loads(&mut bench.store, &Leases::none(), ms(0), &mut |load| {
        loads.push((load.limit, load.in_flight.get(), load.permits.get()));
    });
    assert_eq!(loads, [(0, 1, 2), (2, 1, 7)]);
    bench.end(ticket, 0);
}
