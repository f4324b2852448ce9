//! When the authority over shared breakers is asked, by which worker, and for what.

use std::collections::HashSet;

use tidegate::authority::Instance;
use tidegate::breaker::global::{ReportKind, ReportMessage, Standing};
use tidegate::engine::Engine;
use tidegate::fallback::{Context, MemoryLedgers, Round, Step, Upstreams};
use tidegate::key::Seed;
use tidegate::policy::{CallEnd, Policy};
use tidegate::units::Draw;

use crate::harness::ms;

/// A worker of an instance with this many shared breakers in this mode.
fn worker(breakers: usize, mode: &str) -> (Policy, Upstreams) {
    let each = |number: usize| format!(r#""u{number}": {{ "cluster": "c", "breaker": "b" }}"#);
    let route = |number: usize| format!(r#"{{ "name": "r{number}", "upstreams": ["u{number}"] }}"#);
    let list = |of: &dyn Fn(usize) -> String| (0..breakers).map(of).collect::<Vec<_>>().join(",");
    let document = format!(
        r#"{{ "version": 1, "upstreams": {{ {} }}, "routes": [{}], "breakers": {{ "b": {{ "scope": "global", "mode": "{mode}",
        "consecutive_failures": 1, "window": {{ "time": "9s" }}, "open": {{ "initial": "5s", "jitter_percent": 0 }} }} }} }}"#,
        list(&each),
        list(&route)
    );
    let policy = Policy::parse(&document).unwrap();
    let mut upstreams = Upstreams::new(&policy);
    Engine::new(policy.clone(), Seed::new([1, 2])).share_breakers(&mut upstreams, Instance::new(7));
    (policy, upstreams)
}

fn next_round(upstreams: &mut Upstreams, ledgers: &mut MemoryLedgers, at: u64) -> Option<Round> {
    let mut context = Context { ledgers, draw: Draw(0), now: ms(at) };
    upstreams.tick(&mut context);
    upstreams.next_round(&mut context)
}

/// The answer of an authority that has no state.
fn answer(upstreams: &mut Upstreams, ledgers: &mut MemoryLedgers, round: &Round, at: u64) {
    let standings = vec![Standing::default(); round.message.reports.len()];
    upstreams.apply_answer(round, Some(&standings), &mut Context { ledgers, draw: Draw(0), now: ms(at) });
}

fn fail((policy, upstreams): (&Policy, &mut Upstreams), ledgers: &mut MemoryLedgers, route: usize, at: u64) {
    let mut context = Context { ledgers, draw: Draw(0), now: ms(at) };
    let (mut progress, step) = upstreams.begin(policy, route, None, true, &mut context);
    assert!(matches!(step, Step::Send { .. }));
    upstreams.ended(policy, &mut progress, CallEnd::Answered(500).into(), &mut context);
}

#[test]
fn one_worker_at_a_time_asks_once_a_second_and_sooner_with_news() {
    let (policy, mut one) = worker(1, "enforce");
    let (_, mut other) = worker(1, "enforce");
    let ledgers = &mut MemoryLedgers::new();
    let mut asked_at = Vec::new();
    for at in (0..5_000).step_by(50) {
        for upstreams in [&mut one, &mut other] {
            if let Some(round) = next_round(upstreams, ledgers, at) {
                asked_at.push(at);
                answer(upstreams, ledgers, &round, at + 5);
            }
        }
    }
    assert_eq!(asked_at, [0, 1_000, 2_000, 3_000, 4_000]);
    fail((&policy, &mut one), ledgers, 0, 5_020);
    // The worker that has not seen the failures reports them too.
    let round = next_round(&mut other, ledgers, 5_030).expect("news are told at once");
    let [report] = round.message.reports[..] else { panic!("{round:?}") };
    assert_eq!((report.kind, report.lasts_ms, report.age_ms, report.opened), (ReportKind::Open, 4_990, 10, 1));
    // Until it is answered, news is reported again only after the usual second.
    assert!((5_040..6_030).all(|at| next_round(&mut one, ledgers, at).is_none()));
    assert_eq!(next_round(&mut one, ledgers, 6_030).unwrap().message.reports[0].kind, ReportKind::Open);
}

#[test]
fn many_breakers_are_asked_for_in_rotation_and_those_with_news_first() {
    let (policy, mut upstreams) = worker(100, "enforce");
    let ledgers = &mut MemoryLedgers::new();
    fail((&policy, &mut upstreams), ledgers, 77, 0);
    let (mut asked, mut first) = (HashSet::new(), Vec::new());
    for at in (0..=1_000).step_by(50) {
        let Some(round) = next_round(&mut upstreams, ledgers, at) else { continue };
        assert!(round.message.reports.len() <= ReportMessage::MAX_REPORTS);
        assert_eq!(round.message.reports[0].kind, ReportKind::Open, "nobody has taken it up");
        first.push(round.message.reports[0].breaker);
        asked.extend(round.message.reports.iter().map(|report| report.breaker));
        answer(&mut upstreams, ledgers, &round, at);
    }
    assert!(first.iter().all(|breaker| *breaker == first[0]));
    assert_eq!(asked.len(), 100, "within a second");
}

#[test]
fn a_breaker_that_is_not_enforced_asks_no_authority() {
    for mode in ["observe", "forced-open", "disabled"] {
        let (_, mut upstreams) = worker(1, mode);
        assert!(next_round(&mut upstreams, &mut MemoryLedgers::new(), 0).is_none(), "{mode}");
        assert_eq!(upstreams.agreed().count(), 0, "{mode}");
    }
    let (_, mut upstreams) = worker(1, "enforce");
    assert!(next_round(&mut upstreams, &mut MemoryLedgers::new(), 0).is_some());
    assert_eq!(upstreams.agreed().collect::<Vec<_>>(), ["u0"]);
}
