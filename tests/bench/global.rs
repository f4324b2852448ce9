//! The costs and benefits of sharing a limit, with 3 to 1,000 instances: seeded simulations, on a virtual clock, of the
//! instances' engine and of the authority that a Durable Object runs.
//!
//! The load is three times the quota, or seven tenths of it; eight in ten requests go to the busiest fifth of the
//! instances. The quota is 1,000 per second for all instances together, or a fixed number per second and instance. A
//! message takes 0.25 to 0.75 ms each way. `cargo bench --bench global` runs it and draws `tests/bench/global.svg`,
//! which the README shows. No times are measured, and every run prints the same figures.

#![allow(missing_docs, reason = "a program, not a library")]

#[path = "chart.rs"]
mod chart;
#[path = "../suite/global/timeline.rs"]
mod timeline;
#[path = "../suite/global/world.rs"]
mod world;

use chart::{Panel, Series};
use std::collections::BTreeMap;
use timeline::Faults;
use world::{Setup, World};

fn main() -> std::io::Result<()> {
    let smoke = !std::env::args().any(|argument| argument == "--bench");
    let sizes: &[usize] = if smoke { &[3] } else { &[3, 10, 30, 100, 300, 1_000] };
    let seconds = if smoke { 2 } else { 10 };
    println!("for {seconds} s");
    println!(
        "{:<16}{:<7}{:>8}{:>10}{:>11}{:>9}{:>9}{:>10}{:>9}{:>16}",
        "algorithm",
        "mode",
        "burst",
        "permits/s",
        "instances",
        "demand",
        "used",
        "refused",
        "waited",
        "asks/1,000 req."
    );
    let mut waited = Waited::default();
    for (algorithm, sharing, bursts_per_s, each) in CASES {
        for demand in [3.0, 0.7] {
            let values = sizes.iter().map(|instances| {
                let permits = if *each { EACH * *instances as u64 } else { PERMITS };
                let burst = permits / bursts_per_s;
                let quota = match *algorithm {
                    "token-bucket" => format!(r#"{{ "permits": {permits}, "window": "1s", "burst": {burst} }}"#),
                    _ => format!(r#"{{ "permits": {permits}, "window": "1s" }}"#),
                };
                let rates = rates(*instances, permits as f64 * demand);
                let setup = Setup { algorithm, quota: &quota, sharing, on_store_failure: "deny", rates };
                line(&setup, [permits, burst, seconds], demand)
            });
            let series = Series { name: algorithm, values: values.collect() };
            if *sharing == "lease" && *bursts_per_s == 1 {
                waited.entry((!*each, demand < 1.0)).or_default().push(series);
            }
        }
    }
    println!();
    let drawing = chart::draw(&panels(waited, sizes), 2);
    if !smoke {
        std::fs::write(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/bench/global.svg"), drawing)?;
    }
    Ok(())
}

/// The lines of each diagram, by whether the quota is the same for any number of instances, and whether it is enough.
type Waited = BTreeMap<(bool, bool), Vec<Series>>;

fn panels(waited: Waited, sizes: &[usize]) -> Vec<Panel> {
    let title = |kind| match kind {
        (false, false) => "30 a second for each, three times the demand",
        (false, true) => "30 a second for each, 70% of it asked for",
        (true, false) => "1,000 a second for all, three times the demand",
        (true, true) => "1,000 a second for all, 70% of it asked for",
    };
    let labels: Vec<_> = sizes.iter().map(ToString::to_string).collect();
    let panel = |(kind, series)| Panel::new(title(kind), UNIT, labels.clone(), series).print();
    waited.into_iter().map(panel).collect()
}

/// Prints the results, and returns the percentage of requests that waited.
fn line(setup: &Setup<'_>, [permits, burst, seconds]: [u64; 3], demand: f64) -> f64 {
    let mut world = World::new(1, setup, Faults::none());
    // Warms up until leases have found their size.
    world.run(2_000);
    world.begin_measuring();
    world.run(seconds * 1_000);
    if let Err(problem) = world.verify() {
        panic!("{}: {problem}", setup.algorithm);
    }
    let measured = world.measured();
    let (requests, admitted) = (measured.requests as f64, measured.admitted as f64);
    let waited = measured.waited as f64 / requests * 100.0;
    println!(
        "{:<16}{:<7}{burst:>8}{permits:>10}{:>11}{:>8.0}%{:>8.1}%{:>9.2}%{waited:>8.2}%{:>16.1}",
        setup.algorithm,
        setup.sharing,
        setup.rates.len(),
        demand * 100.0,
        admitted / (permits * seconds) as f64 * 100.0,
        (requests - admitted) / requests * 100.0,
        measured.asks as f64 / requests * 1_000.0,
    );
    waited
}

/// The requests of each instance in 1,000 seconds.
fn rates(instances: usize, requests_per_s: f64) -> Vec<u64> {
    let busy = instances.div_ceil(5);
    let of = |share: f64, among: usize| (requests_per_s * share * 1_000.0 / among as f64) as u64;
    (0..instances).map(|at| if at < busy { of(0.8, busy) } else { of(0.2, instances - busy) }).collect()
}

const UNIT: &str = "requests that waited, in percent, by instances";
const PERMITS: u64 = 1_000;
/// Permits per instance, if the quota grows with their number.
const EACH: u64 = 30;
/// Algorithm, sharing, the burst in seconds' worth of permits, and whether the quota grows with the instances.
const CASES: &[(&str, &str, u64, bool)] = &[
    ("fixed-window", "lease", 1, false),
    ("sliding-window", "lease", 1, false),
    ("token-bucket", "lease", 1, false),
    ("token-bucket", "lease", 10, false),
    ("fixed-window", "lease", 1, true),
    ("sliding-window", "lease", 1, true),
    ("token-bucket", "lease", 1, true),
    ("fixed-window", "exact", 1, false),
    ("sliding-window", "exact", 1, false),
    ("token-bucket", "exact", 1, false),
];
