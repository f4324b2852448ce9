//! Circuit breakers: single cases, a comparison with a naive model, and a simulation of many workers.

mod model;
mod published;
mod rounds;
mod set;
mod simulation;
mod together;

use crate::harness::ms;
use std::collections::HashMap;
use tidegate::breaker::{Admission, Ledger, Local, Outcome, Part, State, Ticket};
use tidegate::policy::{Breaker, CallEnd, Policy};
use tidegate::store::StoreError;
use tidegate::units::{Draw, Span, Timestamp};

/// The record that all workers publish to, in memory: each part with the number of its publications.
#[derive(Debug, Default)]
pub struct Memory {
    parts: HashMap<Part, (u64, Vec<u8>)>,
    /// Publications so far.
    published: u64,
    reads: u64,
    reads_fail: bool,
    publishes_fail: bool,
}

/// The versions that one worker has read from [`Memory`].
#[derive(Debug, Default)]
pub struct ReadVersions(HashMap<Part, u64>);

impl Memory {
    fn version(&self, part: Part) -> u64 {
        self.parts.get(&part).map_or(0, |(version, _)| *version)
    }

    pub fn read(&mut self, part: Part, seen: &mut ReadVersions) -> Result<Option<&[u8]>, StoreError> {
        self.reads += 1;
        if self.reads_fail {
            return Err(StoreError::Unavailable);
        }
        seen.0.insert(part, self.version(part));
        Ok(self.parts.get(&part).map(|(_, bytes)| bytes.as_slice()))
    }

    pub fn publish(&mut self, part: Part, bytes: &[u8], seen: &ReadVersions) -> Result<(), StoreError> {
        if self.publishes_fail {
            return Err(StoreError::Unavailable);
        }
        let version = self.version(part);
        if seen.0.get(&part) != Some(&version) {
            return Err(StoreError::Conflict);
        }
        self.published += 1;
        self.parts.insert(part, (version + 1, bytes.to_vec()));
        Ok(())
    }
}

/// A [`Memory`] with a single user.
#[derive(Debug, Default)]
pub struct SoleWorker {
    pub memory: Memory,
    seen: ReadVersions,
}

impl Ledger for SoleWorker {
    fn read(&mut self, part: Part) -> Result<Option<&[u8]>, StoreError> {
        self.memory.read(part, &mut self.seen)
    }

    fn publish(&mut self, part: Part, bytes: &[u8]) -> Result<(), StoreError> {
        self.memory.publish(part, bytes, &self.seen)
    }
}

/// The breaker that a policy with these fields describes.
pub fn rules(fields: &str) -> Breaker {
    policy(&format!(r#""breakers": {{ "b": {{ {fields} }} }}"#)).breakers()[0].clone()
}

fn policy(parts: &str) -> Policy {
    let document = format!(r#"{{ "version": 1, {parts} }}"#);
    Policy::parse(&document).unwrap_or_else(|errors| panic!("{errors}\n{document}"))
}

/// One worker and its store, driven by hand.
struct Bench {
    local: Local,
    ledger: SoleWorker,
    now: Timestamp,
}

impl Bench {
    fn new(fields: &str) -> Self {
        Self { local: Local::new(&rules(fields)), ledger: SoleWorker::default(), now: ms(0) }
    }

    fn wait(&mut self, ms: u64) {
        self.now = self.now.after(Span::from_millis(ms));
    }

    fn admit(&mut self) -> Admission {
        self.local.admit(&mut self.ledger, CERTAIN, self.now)
    }

    fn pass(&mut self) -> Ticket {
        match self.admit() {
            Admission::Pass(ticket) => ticket,
            other => panic!("{other:?} at {:?} by {:?}", self.now, self.local),
        }
    }

    /// The milliseconds after which the refused call may be repeated, if known. Panics if the call passes.
    fn refused(&mut self) -> Option<u64> {
        match self.admit() {
            Admission::Refuse { retry_after } => retry_after.map(|span| span.as_nanos() / 1_000_000),
            other => panic!("{other:?}"),
        }
    }

    fn end(&mut self, ticket: Ticket, outcome: Outcome, took_ms: u64) {
        self.local.observe(&mut self.ledger, ticket, outcome, Span::from_millis(took_ms), CERTAIN, self.now);
    }

    fn call(&mut self, outcome: Outcome) {
        let ticket = self.pass();
        self.end(ticket, outcome, 1);
    }

    fn calls(&mut self, outcomes: &[Outcome]) {
        outcomes.iter().for_each(|outcome| self.call(*outcome));
    }

    fn tick(&mut self) {
        self.local.tick(&mut self.ledger, CERTAIN, self.now);
    }

    fn state(&self) -> State {
        self.local.state(self.now)
    }

    /// Opens a closed breaker that opens on five failures in a row.
    fn open(&mut self) {
        self.calls(&[FAILURE; 5]);
        assert_eq!(self.state(), State::Open);
    }
}

/// The draw that every share admits and that adds no jitter to a span.
const CERTAIN: Draw = Draw(0);
const SUCCESS: Outcome = Outcome::Success;
const FAILURE: Outcome = Outcome::Failure;
const IGNORED: Outcome = Outcome::Ignored;

const PLAIN: &str =
    r#""window": { "time": "30s" }, "consecutive_failures": 5, "half_open": { "probes": 3, "max_wait": "10s" }"#;

#[test]
fn a_failure_rate_opens_the_breaker_only_with_enough_calls() {
    for window in [r#""window": { "time": "30s" }"#, r#""window": { "count": 10 }"#] {
        let mut bench = Bench::new(&format!(r#"{window}, "min_calls": 10, "failure_rate_percent": 50"#));
        bench.calls(&[FAILURE, FAILURE, FAILURE, FAILURE, SUCCESS, SUCCESS, SUCCESS, SUCCESS, SUCCESS]);
        assert_eq!(bench.state(), State::Closed);
        bench.call(FAILURE);
        assert_eq!((bench.state(), bench.refused()), (State::Open, Some(5_000)));
    }
}

#[test]
fn a_share_of_slow_calls_opens_the_breaker_even_if_clients_gave_up() {
    let fields = r#""window": { "count": 4 }, "slow_call": "2s", "slow_rate_percent": 75"#;
    let mut bench = Bench::new(fields);
    for (outcome, took) in [(SUCCESS, 1_999), (SUCCESS, 2_000), (IGNORED, 1_999), (IGNORED, 2_000), (FAILURE, 2_000)] {
        assert_eq!(bench.state(), State::Closed);
        let ticket = bench.pass();
        bench.end(ticket, outcome, took);
    }
    assert_eq!(bench.state(), State::Open);
    let statistics = bench.local.statistics().take();
    assert_eq!((statistics.calls, statistics.failures, statistics.slow, statistics.opened), (4, 1, 3, 1));
}

#[test]
fn the_policy_defines_failures_and_4xx_is_none_by_default() {
    let local = |fields: &str| Local::new(&rules(&format!(r#""window": {{ "count": 1 }} {fields}"#)));
    let (plain, listed) = (local(""), local(r#", "failures": ["timeout", "429", "503"]"#));
    for (end, by_default, by_list) in [
        (CallEnd::Answered(200), SUCCESS, SUCCESS),
        (CallEnd::Answered(404), SUCCESS, SUCCESS),
        (CallEnd::Answered(429), SUCCESS, FAILURE),
        (CallEnd::Answered(500), FAILURE, SUCCESS),
        (CallEnd::Answered(503), FAILURE, FAILURE),
        (CallEnd::Answered(599), FAILURE, SUCCESS),
        (CallEnd::Answered(600), SUCCESS, SUCCESS),
        (CallEnd::NotConnected, FAILURE, SUCCESS),
        (CallEnd::TimedOut, FAILURE, FAILURE),
        (CallEnd::Reset, FAILURE, SUCCESS),
        (CallEnd::Abandoned, IGNORED, IGNORED),
    ] {
        assert_eq!((plain.outcome(end), listed.outcome(end)), (by_default, by_list), "{end:?}");
    }
}

#[test]
fn half_open_admits_its_probes_and_closes_when_all_have_succeeded() {
    let mut bench = Bench::new(PLAIN);
    bench.open();
    bench.wait(4_999);
    assert_eq!(bench.refused(), Some(1));
    bench.wait(1);
    let probes = [bench.pass(), bench.pass(), bench.pass()];
    assert_eq!((bench.state(), bench.refused()), (State::HalfOpen, Some(10_000)));
    bench.end(probes[0], SUCCESS, 1);
    bench.end(probes[1], SUCCESS, 1);
    assert_eq!(bench.state(), State::HalfOpen);
    bench.end(probes[2], SUCCESS, 1);
    assert_eq!(bench.state(), State::Closed);
    assert!(bench.local.shared().since().is_some());
    let statistics = bench.local.statistics().take();
    assert_eq!((statistics.probes, statistics.calls, statistics.failures, statistics.rejected), (3, 8, 5, 2));
}

#[test]
fn a_failed_slow_or_lost_probe_opens_again_for_longer() {
    for (outcome, took) in [(FAILURE, 1), (SUCCESS, 2_000), (IGNORED, 2_000)] {
        let mut bench = Bench::new(&[PLAIN, r#", "slow_call": "2s""#].concat());
        bench.open();
        bench.wait(5_000);
        let probe = bench.pass();
        bench.end(probe, outcome, took);
        assert_eq!((bench.state(), bench.refused()), (State::Open, Some(10_000)), "{outcome:?}");
    }
    let mut bench = Bench::new(PLAIN);
    bench.open();
    bench.wait(5_000);
    bench.pass();
    bench.wait(9_999);
    bench.tick();
    assert_eq!(bench.state(), State::HalfOpen);
    bench.wait(1);
    bench.tick();
    assert_eq!((bench.state(), bench.refused()), (State::Open, Some(10_000)));
}

#[test]
fn a_probe_whose_client_left_is_replaced() {
    let mut bench = Bench::new(PLAIN);
    bench.open();
    bench.wait(5_000);
    for _ in 0..100 {
        let ticket = bench.pass();
        bench.end(ticket, IGNORED, 1);
    }
    assert_eq!(bench.state(), State::HalfOpen);
    bench.calls(&[SUCCESS; 3]);
    assert_eq!(bench.state(), State::Closed);
}

#[test]
fn half_open_waits_for_calls_indefinitely() {
    let mut bench = Bench::new(PLAIN);
    bench.open();
    for _ in 0..3 {
        bench.wait(3_600_000);
        bench.tick();
        bench.call(SUCCESS);
    }
    assert_eq!(bench.state(), State::Closed);
}

#[test]
fn a_lost_probe_expires_even_while_others_come_and_go() {
    let mut bench = Bench::new(PLAIN);
    bench.open();
    bench.wait(5_000);
    bench.pass();
    for _ in 0..9 {
        bench.wait(1_000);
        let ticket = bench.pass();
        bench.end(ticket, IGNORED, 1);
    }
    bench.wait(1_000);
    assert_eq!(bench.refused(), Some(10_000));
}

#[test]
fn the_time_open_grows_to_its_bound_and_falls_back_after_a_good_run() {
    let fields = [PLAIN, r#", "open": { "initial": "10s", "factor": 3, "max": "1m", "jitter_percent": 0 }"#].concat();
    let mut bench = Bench::new(&fields);
    bench.open();
    for open_ms in [10_000, 30_000, 60_000, 60_000] {
        assert_eq!(bench.refused(), Some(open_ms));
        bench.wait(open_ms);
        bench.call(FAILURE);
    }
    let recover = |bench: &mut Bench, well_ms| {
        let open_ms = bench.refused().unwrap();
        bench.wait(open_ms);
        bench.calls(&[SUCCESS; 3]);
        bench.wait(well_ms);
        bench.open();
    };
    recover(&mut bench, 59_999);
    assert_eq!(bench.refused(), Some(60_000));
    recover(&mut bench, 60_000);
    assert_eq!(bench.refused(), Some(10_000));
    recover(&mut bench, 29_999);
    assert_eq!(bench.refused(), Some(30_000));
}

#[test]
fn jitter_takes_up_to_its_share_and_never_adds() {
    let fields = [PLAIN, r#", "open": { "initial": "10s", "jitter_percent": 20 }"#].concat();
    let mut spans = Vec::new();
    for draw in [0, u64::MAX / 2, u64::MAX] {
        let mut bench = Bench::new(&fields);
        for _ in 0..5 {
            let ticket = bench.pass();
            bench.local.observe(&mut bench.ledger, ticket, FAILURE, Span::ZERO, Draw(draw), bench.now);
        }
        spans.push(bench.refused().unwrap());
    }
    assert_eq!(spans, [10_000, 9_000, 8_000]);
}

#[test]
fn a_ramp_ends_by_itself_and_a_relapse_ends_it() {
    let fields = [PLAIN, r#", "ramp": { "from_percent": 10, "over": "30s" }"#].concat();
    let mut bench = Bench::new(&fields);
    bench.open();
    bench.wait(5_000);
    bench.calls(&[SUCCESS; 3]);
    assert_eq!(bench.state(), State::Ramping);
    // The draw at the middle: admitted once the ramp has reached half of the calls, after 13.3 s.
    let ask = |bench: &mut Bench| bench.local.admit(&mut bench.ledger, Draw(u64::MAX / 2), bench.now);
    let Admission::Refuse { retry_after: Some(wait) } = ask(&mut bench) else { panic!("not refused") };
    assert_eq!(wait.as_nanos() / 1_000_000, 13_333);
    bench.wait(13_334);
    assert!(matches!(ask(&mut bench), Admission::Pass(_)));
    bench.wait(16_665);
    assert_eq!(bench.state(), State::Ramping);
    bench.wait(1);
    assert_eq!(bench.state(), State::Closed);

    let mut bench = Bench::new(&fields);
    bench.open();
    bench.wait(5_000);
    bench.calls(&[SUCCESS; 3]);
    bench.wait(10_000);
    bench.calls(&[FAILURE; 5]);
    assert_eq!((bench.state(), bench.refused()), (State::Open, Some(10_000)));
}

#[test]
fn outcomes_of_an_earlier_generation_are_dropped() {
    let mut bench = Bench::new(PLAIN);
    let late: Vec<Ticket> = (0..8).map(|_| bench.pass()).collect();
    bench.open();
    bench.wait(5_000);
    let stale_probe = bench.pass();
    bench.wait(10_000);
    bench.tick();
    assert_eq!(bench.state(), State::Open);
    bench.wait(10_000);
    let probes = [bench.pass(), bench.pass(), bench.pass()];
    // Neither calls from before the opening nor probes of an earlier half-open round count.
    bench.end(late[0], FAILURE, 1);
    bench.end(stale_probe, FAILURE, 1);
    bench.end(stale_probe, SUCCESS, 1);
    assert_eq!(bench.state(), State::HalfOpen);
    probes.iter().for_each(|probe| bench.end(*probe, SUCCESS, 1));
    assert_eq!(bench.state(), State::Closed);
    late.iter().for_each(|ticket| bench.end(*ticket, FAILURE, 1));
    bench.end(probes[0], FAILURE, 1);
    assert_eq!(bench.state(), State::Closed);
    assert_eq!(bench.local.tally().calls, 0);
    assert_eq!(bench.local.statistics().late, 12);
}

#[test]
fn modes_observe_force_and_disable() {
    let with = |mode: &str| Bench::new(&format!(r#"{PLAIN}, "mode": "{mode}""#));
    let mut observing = with("observe");
    observing.open();
    assert_eq!(observing.admit(), Admission::Observe { retry_after: Some(Span::from_secs(5)) });
    observing.wait(5_000);
    let probes = [observing.pass(), observing.pass(), observing.pass()];
    assert!(matches!(observing.admit(), Admission::Observe { .. }));
    probes.iter().for_each(|probe| observing.end(*probe, SUCCESS, 1));
    assert_eq!(observing.state(), State::Closed);
    let statistics = observing.local.statistics().take();
    assert_eq!((statistics.rejected, statistics.observed, statistics.probes), (0, 2, 3));

    let mut forced = with("forced-open");
    assert_eq!(forced.refused(), None);
    assert_eq!(forced.local.statistics().rejected, 1);

    let mut disabled = with("disabled");
    disabled.calls(&[FAILURE; 50]);
    assert_eq!(disabled.state(), State::Closed);
    assert_eq!(disabled.local.statistics().calls, 0);
}
