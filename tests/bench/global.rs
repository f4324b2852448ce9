//! What sharing a limit costs and gives, with 3 to 1,000 instances: seeded simulations, on a virtual clock, of the
//! instances' engine and of the authority that a Durable Object runs.
//!
//! Three times as many requests as the quota admits, or seven tenths; eight in ten of them at the busiest fifth of the
//! instances. The quota is 1,000 a second, whatever the number of instances, or so many a second for each of them. A message takes
//! 0.25 to 0.75 ms each way. `cargo bench --bench global` runs it. Nothing here is measured in time, and every run prints
//! the same figures.

#![allow(missing_docs, reason = "a program, not a library")]

#[path = "../suite/global/timeline.rs"]
mod timeline;
#[path = "../suite/global/world.rs"]
mod world;

use timeline::Faults;
use world::{Setup, World};

fn main() {
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
    for (algorithm, sharing, bursts_per_s, each) in CASES {
        for demand in [3.0, 0.7] {
            for instances in sizes {
                let permits = if *each { EACH * *instances as u64 } else { PERMITS };
                let burst = permits / bursts_per_s;
                let quota = match *algorithm {
                    "token-bucket" => format!(r#"{{ "permits": {permits}, "window": "1s", "burst": {burst} }}"#),
                    _ => format!(r#"{{ "permits": {permits}, "window": "1s" }}"#),
                };
                let rates = rates(*instances, permits as f64 * demand);
                let setup = Setup { algorithm, quota: &quota, sharing, on_store_failure: "deny", rates };
                line(&setup, [permits, burst, seconds], demand);
            }
        }
    }
}

fn line(setup: &Setup<'_>, [permits, burst, seconds]: [u64; 3], demand: f64) {
    let mut world = World::new(1, setup, Faults::none());
    // Until leases have found their size.
    world.run(2_000);
    world.begin_measuring();
    world.run(seconds * 1_000);
    if let Err(problem) = world.verify() {
        panic!("{}: {problem}", setup.algorithm);
    }
    let measured = world.measured();
    let (requests, admitted) = (measured.requests as f64, measured.admitted as f64);
    println!(
        "{:<16}{:<7}{burst:>8}{permits:>10}{:>11}{:>8.0}%{:>8.1}%{:>9.2}%{:>8.2}%{:>16.1}",
        setup.algorithm,
        setup.sharing,
        setup.rates.len(),
        demand * 100.0,
        admitted / (permits * seconds) as f64 * 100.0,
        (requests - admitted) / requests * 100.0,
        measured.waited as f64 / requests * 100.0,
        measured.asks as f64 / requests * 1_000.0,
    );
}

/// Requests of each instance in 1,000 seconds.
fn rates(instances: usize, requests_per_s: f64) -> Vec<u64> {
    let busy = instances.div_ceil(5);
    let of = |share: f64, among: usize| (requests_per_s * share * 1_000.0 / among as f64) as u64;
    (0..instances).map(|at| if at < busy { of(0.8, busy) } else { of(0.2, instances - busy) }).collect()
}

const PERMITS: u64 = 1_000;
/// For each instance, where the quota grows with them.
const EACH: u64 = 30;
/// Algorithm, sharing, how often a second's permits are a burst, and whether the quota grows with the instances.
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
