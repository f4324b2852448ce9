//! Breakers in Redis: the script gives the same answers as [`Record`], and both fronts carry rounds of reports.

use std::collections::BTreeMap;

use tidegate::authority::Instance;
use tidegate::breaker::global::{Record, Report, ReportKind, ReportMessage, Standing, StandingState};
use tidegate::engine::Engine;
use tidegate::fallback::{Context, MemoryLedgers, Round, Upstreams};
use tidegate::key::{KeyHash, Seed};
use tidegate::policy::{Policy, Protocol};
use tidegate::store::redis::{RedisError, Script, breakers_key};
use tidegate::units::{Draw, Timestamp};

use super::equal::{CLOCK, OTHER_CLOCK};
use super::process::RedisServer;
use super::stage::Stage;
use crate::fuzz::cases;
use crate::fuzz::dice::Dice;

/// The shipped script with a clock that is passed as its last argument.
fn on_clock() -> redis::Script {
    let source = Script::of_breakers().source();
    let rest = source.strip_prefix(CLOCK).expect("the script begins with its clock");
    let other = OTHER_CLOCK.replace("tonumber(ARGV[11])", "tonumber(table.remove(ARGV))");
    redis::Script::new(&[&other, rest].concat())
}

fn answer(
    script: &redis::Script,
    connection: &mut redis::Connection,
    key: &str,
    asked: &ReportMessage,
    now_ms: u64,
) -> Vec<Standing> {
    let mut call = script.key(key);
    call.arg(asked.instance.get());
    for report in &asked.reports {
        call.arg(format!("{:016x}", report.breaker.get())).arg(report.from).arg(report.kind.number());
        call.arg(report.age_ms).arg(report.lasts_ms).arg(report.open_for_ms).arg(report.opened);
    }
    call.arg(now_ms);
    let numbers: Vec<u64> = call.invoke(connection).unwrap_or_else(|error| panic!("{asked:?} at {now_ms}: {error}"));
    let standing = |numbers: &[u64]| {
        let [generation, state, age_ms, rest_ms, open_for_ms, opened, mine] = *numbers else { panic!("{numbers:?}") };
        let state = StandingState::from_number(state).unwrap();
        Standing { generation, state, age_ms, rest_ms, open_for_ms, opened, mine: mine == 1 }
    };
    numbers.chunks(7).map(standing).collect()
}

fn some_report(dice: &mut Dice, known: &BTreeMap<u64, Record>, now_ms: u64, instance: Instance) -> Report {
    let breaker = dice.below(3) as u64;
    let look = Report {
        breaker: KeyHash::from_bits(breaker),
        from: 0,
        kind: ReportKind::Nothing,
        age_ms: 0,
        lasts_ms: 0,
        open_for_ms: 0,
        opened: 0,
    };
    let newest = known.get(&breaker).copied().unwrap_or_default().answer(&look, instance, now_ms).generation;
    let from = match dice.below(8) {
        0 => 0,
        1 => newest.saturating_sub(1),
        2 => newest + 1 + dice.below(100) as u64,
        _ => newest,
    };
    let kind = [
        ReportKind::Nothing,
        ReportKind::Closed,
        ReportKind::Open,
        ReportKind::Elect,
        ReportKind::Elect,
        ReportKind::Hold,
    ][dice.below(6)];
    let lasts_ms = [0, 1, 500, 5_000, 86_400_000, 86_400_001, 1 << 52][dice.below(7)];
    let age_ms = [0, 7, 60_000, 1 << 52][dice.below(4)];
    Report {
        from,
        kind,
        age_ms,
        lasts_ms,
        open_for_ms: dice.below(10_000) as u64,
        opened: dice.below(50) as u64,
        ..look
    }
}

#[test]
fn the_script_answers_as_the_core_does() {
    let server = RedisServer::start(&[]);
    let mut connection = server.connect();
    let script = on_clock();
    let (mut number, mut asked, mut made, mut elected, mut back) = (0, 0, 0, 0, 0);
    cases("redis: breakers", |dice| {
        if !dice.one_in(25) {
            return;
        }
        number += 1;
        let key = format!("tg:test:{number}");
        let mut records: BTreeMap<u64, Record> = BTreeMap::new();
        let mut now_ms = 1_800_000_000_000 + dice.below(1_000_000_000) as u64;
        let mut told = Vec::new();
        for _ in 0..40 {
            now_ms += [0, 0, 1, 30, 400, 3_000, 90_000][dice.below(7)];
            if dice.one_in(20) {
                now_ms -= [1, 5_000, 60_000, 10_000_000][dice.below(4)];
                back += 1;
            }
            let instance = Instance::new(1 + dice.below(3) as u64);
            let count = dice.below(4);
            let reports = (0..count).map(|_| some_report(dice, &records, now_ms, instance)).collect();
            let round = ReportMessage { instance, reports };
            let before = records.clone();
            let each =
                |report: &Report| records.entry(report.breaker.get()).or_default().answer(report, instance, now_ms);
            let expected: Vec<Standing> = round.reports.iter().map(each).collect();
            told.push((now_ms, round.clone(), expected.clone()));
            let answered = answer(&script, &mut connection, &key, &round, now_ms);
            assert_eq!(answered, expected, "{told:#?}");
            asked += count;
            made += records.iter().filter(|(breaker, record)| before.get(breaker) != Some(record)).count();
            elected +=
                expected.iter().filter(|it| it.state == StandingState::HalfOpen && it.mine && it.age_ms == 0).count();
        }
    });
    println!("{asked} reports: {made} changed something, {elected} elected");
    assert!(made > asked / 5 && elected > asked / 20 && back > 50, "hardly anything was tried");
}

#[test]
fn the_script_evicts_breakers_beyond_its_bound() {
    let server = RedisServer::start(&[]);
    let mut connection = server.connect();
    let script = on_clock();
    for first in (0..9_000_u64).step_by(32) {
        let report = |breaker: u64| Report {
            breaker: KeyHash::from_bits(breaker),
            from: 0,
            kind: ReportKind::Open,
            age_ms: 0,
            lasts_ms: 1_000,
            open_for_ms: 1_000,
            opened: 1,
        };
        let round = ReportMessage { instance: Instance::new(1), reports: (first..first + 32).map(report).collect() };
        let standings = answer(&script, &mut connection, "tg:test", &round, 1_800_000_000_000 + first);
        assert!(standings.iter().all(|standing| standing.state == StandingState::Open && standing.mine));
    }
    let kept: u64 = redis::cmd("HLEN").arg("tg:test").query(&mut connection).unwrap();
    assert_eq!(kept, 8_192);
}

/// The first round of an instance with these breakers.
fn first_round() -> Round {
    let breakers = |number: usize| format!(r#""u{number}": {{ "cluster": "c", "breaker": "b" }}"#);
    let all: Vec<String> = (0..40).map(breakers).collect();
    let document = format!(
        r#"{{ "version": 1, "breakers": {{ "b": {{ "scope": "global", "window": {{ "time": "9s" }} }} }}, "upstreams": {{ {} }} }}"#,
        all.join(",")
    );
    let policy = Policy::parse(&document).unwrap();
    let mut upstreams = Upstreams::new(&policy);
    Engine::new(policy, Seed::new([1, 2])).share_breakers(&mut upstreams, Instance::new(7));
    let mut ledgers = MemoryLedgers::new();
    let mut context = Context { ledgers: &mut ledgers, draw: Draw(0), now: Timestamp::from_millis(1_800_000_000_000) };
    upstreams.next_round(&mut context).expect("a round is due at the beginning")
}

#[tokio::test]
async fn both_fronts_carry_a_whole_round_and_send_the_script_if_it_is_unknown() {
    for protocol in [Protocol::Upstash, Protocol::Webdis] {
        let stage = Stage::start(protocol, &[]).await;
        for requests in [2, 1] {
            let mut round = first_round();
            assert_eq!(round.message.reports.len(), ReportMessage::MAX_REPORTS);
            let authority = round.authority;
            for report in &mut round.message.reports {
                (report.kind, report.lasts_ms, report.from) = (ReportKind::Open, 90_000, (1 << 53) - 100);
            }
            let (mut exchange, request) = stage.redis.report(round);
            let (mut next, mut sent) = (Some(request), 0);
            while let Some(request) = next {
                assert!(!format!("{request:?}").contains(super::stage::token(protocol)));
                let answer = stage.send(&request).await;
                next = exchange.receive(&stage.redis, answer.as_ref().map(|(status, body)| (*status, &body[..])));
                sent += 1;
            }
            assert_eq!(sent, requests, "{protocol:?}");
            let standings = exchange.standings().unwrap();
            assert_eq!(standings.len(), ReportMessage::MAX_REPORTS);
            assert!(
                standings.iter().all(|it| it.state == StandingState::Open && it.mine && it.rest_ms > 80_000),
                "{standings:?}"
            );
            let mut connection = stage.server.connect();
            let lives: i64 = redis::cmd("PTTL").arg(breakers_key(authority)).query(&mut connection).unwrap();
            assert!(lives > 2_600_000_000, "{lives}");
            let () = redis::cmd("DEL").arg(breakers_key(authority)).query(&mut connection).unwrap();
        }
    }
}

#[test]
fn an_answer_that_does_not_fit_the_round_is_garbled() {
    for protocol in [Protocol::Upstash, Protocol::Webdis] {
        let redis = tidegate::store::redis::Redis::new(protocol, "", None).unwrap();
        let whole = |count: usize| {
            let numbers = vec!["1"; count * 7].join(",");
            match protocol {
                Protocol::Upstash => format!(r#"[{{"result":[{numbers}]}}]"#),
                Protocol::Webdis => format!(r#"{{"EVALSHA":[{numbers}]}}"#),
            }
        };
        for (body, is_good) in [
            (whole(32), true),
            (whole(31), false),
            (whole(33), false),
            (whole(32).replace('1', "9"), false),
            (String::new(), false),
        ] {
            let (mut exchange, _) = redis.report(first_round());
            assert!(exchange.receive(&redis, Some((200, body.as_bytes()))).is_none());
            assert_eq!(exchange.standings().is_ok(), is_good, "{body}");
        }
        let (mut exchange, _) = redis.report(first_round());
        assert!(exchange.receive(&redis, None).is_none());
        assert_eq!(exchange.standings(), Err(RedisError::Unavailable));
    }
}
