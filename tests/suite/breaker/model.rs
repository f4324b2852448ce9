//! One worker against a naive model that keeps every call.

use super::{SoleWorker, rules};
use crate::harness::ms;
use proptest::prelude::*;
use tidegate::breaker::{Admission, Local, Outcome, State, Ticket};
use tidegate::units::{Draw, Span, Timestamp};

#[derive(Clone, Debug)]
struct Case {
    count: Option<u32>,
    window_ms: u64,
    min_calls: u32,
    failure_percent: u32,
    slow: Option<(u64, u32)>,
    consecutive: Option<u32>,
    probes: u32,
    max_wait_ms: u64,
    ramp: Option<(u32, u64)>,
    steps: Vec<Step>,
}

#[derive(Clone, Debug)]
enum Step {
    /// Time passes, from nothing to hours.
    Wait(u64),
    /// A call asks, with this draw.
    Ask(u64),
    /// One of the calls in flight ends.
    End(prop::sample::Index, Outcome, u64),
    Tick,
}

impl Case {
    fn document(&self) -> String {
        let window = self.count.map_or(format!(r#""time": "{}ms""#, self.window_ms), |it| format!(r#""count": {it}"#));
        let mut fields = format!(
            r#""window": {{ {window} }}, "min_calls": {}, "failure_rate_percent": {},
            "open": {{ "initial": "{INITIAL_MS}ms", "factor": 2, "max": "{MAX_MS}ms", "jitter_percent": 0 }},
            "half_open": {{ "probes": {}, "max_wait": "{}ms" }}"#,
            self.min_calls, self.failure_percent, self.probes, self.max_wait_ms
        );
        if let Some((from_ms, percent)) = self.slow {
            fields += &format!(r#", "slow_call": "{from_ms}ms", "slow_rate_percent": {percent}"#);
        }
        if let Some(run) = self.consecutive {
            fields += &format!(r#", "consecutive_failures": {run}"#);
        }
        if let Some((percent, over_ms)) = self.ramp {
            fields += &format!(r#", "ramp": {{ "from_percent": {percent}, "over": "{over_ms}ms" }}"#);
        }
        fields
    }
}

/// The breaker as simple rules, in milliseconds.
struct Model<'c> {
    case: &'c Case,
    phase: Phase,
    /// The generation: one more with each transition.
    age: u32,
    /// How long it was open the last time.
    open_ms: u64,
    calls: Vec<(u64, Outcome, bool)>,
    /// Whether there were calls since the last tick.
    unmerged: bool,
}

enum Phase {
    Closed { since: Option<u64> },
    Open { until: u64 },
    HalfOpen { given: u32, succeeded: u32, deadline: u64 },
}

impl Model<'_> {
    fn change(&mut self, phase: Phase) {
        self.phase = phase;
        self.age += 1;
        self.calls.clear();
        self.unmerged = false;
    }

    fn open(&mut self, now: u64, anew: bool) {
        self.open_ms = if anew || self.open_ms == 0 { INITIAL_MS } else { MAX_MS.min(2 * self.open_ms) };
        self.change(Phase::Open { until: now + self.open_ms });
    }

    /// Opens the breaker again if probes have not reported by their deadline.
    fn expire(&mut self, now: u64) {
        if let Phase::HalfOpen { given, succeeded, deadline } = self.phase
            && given > succeeded
            && now >= deadline
        {
            self.open(now, false);
        }
    }

    /// Whether the call is admitted, and if so, whether as a probe.
    fn ask(&mut self, draw: u64, now: u64) -> Option<bool> {
        let deadline = now + self.case.max_wait_ms;
        match &mut self.phase {
            Phase::Closed { since } => {
                let (Some((percent, over_ms)), Some(since)) = (self.case.ramp, *since) else { return Some(false) };
                let risen = (now - since) as f64 / over_ms as f64;
                let share = f64::from(percent) / 100.0 + (1.0 - f64::from(percent) / 100.0) * risen;
                ((draw as f64) < share * 2_f64.powi(64) || risen >= 1.0).then_some(false)
            }
            Phase::Open { until } => {
                if now < *until {
                    return None;
                }
                self.change(Phase::HalfOpen { given: 1, succeeded: 0, deadline });
                Some(true)
            }
            Phase::HalfOpen { given, succeeded, deadline: last } => {
                if *given == self.case.probes {
                    // Opens it again only if the deadline has passed.
                    self.expire(now);
                    return None;
                }
                if given > succeeded && now >= *last {
                    self.expire(now);
                    return None;
                }
                if given == succeeded {
                    *last = deadline;
                }
                *given += 1;
                Some(true)
            }
        }
    }

    fn end(&mut self, age: u32, probe: bool, outcome: Outcome, took: u64, now: u64) {
        if age != self.age {
            return;
        }
        let slow = self.case.slow.is_some_and(|(from, _)| took >= from);
        if !probe {
            if outcome != Outcome::Ignored || slow {
                self.calls.push((now, outcome, slow));
                self.unmerged = true;
                self.open_if_due(now);
            }
            return;
        }
        let outcome = if slow { Outcome::Failure } else { outcome };
        let deadline = now + self.case.max_wait_ms;
        let Phase::HalfOpen { given, succeeded, deadline: last } = &mut self.phase else { unreachable!() };
        match outcome {
            Outcome::Failure => self.open(now, false),
            Outcome::Ignored => *given -= 1,
            Outcome::Success => {
                *succeeded += 1;
                *last = deadline;
                if *succeeded == self.case.probes {
                    self.change(Phase::Closed { since: Some(now) });
                }
            }
        }
    }

    /// Opens the breaker if the calls since the last tick suffice.
    fn tick(&mut self, now: u64) {
        self.expire(now);
        if std::mem::take(&mut self.unmerged) {
            self.open_if_due(now);
        }
    }

    fn open_if_due(&mut self, now: u64) {
        let Phase::Closed { since } = self.phase else { return };
        if self.has_enough(now) {
            let ramp = self.case.ramp.map_or(0, |(_, over)| over);
            let next = MAX_MS.min(2 * self.open_ms);
            self.open(now, since.is_none_or(|since| now >= since + ramp + next));
        }
    }

    fn has_enough(&self, now: u64) -> bool {
        let bucket = |at: u64| ms(at).as_nanos() / (self.case.window_ms * 1_000_000 / 30);
        let first = self.case.count.map_or(0, |count| self.calls.len().saturating_sub(count as usize));
        let young = |at: u64| self.case.count.is_some() || bucket(now) - bucket(at) < 30;
        let window: Vec<_> = self.calls[first..].iter().filter(|(at, ..)| young(*at)).collect();
        let count = window.len() as u64;
        let failures = window.iter().filter(|(_, outcome, _)| *outcome == Outcome::Failure).count() as u64;
        let slow = window.iter().filter(|(.., slow)| *slow).count() as u64;
        // At any age: no call has succeeded since.
        let told = self.calls.iter().rev().filter(|(_, outcome, _)| *outcome != Outcome::Ignored);
        let run = told.take_while(|(_, outcome, _)| *outcome == Outcome::Failure).count() as u64;
        let enough = count >= u64::from(self.case.min_calls);
        let of_failures = failures * 100 >= u64::from(self.case.failure_percent) * count;
        let of_slow = self.case.slow.is_some_and(|(_, percent)| slow * 100 >= u64::from(percent) * count);
        (enough && (of_failures || of_slow)) || self.case.consecutive.is_some_and(|most| run >= u64::from(most))
    }

    fn state(&self, now: u64) -> State {
        match self.phase {
            Phase::Closed { since: Some(since) } if self.case.ramp.is_some_and(|(_, over)| now < since + over) => {
                State::Ramping
            }
            Phase::Closed { .. } => State::Closed,
            Phase::Open { .. } => State::Open,
            Phase::HalfOpen { .. } => State::HalfOpen,
        }
    }
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let outcome = prop_oneof![3 => Just(Outcome::Success), 2 => Just(Outcome::Failure), 1 => Just(Outcome::Ignored)];
    let wait = prop_oneof![6 => 0_u64..50, 3 => 0_u64..5_000, 1 => 0_u64..30_000, 1 => Just(10_000_000)];
    let took = prop_oneof![4 => 0_u64..300, 1 => 0_u64..5_000];
    prop::collection::vec(
        prop_oneof![
            3 => wait.prop_map(Step::Wait),
            6 => any::<u64>().prop_map(Step::Ask),
            6 => (any::<prop::sample::Index>(), outcome, took).prop_map(|(at, outcome, took)| Step::End(at, outcome, took)),
            1 => Just(Step::Tick),
        ],
        1..250,
    )
}

prop_compose! {
    fn case()(
        count in prop::option::of(1_u32..30),
        window_ms in prop_oneof![1_000_u64..5_000, Just(30_000)],
        min_calls in 1_u32..12,
        failure_percent in 30_u32..=100,
        slow in prop::option::of((1_u64..400, 20_u32..=100)),
        consecutive in prop::option::of(2_u32..8),
        probes in 1_u32..4,
        max_wait_ms in 100_u64..10_000,
        ramp in prop::option::of((1_u32..=100, 1_000_u64..20_000)),
        steps in steps(),
    ) -> Case {
        let min_calls = min_calls.min(count.unwrap_or(u32::MAX));
        Case { count, window_ms, min_calls, failure_percent, slow, consecutive, probes, max_wait_ms, ramp, steps }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1_500))]

    #[test]
    fn a_breaker_does_what_the_naive_model_does(case in case()) {
        let mut local = Local::new(&rules(&case.document()));
        let mut ledger = SoleWorker::default();
        let mut model =
            Model { case: &case, phase: Phase::Closed { since: None }, age: 0, open_ms: 0, calls: Vec::new(), unmerged: false };
        let mut now = 0;
        let mut under_way: Vec<(Ticket, u32, bool)> = Vec::new();
        for step in &case.steps {
            let at: Timestamp = ms(now);
            match step {
                Step::Wait(by) => now += by,
                Step::Ask(draw) => {
                    let expected = model.ask(*draw, now);
                    match local.admit(&mut ledger, Draw(*draw), at) {
                        Admission::Pass(ticket) => {
                            prop_assert_eq!(Some(ticket.is_probe()), expected, "at {}", now);
                            under_way.push((ticket, model.age, ticket.is_probe()));
                        }
                        Admission::Refuse { retry_after } => {
                            prop_assert_eq!(expected, None, "at {}", now);
                            prop_assert!(retry_after.is_some_and(|wait| wait > Span::ZERO));
                        }
                        other => prop_assert!(false, "{:?}", other),
                    }
                }
                Step::End(which, outcome, took) if !under_way.is_empty() => {
                    let (ticket, age, probe) = under_way.swap_remove(which.index(under_way.len()));
                    model.end(age, probe, *outcome, *took, now);
                    local.observe(&mut ledger, ticket, *outcome, Span::from_millis(*took), Draw(0), at);
                }
                Step::End(..) => {}
                Step::Tick => {
                    model.tick(now);
                    local.tick(&mut ledger, Draw(0), at);
                }
            }
            prop_assert_eq!(local.state(ms(now)), model.state(now), "at {}", now);
        }
    }
}

const INITIAL_MS: u64 = 500;
const MAX_MS: u64 = 3_000;
