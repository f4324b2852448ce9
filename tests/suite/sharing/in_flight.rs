//! Requests in flight of several Envoys: the origin never has more than there are permits, whichever Envoy sends them
//! and whatever fails.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tidegate::policy::Protocol;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};

use super::proxy::Does;
use super::stage::{Setup, Sharing};
use crate::filter::client::{Connection, Request};
use crate::filter::concurrency::{Gate, sent};
use crate::filter::stage::eventually;

/// An origin that responds slowly and counts its concurrent requests.
struct Slow {
    address: SocketAddr,
    now: Arc<AtomicUsize>,
    most: Arc<AtomicUsize>,
}

impl Slow {
    async fn start(takes: Duration) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (now, most) = <(Arc<AtomicUsize>, Arc<AtomicUsize>)>::default();
        let counts = (Arc::clone(&now), Arc::clone(&most));
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (now, most) = (Arc::clone(&counts.0), Arc::clone(&counts.1));
                tokio::spawn(async move { serve(stream, takes, &now, &most).await });
            }
        });
        Self { address, now, most }
    }

    /// The maximum number of concurrent requests since the last call.
    fn take_most(&self) -> usize {
        self.most.swap(self.now.load(Ordering::SeqCst), Ordering::SeqCst)
    }
}

async fn serve(stream: TcpStream, takes: Duration, now: &AtomicUsize, most: &AtomicUsize) -> Option<()> {
    let mut stream = BufReader::new(stream);
    loop {
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            stream.read_line(&mut head).await.ok().filter(|read| *read > 0)?;
        }
        most.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
        tokio::time::sleep(takes).await;
        // Before the response, because its client may send the next request at once.
        now.fetch_sub(1, Ordering::SeqCst);
        stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await.ok()?;
    }
}

const PERMITS: usize = 6;

fn in_flight(sharing: &str) -> Value {
    json!({
        "name": "slots", "match": { "path": "/**" }, "key": [], "algorithm": "concurrency", "scope": "global",
        "quota": { "permits": PERMITS }, "lease": "10s", "sharing": sharing, "on_store_failure": "deny",
    })
}

/// How many of a client's requests were admitted, and the longest time without an admission.
#[derive(Clone, Copy, Debug, Default)]
struct Seen {
    admitted: usize,
    refused: usize,
    longest_gap: Duration,
}

/// A client that sends requests in sequence for this long, with a short pause after each refusal.
async fn client(to: SocketAddr, lasts: Duration) -> Seen {
    let (began, mut last) = (Instant::now(), Instant::now());
    let mut connection = Connection::open(to).await.unwrap();
    let mut seen = Seen::default();
    while began.elapsed() < lasts {
        let status = connection.send(&Request::get("/")).await.unwrap().status;
        if status == 200 {
            seen.admitted += 1;
            seen.longest_gap = seen.longest_gap.max(last.elapsed());
            last = Instant::now();
        } else {
            assert!(matches!(status, 429 | 503), "{status}");
            seen.refused += 1;
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
    seen.longest_gap = seen.longest_gap.max(last.elapsed());
    seen
}

/// Runs this many clients for each Envoy; returns the sums for each Envoy's clients.
async fn crowd(stage: &Sharing, clients: &[usize], lasts: Duration) -> Vec<Seen> {
    let mut crowds = Vec::new();
    for (envoy, clients) in stage.envoys.iter().zip(clients) {
        let clients = (0..*clients).map(|_| tokio::spawn(client(envoy.http, lasts)));
        crowds.push(clients.collect::<Vec<_>>());
    }
    let mut all = Vec::new();
    for clients in crowds {
        let mut sum = Seen { longest_gap: Duration::MAX, ..Seen::default() };
        for client in clients {
            let seen = client.await.unwrap();
            sum.admitted += seen.admitted;
            sum.refused += seen.refused;
            // An Envoy is served if any of its clients is.
            sum.longest_gap = sum.longest_gap.min(seen.longest_gap);
        }
        all.push(sum);
    }
    all
}

#[tokio::test]
async fn envoys_that_share_a_store_have_no_more_in_flight_than_permits_and_none_of_them_starves() {
    for (protocol, sharing) in [(Protocol::Webdis, "lease"), (Protocol::Webdis, "exact"), (Protocol::Upstash, "lease")]
    {
        let origin = Slow::start(Duration::from_millis(100)).await;
        let setup = Setup { protocol, envoys: 3, workers: 2, ..Setup::of([in_flight(sharing)]) };
        let stage = Sharing::before(&setup, origin.address).await;
        let seen = crowd(&stage, &[20, 4, 1], Duration::from_secs(6)).await;
        let most = origin.take_most();
        let admitted: usize = seen.iter().map(|seen| seen.admitted).sum();
        println!("{protocol:?} {sharing}: {seen:?}, {most} at once, {} calls", stage.proxy.requests());
        assert_eq!(most, PERMITS, "{protocol:?} {sharing}: {seen:?}");
        // At most six at a time could be served; half of that is enough on a busy machine.
        assert!(admitted > 60 * PERMITS / 2, "{protocol:?} {sharing}: {seen:?}");
        for seen in &seen {
            assert!(seen.longest_gap < Duration::from_secs(4), "{protocol:?} {sharing}: {seen:?}");
        }
        eventually("all is given back", async || stage.metric("tidegate_concurrency_in_flight.limit=slots").await == 0)
            .await;
        stage.end().await;
    }
}

#[tokio::test]
async fn an_envoy_that_is_killed_takes_its_permits_with_it_until_their_lease_is_over() {
    let gate = Gate::start().await;
    let setup = Setup::of([in_flight("lease")]);
    let mut stage = Sharing::before(&setup, gate.address).await;
    let mut held = Vec::new();
    for _ in 0..PERMITS - 1 {
        held.push(sent(stage.envoys[0].http, "/slow").await);
    }
    eventually("they are in flight", async || {
        stage.metric("tidegate_concurrency_in_flight.limit=slots").await == PERMITS as u64 - 1
    })
    .await;
    let killed = Instant::now();
    // Killed, without a chance to return its permits.
    drop(stage.envoys.remove(0));
    drop(held);
    let to = stage.envoys[0].http;
    let mut mine = Vec::new();
    let mut refused = 0;
    while mine.len() < PERMITS {
        let mut next = sent(to, "/slow").await;
        let answer = tokio::time::timeout(Duration::from_millis(300), next.answer("GET")).await;
        match answer {
            // The request is held back at the origin.
            Err(_) => mine.push(next),
            Ok(answer) => {
                assert_eq!(answer.unwrap().status, 429);
                refused += 1;
            }
        }
        let (elapsed, count) = (killed.elapsed(), mine.len());
        // Up to a quarter of the lease had passed by then.
        assert!(elapsed > Duration::from_secs(5) || count <= 1, "{count} after {elapsed:?}");
        assert!(elapsed < Duration::from_secs(20), "{count} after {elapsed:?}, {refused} refused");
    }
    println!("all there again after {:?}, {refused} refused", killed.elapsed());
    gate.let_go();
    for client in &mut mine {
        assert_eq!(client.answer("GET").await.unwrap().status, 200);
    }
    stage.end().await;
}

#[tokio::test]
async fn a_request_that_outlasts_the_lease_keeps_its_permit() {
    let gate = Gate::start().await;
    let stage = Sharing::before(&Setup::of([in_flight("lease")]), gate.address).await;
    let mut held = Vec::new();
    for envoy in [0, 1, 0, 1, 0, 1] {
        held.push(sent(stage.envoys[envoy].http, "/slow").await);
    }
    eventually("they are in flight", async || {
        stage.metric("tidegate_concurrency_in_flight.limit=slots").await == PERMITS as u64
    })
    .await;
    let began = Instant::now();
    while began.elapsed() < Duration::from_secs(13) {
        for envoy in &stage.envoys {
            assert_eq!(envoy.ask(&Request::get("/quick")).await.status, 429, "after {:?}", began.elapsed());
        }
        tokio::time::sleep(Duration::from_millis(250)).await;
    }
    gate.let_go();
    for client in &mut held {
        assert_eq!(client.answer("GET").await.unwrap().status, 200);
    }
    eventually("there is room again", async || stage.envoys[1].ask(&Request::get("/quick")).await.status == 200).await;
    stage.end().await;
}

#[tokio::test]
async fn while_the_store_fails_the_policy_bounds_requests_in_flight() {
    for (word, passes) in [("local", 3), ("allow", 9), ("deny", 0)] {
        let gate = Gate::start().await;
        let mut limit = in_flight("lease");
        limit["on_store_failure"] = json!(word);
        let stores = json!({ "deadline": "300ms", "local_share_percent": 50 });
        let setup = Setup { stores, envoys: 1, ..Setup::of([limit]) };
        let stage = Sharing::before(&setup, gate.address).await;
        // The store fails from the beginning, so no Envoy knows its share.
        stage.proxy.set(Does::Answers500);
        let mut held = Vec::new();
        for _ in 0..9 {
            let mut next = sent(stage.envoys[0].http, "/slow").await;
            match tokio::time::timeout(Duration::from_millis(700), next.answer("GET")).await {
                Err(_) => held.push(next),
                Ok(answer) => assert!(matches!(answer.unwrap().status, 429 | 503)),
            }
        }
        assert_eq!(held.len(), passes, "{word}");
        stage.proxy.set(Does::PassesOn);
        gate.let_go();
        for client in &mut held {
            assert_eq!(client.answer("GET").await.unwrap().status, 200);
        }
        eventually("it is asked again", async || stage.envoys[0].ask(&Request::get("/quick")).await.status == 200)
            .await;
        stage.end().await;
    }
}
