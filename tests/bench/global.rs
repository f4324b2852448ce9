//! What sharing a limit costs and gives, with 3, 100 and 1,000 instances: seeded simulations, on a virtual clock, of the
//! instances' engine and of the authority that a Durable Object runs.
//!
//! One quota of 1,000 a second, three times as many requests as that, or seven tenths; eight in ten of them at the busiest
//! fifth of the instances. A message takes 0.25 to 0.75 ms each way. `cargo bench --bench global` runs it. Nothing here
//! is measured in time, and every run prints the same figures.

#![allow(missing_docs, reason = "a program, not a library")]

#[path = "../suite/global/world.rs"]
mod world;

use world::{Faults, Setup, World};

fn main() {
    let smoke = !std::env::args().any(|argument| argument == "--bench");
    let sizes: &[usize] = if smoke { &[3] } else { &[3, 10, 30, 100, 300, 1_000] };
    let seconds = if smoke { 2 } else { 10 };
    println!("{PERMITS} permits a second, for {seconds} s");
    println!(
        "{:<16}{:<7}{:>10}{:>9}{:>10}{:>10}{:>10}{:>16}",
        "algorithm", "mode", "instances", "demand", "used", "refused", "waited", "asks/1,000 req."
    );
    for (algorithm, quota) in ALGORITHMS {
        for sharing in ["lease", "exact"] {
            for demand in [3.0, 0.7] {
                for instances in sizes {
                    let setup =
                        Setup { algorithm, quota, sharing, on_store_failure: "deny", rates: rates(*instances, demand) };
                    line(&setup, demand, seconds);
                }
            }
        }
    }
}

fn line(setup: &Setup, demand: f64, seconds: u64) {
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
        "{:<16}{:<7}{:>10}{:>8.0}%{:>9.1}%{:>9.2}%{:>9.2}%{:>16.1}",
        setup.algorithm,
        setup.sharing,
        setup.rates.len(),
        demand * 100.0,
        admitted / (PERMITS * seconds as f64) * 100.0,
        (requests - admitted) / requests * 100.0,
        measured.waited as f64 / requests * 100.0,
        measured.asks as f64 / requests * 1_000.0,
    );
}

/// Requests of each instance in 1,000 seconds.
fn rates(instances: usize, demand: f64) -> Vec<u64> {
    let busy = instances.div_ceil(5);
    let of = |share: f64, among: usize| (PERMITS * demand * share * 1_000.0 / among as f64) as u64;
    (0..instances).map(|at| if at < busy { of(0.8, busy) } else { of(0.2, instances - busy) }).collect()
}

const PERMITS: f64 = 1_000.0;
const ALGORITHMS: [(&str, &str); 3] = [
    ("fixed-window", r#"{ "permits": 1000, "window": "1s" }"#),
    ("sliding-window", r#"{ "permits": 1000, "window": "1s" }"#),
    ("token-bucket", r#"{ "permits": 1000, "window": "1s" }"#),
];
