//! Concurrency limits: a request takes its permits when it is admitted and returns them when its stream ends, in
//! whatever way.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use super::client::{Connection, Request};
use super::http2;
use super::metrics::assert_shows;
use super::stage::{Stage, eventually, policy};
use crate::bootstrap::Bootstrap;
use crate::origin::Settings;

/// An upstream that holds its responses back until it is released, and ends them as the path says.
pub struct Gate {
    pub address: SocketAddr,
    open: watch::Sender<bool>,
}

impl Gate {
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (open, opened) = watch::channel(false);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(answer(stream, opened.clone()));
            }
        });
        Self { address, open }
    }

    /// Releases everything that is held back; nothing more is held back from here on.
    pub fn let_go(&self) {
        self.open.send_replace(true);
    }

    pub fn hold(&self) {
        self.open.send_replace(false);
    }
}

async fn answer(stream: TcpStream, mut opened: watch::Receiver<bool>) {
    let mut stream = BufReader::new(stream);
    loop {
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            if !stream.read_line(&mut head).await.is_ok_and(|read| read > 0) {
                return;
            }
        }
        let begins = head.starts_with("GET /stream").then_some("HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nfirst");
        if let Some(begin) = begins {
            let _ = stream.write_all(begin.as_bytes()).await;
        }
        if !head.starts_with("GET /quick") && opened.wait_for(|open| *open).await.is_err() {
            return;
        }
        if head.starts_with("GET /reset") {
            return;
        }
        let rest = if begins.is_some() { "other" } else { "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok" };
        if stream.write_all(rest.as_bytes()).await.is_err() {
            return;
        }
    }
}

/// A limit of this many requests in flight for all clients; the lease is too long to free a permit while a test runs.
pub fn in_flight(path: &str, permits: u32) -> Value {
    json!({
        "name": "slots", "match": { "path": path }, "key": [], "algorithm": "concurrency",
        "quota": { "permits": permits }, "lease": "1h",
    })
}

/// A connection on which the request has been sent.
pub async fn sent(to: SocketAddr, path: &str) -> Connection {
    let mut connection = Connection::open(to).await.unwrap();
    connection.write(&Request::get(path).bytes()).await.unwrap();
    connection
}

async fn held(stage: &Stage, permits: u64) {
    assert_shows(stage, "tidegate_concurrency_in_flight", &[("limit", "slots")], permits).await;
}

async fn on_stage(limits: impl IntoIterator<Item = Value>) -> (Stage, Gate) {
    let gate = Gate::start().await;
    let stage = Stage::with(&policy(limits), |bootstrap| patient(bootstrap.upstream(gate.address).unwrap())).await;
    (stage, gate)
}

/// Without Envoy's own timeout of 15 s for a response.
pub fn patient(bootstrap: Bootstrap) -> Bootstrap {
    let route =
        "/static_resources/listeners/0/filter_chains/0/filters/0/typed_config/route_config/virtual_hosts/0/routes/1";
    bootstrap.insert(&format!("{route}/route"), "timeout", json!("0s")).unwrap()
}

#[tokio::test]
async fn no_more_are_in_flight_than_permits_over_both_workers() {
    let (stage, gate) = on_stage([in_flight("/slow", 20)]).await;
    let mut clients = Vec::new();
    // Each on a new connection, so that both workers get some.
    for _ in 0..20 {
        clients.push(sent(stage.http, "/slow").await);
    }
    held(&stage, 20).await;
    for _ in 0..10 {
        let refused = stage.ask(&Request::get("/slow")).await;
        assert_eq!((refused.status, refused.header("retry-after").as_str()), (429, "1"));
        assert_eq!(refused.json(), json!({ "error": "too many requests at once", "retryAfter": 1 }));
        assert_eq!(refused.header("ratelimit-policy"), r#""slots";q=20;qu="concurrent-requests""#);
        assert!(refused.header("ratelimit").starts_with(r#""slots";r=0;pk=:"#), "{refused:?}");
    }
    gate.let_go();
    for client in &mut clients {
        assert_eq!(client.answer("GET").await.unwrap().status, 200);
    }
    held(&stage, 0).await;
    assert_eq!(stage.admitted(&Request::get("/slow"), 100).await, 100, "one after the other");
    assert_shows(&stage, "tidegate_releases_lost_total", &[], 0).await;
    stage.end().await;
}

#[tokio::test]
async fn a_client_that_does_not_read_holds_no_permit_once_all_of_its_answer_has_come() {
    let policy = policy([in_flight("/**", 2)]);
    let stage = Stage::with(&policy, |bootstrap| bootstrap.downstream_protocol_upstream().unwrap()).await;
    let grpc = Request::post("/service/Method", vec![0; 5]).with("content-type", "application/grpc");
    for request in [Request::get("/"), grpc.with("te", "trailers")] {
        let mut deaf = http2::Connection::open_deaf(stage.http).await;
        let unread = [deaf.respond(&request).await, deaf.respond(&request).await];
        held(&stage, 0).await;
        assert_eq!(stage.admitted(&Request::get("/"), 5).await, 5);
        drop(unread);
    }
    stage.end().await;
}

#[tokio::test]
async fn a_permit_comes_back_however_the_stream_ends() {
    let (stage, gate) = on_stage([in_flight("/**", 1)]).await;
    for (path, goes_away, status) in [
        ("/slow", false, 200),
        ("/stream", false, 200),
        // The upstream closes the connection without a response.
        ("/reset", false, 503),
        // The client closes its connection before the response, and during it.
        ("/slow", true, 0),
        ("/stream", true, 0),
    ] {
        gate.hold();
        // The previous request may still be ending.
        let mut client = loop {
            let client = sent(stage.http, path).await;
            if stage.ask(&Request::get("/quick")).await.status == 429 {
                break client;
            }
        };
        if goes_away {
            drop(client);
        } else {
            gate.let_go();
            assert_eq!(client.answer("GET").await.unwrap().status, status, "{path}");
        }
        let since = Instant::now();
        eventually("the permit is back", || async { stage.ask(&Request::get("/quick")).await.status == 200 }).await;
        assert!(since.elapsed() < Duration::from_secs(5), "{path}: {:?}", since.elapsed());
        gate.let_go();
    }
    stage.end().await;
}

#[tokio::test]
async fn a_permit_is_held_while_the_answer_streams_and_longer_than_its_lease() {
    let mut slots = in_flight("/**", 1);
    slots["lease"] = json!("10s");
    let (stage, gate) = on_stage([slots]).await;
    let mut client = sent(stage.http, "/stream").await;
    held(&stage, 1).await;
    // Without renewal, it would be free after ten seconds at the latest.
    let since = Instant::now();
    while since.elapsed() < Duration::from_secs(21) {
        assert_eq!(stage.ask(&Request::get("/quick")).await.status, 429, "after {:?}", since.elapsed());
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    gate.let_go();
    assert_eq!(client.answer("GET").await.unwrap().text(), "firstother");
    eventually("the permit is back", || async { stage.ask(&Request::get("/quick")).await.status == 200 }).await;
    held(&stage, 0).await;
    stage.end().await;
}

#[tokio::test]
async fn upstream_never_works_on_more_than_there_are_permits() {
    let stage = Stage::start(&policy([in_flight("/**", 5)])).await;
    stage.origin.set(Settings { latency: Duration::from_millis(3), ..stage.origin.settings() });
    let clients = (0..32).map(|_| {
        let to = stage.http;
        tokio::spawn(async move {
            let mut connection = Connection::open(to).await.unwrap();
            let mut admitted = 0_u64;
            for _ in 0..60 {
                admitted += u64::from(connection.send(&Request::get("/")).await.unwrap().status == 200);
            }
            admitted
        })
    });
    let mut admitted = 0;
    for client in clients.collect::<Vec<_>>() {
        admitted += client.await.unwrap();
    }
    let stats = stage.origin.stats();
    assert_eq!((stats.peak_in_flight, stats.served), (5, admitted), "{stats:?}");
    held(&stage, 0).await;
    assert_shows(&stage, "tidegate_releases_lost_total", &[], 0).await;
    stage.end().await;
}

#[tokio::test]
async fn one_permit_suffices_for_requests_one_after_the_other() {
    let (stage, _gate) = on_stage([in_flight("/**", 1)]).await;
    assert_eq!(stage.admitted(&Request::get("/quick"), 200).await, 200);
    stage.end().await;
}

#[tokio::test]
async fn what_another_limit_refuses_holds_nothing() {
    let mut never = super::stage::limit("once", "/**", &[], 1);
    never["cost"] = json!(1);
    let (stage, gate) = on_stage([in_flight("/**", 5), never]).await;
    gate.let_go();
    assert_eq!(stage.admitted(&Request::get("/slow"), 20).await, 1);
    held(&stage, 0).await;
    stage.end().await;
}
