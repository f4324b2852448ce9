//! An instance whose clock is set back, with an authority whose clock goes on.

use tidegate::decision::Decision;
use tidegate::engine::Answer;

use super::engine::{Bench, NOW_MS};

/// Decides on a request, then handles asks and woken requests until the authority has nothing more to say, at most ten
/// times. The authority's clock is `ahead` of the instance's. Returns how many requests were admitted.
fn served(bench: &mut Bench, id: u32, now: u64, ahead: u64) -> usize {
    let is_admitted = |decision: &Decision| decision.awaits.is_none() && decision.refusal.is_none();
    let mut admitted = usize::from(is_admitted(&bench.arrive(id, now)));
    for _ in 0..10 {
        for ask in bench.asks(now) {
            let grant = bench.authority.answer(&ask, NOW_MS + now + ahead);
            bench.hand_in(&Answer::to(&ask, Some(grant)), now);
        }
        admitted += bench.wake(now).iter().filter(|(_, decision)| is_admitted(decision)).count();
    }
    bench.tend(now);
    admitted
}

#[test]
fn a_clock_that_is_set_back_locks_no_refused_client_out() {
    for algorithm in ["fixed-window", "sliding-window", "token-bucket"] {
        for sharing in ["lease", "exact"] {
            let mut bench = Bench::new(&format!(
                r#"{{ "name": "s", "scope": "global", "sharing": "{sharing}", "algorithm": "{algorithm}",
                    "quota": {{ "permits": 5, "window": "10s" }} }}"#
            ));
            let before: usize = (0..20).map(|id| served(&mut bench, id, HOUR_MS + u64::from(id) * 3, 0)).sum();
            assert_eq!(before, 5, "{algorithm}, {sharing}");
            let after: usize = (0..30).map(|id| served(&mut bench, 20 + id, u64::from(id) * 1_000, HOUR_MS + 60)).sum();
            // At least one quota, because the client sends twice as much as it is allowed; at most the quota of each
            // window in that time.
            assert!((5..=20).contains(&after), "{algorithm}, {sharing}: {after} in half a minute");
        }
    }
}

const HOUR_MS: u64 = 3_600_000;
