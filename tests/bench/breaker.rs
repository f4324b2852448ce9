//! One call through a closed breaker, admitted and counted, compared with the least possible work: one counter for
//! calls and one for failures.
//!
//! `make bench` runs it. Given the name of one contender and a number of calls, it runs that one alone, for callgrind.

#![allow(clippy::disallowed_methods, reason = "a benchmark needs the real clock")]
#![allow(missing_docs, reason = "a program, not a library")]

use std::hint::black_box;
use std::time::Instant;
use tidegate::breaker::{Admission, Local, Outcome};
use tidegate::policy::Policy;
use tidegate::units::{Draw, Span, Timestamp};

/// One call at a time. One in a hundred fails.
trait Contender {
    fn call(&mut self, number: u64, outcome: Outcome);
}

#[derive(Default)]
struct Counters {
    calls: u64,
    failures: u64,
}

impl Contender for Counters {
    fn call(&mut self, _number: u64, outcome: Outcome) {
        self.calls += 1;
        self.failures += u64::from(outcome == Outcome::Failure);
        black_box(self);
    }
}

struct Breaker(Local);

impl Breaker {
    fn boxed(window: &str) -> Box<dyn Contender> {
        let breaker = format!(
            r#"{{ "window": {{ {window} }}, "slow_call": "2s", "consecutive_failures": 10, "failure_rate_percent": 50 }}"#
        );
        let policy = Policy::parse(&format!(r#"{{ "version": 1, "breakers": {{ "b": {breaker} }} }}"#));
        Box::new(Self(Local::new(&policy.expect("a good policy").breakers()[0])))
    }
}

impl Contender for Breaker {
    fn call(&mut self, number: u64, outcome: Outcome) {
        // Ten thousand calls per second.
        let now = Timestamp::from_nanos(START_NS + number * 100_000);
        let Some(Admission::Pass(ticket)) = self.0.judge(Draw(number), now) else { panic!("not closed") };
        assert!(!self.0.record(black_box(ticket), outcome, Span::from_millis(1), now));
    }
}

type Make = fn() -> Box<dyn Contender>;

const CONTENDERS: [(&str, Make); 3] = [
    ("counters", || Box::<Counters>::default()),
    ("breaker-by-time", || Breaker::boxed(r#""time": "30s""#)),
    ("breaker-by-count", || Breaker::boxed(r#""count": 1000"#)),
];

fn run(contender: &mut dyn Contender, from: u64, calls: u64) {
    for number in from..from + calls {
        let outcome = if number % 100 == 7 { Outcome::Failure } else { Outcome::Success };
        contender.call(number, black_box(outcome));
    }
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| !argument.starts_with("--")).collect();
    if let [name, calls] = &arguments[..] {
        let (_, make) = CONTENDERS.iter().find(|(known, _)| known == name).expect("a contender's name");
        return run(&mut *make(), 0, calls.parse().expect("a number of calls"));
    }
    // `cargo test --benches` only checks in one short run that everything still works.
    let smoke = !std::env::args().any(|argument| argument == "--bench");
    let (rounds, calls) = if smoke { (1, 20_000) } else { (15, 1_000_000) };
    let mut contenders: Vec<_> = CONTENDERS.iter().map(|(name, make)| (name, make(), Vec::new())).collect();
    for round in 0..rounds {
        for (_, contender, times) in &mut contenders {
            let began = Instant::now();
            run(&mut **contender, round * calls, calls);
            times.push(began.elapsed().as_nanos() as f64 / calls as f64);
        }
    }
    println!("{rounds} rounds of {calls} calls, medians; ratios to two counters");
    println!("{:<26}{:>12}{:>8}", "", "ns/call", "ratio");
    let mut least = None;
    for (name, _, times) in &mut contenders {
        times.sort_by(f64::total_cmp);
        let ns = times[times.len() / 2];
        println!("{name:<26}{ns:>12.1}{:>8.2}", ns / *least.get_or_insert(ns));
    }
}

const START_NS: u64 = 1_800_000_000_000_000_000;
