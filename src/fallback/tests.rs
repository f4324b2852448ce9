use super::*;
use crate::breaker::Part;
use crate::store::StoreError;
use proptest::prelude::*;
use std::collections::HashMap;

/// Ledgers in memory, which workers share.
#[derive(Default)]
struct Memory {
    parts: HashMap<(String, Part), Vec<u8>>,
    at: String,
    touched: usize,
}

impl Ledgers for Memory {
    fn of(&mut self, identity: &str) -> &mut impl Ledger {
        self.at = identity.to_owned();
        self
    }
}

impl Ledger for Memory {
    fn read(&mut self, part: Part) -> Result<Option<&[u8]>, StoreError> {
        self.touched += 1;
        Ok(self.parts.get(&(self.at.clone(), part)).map(Vec::as_slice))
    }

    fn publish(&mut self, part: Part, bytes: &[u8]) -> Result<(), StoreError> {
        self.touched += 1;
        self.parts.insert((self.at.clone(), part), bytes.to_vec());
        Ok(())
    }
}

const GET: Option<&[u8]> = Some(b"GET");

fn at(ms: u64) -> Timestamp {
    Timestamp::from_millis(1_000_000 + ms)
}

/// A policy with the upstreams `a` to `d`, those in `open` behind breakers that refuse all, and with a route along them.
fn policy(upstreams: usize, open: &[usize], route: &str, more: &str) -> Policy {
    let names = &["a", "b", "c", "d"][..upstreams];
    let pattern = |place| if open.contains(&place) { "shut" } else { "well" };
    let each: Vec<String> = (0..)
        .zip(names)
        .map(|(place, name)| {
            format!(r#""{name}": {{ "cluster": "{name}", "timeout": "2s", "breaker": "{}" }}"#, pattern(place))
        })
        .collect();
    let text = format!(
        r#"{{ "version": 1, "upstreams": {{ {} }},
            "breakers": {{ "shut": {{ "window": {{ "count": 1 }}, "mode": "forced-open" }},
                           "well": {{ "window": {{ "count": 100 }}, "consecutive_failures": 3, "slow_call": "5m" }} }},
            "routes": [{{ "name": "all", "upstreams": [{}], {route} }}] {more} }}"#,
        each.join(", "),
        names.iter().map(|name| format!("\"{name}\"")).collect::<Vec<_>>().join(", "),
    );
    Policy::parse(&text).unwrap_or_else(|errors| panic!("{errors}\n{text}"))
}

/// A worker and what it shares with others.
struct Worker<'p> {
    policy: &'p Policy,
    upstreams: Upstreams,
}

impl<'p> Worker<'p> {
    fn new(policy: &'p Policy) -> Self {
        Self { policy, upstreams: Upstreams::new(policy) }
    }

    fn begin(&mut self, method: Option<&[u8]>, ledgers: &mut Memory, now: Timestamp) -> (Progress, Step<'p>) {
        self.upstreams.begin(self.policy, 0, method, true, &mut Context { ledgers, draw: Draw(u64::MAX), now })
    }

    /// Starts a request whose client has not sent its body.
    fn begin_unsent(&mut self, ledgers: &mut Memory, now: Timestamp) -> (Progress, Step<'p>) {
        self.upstreams.begin(self.policy, 0, None, false, &mut Context { ledgers, draw: Draw(u64::MAX), now })
    }

    fn end(
        &mut self,
        progress: &mut Progress,
        end: impl Into<Ended>,
        ledgers: &mut Memory,
        now: Timestamp,
    ) -> Step<'p> {
        let draw = Draw(u64::MAX);
        self.upstreams.ended(self.policy, progress, end.into(), &mut Context { ledgers, draw, now })
    }
}

fn asked(step: &Step<'_>) -> Option<usize> {
    match step {
        Step::Send { upstream, .. } => Some(*upstream),
        _ => None,
    }
}

const ON: &str = r#""fallback": { "on": ["connect", "timeout", "reset", "5xx"] }"#;

#[test]
fn call_that_was_not_made_leads_to_nobody_and_tells_nothing_of_the_upstream() {
    for status in ["connect", "503"] {
        let route = format!(r#""fallback": {{ "on": ["{status}"], "stale": "1h" }}"#);
        let policy = policy(2, &[], &route, r#", "response": { "x_tidegate": true }"#);
        let (mut worker, ledgers) = (Worker::new(&policy), &mut Memory::default());
        // More than the failures in a row that open the breaker.
        for request in 0..5 {
            let (mut progress, first) = worker.begin(GET, ledgers, at(request));
            assert_eq!(asked(&first), Some(0));
            assert_eq!(worker.end(&mut progress, CallEnd::NotMade, ledgers, at(60_000 + request)), Step::Deliver);
            assert_eq!(worker.upstreams.describe(&policy, &progress, at(60_000)), "");
        }
        assert_eq!(worker.upstreams.served().take(0).map(|(_, count)| count).sum::<u64>(), 0);
        let told = worker.upstreams.breakers().get(0).map(|breaker| breaker.statistics().take().values());
        assert_eq!(told.map(|told| told.iter().sum::<u64>()), Some(0));
    }
}

#[test]
fn way_ends_with_what_is_left() {
    let stat = r#""fallback": { "on": ["connect", "5xx"], "static": { "status": 503 } }"#;
    let kept = r#""fallback": { "on": ["connect", "5xx"], "stale": "1h" }"#;
    let unanswered = Step::Unavailable { retry_after: None };
    let (refused, failed) = (CallEnd::NotConnected, CallEnd::Answered(500));
    for (route, end, last, by) in [
        (ON, refused, unanswered, ServedBy::Unavailable),
        (ON, failed, Step::Deliver, ServedBy::Failure),
        (ON, CallEnd::Answered(429), Step::Deliver, ServedBy::Upstream(0)),
        (ON, CallEnd::Abandoned, unanswered, ServedBy::Unavailable),
        (kept, refused, Step::Stale(Span::from_secs(3_600)), ServedBy::Stale),
        (kept, CallEnd::Lost, Step::Stale(Span::from_secs(3_600)), ServedBy::Stale),
        // The route does not count it as a failure, and there is no response to deliver.
        (stat, CallEnd::Reset, unanswered, ServedBy::Unavailable),
        (r#""preload": []"#, CallEnd::TimedOut, unanswered, ServedBy::Unavailable),
    ] {
        let policy = policy(1, &[], route, "");
        let (mut worker, ledgers) = (Worker::new(&policy), &mut Memory::default());
        let (mut progress, first) = worker.begin(GET, ledgers, at(0));
        assert_eq!(first, Step::Send { upstream: 0, timeout: Some(Span::from_secs(2)), wait: Span::ZERO });
        assert_eq!(worker.end(&mut progress, end, ledgers, at(1)), last, "{route} {end:?}");
        if by == ServedBy::Stale {
            worker.upstreams.kept(&mut progress);
        }
        let counted: Vec<_> = worker.upstreams.served().take(0).filter(|(_, count)| *count > 0).collect();
        assert_eq!(counted, [(by, 1)]);
        assert_eq!(worker.upstreams.served().take(0).map(|(_, count)| count).sum::<u64>(), 0);
    }
    let policy = policy(2, &[0, 1], stat, "");
    let (_, step) = Worker::new(&policy).begin(GET, &mut Memory::default(), at(0));
    assert!(matches!(step, Step::Static(fixed) if fixed.status == 503), "{step:?}");
}

#[test]
fn further_tries_wait_longer_and_longer_and_end_with_the_budget() {
    let route =
        r#""fallback": { "on": ["5xx"], "budget_percent": 0, "backoff": { "initial": "10ms", "max": "15ms" } }"#;
    let policy = policy(4, &[], route, "");
    let (mut worker, ledgers) = (Worker::new(&policy), &mut Memory::default());
    let mut waits = Vec::new();
    for request in 0..3 {
        let (mut progress, mut step) = worker.begin(GET, ledgers, at(request));
        while let Step::Send { wait, .. } = step {
            waits.push(wait.as_nanos().div_ceil(1_000_000));
            step = worker.end(&mut progress, CallEnd::Answered(500), ledgers, at(request));
        }
        assert_eq!(step, Step::Deliver);
    }
    // Three retries a second. The first upstream's breaker opens after three failures, so the third request begins with
    // the second upstream.
    assert_eq!(waits, [0, 10, 15, 15, 0, 0]);
}

#[test]
fn upstream_that_wants_to_be_left_alone_gets_no_further_tries_but_first_ones() {
    let policy = policy(2, &[], ON, "");
    let (mut worker, ledgers) = (Worker::new(&policy), &mut Memory::default());
    let rests = Ended { retry_after: Some(Span::from_secs(7)), ..CallEnd::Answered(503).into() };
    let (mut progress, _) = worker.begin(GET, ledgers, at(0));
    assert_eq!(asked(&worker.end(&mut progress, CallEnd::NotConnected, ledgers, at(0))), Some(1));
    assert_eq!(worker.end(&mut progress, rests, ledgers, at(0)), Step::Deliver);
    let (mut progress, _) = worker.begin(GET, ledgers, at(3_000));
    let step = worker.end(&mut progress, CallEnd::NotConnected, ledgers, at(3_000));
    assert_eq!(step, Step::Unavailable { retry_after: Some(Span::from_secs(4)) });
    let (mut progress, _) = worker.begin(GET, ledgers, at(7_000));
    assert_eq!(asked(&worker.end(&mut progress, CallEnd::Answered(500), ledgers, at(7_000))), Some(1));

    // Only a minute of the hour counts.
    let rests = Ended { retry_after: Some(Span::from_secs(3_600)), ..rests };
    assert_eq!(worker.end(&mut progress, rests, ledgers, at(7_000)), Step::Deliver);
    let (_, step) = worker.begin(GET, ledgers, at(8_000));
    assert_eq!(asked(&step), Some(1), "a first try is the breaker's affair, and that of the first is open");
    let rests = |now| worker.upstreams.resting.iter().any(|pause| pause.left(at(now)) > Span::ZERO);
    // The last time is one of a clock that was set back, which ends the pause.
    assert_eq!([66_999, 67_000, 6_999].map(rests), [true, false, false]);
}

#[test]
fn closed_breaker_touches_no_ledger_and_an_opening_reaches_all_with_their_next_tick() {
    let policy = policy(1, &[], ON, "");
    let (mut one, mut other, ledgers) = (Worker::new(&policy), Worker::new(&policy), &mut Memory::default());
    for worker in [&mut one, &mut other] {
        let (mut progress, _) = worker.begin(GET, ledgers, at(0));
        assert!(worker.upstreams.woken() && worker.upstreams.ticks(at(0)));
        worker.end(&mut progress, CallEnd::Answered(200), ledgers, at(1));
    }
    let touched = ledgers.touched;
    for _ in 0..100 {
        let (mut progress, _) = one.begin(GET, ledgers, at(2));
        one.end(&mut progress, CallEnd::Answered(200), ledgers, at(3));
    }
    assert_eq!((ledgers.touched, one.upstreams.woken()), (touched, false));
    for _ in 0..3 {
        let (mut progress, _) = one.begin(GET, ledgers, at(4));
        one.end(&mut progress, CallEnd::Answered(500), ledgers, at(5));
    }
    let refused = |step: &Step<'_>| matches!(step, Step::Unavailable { retry_after: Some(_) });
    assert!(refused(&one.begin(GET, ledgers, at(6)).1));
    assert_eq!(asked(&other.begin(GET, ledgers, at(6)).1), Some(0), "it has not heard of it yet");
    other.upstreams.tick(&mut Context { ledgers, draw: Draw(0), now: at(100) });
    assert!(refused(&other.begin(GET, ledgers, at(101)).1));
    // A worker that starts later learns of it before its first call.
    assert!(refused(&Worker::new(&policy).begin(GET, ledgers, at(102)).1));
    assert!(!one.upstreams.ticks(at(61_000)), "nobody has asked for a minute");
}

#[test]
fn while_the_client_has_to_send_its_body_a_breaker_learns_of_answers_and_of_no_connection_alone() {
    let policy = policy(1, &[], ON, "");
    // Three failures in a row open the breaker.
    for (end, all_sent, opens) in [
        (CallEnd::Abandoned, false, false),
        (CallEnd::Unanswered, false, false),
        (CallEnd::Reset, false, false),
        (CallEnd::TimedOut, false, false),
        (CallEnd::Answered(503), false, true),
        (CallEnd::NotConnected, false, true),
        (CallEnd::Reset, true, true),
        (CallEnd::TimedOut, true, true),
        (CallEnd::Unanswered, true, true),
    ] {
        let (mut worker, ledgers) = (Worker::new(&policy), &mut Memory::default());
        for call in 0..3 {
            let mut progress = worker.begin_unsent(ledgers, at(call)).0;
            if all_sent {
                progress.sent(at(call));
            }
            worker.end(&mut progress, end, ledgers, at(call));
        }
        let (_, next) = worker.begin(GET, ledgers, at(5));
        assert_eq!(asked(&next).is_none(), opens, "{end:?} {all_sent}");
    }
    let (mut worker, ledgers) = (Worker::new(&policy), &mut Memory::default());
    let slow = |worker: &mut Worker<'_>| worker.upstreams.breakers().get(0).unwrap().statistics().slow;
    for (sent_at, counted) in [(None, 0), (Some(599_000), 0), (Some(0), 1)] {
        let mut progress = worker.begin_unsent(ledgers, at(0)).0;
        if let Some(sent_at) = sent_at {
            progress.sent(at(sent_at));
        }
        worker.end(&mut progress, CallEnd::Answered(200), ledgers, at(600_000));
        assert_eq!(slow(&mut worker), counted, "{sent_at:?}");
    }
}

#[test]
fn calls_that_are_not_sent_take_no_probes_place_and_one_that_is_answered_is_a_probe() {
    let text = r#"{ "version": 1, "upstreams": { "a": { "cluster": "a", "breaker": "b" } },
        "routes": [{ "name": "all", "upstreams": ["a"] }],
        "breakers": { "b": { "window": { "count": 10 }, "consecutive_failures": 1, "open": { "initial": "1s", "jitter_percent": 0 },
                             "half_open": { "probes": 2, "max_wait": "10s" } } } }"#;
    let policy = Policy::parse(text).unwrap_or_else(|errors| panic!("{errors}"));
    let open = |worker: &mut Worker<'_>, ledgers: &mut Memory| {
        let (mut progress, _) = worker.begin(GET, ledgers, at(0));
        worker.end(&mut progress, CallEnd::Answered(500), ledgers, at(0));
        assert_eq!(asked(&worker.begin(GET, ledgers, at(999)).1), None);
    };
    // Of any number of requests without their bodies, two go on at a time. Complete requests close the breaker
    // meanwhile.
    let (mut worker, ledgers) = (Worker::new(&policy), &mut Memory::default());
    open(&mut worker, ledgers);
    let unsent: Vec<_> = (0..20).map(|_| worker.begin_unsent(ledgers, at(1_001))).collect();
    assert_eq!(unsent.iter().filter(|(_, step)| asked(step).is_some()).count(), 2);
    for _ in 0..2 {
        let (mut progress, step) = worker.begin(GET, ledgers, at(1_002));
        assert_eq!(asked(&step), Some(0));
        worker.end(&mut progress, CallEnd::Answered(200), ledgers, at(1_003));
    }
    assert_eq!(asked(&worker.begin_unsent(ledgers, at(1_004)).1), Some(0), "it is closed");
    // If all requests have bodies, their responses close the breaker, or open it for longer.
    for (end, closes) in [(CallEnd::Answered(200), true), (CallEnd::Answered(500), false)] {
        let (mut worker, ledgers) = (Worker::new(&policy), &mut Memory::default());
        open(&mut worker, ledgers);
        let mut ways = [(); 2].map(|()| worker.begin_unsent(ledgers, at(1_001)));
        ways[0].0.sent(at(1_010));
        for (progress, step) in &mut ways {
            assert_eq!(asked(step), Some(0));
            worker.end(progress, end, ledgers, at(1_020));
        }
        assert_eq!(asked(&worker.begin(GET, ledgers, at(1_030)).1), closes.then_some(0), "{end:?}");
        let probes = worker.upstreams.breakers().get(0).unwrap().statistics().probes;
        assert_eq!(probes, 2);
    }
    // Requests whose clients never send their bodies make room for others after a quarter of `max_wait`.
    let (mut worker, ledgers) = (Worker::new(&policy), &mut Memory::default());
    open(&mut worker, ledgers);
    let goes = |ms| asked(&worker.begin_unsent(ledgers, at(ms)).1).is_some();
    let times = [1_001, 1_500, 1_501, 3_500, 3_501, 3_502, 3_503];
    assert_eq!(times.map(goes), [true, true, false, false, true, true, false]);
}

#[test]
fn policy_that_only_observes_asks_the_first_and_delivers_what_it_says() {
    let policy = policy(2, &[0], ON, r#", "mode": "observe""#);
    let (mut worker, ledgers) = (Worker::new(&policy), &mut Memory::default());
    let (mut progress, step) = worker.begin(GET, ledgers, at(0));
    assert_eq!(asked(&step), Some(0));
    assert_eq!(worker.end(&mut progress, CallEnd::Answered(500), ledgers, at(1)), Step::Deliver);
    let breaker = worker.upstreams.breakers().get(0).unwrap();
    assert_eq!((breaker.statistics().observed, breaker.statistics().rejected), (0, 0), "forced open says nothing here");
}

#[test]
fn way_is_told_in_words() {
    let policy = policy(2, &[0], ON, "");
    let (mut worker, ledgers) = (Worker::new(&policy), &mut Memory::default());
    let (mut progress, _) = worker.begin(GET, ledgers, at(0));
    worker.end(&mut progress, CallEnd::Answered(200), ledgers, at(1));
    let told = worker.upstreams.describe(&policy, &progress, at(1));
    assert_eq!(told, "upstream=b; step=fallback; breakers=a:open, b:closed");
}

/// The expected course of a request: which upstreams are asked, and how it ends.
fn naive(ends: &[CallEnd], open: &[usize], attempts: usize, repeatable: bool) -> (Vec<usize>, &'static str) {
    let (mut asked, mut answered) = (Vec::new(), false);
    let most = if repeatable { attempts } else { 1 };
    for (place, end) in ends.iter().enumerate().filter(|(place, _)| !open.contains(place)).take(most) {
        asked.push(place);
        match end {
            CallEnd::Answered(status) if *status < 500 => return (asked, "deliver"),
            CallEnd::Answered(_) => answered = true,
            _ => {}
        }
    }
    (asked, if answered { "deliver" } else { "unavailable" })
}

proptest! {
    #[test]
    fn ways_are_those_of_the_naive_model(
        ends in prop::collection::vec(prop_oneof![
            Just(CallEnd::Answered(200)), Just(CallEnd::Answered(404)), Just(CallEnd::Answered(503)),
            Just(CallEnd::NotConnected), Just(CallEnd::TimedOut), Just(CallEnd::Reset),
        ], 1..=4),
        open in prop::collection::vec(0_usize..4, 0..3),
        attempts in 1_usize..=5,
        method in prop_oneof![Just(GET), Just(Some(&b"HEAD"[..])), Just(Some(&b"get"[..])), Just(Some(&b"POST"[..])), Just(None)],
    ) {
        let route = format!(
            r#""fallback": {{ "on": ["connect", "timeout", "reset", "5xx"], "attempts": {attempts}, "budget_percent": 100 }}"#
        );
        let policy = policy(ends.len(), &open, &route, "");
        let (mut worker, ledgers) = (Worker::new(&policy), &mut Memory::default());
        let (mut progress, mut step) = worker.begin(method, ledgers, at(0));
        let mut seen = Vec::new();
        while let Some(upstream) = asked(&step) {
            seen.push(upstream);
            step = worker.end(&mut progress, ends[upstream], ledgers, at(1));
        }
        let last = if step == Step::Deliver { "deliver" } else { "unavailable" };
        let repeatable = matches!(method, Some(b"GET" | b"HEAD"));
        prop_assert_eq!((seen, last), naive(&ends, &open, attempts, repeatable));
    }
}
