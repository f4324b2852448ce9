//! How the cost of a decision grows: with rules, with keys, and with workers that share state.
//!
//! Rules: a thousand clients send requests that match one limit, under policies with more and more limits that cannot
//! match. Keys: one check and charge, with keys in random order, in a table planned for that many. Both are ratios to
//! the first column, measured alternately, medians. Workers: threads share pages by compare-and-swap, as Envoy's
//! workers do. They are measured in conflicts and not in time, because conflicts do not depend on the number of
//! processors. Each thread yields between reading a page and publishing it, which maximises conflicts.
//!
//! `cargo bench --bench growth` runs it and draws `tests/bench/growth.svg`, which the README shows.

#![allow(clippy::disallowed_methods, reason = "a benchmark needs the real clock")]
#![allow(missing_docs, reason = "a program, not a library")]

#[path = "chart.rs"]
mod chart;
#[path = "random.rs"]
mod random;
#[path = "workers.rs"]
mod workers;

use chart::{Panel, Series};
use random::Random;
use std::borrow::Cow;
use std::hint::black_box;
use std::time::Instant;
use tidegate::engine::{Engine, Plan};
use tidegate::key::{KeyHash, Seed};
use tidegate::lease::Leases;
use tidegate::limiter::{Meter, Verdict};
use tidegate::metrics::Counters;
use tidegate::policy::{Policy, TierIndex};
use tidegate::request::RequestFacts;
use tidegate::store::Store;
use tidegate::store::memory::MemoryStore;
use tidegate::table::page_of;
use tidegate::units::{Permits, Timestamp};

fn main() -> std::io::Result<()> {
    let smoke = !std::env::args().any(|argument| argument == "--bench");
    let panels = [rules(smoke), keys(smoke), contention(smoke)];
    let drawing = chart::draw(&panels, panels.len());
    if !smoke {
        std::fs::write(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/bench/growth.svg"), drawing)?;
    }
    Ok(())
}

fn rules(smoke: bool) -> Panel {
    let (rounds, requests) = if smoke { (1, 500) } else { (15, 20_000) };
    let title = "a request that meets one limit, of so many rules";
    let kinds = [
        ("others by path", r#""path":"/other-N/**""#),
        ("others by host", r#""hosts":["N.example"]"#),
        ("others by header", r#""headers":{"x-plan":"N"}"#),
    ];
    let series = kinds.map(|(name, others)| {
        let policies = RULES.map(|count| policy(count, others));
        let mut tried = policies.map(|policy| Tried::new(&policy));
        let costs = measure(rounds, &mut tried, |tried| tried.run(requests));
        Series { name, values: costs }
    });
    Panel::new(title, "ratio to one rule", RULES.map(|count| count.to_string()).to_vec(), series.to_vec()).print()
}

/// One limit for every request of the benchmark, after others that cannot match.
fn policy(count: usize, others: &str) -> String {
    let other = |n: usize| {
        let others = others.replace('N', &n.to_string());
        format!(r#"{{"name":"other-{n}","match":{{{others}}},"quota":{{"permits":10,"window":"60s"}}}},"#)
    };
    let others: String = (1..count).map(other).collect();
    let mine = r#"{"name":"api","match":{"path":"/api/**"},"quota":{"permits":1000000,"window":"60s"}}"#;
    format!(r#"{{"version":1,"limits":[{others}{mine}]}}"#)
}

struct Tried {
    engine: Engine,
    plan: Plan,
    store: MemoryStore,
    local: MemoryStore,
    counters: Counters,
    peers: Vec<Peer>,
}

struct Peer(String);

impl RequestFacts for Peer {
    fn method(&self) -> Cow<'_, [u8]> {
        Cow::Borrowed(b"GET")
    }

    fn path(&self) -> Cow<'_, [u8]> {
        Cow::Borrowed(b"/api/users/17")
    }

    fn authority(&self) -> Cow<'_, [u8]> {
        Cow::Borrowed(b"example.com")
    }

    fn peer(&self) -> Option<Cow<'_, [u8]>> {
        Some(Cow::Borrowed(self.0.as_bytes()))
    }

    fn header(&self, name: &str) -> Option<Cow<'_, [u8]>> {
        (name == "x-plan").then_some(Cow::Borrowed(b"none"))
    }
}

impl Tried {
    fn new(policy: &str) -> Self {
        let policy = Policy::parse(policy).expect("a good policy");
        let counters = Counters::new(policy.limits().len(), 1);
        let peers = (0..1_000).map(|n| Peer(format!("10.0.{}.{}:4711", n / 250, n % 250))).collect();
        let [store, local] = [MemoryStore::new(10_000), MemoryStore::new(1_000)];
        Self { engine: Engine::new(policy, Seed::new([1, 2])), plan: Plan::new(), store, local, counters, peers }
    }

    fn run(&mut self, requests: usize) -> usize {
        let now = Timestamp::from_millis(1_800_000_000_000);
        for peer in self.peers.iter().cycle().take(requests) {
            self.engine.plan(peer, &mut self.plan);
            let Self { engine, plan, store, local, counters, .. } = self;
            assert!(black_box(engine.decide(plan, store, local, &mut Leases::none(), counters, now)).refusal.is_none());
        }
        requests
    }
}

fn keys(smoke: bool) -> Panel {
    let (rounds, decisions) = if smoke { (1, 1_000) } else { (15, 500_000) };
    let counts = if smoke { [100, 200, 300, 400, 500] } else { KEYS };
    let series = ["sliding-window", "token-bucket", "fixed-window"].map(|name| {
        let mut tables = counts.map(|keys| Keyed::new(name, keys));
        let values = measure(rounds, &mut tables, |table| table.run(decisions));
        Series { name, values }
    });
    let labels =
        KEYS.map(|keys| if keys < 1_000_000 { format!("{}k", keys / 1_000) } else { format!("{}M", keys / 1_000_000) });
    Panel::new("a decision, of so many keys in random order", "ratio to 1k keys", labels.to_vec(), series.to_vec())
        .print()
}

struct Keyed {
    meter: Meter,
    store: MemoryStore,
    keys: u64,
    random: Random,
}

impl Keyed {
    fn new(algorithm: &str, keys: u64) -> Self {
        let mut keyed = Self { meter: meter(algorithm), store: MemoryStore::new(keys as u32), keys, random: Random(1) };
        (0..keys).for_each(|key| assert!(keyed.decide(key)));
        keyed
    }

    fn run(&mut self, decisions: usize) -> usize {
        for _ in 0..decisions {
            let key = self.random.below(self.keys);
            black_box(self.decide(key));
        }
        decisions
    }

    fn decide(&mut self, key: u64) -> bool {
        let key = KeyHash::from_bits(random::mix(key + 1));
        let now = Timestamp::from_millis(1_800_000_000_000);
        let page = page_of(key, self.store.pages());
        let page = self.store.write(page).expect("memory does not fail");
        let probe = page.probe(key, now);
        let outcome = self.meter.check(probe.state(), Permits::ONE, now);
        page.write(&probe, key, outcome.state);
        outcome.verdict == Verdict::Admit
    }
}

fn contention(smoke: bool) -> Panel {
    let decisions = if smoke { 50 } else { 5_000 };
    let mut failed = 0.0_f64;
    let series = [("one hot key", 1), ("100 keys", 100), ("10,000 keys", 10_000)].map(|(name, keys)| {
        let told = WORKERS.map(|workers| workers::conflicts(workers, keys, decisions));
        failed = told.iter().fold(failed, |most, (_, failed)| most.max(*failed));
        Series { name, values: told.iter().map(|(conflicts, _)| *conflicts).collect() }
    });
    let labels = WORKERS.map(|workers| workers.to_string()).to_vec();
    let title = "decisions made again, of so many workers";
    let panel = Panel::new(title, "conflicts per decision", labels, series.to_vec()).print();
    println!("At most {:.2}% of the decisions ran out of rounds and were left to `on_store_failure`.", 100.0 * failed);
    panel
}

/// The cost of each of `tried` relative to the first: medians of rounds in which they alternate.
fn measure<T>(rounds: usize, tried: &mut [T], run: impl Fn(&mut T) -> usize) -> Vec<f64> {
    let mut costs = vec![Vec::new(); tried.len()];
    for _ in 0..rounds {
        for (tried, costs) in tried.iter_mut().zip(&mut costs) {
            let began = Instant::now();
            let done = run(tried);
            costs.push(began.elapsed().as_nanos() as f64 / done as f64);
        }
    }
    let medians: Vec<f64> = costs.iter_mut().map(|costs| median(costs)).collect();
    medians.iter().map(|cost| cost / medians[0]).collect()
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn meter(algorithm: &str) -> Meter {
    let quota = r#"{"permits":1000000,"window":"60s"}"#;
    let document = format!(r#"{{"version":1,"limits":[{{"name":"a","algorithm":"{algorithm}","quota":{quota}}}]}}"#);
    let policy = Policy::parse(&document).expect("a good policy");
    let limit = &policy.limits()[0];
    Meter::new(limit.algorithm(), &limit.quotas(TierIndex::default())[0])
}

const RULES: [usize; 4] = [1, 10, 100, 1_000];
const KEYS: [u64; 5] = [1_000, 10_000, 100_000, 1_000_000, 10_000_000];
const WORKERS: [usize; 4] = [1, 2, 4, 8];
