//! Whole requests through plan, decide and observe, with random bytes for every fact and any steps of the clock.

use super::dice::Dice;
use super::{Raw, cases};
use crate::harness::{Answer, engine};
use tidegate::decision::Fields;
use tidegate::engine::Plan;
use tidegate::explain::explain;
use tidegate::lease::Leases;
use tidegate::metrics::Counters;
use tidegate::store::Store;
use tidegate::store::memory::MemoryStore;
use tidegate::units::Timestamp;

/// The index of the limit that observes.
const WATCHED: usize = 3;

const POLICY: &str = r#"{
  "version": 1,
  "client": {
    "address": { "header": "x-forwarded-for", "trusted_hops": 1 },
    "claims": { "header": "x-claims" },
    "api_key": { "header": "x-api-key" },
    "trusted_headers": ["x-claims", "x-cost"],
    "tier": { "claim": "plan", "default": "free" }
  },
  "tiers": ["free", "premium"],
  "limits": [
    {
      "name": "all", "quotas": [{ "permits": 5, "window": "1s" }, { "permits": 20, "window": "31d" }],
      "penalty": { "cost": 2, "max": 3 }, "ban": { "after": 4, "within": "10s", "for": "31d" },
      "by_tier": { "premium": { "permits": 90, "window": "10ms" } }
    },
    {
      "name": "keys", "match": { "path": "/a/**" }, "algorithm": "token-bucket", "quota": { "permits": 3, "window": "1s" },
      "key": ["header:x-key", "cookie:sid", "query:q", "claim:sub", "path", "method", "host", "tier"],
      "cost": { "request_header": "x-cost", "min": 0 }, "ban": { "after": 1, "within": "1s", "for": "1s" }
    },
    {
      "name": "answers", "match": { "hosts": ["*.example.com"], "headers": { "x-key": "a*b" } }, "key": ["cookie:sid"],
      "algorithm": "fixed-window", "quota": { "permits": 2, "window": "1h" },
      "cost": { "response_header": "x-cost", "max": 9 }, "only_on": ["4xx"]
    },
    {
      "name": "watched", "match": { "methods": ["GET"] }, "on_exceed": "observe", "quota": { "permits": 2, "window": "1m" },
      "penalty": { "max": 1 }, "ban": { "after": 2, "within": "1m", "for": "1m" }
    }
  ],
  "deny": {
    "addresses": ["203.0.113.0/24"], "headers": { "x-key": ["bad"] },
    "api_keys": ["ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"]
  },
  "allow": { "addresses": ["10.0.0.0/30"], "headers": { "x-key": ["good"] } },
  "response": { "x_ratelimit": true }
}"#;

/// Values with a meaning somewhere in the policy.
const VALUES: [&str; 20] = [
    "192.0.2.7",
    "203.0.113.9",
    "10.0.0.1",
    "2001:db8::1, 192.0.2.8",
    "sid=1",
    "sid=1; sid=2",
    "a1b",
    "bad",
    "good",
    "abc",
    "3",
    "99999999999",
    "0",
    "eyJwbGFuIjoicHJlbWl1bSIsInN1YiI6InUxIn0",
    "eyJwbGFuIjoyfQ",
    "application/problem+json",
    "a, b;q=0",
    "",
    "x-forwarded-for",
    "\u{e9}\u{0}",
];
const HEADERS: [&str; 8] =
    ["x-forwarded-for", "x-claims", "x-api-key", "x-cost", "x-key", "cookie", "accept", "x-tidegate-upstream"];
const PATHS: [&str; 10] =
    ["/", "/a/b?q=1", "/a//../b?q=%31", "/a/%2e%2e/?q=&q", "*", "", "http://h/a/?q=1", "/a/?q=1#q=2", "?q", "/%"];

fn value(dice: &mut Dice) -> Vec<u8> {
    let mut value = if dice.one_in(8) { dice.bytes(64) } else { dice.pick(&VALUES).as_bytes().to_vec() };
    if dice.one_in(3) {
        dice.mutate(&mut value, &VALUES);
    }
    value
}

fn request(dice: &mut Dice) -> Raw {
    let mut path = dice.pick(&PATHS).as_bytes().to_vec();
    dice.mutate(&mut path, &["/", "..", "%2e", "?", "&", "q=", "%", "#", "\u{e9}"]);
    let headers = (0..dice.below(8)).map(|_| (HEADERS[dice.below(HEADERS.len())], value(dice))).collect();
    let mut authority =
        dice.pick(&["a.example.com", "A.Example.Com.:80", "[::1]:80", "", "example.com"]).as_bytes().to_vec();
    dice.mutate(&mut authority, &[":", ".", "[", "]", "80", "%"]);
    let method = dice.pick(&["GET", "POST", "", "get", "\u{e9}"]).as_bytes().to_vec();
    let peer = (!dice.one_in(4)).then(|| value(dice));
    Raw { method, path, authority, peer, headers }
}

/// The time of the next request: mostly a little later, sometimes earlier, occasionally anything.
fn later(dice: &mut Dice, now: u64) -> u64 {
    match dice.below(40) {
        0 => dice.next(),
        1 => u64::MAX,
        2 => 0,
        3..6 => now.saturating_sub(dice.next() % (86_400 * SECOND)),
        _ => now.saturating_add(dice.next() % (2 * SECOND)),
    }
}

#[test]
fn any_request_at_any_time_gets_a_decision_within_bounds() {
    let engine = engine(POLICY);
    let limits = engine.policy().limits().len();
    let (mut store, mut local) = (MemoryStore::new(1_000), MemoryStore::new(1_000));
    let (mut leases, mut counters) = (Leases::new(), Counters::new(limits, 2));
    let (mut plan, mut again, mut fields) = (Plan::new(), Plan::new(), Fields::default());
    let (mut now, mut admitted, mut refused) = (1_700_000_000 * SECOND, 0, 0);
    let pages = store.pages();
    cases("requests", |dice| {
        let request = request(dice);
        now = later(dice, now);
        engine.plan(&request, &mut plan);
        assert!(plan.charges().len() <= limits + 1, "{request:?}");
        assert_same_in_front(&engine, dice, &request, &plan, &mut again);
        let decision =
            engine.decide(&mut plan, &mut store, &mut local, &mut leases, &mut counters, Timestamp::from_nanos(now));
        // Only the limit in observe mode may report what it would do.
        let observed = decision.observed.as_ref().and_then(|refusal| refusal.limit);
        assert!(decision.observed.is_none() || observed == Some(WATCHED), "{:?}", decision.observed);
        fields.clear();
        fields.push_limits(&engine, &plan);
        for (name, value) in fields.iter() {
            assert!(value.bytes().all(|byte| (b' '..=b'~').contains(&byte)), "{name}: {value}");
            assert!(!value.is_empty() && value.len() < 1_000, "{name}: {value}");
        }
        match decision.refusal {
            None => admitted += 1,
            Some(refusal) => {
                refused += 1;
                let reply = refusal.reply(&engine, &request);
                assert!(matches!((reply.status, reply.grpc_status), (403, 7) | (429, 8)), "{reply:?}");
                assert!(
                    reply.retry_after_secs.is_none_or(|secs| (1..=62 * 86_400).contains(&secs)),
                    "{reply:?} {request:?}"
                );
                assert!(serde_json::from_str::<serde_json::Value>(&reply.body).is_ok(), "{reply:?}");
                assert!(reply.details.starts_with("tidegate_") && reply.details.is_ascii(), "{reply:?}");
            }
        }
        if let Some(mut ticket) = plan.ticket() {
            let answer = Answer::of(200 + dice.below(400) as u16).with("x-cost", dice.pick(&VALUES));
            engine.observe(&mut ticket, &answer, &mut store, &mut local, &mut counters, Timestamp::from_nanos(now));
            // Occasionally a VM dies before its streams end.
            if dice.below(4) > 0 {
                let now = Timestamp::from_nanos(now);
                engine.release(ticket, &mut store, &mut local, &mut leases, &mut counters, now);
            }
        }
        // The explanation has no control characters, which a terminal would interpret.
        let words = explain(engine.policy(), &request);
        assert!(words.chars().all(|c| c == '\n' || !c.is_control()), "{words:?}");
    });
    assert_eq!(store.pages(), pages);
    assert!(admitted > 100 && refused > 100, "admitted {admitted}, refused {refused}: one of them was not tried");
}

/// The same request gets the same plan again, also with other entries in front of what the trusted proxy wrote.
fn assert_same_in_front(
    engine: &tidegate::engine::Engine,
    dice: &mut Dice,
    request: &Raw,
    plan: &Plan,
    again: &mut Plan,
) {
    let mut forged = request.clone();
    if let Some((_, list)) = forged.headers.iter_mut().find(|(name, _)| *name == "x-forwarded-for") {
        *list = [&value(dice), b",".as_slice(), list].concat();
    }
    for request in [request, &forged] {
        engine.plan(request, again);
        let told = |plan: &Plan| {
            let charges = plan.charges().iter().map(|charge| (charge.limit(), charge.key(), charge.cost()));
            (charges.collect::<Vec<_>>(), plan.tier(), plan.is_clear())
        };
        assert_eq!(told(again), told(plan), "{request:?}");
    }
}

const SECOND: u64 = 1_000_000_000;
