//! What is published and when, and what a worker does if publishing fails or if the published bytes are invalid.

use super::{Bench, FAILURE, PLAIN, SUCCESS, rules};
use crate::harness::digits;
use tidegate::breaker::{Ledger as _, Local, Part, State};

#[test]
fn a_closed_breaker_accesses_the_store_only_on_ticks() {
    let mut bench = Bench::new(PLAIN);
    for _ in 0..1_000 {
        bench.calls(&[SUCCESS, SUCCESS, FAILURE]);
        bench.wait(7);
    }
    assert_eq!((bench.ledger.memory.reads, bench.ledger.memory.published), (0, 0));
    bench.tick();
    assert_eq!((bench.ledger.memory.reads, bench.ledger.memory.published), (2, 1));
    bench.tick();
    assert_eq!((bench.ledger.memory.reads, bench.ledger.memory.published), (3, 1));
}

#[test]
fn without_its_store_a_worker_decides_alone_and_rejoins() {
    for (reads_fail, publishes_fail) in [(true, true), (true, false), (false, true)] {
        let mut bench = Bench::new(PLAIN);
        (bench.ledger.memory.reads_fail, bench.ledger.memory.publishes_fail) = (reads_fail, publishes_fail);
        bench.open();
        bench.wait(5_000);
        let probes = [bench.pass(), bench.pass(), bench.pass()];
        for _ in 0..50 {
            bench.tick();
            bench.refused();
        }
        probes.iter().for_each(|probe| bench.end(*probe, SUCCESS, 1));
        bench.tick();
        assert_eq!(bench.state(), State::Closed);
        bench.open();
        (bench.ledger.memory.reads_fail, bench.ledger.memory.publishes_fail) = (false, false);
        bench.tick();
        assert_eq!(bench.state(), State::Open);
        let mut other = Bench { local: Local::new(bench.local.rules()), ..bench };
        other.tick();
        assert_eq!(other.state(), State::Open, "reads_fail {reads_fail}, publishes_fail {publishes_fail}");
    }
}

#[test]
fn invalid_published_bytes_do_no_harm() {
    for bytes in [vec![9_u8; 60], vec![1], vec![1, 7, 0], vec![0; 400]] {
        let mut bench = Bench::new(PLAIN);
        for part in [Part::Transitions, Part::Calls] {
            bench.ledger.memory.parts.insert(part, (1, bytes.clone()));
        }
        bench.tick();
        bench.call(SUCCESS);
        bench.tick();
        bench.open();
        bench.wait(5_000);
        bench.calls(&[SUCCESS; 3]);
        assert_eq!(bench.state(), State::Closed, "{bytes:?}");
    }
}

#[test]
fn published_bytes_of_version_1_do_not_change() {
    let mut found = Vec::new();
    for window in [r#""time": "30s""#, r#""count": 9"#] {
        let mut bench = Bench::new(&PLAIN.replace(r#""time": "30s""#, window));
        bench.calls(&[SUCCESS, FAILURE, SUCCESS]);
        bench.tick();
        let calls = bench.ledger.read(Part::Calls).unwrap().unwrap().to_vec();
        bench.open();
        bench.wait(5_000);
        bench.pass();
        let half_open = bench.ledger.read(Part::Transitions).unwrap().unwrap().to_vec();
        found.extend([calls, half_open].map(|bytes| (bytes[0], digits(&bytes))));
    }
    let known = ["5fd9fc812eb4", "6dbef86e2c2d", "fc466fe24f44", "6dbef86e2c2d"].map(|digits| (1, digits.to_owned()));
    assert_eq!(found, known);
}

#[test]
fn a_new_policy_with_fewer_probes_keeps_the_state_and_can_still_close() {
    let mut bench = Bench::new(PLAIN);
    bench.open();
    bench.wait(5_000);
    bench.calls(&[SUCCESS; 2]);
    let fewer = rules(&PLAIN.replace(r#""probes": 3"#, r#""probes": 1"#).replace("30s", "60s"));
    let mut bench = Bench { local: Local::new(&fewer), ..bench };
    bench.tick();
    assert_eq!(bench.state(), State::Closed);
    bench.calls(&[SUCCESS; 3]);
    bench.tick();
    assert_eq!(bench.local.tally().calls, 3);
}
