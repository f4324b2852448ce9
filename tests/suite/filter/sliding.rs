//! The sliding window in real time, across window boundaries.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde_json::json;

use super::client::{Answer, Connection, Request};
use super::stage::{Stage, policy};

/// An admitted request: when it was sent and when its response arrived, in milliseconds since the Unix epoch. Envoy
/// decided in between.
#[derive(Clone, Copy, Debug)]
struct Admitted {
    sent_ms: u64,
    answered_ms: u64,
}

impl Admitted {
    /// The window in which it was decided, if that is certain.
    fn window(&self) -> Option<u64> {
        let window = self.sent_ms / WINDOW_MS;
        (window == self.answered_ms / WINDOW_MS).then_some(window)
    }
}

/// A lower bound of what the algorithm had counted when it admitted `this`: the requests of its window that were
/// answered before it was sent, and the share of the previous window that still counted when its own response arrived.
fn least_used(all: &[Admitted], this: &Admitted) -> Option<f64> {
    let window = this.window()?;
    let earlier = |other: &&Admitted| other.window() == Some(window) && other.answered_ms < this.sent_ms;
    let current = all.iter().filter(earlier).count() + 1;
    let previous = all.iter().filter(|other| other.window() == Some(window - 1)).count();
    let left_ms = WINDOW_MS - this.answered_ms % WINDOW_MS - 1;
    Some(current as f64 + previous as f64 * left_ms as f64 / WINDOW_MS as f64)
}

fn now_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis() as u64
}

/// Sends requests on several connections during this many windows, at a little more than the quota's rate.
async fn drive(stage: &Stage, path: &'static str, windows: u32) -> Vec<Admitted> {
    let end = Instant::now() + Duration::from_millis(WINDOW_MS) * windows;
    let to = stage.http;
    let clients = (0..8).map(|_| {
        tokio::spawn(async move {
            let mut connection = Connection::open(to).await.unwrap();
            let mut pace = tokio::time::interval(Duration::from_millis(10));
            let mut admitted = Vec::new();
            while Instant::now() < end {
                let sent_ms = now_ms();
                let answer = connection.send(&Request::get(path).from("192.0.2.1")).await.unwrap();
                assert!(matches!(answer.status, 200 | 429), "{answer:?}");
                if answer.status == 200 {
                    admitted.push(Admitted { sent_ms, answered_ms: now_ms() });
                }
                pace.tick().await;
            }
            admitted
        })
    });
    let mut admitted = Vec::new();
    for client in clients.collect::<Vec<_>>() {
        admitted.extend(client.await.unwrap());
    }
    admitted
}

#[tokio::test]
async fn sliding_window_never_admits_more_than_its_rule_where_a_fixed_window_would() {
    let quota = json!({ "permits": PERMITS, "window": format!("{WINDOW_MS}ms") });
    let limit = |name: &str, algorithm: &str| {
        json!({
            "name": name, "match": { "path": format!("/{name}") }, "key": ["address"],
            "algorithm": algorithm, "quota": quota,
        })
    };
    let stage = Stage::start(&policy([limit("sliding", "sliding-window"), limit("fixed", "fixed-window")])).await;
    let (sliding, fixed) = tokio::join!(drive(&stage, "/sliding", 5), drive(&stage, "/fixed", 5));

    let most = |admitted: &[Admitted]| {
        let used = admitted.iter().filter_map(|this| least_used(admitted, this));
        used.fold(0.0, f64::max)
    };
    assert!(most(&sliding) <= f64::from(PERMITS), "{}", most(&sliding));
    assert!(sliding.len() >= 2 * PERMITS as usize, "nor does it starve its client: {}", sliding.len());
    // This check is able to fail: it does find the double quota of a fixed window around a boundary.
    assert!(most(&fixed) > f64::from(PERMITS), "{}", most(&fixed));
    stage.end().await;
}

/// Sends requests until one is refused.
async fn use_up(connection: &mut Connection, request: &Request) -> Answer {
    for _ in 0..1_000 {
        let answer = connection.send(request).await.unwrap();
        if answer.status == 429 {
            return answer;
        }
    }
    panic!("never refused: {request:?}");
}

#[tokio::test]
async fn waiting_as_retry_after_says_suffices_for_every_algorithm() {
    let names = ["sliding-window", "token-bucket", "fixed-window"];
    let limits = names.map(|name| {
        json!({
            "name": name, "match": { "path": format!("/{name}") }, "key": ["address"], "algorithm": name,
            "quota": { "permits": 1, "window": "1500ms" },
        })
    });
    let stage = Stage::start(&policy(limits)).await;
    let clients = names.map(|name| {
        let (to, request) = (stage.http, Request::get(format!("/{name}")).from("192.0.2.1"));
        tokio::spawn(async move {
            let mut connection = Connection::open(to).await.unwrap();
            for _ in 0..2 {
                let refused = use_up(&mut connection, &request).await;
                let wait: u64 = refused.header("retry-after").parse().unwrap();
                assert_eq!(refused.json()["retryAfter"], wait);
                assert!((1..=3).contains(&wait), "{name}: {wait} s for a window of 1.5 s");
                tokio::time::sleep(Duration::from_secs(wait)).await;
                assert_eq!(connection.send(&request).await.unwrap().status, 200, "{name}");
            }
        })
    });
    for client in clients {
        client.await.unwrap();
    }
    stage.end().await;
}

const WINDOW_MS: u64 = 1_000;
const PERMITS: u32 = 60;
