//! How often the sliding window decides differently from an exact log of the requests.
//!
//! The trace follows Cloudflare's article ("How we built rate limiting capable of scaling to millions of domains",
//! 2017): 270,000 sources with heavy-tailed (Pareto) rates and the article's number of requests per source, of which a
//! quarter of a day is run. Sources are independent, so each is simulated alone: Poisson arrivals, all day or in
//! sessions separated by silence. The limit is one of:
//!
//! - `apart`, as an operator would choose it: three times the rate of the busiest ordinary source, with ten further
//!   sources that send two to twenty times the limit;
//! - `among` the sources: ten or a hundred of them exceed it, and another one sends exactly that much.
//!
//! As in the article, a limit is a threshold of what a source sends: every request counts, refused or not. The figures
//! also compare Tidegate, which charges only what it admits, with an exact log of its own admissions: in total, and the
//! most in any one window.
//!
//! `cargo bench --bench accuracy` runs it. No times are measured, and every run prints the same figures.

#![allow(missing_docs, reason = "a program, not a library")]

#[path = "random.rs"]
mod random;

use random::Random;
use std::collections::VecDeque;
use tidegate::limiter::{Meter, State, Verdict};
use tidegate::policy::{Policy, TierIndex};
use tidegate::units::{Permits, Timestamp};

fn main() {
    let smoke = !std::env::args().any(|argument| argument == "--bench");
    let sources = if smoke { 2_000 } else { SOURCES };
    println!(
        "{sources} sources, window {WINDOW_S} s; decisions that an exact log would make otherwise, of all requests"
    );
    println!(
        "{:<10}{:<12}{:>10}{:>9}{:>10}{:>16}{:>17}   {:>18}{:>16}",
        "arrivals",
        "limit",
        "requests",
        "permits",
        "refused",
        "wrongly refused",
        "wrongly admitted",
        "admitted to exact",
        "most in a window"
    );
    for arrivals in [Arrivals::Steady, Arrivals::Sessions] {
        for limit in [Limit::Apart, Limit::Among(10), Limit::Among(100)] {
            Trace::new(arrivals, limit, sources).run().print(arrivals, limit);
        }
    }
}

/// Requests per second of each source: Pareto, scaled to the article's requests per source, busiest first.
fn rates(sources: usize) -> Vec<f64> {
    let mut random = Random(1);
    let mut rates: Vec<f64> = (0..sources).map(|_| random.pareto(1.0, SHAPE)).collect();
    let scale = RATE * sources as f64 / rates.iter().sum::<f64>();
    rates.iter_mut().for_each(|rate| *rate *= scale);
    rates.sort_by(|one, other| other.total_cmp(one));
    rates
}

/// The limit in relation to the sources' rates.
#[derive(Clone, Copy)]
enum Limit {
    Apart,
    Among(usize),
}

#[derive(Clone, Copy, Debug)]
enum Arrivals {
    /// Poisson, all day.
    Steady,
    /// Poisson for five minutes on average, then silence for fifteen: four times the rate for a quarter of the time.
    Sessions,
}

struct Trace {
    arrivals: Arrivals,
    rates: Vec<f64>,
    permits: u32,
}

/// The number of requests, and the decisions on them.
#[derive(Default)]
struct Told {
    permits: u32,
    requests: u64,
    refused: u64,
    wrongly_refused: u64,
    wrongly_admitted: u64,
    /// Admitted by Tidegate, and by a limiter with an exact log. Counts only sources that could be refused.
    admitted: u64,
    exactly: u64,
    /// The most within any one window.
    most: usize,
}

impl Trace {
    fn new(arrivals: Arrivals, limit: Limit, sources: usize) -> Self {
        let mut rates = rates(sources);
        let threshold = match limit {
            Limit::Among(above) => rates[above],
            Limit::Apart => {
                // The tail is cut, because busier sources would not be ordinary ones.
                let busiest = rates[sources / 10_000];
                rates.iter_mut().for_each(|rate| *rate = rate.min(busiest));
                3.0 * busiest
            }
        };
        if let Limit::Apart = limit {
            let mut random = Random(3);
            rates.extend((0..sources.div_ceil(27_000)).map(|_| threshold * 2.0 * 10_f64.powf(random.unit())));
        }
        Self { arrivals, rates, permits: (threshold * WINDOW_S).ceil() as u32 }
    }

    fn run(&self) -> Told {
        let meter = meter(self.permits);
        let mut told = Told { permits: self.permits, ..Told::default() };
        let mut times = Vec::new();
        let mut random = Random(2);
        for rate in &self.rates {
            self.arrive(*rate, &mut random, &mut times);
            told.requests += times.len() as u64;
            // A source that sends less in the whole trace than in a window may is never refused.
            if times.len() > self.permits as usize {
                told.count_all(&meter, &times);
                told.count_admitted(&meter, &times);
            }
        }
        told
    }

    /// The times of a source's requests, in nanoseconds of the day.
    fn arrive(&self, rate: f64, random: &mut Random, times: &mut Vec<u64>) {
        times.clear();
        let (mean_s, on_s) = match self.arrivals {
            Arrivals::Steady => (1.0 / rate, f64::INFINITY),
            Arrivals::Sessions => (0.25 / rate, SESSION_S),
        };
        let mut at = if on_s.is_finite() { random.exponential(4.0 * on_s) } else { 0.0 };
        let mut ends = at + if on_s.is_finite() { random.exponential(on_s) } else { LENGTH_S };
        loop {
            at += random.exponential(mean_s);
            while at > ends && ends < LENGTH_S {
                // A Poisson process has no memory: the time left after the session carries over to the next one.
                let silence = random.exponential(3.0 * on_s);
                at += silence;
                ends += silence + random.exponential(on_s);
            }
            if at >= LENGTH_S {
                return;
            }
            times.push((at * 1e9) as u64);
        }
    }
}

impl Told {
    /// Counts every request, refused or not.
    fn count_all(&mut self, meter: &Meter, times: &[u64]) {
        let mut state: Option<State> = None;
        let mut log = VecDeque::new();
        for &at in times {
            let right = expire(&mut log, at) < self.permits as usize;
            let admitted = meter.check(state, Permits::ONE, moment(at)).verdict == Verdict::Admit;
            self.refused += u64::from(!admitted);
            self.wrongly_refused += u64::from(right && !admitted);
            self.wrongly_admitted += u64::from(admitted && !right);
            state = Some(meter.charge(state, Permits::ONE, moment(at)));
            log.push_back(at);
        }
    }

    /// Counts what was admitted, here and in the exact log of another limiter.
    fn count_admitted(&mut self, meter: &Meter, times: &[u64]) {
        let mut state: Option<State> = None;
        let (mut log, mut exact) = (VecDeque::new(), VecDeque::new());
        for &at in times {
            if expire(&mut exact, at) < self.permits as usize {
                exact.push_back(at);
                self.exactly += 1;
            }
            expire(&mut log, at);
            let outcome = meter.check(state, Permits::ONE, moment(at));
            if outcome.verdict == Verdict::Admit {
                state = Some(outcome.state);
                log.push_back(at);
                self.admitted += 1;
                self.most = self.most.max(log.len());
            }
        }
    }

    fn print(&self, arrivals: Arrivals, limit: Limit) {
        let share = |count: u64| format!("{:.4}%", 100.0 * count as f64 / self.requests as f64);
        let limit = match limit {
            Limit::Apart => "apart".to_owned(),
            Limit::Among(above) => format!("among, {above}"),
        };
        println!(
            "{:<10}{limit:<12}{:>9.1}M{:>9}{:>10}{:>16}{:>17}   {:>18.4}{:>16}",
            format!("{arrivals:?}").to_lowercase(),
            self.requests as f64 / 1e6,
            self.permits,
            format!("{:.2}%", 100.0 * self.refused as f64 / self.requests as f64),
            share(self.wrongly_refused),
            share(self.wrongly_admitted),
            self.admitted as f64 / self.exactly.max(1) as f64,
            format!("{:.2} quotas", self.most as f64 / f64::from(self.permits)),
        );
    }
}

/// Drops entries that are a whole window old. Returns the number left.
fn expire(log: &mut VecDeque<u64>, now: u64) -> usize {
    while log.front().is_some_and(|at| at + (WINDOW_S * 1e9) as u64 <= now) {
        log.pop_front();
    }
    log.len()
}

fn moment(at: u64) -> Timestamp {
    Timestamp::from_nanos(1_800_014_400_000_000_000 + at)
}

fn meter(permits: u32) -> Meter {
    let document =
        format!(r#"{{"version":1,"limits":[{{"name":"a","quota":{{"permits":{permits},"window":"{WINDOW_S}s"}}}}]}}"#);
    let policy = Policy::parse(&document).expect("a good policy");
    let limit = &policy.limits()[0];
    Meter::new(limit.algorithm(), &limit.quotas(TierIndex::default())[0])
}

const SOURCES: usize = 270_000;
/// 400 million requests in a day.
const RATE: f64 = 400e6 / SOURCES as f64 / 86_400.0;
/// Between the figures published for web clients: the busiest tenth of the sources sends two thirds of the requests.
const SHAPE: f64 = 1.2;
const WINDOW_S: f64 = 60.0;
const LENGTH_S: f64 = 21_600.0;
const SESSION_S: f64 = 300.0;
