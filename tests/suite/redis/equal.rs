//! The scripts give the same answers as [`Authority`], for random sequences of asks at random times.

use tidegate::authority::{Ask, Authority, Grant, Instance, MAX_INSTANCES, Shared, Terms};
use tidegate::key::KeyHash;
use tidegate::store::redis::{Script, key};
use tidegate::units::Permits;

use super::process::RedisServer;
use super::{ALGORITHMS, ask};
use crate::fuzz::cases;
use crate::fuzz::dice::Dice;

/// The shipped script with a clock that is passed as its last argument. Keys do not expire, because Redis would use the
/// machine's clock for that.
struct OnClock {
    script: redis::Script,
}

/// The first lines of a script, which read the time. The test fails if a shipped script does not begin with them.
pub const CLOCK: &str = "local time = redis.call('TIME')\nlocal clock = time[1] * 1000 + math.floor(time[2] / 1000)\n";

/// What replaces them.
pub const OTHER_CLOCK: &str = "
local clock, real = tonumber(ARGV[11]), redis
local redis = {
    call = function(name, ...)
        return name == 'PEXPIRE' or real.call(name, ...)
    end
}
";

impl OnClock {
    fn of(algorithm: Shared) -> Self {
        let source = Script::of(algorithm).source();
        let rest = source.strip_prefix(CLOCK).expect("the script begins with its clock");
        Self { script: redis::Script::new(&[OTHER_CLOCK, rest].concat()) }
    }

    /// The script's answer at this time.
    fn answer(&self, connection: &mut redis::Connection, ask: &Ask, now_ms: u64) -> Grant {
        let terms = ask.terms;
        let permits = |permits: Permits| u64::from(permits.get());
        let mut call = self.script.key(key(ask));
        for number in [permits(terms.permits), terms.window_ms, permits(terms.burst), ask.instance.get(), ask.seq] {
            call.arg(number);
        }
        for number in [ask.need, ask.least, ask.want, ask.back].map(permits) {
            call.arg(number);
        }
        for number in [ask.back_of, now_ms] {
            call.arg(number);
        }
        let numbers: Vec<u64> = call.invoke(connection).unwrap_or_else(|error| panic!("{ask:?} at {now_ms}: {error}"));
        let small = |number: u64| Permits::new(u32::try_from(number).unwrap());
        let [granted, left, lasts_ms, reset_ms, window, drawn] = numbers[..6] else { panic!("{numbers:?}") };
        let retry_after_ms = numbers.get(6).copied();
        Grant { granted: small(granted), left: small(left), lasts_ms, retry_after_ms, reset_ms, window, drawn }
    }
}

fn some_terms(algorithm: Shared, dice: &mut Dice) -> Terms {
    let permits = [1, 3, 10, 100, 1_000, 100_000, Permits::MAX.get()][dice.below(7)];
    let burst = [1, 7, 60, 1_000, permits, permits.saturating_mul(2)][dice.below(6)];
    let window_ms = [10, 1_000, 60_000, 60_001, 3_600_000, 86_400_000][dice.below(6)];
    let terms = Terms { algorithm, permits: Permits::new(permits), window_ms, burst: Permits::new(burst) };
    if terms.is_countable() { terms } else { some_terms(algorithm, dice) }
}

/// A number of permits, mostly near a critical value.
fn some_permits(dice: &mut Dice, terms: &Terms) -> Permits {
    let most = terms.most().get();
    let near = [0, 1, 1, 2, 5, most / 100, most / 4, most / 2, most, most.saturating_add(1)][dice.below(10)];
    Permits::new(near.saturating_add(dice.below(3) as u32))
}

/// A careless client of the authority: it forgets, repeats, and returns what it never had.
fn some_ask(dice: &mut Dice, terms: Terms, last: &mut [(u64, Grant)], key: u64) -> Ask {
    let who = dice.below(last.len());
    let (seq, grant) = last[who];
    let seq = match dice.below(10) {
        0 => seq,
        1 => seq.saturating_sub(1).max(1),
        _ => seq + 1 + dice.below(3) as u64,
    };
    let need = if dice.one_in(3) { Permits::ZERO } else { some_permits(dice, &terms) };
    let least = if dice.one_in(3) { need } else { Permits::new(dice.below(need.get() as usize + 1) as u32) };
    let want = if dice.one_in(3) { need } else { need.plus(some_permits(dice, &terms)) };
    let back = match dice.below(4) {
        0 => grant.granted,
        1 => Permits::new(dice.below(grant.granted.get() as usize + 2) as u32),
        2 => some_permits(dice, &terms),
        _ => Permits::ZERO,
    };
    let back_of = if dice.one_in(8) { grant.window.saturating_sub(terms.window_ms) } else { grant.window };
    let instance = Instance::new(who as u64 + 1);
    Ask { key: KeyHash::from_bits(key), terms, instance, seq, need, least, want, back, back_of }
}

/// How far the clock advances.
fn some_step(dice: &mut Dice, terms: &Terms) -> u64 {
    match dice.below(8) {
        0 | 1 => 0,
        2 => dice.below(3) as u64,
        3 => dice.below(50) as u64,
        4 | 5 => dice.below(2_000) as u64,
        6 => dice.below(terms.window_ms as usize / 2) as u64,
        _ => dice.below(terms.window_ms as usize * 2) as u64,
    }
}

#[test]
fn every_script_answers_as_the_core_does() {
    let server = RedisServer::start(&[]);
    let mut connection = server.connect();
    for algorithm in ALGORITHMS.into_iter().chain([Shared::InFlight]) {
        let script = OnClock::of(algorithm);
        let (mut key, mut asked, mut granted, mut refused, mut returned, mut back_in_time) = (0, 0, 0, 0, 0, 0);
        cases(&format!("redis: {algorithm:?}"), |dice| {
            // A few hundred sequences of a few dozen asks for each algorithm.
            if !dice.one_in(25) {
                return;
            }
            key += 1;
            let mut terms = some_terms(algorithm, dice);
            let mut authority = Authority::new(4);
            let mut last = [(0, Grant::default()); 3];
            let mut now_ms = 1_800_000_000_000 + dice.below(1_000_000_000) as u64;
            let mut told = Vec::new();
            for _ in 0..40 {
                now_ms += some_step(dice, &terms);
                let lives =
                    authority.account(KeyHash::from_bits(key)).is_some_and(|account| !account.has_ended(now_ms));
                if lives && dice.one_in(20) {
                    now_ms -= [1, 5_000, 10_000, 10_001, 60_000, 200_000][dice.below(6)];
                    back_in_time += 1;
                }
                if dice.one_in(60) {
                    // The policy has changed.
                    let changed = Terms { permits: Permits::new(1 + dice.below(200) as u32), ..terms };
                    terms = if changed.is_countable() { changed } else { terms };
                }
                let ask = some_ask(dice, terms, &mut last, key);
                let expected = authority.answer(&ask, now_ms);
                told.push((now_ms, ask, expected));
                let answered = script.answer(&mut connection, &ask, now_ms);
                assert_eq!(answered, expected, "{told:#?}");
                asked += 1;
                granted += u64::from(expected.granted > Permits::ZERO);
                refused += u64::from(ask.need > Permits::ZERO && expected.granted == Permits::ZERO);
                returned += u64::from(ask.back > Permits::ZERO);
                let of_instance = &mut last[ask.instance.get() as usize - 1];
                of_instance.0 = of_instance.0.max(ask.seq);
                if expected.granted > Permits::ZERO {
                    of_instance.1 = expected;
                }
            }
        });
        println!("{algorithm:?}: {asked} asks: {granted} granted, {refused} refused, {returned} with returns");
        for count in [granted, refused, returned, back_in_time] {
            assert!(count > asked / 50, "{algorithm:?}: hardly anything was tried");
        }
    }
}

#[test]
fn an_account_forgets_one_of_too_many_instances_and_counts_all_of_them() {
    let server = RedisServer::start(&[]);
    let mut connection = server.connect();
    for algorithm in ALGORITHMS {
        let (script, now_ms) = (OnClock::of(algorithm), 1_800_000_000_000);
        let terms = super::terms(algorithm, 100_000, 86_400_000);
        let most = MAX_INSTANCES as u64;
        for instance in 1..=most + 100 {
            let grant = script.answer(&mut connection, &ask(1, terms, instance), now_ms);
            assert_eq!((grant.granted, grant.drawn), (Permits::ONE, instance), "{algorithm:?}");
        }
        let kept: u64 = redis::cmd("HLEN").arg(key(&ask(1, terms, 1))).query(&mut connection).unwrap();
        assert_eq!(kept, most + 1, "{algorithm:?}: those remembered, and the account");
    }
}

#[test]
fn beyond_the_bound_instances_with_permits_are_kept_and_new_ones_get_none() {
    let server = RedisServer::start(&[]);
    let mut connection = server.connect();
    let (script, now_ms) = (OnClock::of(Shared::InFlight), 1_800_000_000_000);
    let terms = super::terms(Shared::InFlight, 100_000, 86_400_000);
    let mut authority = Authority::new(1);
    let most = MAX_INSTANCES as u64;
    for instance in 1..=most + 3 {
        let ask = ask(1, terms, instance);
        let expected = authority.answer(&ask, now_ms);
        assert_eq!(expected.granted.get(), u32::from(instance <= most));
        assert_eq!(script.answer(&mut connection, &ask, now_ms), expected, "{instance}");
    }
    // An instance that returns its permits makes room for another, and one that holds nothing for the next.
    let back = Ask { seq: 2, need: Permits::ZERO, want: Permits::ZERO, ..ask(1, terms, 7) };
    for ask in [back, ask(1, terms, most + 1), ask(1, terms, most + 2)] {
        assert_eq!(script.answer(&mut connection, &ask, now_ms + 1), authority.answer(&ask, now_ms + 1), "{ask:?}");
    }
}
