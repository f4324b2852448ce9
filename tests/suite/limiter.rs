//! Each algorithm against a naive model that keeps every admitted request. The state is packed into a page and unpacked
//! at each step.

use crate::harness::limit;
use proptest::prelude::*;
use tidegate::key::KeyHash;
use tidegate::limiter::{Meter, Outcome, Standing, State, Verdict};
use tidegate::table::Page;
use tidegate::units::{Permits, Span, Timestamp};

/// One client of one limit: its state is in the bytes of a page, as in a real store.
struct Client {
    meter: Meter,
    bytes: Vec<u8>,
}

impl Client {
    fn new(case: &Case) -> Self {
        let mut bytes = Vec::new();
        Page::EMPTY.encode(&mut bytes);
        Self { meter: case.meter(), bytes }
    }

    fn state(&self, now: Timestamp) -> Option<State> {
        Page::decode(&self.bytes).unwrap().probe(KEY, now).state()
    }

    /// Checks without charging.
    fn peek(&self, cost: u32, now: Timestamp) -> Outcome {
        self.meter.check(self.state(now), Permits::new(cost), now)
    }

    fn standing(&self, now: u64) -> Standing {
        let now = Timestamp::from_nanos(now);
        self.meter.standing(self.state(now), now)
    }

    fn write(&mut self, state: State, now: Timestamp) {
        let mut page = Page::decode(&self.bytes).unwrap();
        let probe = page.probe(KEY, now);
        page.write(&probe, KEY, state);
        page.encode(&mut self.bytes);
    }

    /// Checks and writes as the engine does.
    fn request(&mut self, cost: u32, now: Timestamp) -> Outcome {
        let outcome = self.peek(cost, now);
        if outcome.verdict == Verdict::Admit || outcome.moved {
            self.write(outcome.state, now);
        }
        outcome
    }
}

/// The meaning of a quota, computed from every request that it admitted.
trait Model {
    /// Whether a request of `cost` at `now` may pass, and the permits that are left before it.
    fn ask(&self, cost: u64, now: u64) -> (bool, u64);
    fn charge(&mut self, cost: u64, now: u64);
}

#[derive(Default)]
struct Windows {
    permits: u64,
    length_ns: u64,
    sliding: bool,
    admitted: Vec<(u64, u64)>,
}

impl Windows {
    fn sum(&self, index: Option<u64>) -> u64 {
        let of = |at: u64| Some(at / self.length_ns) == index;
        self.admitted.iter().filter(|(at, _)| of(*at)).map(|(_, cost)| cost).sum()
    }
}

impl Model for Windows {
    fn ask(&self, cost: u64, now: u64) -> (bool, u64) {
        let index = now / self.length_ns;
        let current = self.sum(Some(index));
        let previous = if self.sliding { self.sum(index.checked_sub(1)) } else { 0 };
        // In whole milliseconds, as the algorithm is defined.
        let length_ms = u128::from(self.length_ns / MS);
        let left_ms = length_ms - u128::from(now % self.length_ns / MS);
        let weighted = (u128::from(previous) * left_ms).div_ceil(length_ms) as u64;
        (current + weighted + cost <= self.permits, self.permits.saturating_sub(current + weighted))
    }

    fn charge(&mut self, cost: u64, now: u64) {
        self.admitted.push((now, cost));
    }
}

/// The textbook bucket: time raises its level, permits lower it.
struct Bucket {
    interval_ns: u64,
    capacity_ns: u64,
    level_ns: u64,
    at: u64,
}

impl Model for Bucket {
    fn ask(&self, cost: u64, now: u64) -> (bool, u64) {
        let level = self.capacity_ns.min(self.level_ns + (now - self.at));
        (cost * self.interval_ns <= level, level / self.interval_ns)
    }

    fn charge(&mut self, cost: u64, now: u64) {
        self.level_ns = self.capacity_ns.min(self.level_ns + (now - self.at)) - cost * self.interval_ns;
        self.at = now;
    }
}

#[derive(Clone, Debug)]
struct Case {
    algorithm: &'static str,
    permits: u64,
    window_ms: u64,
    burst: u64,
    start_ms: u64,
    /// Nanoseconds since the previous request, and a cost.
    requests: Vec<(u64, u32)>,
}

impl Case {
    fn meter(&self) -> Meter {
        let burst =
            if self.algorithm == "token-bucket" { format!(r#","burst":{}"#, self.burst) } else { String::new() };
        let quota = format!(r#"{{"permits":{},"window":"{}ms"{burst}}}"#, self.permits, self.window_ms);
        limit(self.algorithm, &quota)
    }

    fn model(&self) -> Box<dyn Model> {
        let length_ns = self.window_ms * MS;
        if self.algorithm == "token-bucket" {
            let interval_ns = length_ns.div_ceil(self.permits);
            let capacity_ns = interval_ns * self.burst;
            return Box::new(Bucket { interval_ns, capacity_ns, level_ns: capacity_ns, at: 0 });
        }
        let sliding = self.algorithm == "sliding-window";
        Box::new(Windows { permits: self.permits, length_ns, sliding, admitted: Vec::new() })
    }

    /// The window and the time in which it fades, or the time to fill the bucket.
    fn longest_wait_ns(&self) -> u64 {
        let length_ns = self.window_ms * MS;
        if self.algorithm == "token-bucket" { length_ns.div_ceil(self.permits) * self.burst } else { 2 * length_ns }
    }

    fn start(&self) -> u64 {
        self.start_ms * MS
    }
}

prop_compose! {
    fn case()(
        algorithm in prop::sample::select(vec!["sliding-window", "token-bucket", "fixed-window"]),
        permits in prop_oneof![1_u64..20, 1_u64..5_000],
        window_ms in prop_oneof![Just(10_u64), Just(1_000), 10_u64..100_000, Just(31 * 86_400_000)],
    )(
        algorithm in Just(algorithm),
        permits in Just(permits.min(window_ms * 1_000)),
        window_ms in Just(window_ms),
        burst in 1..=permits,
        start_ms in 1_700_000_000_000_u64..1_900_000_000_000,
        // Mostly a fraction of the window apart, sometimes whole windows.
        requests in prop::collection::vec(
            (prop_oneof![4 => 0..=window_ms * MS / 4, 1 => 0..=window_ms * MS * 3, 1 => Just(0)], prop_oneof![4 => Just(1_u32), 1 => 0_u32..8]),
            1..120,
        ),
    ) -> Case {
        Case { algorithm, permits, window_ms, burst, start_ms, requests }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(600))]

    #[test]
    fn decisions_and_remaining_permits_are_those_of_the_naive_model(case in case()) {
        let (mut client, mut model) = (Client::new(&case), case.model());
        let mut now = case.start();
        for (step, cost) in &case.requests {
            now += step;
            let (admit, left) = model.ask(u64::from(*cost), now);
            let outcome = client.request(*cost, Timestamp::from_nanos(now));
            prop_assert_eq!(outcome.verdict == Verdict::Admit, admit, "at {}", now);
            if admit {
                model.charge(u64::from(*cost), now);
                prop_assert_eq!(u64::from(client.standing(now).remaining.get()), left - u64::from(*cost));
            } else {
                prop_assert_eq!(u64::from(client.standing(now).remaining.get()), left);
            }
        }
    }

    #[test]
    fn the_announced_wait_suffices_and_a_nanosecond_less_does_not(case in case()) {
        let mut client = Client::new(&case);
        let mut now = case.start();
        for (step, cost) in &case.requests {
            now += step;
            let outcome = client.request(*cost, Timestamp::from_nanos(now));
            let Verdict::Refuse { retry_after } = outcome.verdict else { continue };
            let whole = if case.algorithm == "token-bucket" { case.burst } else { case.permits };
            prop_assert_eq!(retry_after.is_none(), u64::from(*cost) > whole);
            let Some(wait) = retry_after.map(Span::as_nanos) else { continue };
            prop_assert!(wait > 0);
            prop_assert_eq!(client.peek(*cost, Timestamp::from_nanos(now + wait)).verdict, Verdict::Admit);
            prop_assert_ne!(client.peek(*cost, Timestamp::from_nanos(now + wait - 1)).verdict, Verdict::Admit);
        }
    }

    #[test]
    fn a_refund_restores_the_state_exactly(case in case(), later in 0_u64..1_000_000) {
        let mut client = Client::new(&case);
        let mut now = case.start();
        for (step, cost) in &case.requests {
            now += step;
            let at = Timestamp::from_nanos(now);
            let before = client.standing(now);
            let outcome = client.peek(*cost, at);
            if outcome.verdict != Verdict::Admit {
                continue;
            }
            let refunded = client.meter.refund(outcome.state, Permits::new(*cost), at);
            let then = Timestamp::from_nanos(now + later);
            prop_assert_eq!(client.meter.standing(Some(refunded), at), before);
            let state = client.state(at);
            prop_assert_eq!(
                client.meter.check(Some(refunded), Permits::ONE, then).verdict,
                client.meter.check(state, Permits::ONE, then).verdict
            );
            client.write(outcome.state, at);
        }
    }

    /// The clock steps back once, by up to 140 days, in the middle of the sequence.
    #[test]
    fn a_clock_that_steps_back_neither_admits_more_nor_locks_out(
        case in case(), back_ms in 0_u64..12_096_000_000, step_at in any::<prop::sample::Index>(),
    ) {
        let mut client = Client::new(&case);
        let step_at = step_at.index(case.requests.len());
        let mut now = case.start();
        let mut fresh: Option<Box<dyn Model>> = None;
        for (index, (step, cost)) in case.requests.iter().enumerate() {
            now += step;
            if index == step_at {
                let before = client.standing(now).remaining;
                now -= back_ms * MS;
                // The used permits stay used.
                prop_assert!(client.standing(now).remaining <= before);
                fresh = Some(case.model());
            }
            let outcome = client.request(*cost, Timestamp::from_nanos(now));
            if let Some(fresh) = &mut fresh && outcome.verdict == Verdict::Admit {
                // On the new clock, every admitted request would also be admitted with a fresh account.
                prop_assert!(fresh.ask(u64::from(*cost), now).0, "at {}", now);
                fresh.charge(u64::from(*cost), now);
            }
            if let Verdict::Refuse { retry_after: Some(wait) } = outcome.verdict {
                prop_assert!(wait.as_nanos() <= case.longest_wait_ns());
                let later = Timestamp::from_nanos(now).after(wait);
                prop_assert_eq!(client.peek(*cost, later).verdict, Verdict::Admit);
            }
        }
    }
}

const KEY: KeyHash = KeyHash::from_bits(0x0123_4567_89ab_cdef);
const MS: u64 = 1_000_000;
