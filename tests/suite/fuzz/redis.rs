//! Answers of a broken or hostile store, checked against serde_json; and requests, decoded again.

use serde_json::{Value, json};
use tidegate::authority::{Ask, Grant, Instance, Shared, Terms};
use tidegate::key::KeyHash;
use tidegate::policy::Protocol;
use tidegate::store::redis::{HttpRequest, Redis, RedisError, Script, key};
use tidegate::units::Permits;

use super::cases;
use super::dice::Dice;

const TOKENS: [&str; 22] = [
    "[",
    "]",
    "{",
    "}",
    ",",
    ":",
    "\"result\":",
    "\"error\":",
    "\"EVALSHA\":",
    "\"EVAL\":",
    "\"NOSCRIPT\"",
    "false",
    "null",
    "-1",
    "0",
    "9007199254740993",
    "1e3",
    "1.5",
    "\\ud800",
    "\"",
    "[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[",
    "\u{e9}",
];

fn redis(dice: &mut Dice) -> (Protocol, Redis) {
    let protocol = if dice.one_in(2) { Protocol::Upstash } else { Protocol::Webdis };
    (protocol, Redis::new(protocol, "/", Some("user:token")).unwrap())
}

fn some_ask(dice: &mut Dice) -> Ask {
    let permits = |dice: &mut Dice| Permits::new(dice.below(200) as u32);
    let need = permits(dice);
    let algorithm = [Shared::FixedWindow, Shared::SlidingWindow, Shared::TokenBucket, Shared::InFlight][dice.below(4)];
    Ask {
        key: KeyHash::from_bits(dice.next()),
        terms: Terms {
            algorithm,
            permits: permits(dice),
            window_ms: 10 + dice.next() % 1_000_000,
            burst: permits(dice),
        },
        instance: Instance::new(dice.next()),
        seq: dice.next() >> 11,
        need,
        least: Permits::new(dice.below(need.get() as usize + 1) as u32),
        want: need.plus(permits(dice)),
        back: permits(dice),
        back_of: dice.next() >> 11,
    }
}

/// A possible reply of a script to this ask.
fn some_reply(dice: &mut Dice, ask: &Ask) -> Value {
    let granted = [0, ask.least.get().min(ask.need.get()), ask.want.get()][dice.below(3)];
    let mut numbers: Vec<u64> = vec![granted.into(), 5, if granted > 0 { 7 } else { 0 }, 9, 1_800_000_000_000, 77];
    numbers.extend((!dice.one_in(3)).then_some(3));
    json!(numbers)
}

/// A whole answer, and the verb that names the command in Webdis.
fn some_answer(dice: &mut Dice, protocol: Protocol, asks: &[Ask], verb: &str) -> Value {
    let error =
        |dice: &mut Dice| dice.pick(&["NOSCRIPT No matching script.", "OOM command not allowed", "what"]).to_owned();
    let mut one = |ask| match (protocol, dice.one_in(4)) {
        (Protocol::Upstash, true) => json!({ "error": error(dice) }),
        (Protocol::Upstash, false) => json!({ "result": some_reply(dice, ask) }),
        (Protocol::Webdis, true) => json!({ verb: [false, error(dice)] }),
        (Protocol::Webdis, false) => json!({ verb: some_reply(dice, ask) }),
    };
    match protocol {
        Protocol::Upstash => asks.iter().map(one).collect(),
        Protocol::Webdis => one(&asks[0]),
    }
}

/// The numbers that serde_json finds at the place of one ask's grant.
fn naive(body: &[u8], protocol: Protocol, place: usize, verb: &str) -> Option<Vec<u64>> {
    let value: Value = serde_json::from_slice(body).ok()?;
    let numbers = match protocol {
        Protocol::Upstash => value.get(place)?.get("result")?,
        Protocol::Webdis => value.get(verb)?,
    };
    // A whole number may be written as a decimal.
    let whole = |number: &Value| number.as_u64().or(number.as_f64().filter(|n| n.fract() == 0.0).map(|n| n as u64));
    numbers.as_array()?.iter().map(whole).collect()
}

fn numbers_of(grant: &Grant) -> Vec<u64> {
    let (granted, left) = (grant.granted.get().into(), grant.left.get().into());
    let mut numbers = vec![granted, left, grant.lasts_ms, grant.reset_ms, grant.window, grant.drawn];
    numbers.extend(grant.retry_after_ms);
    numbers
}

#[test]
fn an_answer_is_decoded_correctly_or_is_an_error() {
    let (mut granted, mut garbled, mut forgotten) = (0, 0, 0);
    cases("redis: answers", |dice| {
        let (protocol, redis) = redis(dice);
        let mut queue: Vec<Ask> = (0..1 + dice.below(4)).map(|_| some_ask(dice)).collect();
        let asks = queue[..redis.max_asks().min(queue.len())].to_vec();
        let (mut exchange, _) = redis.begin(&mut queue).unwrap();
        for verb in ["EVALSHA", "EVAL"] {
            let pending: Vec<usize> = match verb {
                "EVALSHA" => (0..asks.len()).collect(),
                _ => (0..asks.len())
                    .filter(|place| exchange.outcomes().nth(*place).unwrap().1 == Err(RedisError::NoScript))
                    .collect(),
            };
            let sent: Vec<Ask> = pending.iter().map(|place| asks[*place]).collect();
            let mut body = some_answer(dice, protocol, &sent, verb).to_string().into_bytes();
            dice.mutate(&mut body, &TOKENS);
            let status = if dice.one_in(10) { [0, 100, 400, 401, 500, 65_535][dice.below(6)] } else { 200 };
            let next = exchange.receive(&redis, (!dice.one_in(20)).then_some((status, &body)));
            let outcomes: Vec<_> = exchange.outcomes().map(|(_, outcome)| outcome).collect();
            for (place, of) in pending.iter().enumerate() {
                match outcomes[*of] {
                    Ok(grant) => {
                        granted += 1;
                        let keeps = asks[*of].terms.algorithm == Shared::InFlight;
                        let kept = if keeps { asks[*of].keeps() } else { Permits::ZERO };
                        assert!(grant.granted <= asks[*of].want.plus(kept), "{}", body.escape_ascii());
                        let read = naive(&body, protocol, place, verb);
                        assert_eq!(Some(numbers_of(&grant)), read, "{}", body.escape_ascii());
                    }
                    Err(RedisError::Garbled) => garbled += 1,
                    Err(_) => {}
                }
            }
            let asks_again = outcomes.contains(&Err(RedisError::NoScript)) && verb == "EVALSHA";
            assert_eq!(next.is_some(), asks_again, "{}", body.escape_ascii());
            forgotten += u64::from(asks_again);
            if !asks_again {
                return;
            }
        }
    });
    assert!(granted > 1_000 && garbled > 1_000 && forgotten > 100, "{granted} {garbled} {forgotten}: hardly tried");
}

#[test]
fn half_an_answer_is_garbled() {
    let mut dice = Dice::new(1);
    for protocol in [Protocol::Upstash, Protocol::Webdis] {
        let redis = Redis::new(protocol, "", None).unwrap();
        let ask = some_ask(&mut dice);
        let numbers = json!([ask.want.get(), 5, 7, 9, 1_800_000_000_000_u64, 77, 0]);
        let whole = match protocol {
            Protocol::Upstash => json!([{ "result": numbers }]),
            Protocol::Webdis => json!({ "EVALSHA": numbers }),
        };
        let whole = whole.to_string().into_bytes();
        let outcome = |body: &[u8]| {
            let (mut exchange, _) = redis.begin(&mut vec![ask]).unwrap();
            assert!(exchange.receive(&redis, Some((200, body))).is_none());
            exchange.outcomes().next().unwrap().1
        };
        for length in 0..whole.len() {
            assert_eq!(outcome(&whole[..length]), Err(RedisError::Garbled), "{}", whole[..length].escape_ascii());
        }
        assert_eq!(outcome(&whole).unwrap().granted, ask.want);
        // However much follows.
        for more in [vec![b' '; 5_000_000], vec![b'['; 5_000_000], whole.repeat(100_000)] {
            assert_eq!(outcome(&[&whole[..], &more].concat()), Err(RedisError::Garbled), "{protocol:?}");
        }
    }
}

#[test]
fn an_answer_that_grants_more_or_longer_than_asked_is_refused() {
    let redis = Redis::new(Protocol::Webdis, "", None).unwrap();
    let terms =
        Terms { algorithm: Shared::FixedWindow, permits: Permits::new(50), window_ms: 1_000, burst: Permits::new(50) };
    let (need, least, want) = (Permits::new(5), Permits::new(2), Permits::new(10));
    let ask = Ask { terms, need, least, want, ..some_ask(&mut Dice::new(2)) };
    for (numbers, is_good) in [
        (json!([10, 0, 1_000, 0, 0, 0, 0]), true),
        (json!([2, 0, 1_000, 0, 0, 0]), true),
        (json!([0, 0, 0, 0, 0, 0]), true),
        (json!([11, 0, 1_000, 0, 0, 0, 0]), false),
        (json!([1, 0, 1_000, 0, 0, 0, 0]), false),
        (json!([10, 0, 1_001, 0, 0, 0, 0]), false),
        (json!([10, 268_435_456, 1_000, 0, 0, 0, 0]), false),
        (json!([-1, 0, 0, 0, 0, 0, 0]), false),
        (json!([10, 0, 1_000, 0, 0]), false),
        (json!([10, 0, 1_000, 0, 0, 0, 0, 0]), false),
        (json!([10, 0, 1_000, 0, 0, "0", 0]), false),
        (json!([true, "OK"]), false),
        (json!(10), false),
        (json!(null), false),
    ] {
        let (mut exchange, _) = redis.begin(&mut vec![ask]).unwrap();
        exchange.receive(&redis, Some((200, json!({ "EVALSHA": numbers }).to_string().as_bytes())));
        let outcome = exchange.outcomes().next().unwrap().1;
        assert_eq!((outcome.is_ok(), outcome == Err(RedisError::Garbled)), (is_good, !is_good), "{numbers}");
    }
}

/// The words of each command of a request, as the front decodes them.
fn words(protocol: Protocol, request: &HttpRequest<'_>) -> Vec<Vec<String>> {
    match protocol {
        Protocol::Upstash => serde_json::from_slice(&request.body).unwrap(),
        Protocol::Webdis => {
            let body = std::str::from_utf8(&request.body).unwrap();
            vec![body.split('/').map(percent_decoded).collect()]
        }
    }
}

fn percent_decoded(word: &str) -> String {
    assert!(!word.contains(['.', '?', '+', ' ']), "{word}: Webdis takes this for something else");
    let mut parts = word.split('%');
    let mut text = parts.next().unwrap().to_owned();
    for part in parts {
        text.push(u8::from_str_radix(&part[..2], 16).unwrap().into());
        text.push_str(&part[2..]);
    }
    text
}

#[test]
fn the_request_carries_the_ask() {
    cases("redis: requests", |dice| {
        let (protocol, redis) = redis(dice);
        let ask = some_ask(dice);
        let script = Script::of(ask.terms.algorithm);
        let permits = |permits: Permits| permits.get().to_string();
        let mut tail = vec!["1".to_owned(), key(&ask), permits(ask.terms.permits), ask.terms.window_ms.to_string()];
        tail.extend([permits(ask.terms.burst), ask.instance.get().to_string(), ask.seq.to_string()]);
        tail.extend([ask.need, ask.least, ask.want, ask.back].map(permits));
        tail.push(ask.back_of.to_string());
        let (mut exchange, request) = redis.begin(&mut vec![ask]).unwrap();
        let by_hash = [vec!["EVALSHA".to_owned(), script.sha1().to_owned()], tail.clone()].concat();
        assert_eq!(words(protocol, &request), [by_hash]);
        let forgotten = match protocol {
            Protocol::Upstash => json!([{ "error": "NOSCRIPT No matching script." }]),
            Protocol::Webdis => json!({ "EVALSHA": [false, "NOSCRIPT No matching script."] }),
        };
        let next = exchange.receive(&redis, Some((200, forgotten.to_string().as_bytes()))).unwrap();
        assert_eq!(words(protocol, &next), [[vec!["EVAL".to_owned(), script.source()], tail].concat()]);
    });
}
