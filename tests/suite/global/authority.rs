//! The authority alone, under random asks.

use super::timeline::Random;
use super::world::shared;
use std::collections::BTreeMap;
use tidegate::authority::{Account, Ask, Authority, Grant, Instance, MAX_INSTANCES, Terms};
use tidegate::key::KeyHash;
use tidegate::units::Permits;

fn terms(algorithm: &str, permits: u32, burst: u32) -> Terms {
    Terms { algorithm: shared(algorithm), permits: Permits::new(permits), window_ms: 1_000, burst: Permits::new(burst) }
}

fn ask(terms: Terms, seq: u64, need: u32, want: u32) -> Ask {
    let [need, want] = [need, want].map(Permits::new);
    let (key, instance) = (KeyHash::from_bits(7), Instance::new(1));
    Ask { key, terms, instance, seq, need, least: need, want, back: Permits::ZERO, back_of: 0 }
}

const ALGORITHMS: [&str; 3] = ["fixed-window", "sliding-window", "token-bucket"];
const NOW: u64 = 1_700_000_000_000;

#[test]
fn a_repeated_ask_gets_the_same_grant_and_is_charged_once() {
    for algorithm in ALGORITHMS {
        let mut account = Account::default();
        let first = account.answer(&ask(terms(algorithm, 100, 100), 1, 5, 9), NOW);
        let again = account.answer(&ask(terms(algorithm, 100, 100), 1, 5, 9), NOW + 3);
        assert_eq!(first.granted, Permits::new(9), "{algorithm}");
        assert_eq!((again.granted, again.window, again.drawn), (first.granted, first.window, first.drawn));
        assert_eq!(again.lasts_ms, first.lasts_ms - 3);
        let earlier = account.answer(&ask(terms(algorithm, 100, 100), 2, 1, 1), NOW + 4);
        assert_eq!(earlier.granted, Permits::ONE);
        let late = account.answer(&ask(terms(algorithm, 100, 100), 1, 5, 9), NOW + 5);
        assert_eq!((late.granted, late.drawn), (Permits::ZERO, earlier.drawn), "{algorithm}");
    }
}

#[test]
fn bytes_of_accounts_asks_and_grants_of_version_1_do_not_change() {
    let mut all = Vec::new();
    for algorithm in ALGORITHMS {
        let mut account = Account::default();
        let ask = ask(terms(algorithm, 100, 50), 1, 5, 9);
        let grant = account.answer(&ask, NOW);
        all.extend([ask.to_bytes().to_vec(), grant.to_bytes().to_vec(), account.to_bytes()].concat());
    }
    assert_eq!((all[0], crate::harness::digits(&all).as_str()), (1, "0b8d52661028"));
}

#[test]
fn a_partial_grant_is_never_below_the_least_that_was_asked_for() {
    for algorithm in ALGORITHMS {
        let mut account = Account::default();
        let terms = terms(algorithm, 10, 10);
        assert_eq!(account.answer(&ask(terms, 1, 7, 7), NOW).granted, Permits::new(7));
        let dear = account.answer(&ask(terms, 2, 4, 4), NOW);
        assert_eq!((dear.granted, dear.left), (Permits::ZERO, Permits::new(3)), "{algorithm}");
        assert!(dear.retry_after_ms > Some(0), "{algorithm}");
        let together = Ask { least: Permits::ONE, ..ask(terms, 3, 4, 4) };
        assert_eq!(account.answer(&together, NOW).granted, Permits::new(3), "{algorithm}");
        assert_eq!(account.answer(&ask(terms, 4, 11, 11), NOW).retry_after_ms, None, "{algorithm}");
    }
}

#[test]
fn the_announced_wait_suffices_and_a_millisecond_less_does_not() {
    let mut random = Random(5);
    for round in 0..2_000 {
        let algorithm = ALGORITHMS[round % 3];
        let terms = terms(algorithm, 20 + random.below(200) as u32, 1 + random.below(200) as u32);
        let mut account = Account::default();
        let mut now = NOW;
        for seq in 1..20 {
            now += random.below(400);
            let need = random.below(20) as u32;
            account.answer(&ask(terms, seq, need, need + random.below(60) as u32), now);
        }
        let need = 1 + random.below(u64::from(terms.most().get())) as u32;
        let Some(wait) = account.clone().answer(&ask(terms, 100, need, need), now).retry_after_ms else {
            panic!("{algorithm}: {need} of {:?} is not too much", terms);
        };
        if wait > 0 {
            let before = account.clone().answer(&ask(terms, 100, need, need), now + wait - 1);
            assert_eq!(before.granted, Permits::ZERO, "{algorithm}, round {round}: {wait} ms is too long");
        }
        let after = account.answer(&ask(terms, 100, need, need), now + wait);
        assert_eq!(after.granted, Permits::new(need), "{algorithm}, round {round}: {wait} ms is too short");
    }
}

#[test]
fn a_return_is_credited_once_in_its_window_and_to_its_instance() {
    for algorithm in ALGORITHMS {
        let terms = terms(algorithm, 1_000, 1_000);
        let mut account = Account::default();
        let grant = account.answer(&ask(terms, 1, 0, 100), NOW);
        assert_eq!(grant.granted, Permits::new(100), "{algorithm}");
        let back = |instance: u64, seq: u64, of: u64| Ask {
            instance: Instance::new(instance),
            back: Permits::new(60),
            back_of: of,
            ..ask(terms, seq, 0, 0)
        };
        // Another instance's permits, which could be credited to this one by mistake.
        let others = Ask { instance: Instance::new(3), ..ask(terms, 1, 0, 100) };
        assert_eq!(account.answer(&others, NOW).granted, Permits::new(100), "{algorithm}");
        let left = |account: &mut Account, ask: &Ask| account.answer(ask, NOW + 1).left.get();
        let before = left(&mut account, &back(2, 1, grant.window));
        assert_eq!(left(&mut account, &back(1, 2, grant.window + 1)), before, "{algorithm}: of another window");
        assert_eq!(left(&mut account, &back(1, 3, grant.window)), before + 60, "{algorithm}");
        assert_eq!(left(&mut account, &back(1, 3, grant.window)), before + 60, "{algorithm}: doubled");
        let rest = left(&mut account, &back(1, 4, grant.window));
        assert_eq!(rest, before + 100, "{algorithm}: no more than was granted");
        assert_eq!(left(&mut account, &back(1, 5, grant.window)), rest, "{algorithm}");
    }
}

#[test]
fn a_bucket_and_what_it_has_lent_are_never_more_than_the_burst() {
    let mut random = Random(9);
    for round in 0..500 {
        let terms = terms("token-bucket", 10 + random.below(1_000) as u32, 1 + random.below(1_000) as u32);
        let mut account = Account::default();
        // Lent permits, each with its expiry.
        let mut out: Vec<(u64, u64)> = Vec::new();
        let mut now = NOW;
        for seq in 1..200 {
            now += random.below(60);
            let (need, ahead) = (random.below(3) as u32, random.below(400) as u32);
            let grant: Grant = account.answer(&ask(terms, seq, need, need + ahead), now);
            out.retain(|(until, _)| *until > now);
            if grant.lasts_ms != tidegate::authority::bucket::SOON_MS {
                out.push((now + grant.lasts_ms, u64::from(grant.granted.get())));
            }
            let lent: u64 = out.iter().map(|(_, permits)| permits).sum();
            let all = u64::from(grant.left.get()) + lent;
            assert!(
                all <= u64::from(terms.burst.get()),
                "round {round}: {} left and {lent} lent of {terms:?}",
                grant.left.get()
            );
        }
    }
}

#[test]
fn an_account_survives_its_encoding_and_other_bytes_are_refused() {
    for algorithm in ALGORITHMS.into_iter().chain(["concurrency"]) {
        let mut account = Account::default();
        for seq in 1..4 {
            for instance in 0..3 {
                let ask = Ask { instance: Instance::new(instance), ..ask(terms(algorithm, 100, 100), seq, 1, 5) };
                account.answer(&ask, NOW + seq);
            }
        }
        let bytes = account.to_bytes();
        assert_eq!(Account::from_bytes(&bytes), Some(account), "{algorithm}");
        for len in 0..bytes.len() {
            // A prefix can be a valid account with fewer instances.
            if let Some(shorter) = Account::from_bytes(&bytes[..len]) {
                assert_eq!(shorter.to_bytes(), &bytes[..len]);
            }
        }
        assert_eq!(Account::from_bytes(&[2; 200]), None);
        let [odd, cut] = [3, 2].map(|version: u64| [version.to_le_bytes(); 7].concat());
        assert_eq!((Account::from_bytes(&odd), Account::from_bytes(&cut)), (None, None));
    }
}

#[test]
fn keys_and_instances_are_bounded() {
    let mut authority = Authority::new(10);
    for key in 0..1_000 {
        let ask = Ask { key: KeyHash::from_bits(key * 0x9e37_79b9), ..ask(terms("fixed-window", 10, 10), 1, 1, 1) };
        assert_eq!(authority.answer(&ask, NOW).granted, Permits::ONE);
        assert!(authority.len() <= 10);
    }
    assert_eq!(authority.forget_ended(NOW + 2_000), 0);
    let mut account = Account::default();
    let mut granted: BTreeMap<u64, Permits> = BTreeMap::new();
    for instance in 0..(MAX_INSTANCES as u64 + 100) {
        let ask = Ask { instance: Instance::new(instance), ..ask(terms("fixed-window", 1 << 20, 1 << 20), 1, 1, 1) };
        granted.insert(instance, account.answer(&ask, NOW).granted);
    }
    assert!(account.to_bytes().len() < 8 * (20 + 6 * MAX_INSTANCES));
}

/// What an instance may use of its permits, and until when.
#[derive(Clone, Copy, Default)]
struct Holding {
    permits: u32,
    until: u64,
    seq: u64,
}

#[test]
fn under_any_asks_and_lost_answers_all_instances_hold_no_more_than_all_permits() {
    let mut random = Random(11);
    let (mut most, mut called) = (0, 0);
    for round in 0..1_000 {
        let terms = Terms { window_ms: 10_000, ..terms("concurrency", 1 + random.below(30) as u32, 1) };
        let mut account = Account::default();
        let mut now = NOW;
        let mut all = [Holding::default(); 5];
        let mut earlier = Vec::new();
        for _ in 0..100 {
            now += [0, 1, 30, 400, 3_000][random.below(5) as usize];
            let at = random.below(5) as usize;
            let uses = &mut all[at];
            if now >= uses.until {
                uses.permits = 0;
            }
            if random.below(5) == 0 && !earlier.is_empty() {
                // A late or duplicate ask, whose answer is lost.
                let late: Ask = earlier[random.below(earlier.len() as u64) as usize];
                account.answer(&late, now);
            }
            let keeps = random.below(u64::from(uses.permits) + 1) as u32;
            let (need, ahead) = (random.below(12) as u32, random.below(12) as u32);
            let seq = uses.seq + 1;
            let ask = Ask {
                instance: Instance::new(at as u64),
                least: Permits::new(random.below(u64::from(need) + 1) as u32),
                back: Permits::new(keeps),
                ..ask(terms, seq, need, need + ahead)
            };
            earlier.push(ask);
            // From the time of its ask on, the instance uses no more than it keeps.
            (uses.permits, uses.seq) = (keeps, seq);
            let grant = account.answer(&ask, now);
            assert!(grant.granted.get() <= keeps + need + ahead, "round {round}: {ask:?} {grant:?}");
            assert!(grant.granted.get() >= keeps, "round {round}: {ask:?} {grant:?} takes away what is in use");
            called += u64::from(grant.called_back() > Permits::ZERO);
            if random.below(4) > 0 {
                (uses.permits, uses.until) = (grant.granted.get(), now + grant.lasts_ms);
            }
            let sum: u32 = all.iter().filter(|uses| now < uses.until).map(|uses| uses.permits).sum();
            assert!(sum <= terms.permits.get(), "round {round}: {sum} of {}", terms.permits.get());
            most += u64::from(sum == terms.permits.get());
        }
    }
    assert!(most > 10_000 && called > 1_000, "hardly anything was tried: {most}, {called}");
}
