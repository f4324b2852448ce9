//! Faults of a real Redis, and how the codec reports them.

use std::time::{Duration, Instant};

use tidegate::authority::Ask;
use tidegate::policy::Protocol;
use tidegate::store::redis::{Redis, RedisError, key};
use tidegate::units::Permits;

use super::stage::{Stage, token};
use super::{ALGORITHMS, PROTOCOLS, ask, terms};

/// An ask for the first algorithm, in a window that outlasts every test.
fn one(seq: u64) -> Ask {
    Ask { seq, ..ask(1, terms(ALGORITHMS[0], 100, 86_400_000), 1) }
}

/// Polls until Redis grants this ask again.
async fn granted_in_the_end(stage: &Stage, ask: &Ask) -> u64 {
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        match stage.ask_one(ask).await {
            Ok(grant) => {
                assert_eq!(grant.granted, Permits::ONE);
                return grant.drawn;
            }
            Err(error) => assert!(Instant::now() < deadline, "{error}"),
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn a_script_that_redis_has_lost_is_sent_once() {
    for protocol in PROTOCOLS {
        let stage = Stage::start(protocol, &[]).await;
        for (seq, requests) in [(1, 2), (2, 1), (3, 2)] {
            if seq == 3 {
                let () = redis::cmd("SCRIPT").arg("FLUSH").query(&mut stage.server.connect()).unwrap();
            }
            let (mut exchange, request) = stage.redis.begin(&mut vec![one(seq)]).unwrap();
            let (mut next, mut sent) = (Some(request), 0);
            while let Some(request) = next {
                let (status, body) = stage.send(&request).await.unwrap();
                next = exchange.receive(&stage.redis, Some((status, &body[..])));
                sent += 1;
            }
            assert_eq!(sent, requests, "{protocol:?}: ask {seq}");
            assert_eq!(exchange.outcomes().next().unwrap().1.unwrap().drawn, seq, "{protocol:?}");
        }
    }
}

#[tokio::test]
async fn a_redis_that_restarts_without_data_counts_from_zero() {
    for protocol in PROTOCOLS {
        let mut stage = Stage::start(protocol, &[]).await;
        for seq in 1..=5 {
            assert_eq!(stage.ask_one(&one(seq)).await.unwrap().drawn, seq);
        }
        stage.server.kill();
        assert_eq!(stage.ask_one(&one(6)).await, Err(RedisError::Unavailable), "{protocol:?}");
        stage.server.restart();
        assert_eq!(granted_in_the_end(&stage, &one(7)).await, 1, "{protocol:?}");
    }
}

#[tokio::test]
async fn a_redis_out_of_memory_is_reported_and_charges_nothing() {
    for protocol in PROTOCOLS {
        let stage = Stage::start(protocol, &["--maxmemory-policy", "noeviction"]).await;
        let memory = |bytes: &str| {
            let set = redis::cmd("CONFIG").arg("SET").arg("maxmemory").arg(bytes).query(&mut stage.server.connect());
            let () = set.unwrap();
        };
        for (place, algorithm) in ALGORITHMS.into_iter().enumerate() {
            let first = ask(place as u64, terms(algorithm, 100, 86_400_000), 1);
            assert_eq!(stage.ask_one(&first).await.unwrap().drawn, 1);
            memory("1");
            // For an existing key and for a new one.
            for ask in [Ask { seq: 2, ..first }, ask(place as u64 + 100, first.terms, 1)] {
                assert_eq!(stage.ask_one(&ask).await, Err(RedisError::OutOfMemory), "{protocol:?} {algorithm:?}");
            }
            memory("0");
            assert_eq!(stage.ask_one(&Ask { seq: 2, ..first }).await.unwrap().drawn, 2, "{protocol:?} {algorithm:?}");
        }
    }
}

#[tokio::test]
async fn a_suspended_redis_costs_the_deadline_and_charges_the_ask_once() {
    for protocol in PROTOCOLS {
        let stage = Stage::start(protocol, &[]).await;
        assert_eq!(stage.ask_one(&one(1)).await.unwrap().drawn, 1);
        let paused = stage.server.pause();
        let began = Instant::now();
        let outcome = stage.ask_within(&[one(2)], Duration::from_millis(100)).await;
        assert_eq!(outcome, [Err(RedisError::Unavailable)], "{protocol:?}");
        assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
        drop(paused);
        // Redis may or may not still run the ask that timed out: the count is the same.
        assert_eq!(granted_in_the_end(&stage, &one(2)).await, 2, "{protocol:?}");
    }
}

#[tokio::test]
async fn a_redis_that_is_busy_with_a_script_is_unavailable() {
    for protocol in PROTOCOLS {
        let stage = Stage::start(protocol, &["--lua-time-limit", "20"]).await;
        assert_eq!(stage.ask_one(&one(1)).await.unwrap().drawn, 1);
        let mut other = stage.server.connect();
        let endless =
            std::thread::spawn(move || redis::cmd("EVAL").arg("while true do end").arg(0).query::<()>(&mut other));
        let deadline = Instant::now() + Duration::from_secs(10);
        while stage.ask_one(&one(2)).await != Err(RedisError::Unavailable) {
            assert!(Instant::now() < deadline, "{protocol:?}: never busy");
        }
        let () = redis::cmd("SCRIPT").arg("KILL").query(&mut stage.server.connect()).unwrap();
        assert!(endless.join().unwrap().is_err());
        assert_eq!(granted_in_the_end(&stage, &one(2)).await, 2, "{protocol:?}");
    }
}

#[tokio::test]
async fn a_wrong_token_is_refused_and_never_shown() {
    for protocol in PROTOCOLS {
        let mut stage = Stage::start(protocol, &[]).await;
        assert!(stage.ask_one(&one(1)).await.is_ok());
        for wrong in [Some("suite:wrong-s3cret"), None] {
            stage.redis = Redis::new(protocol, "", wrong).unwrap();
            assert_eq!(stage.ask_one(&one(2)).await, Err(RedisError::Unauthorized), "{protocol:?} {wrong:?}");
        }
        let redis = Redis::new(protocol, "", Some(token(protocol))).unwrap();
        let (exchange, request) = redis.begin(&mut vec![one(3)]).unwrap();
        assert!(request.authorization.is_some());
        let shown = format!("{redis:?} {request:?} {exchange:?}");
        assert!(!shown.contains("token-of") && !shown.contains("Bearer") && !shown.contains("Basic"), "{shown}");
    }
    for bad in ["", "a b", "a\r\nx: y", "\u{e9}"] {
        assert!(Redis::new(Protocol::Upstash, "", Some(bad)).is_err(), "{bad:?}");
    }
}

#[tokio::test]
async fn a_foreign_value_under_a_key_is_left_alone() {
    for protocol in PROTOCOLS {
        let stage = Stage::start(protocol, &[]).await;
        let mut connection = stage.server.connect();
        for (place, algorithm) in ALGORITHMS.into_iter().enumerate() {
            let ask = ask(place as u64, terms(algorithm, 100, 86_400_000), 1);
            let () = redis::cmd("SET").arg(key(&ask)).arg("mine").query(&mut connection).unwrap();
            assert_eq!(stage.ask_one(&ask).await, Err(RedisError::WrongType), "{protocol:?} {algorithm:?}");
            let kept: String = redis::cmd("GET").arg(key(&ask)).query(&mut connection).unwrap();
            assert_eq!(kept, "mine");
        }
    }
}
