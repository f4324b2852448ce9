//! Asks through both protocols, on a real Redis behind real fronts.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use tidegate::authority::{Ask, Instance, Shared};
use tidegate::key::KeyHash;
use tidegate::policy::Protocol;
use tidegate::store::redis::{RedisError, key};
use tidegate::units::Permits;

use super::stage::Stage;
use super::{ALGORITHMS, PROTOCOLS, ask, terms};

#[tokio::test]
async fn a_grant_is_counted_by_the_clock_of_redis() {
    for protocol in PROTOCOLS {
        let stage = Stage::start(protocol, &[]).await;
        for algorithm in ALGORITHMS {
            let ask = Ask { want: Permits::new(100), ..ask(1, terms(algorithm, 1_000, DAY_MS), 1) };
            let before = now_ms();
            let grant = stage.ask_one(&ask).await.unwrap();
            let after = now_ms();
            assert_eq!(
                (grant.granted.get(), grant.left.get(), grant.drawn),
                (100, 900, 100),
                "{protocol:?} {algorithm:?}"
            );
            assert_eq!(grant.retry_after_ms, Some(0), "{protocol:?} {algorithm:?}");
            // Permits that a bucket lends last a second, and may delay its filling by two.
            let (length, reset) = match algorithm {
                Shared::TokenBucket => (1_000, DAY_MS / 10..=DAY_MS / 10 + 2_000),
                _ => (DAY_MS, DAY_MS - after % DAY_MS..=DAY_MS - before % DAY_MS),
            };
            let windows = [before, after].map(|ms| ms - ms % length);
            assert!((windows[0]..=windows[1]).contains(&grant.window), "{grant:?} from {before} to {after}");
            if windows[0] == windows[1] {
                assert!(reset.contains(&grant.reset_ms), "{grant:?} from {before} to {after}");
            }
            assert!((1..=length).contains(&grant.lasts_ms), "{grant:?}");
        }
    }
}

#[tokio::test]
async fn a_refusal_has_a_retry_after_unless_the_ask_can_never_be_granted() {
    for protocol in PROTOCOLS {
        let stage = Stage::start(protocol, &[]).await;
        for algorithm in ALGORITHMS {
            let all = Ask { need: Permits::new(10), want: Permits::new(10), ..ask(1, terms(algorithm, 10, DAY_MS), 1) };
            assert_eq!(stage.ask_one(&all).await.unwrap().granted.get(), 10);
            let refused = stage.ask_one(&Ask { seq: 2, least: Permits::ONE, ..all }).await.unwrap();
            assert_eq!(
                (refused.granted.get(), refused.left.get(), refused.lasts_ms),
                (0, 0, 0),
                "{protocol:?} {algorithm:?}"
            );
            assert!(refused.retry_after_ms.is_some_and(|ms| (1..=2 * DAY_MS).contains(&ms)), "{refused:?}");
            let too_much = Permits::new(11);
            let never =
                stage.ask_one(&Ask { seq: 3, need: too_much, least: too_much, want: too_much, ..all }).await.unwrap();
            assert_eq!((never.granted.get(), never.retry_after_ms), (0, None), "{protocol:?} {algorithm:?}");
        }
    }
}

#[tokio::test]
async fn the_same_ask_is_charged_once_and_an_earlier_one_is_given_nothing() {
    for protocol in PROTOCOLS {
        let stage = Stage::start(protocol, &[]).await;
        for algorithm in ALGORITHMS {
            let first = ask(1, terms(algorithm, 100, DAY_MS), 1);
            let second = Ask { seq: 2, ..first };
            let granted = stage.ask_one(&second).await.unwrap();
            let again = stage.ask_one(&second).await.unwrap();
            assert_eq!((again.granted, again.drawn, again.window), (Permits::ONE, 1, granted.window), "{algorithm:?}");
            let late = stage.ask_one(&first).await.unwrap();
            assert_eq!((late.granted, late.drawn), (Permits::ZERO, 1), "{protocol:?} {algorithm:?}");
        }
    }
}

#[tokio::test]
async fn a_returned_permit_can_be_drawn_by_another_instance_and_is_credited_once() {
    for protocol in PROTOCOLS {
        let stage = Stage::start(protocol, &[]).await;
        for algorithm in ALGORITHMS {
            let first = Ask { want: Permits::new(100), ..ask(1, terms(algorithm, 1_000, DAY_MS), 1) };
            let grant = stage.ask_one(&first).await.unwrap();
            let nothing = Ask { need: Permits::ZERO, least: Permits::ZERO, want: Permits::ZERO, ..first };
            let back = Ask { seq: 2, back: Permits::new(60), back_of: grant.window, ..nothing };
            for _ in 0..2 {
                assert_eq!(stage.ask_one(&back).await.unwrap().left.get(), 960, "{protocol:?} {algorithm:?}");
            }
            let other = stage.ask_one(&Ask { seq: 1, instance: Instance::new(2), ..nothing }).await.unwrap();
            assert_eq!((other.left.get(), other.drawn), (960, 40), "{protocol:?} {algorithm:?}");
        }
    }
}

#[tokio::test]
async fn many_concurrent_instances_get_exactly_the_quota() {
    for protocol in PROTOCOLS {
        let stage = std::sync::Arc::new(Stage::start(protocol, &[]).await);
        for algorithm in ALGORITHMS {
            let instances = (1..=25_u64).map(|instance| {
                let stage = std::sync::Arc::clone(&stage);
                tokio::spawn(async move {
                    let mut sum = 0;
                    for seq in 1..=6 {
                        let first = ask(1, terms(algorithm, 100, DAY_MS), instance);
                        let want = Permits::new(1 + (instance % 4) as u32 * 3);
                        sum += stage.ask_one(&Ask { seq, want, ..first }).await.unwrap().granted.get();
                    }
                    sum
                })
            });
            let mut sum = 0;
            for instance in instances.collect::<Vec<_>>() {
                sum += instance.await.unwrap();
            }
            assert_eq!(sum, 100, "{protocol:?} {algorithm:?}");
        }
    }
}

#[tokio::test]
async fn several_asks_share_a_request_if_the_protocol_can_and_each_has_its_own_outcome() {
    for (protocol, most) in [(Protocol::Upstash, 16), (Protocol::Webdis, 1)] {
        let stage = Stage::start(protocol, &[]).await;
        let asks: Vec<Ask> = (0..20).map(|key| ask(key, terms(ALGORITHMS[key as usize % 3], 10, DAY_MS), 1)).collect();
        let mut queue = asks.clone();
        let (exchange, request) = stage.redis.begin(&mut queue).unwrap();
        assert_eq!((exchange.outcomes().count(), queue.len()), (most, 20 - most), "{protocol:?}");
        assert_eq!(String::from_utf8_lossy(&request.body).matches("EVALSHA").count(), most, "{protocol:?}");
        // One of the keys has a value of another type.
        let () = redis::cmd("SET").arg(key(&asks[5])).arg("mine").query(&mut stage.server.connect()).unwrap();
        for (place, outcome) in stage.ask(&asks).await.into_iter().enumerate() {
            match outcome {
                Err(error) => assert_eq!((place, error), (5, RedisError::WrongType), "{protocol:?}"),
                Ok(grant) => assert_eq!((place != 5, grant.granted), (true, Permits::ONE), "{protocol:?} {place}"),
            }
        }
    }
}

#[tokio::test]
async fn every_key_expires() {
    let stage = Stage::start(Protocol::Upstash, &[]).await;
    let mut connection = stage.server.connect();
    for algorithm in ALGORITHMS {
        let ask = Ask { key: KeyHash::from_bits(9), ..ask(9, terms(algorithm, 10, 2_000), 1) };
        for seq in 1..=3 {
            stage.ask_one(&Ask { seq, ..ask }).await.unwrap();
            let lives_ms: i64 = redis::cmd("PTTL").arg(key(&ask)).query(&mut connection).unwrap();
            assert!((1..=4_000).contains(&lives_ms), "{algorithm:?}: {lives_ms} ms");
        }
    }
    let deadline = Instant::now() + Duration::from_secs(10);
    while redis::cmd("DBSIZE").query::<u64>(&mut connection).unwrap() > 0 {
        assert!(Instant::now() < deadline, "keys stay");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

fn now_ms() -> u64 {
    u64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis()).unwrap()
}

const DAY_MS: u64 = 86_400_000;
