//! Requests that wait for the service.

use std::time::{Duration, Instant};

use serde_json::json;

use super::service::{Does, Service};
use super::stage::{counted, service_at, stage, with_service};
use crate::filter::client::{Connection, Request};
use crate::filter::stage::{Stage, eventually, limit};

#[tokio::test]
async fn many_wait_at_one_time_and_each_gets_its_own_answer() {
    let service = Service::start(Does::Holds).await;
    let stage = stage(&with_service([counted("api", "/**")]), service.addr).await;
    let requests: Vec<_> = (0..300)
        .map(|number| {
            let http = stage.http;
            tokio::spawn(async move {
                let request = Request::post("/", vec![b'x'; 1_000]).with("x-user", number.to_string());
                Connection::open(http).await.unwrap().send(&request).await.unwrap().status
            })
        })
        .collect();
    eventually("all wait", async || service.under_way() == 300).await;
    service.release();
    for request in requests {
        assert_eq!(request.await.unwrap(), 200);
    }
    stage.end().await;
}

#[tokio::test]
async fn client_that_leaves_takes_its_call_with_it() {
    let service = Service::start(Does::Holds).await;
    let stage = stage(&with_service([counted("api", "/**")]), service.addr).await;
    for _ in 0..10 {
        let mut connection = Connection::open(stage.http).await.unwrap();
        connection.write(&Request::get("/").with("x-user", "ann").bytes()).await.unwrap();
        eventually("it waits", async || service.under_way() == 1).await;
        let left = Instant::now();
        drop(connection);
        eventually("the call is cancelled", async || service.under_way() == 0).await;
        // Before its deadline.
        assert!(left.elapsed() < Duration::from_secs(9), "{:?}", left.elapsed());
    }
    // A cancelled call is not a failure of the service.
    service.set(Does::Counts(1));
    assert_eq!(stage.ask(&Request::get("/").with("x-user", "ann")).await.status, 200);
    stage.end().await;
}

#[tokio::test]
async fn request_that_waits_during_a_policy_change_is_decided_by_its_own_policy() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("filter.json");
    let service = Service::start(Does::Holds).await;
    let policy = with_service([counted("api", "/api")]);
    let stage =
        Stage::of_workers(1, &policy, |bootstrap| service_at(bootstrap, service.addr).filter_from(&file).unwrap())
            .await;
    let mut waits = Connection::open(stage.http).await.unwrap();
    waits.write(&Request::get("/api").with("x-user", "ann").bytes()).await.unwrap();
    eventually("it waits", async || service.under_way() == 1).await;
    let mut next = with_service([limit("load", "/**", &["address"], 7)]);
    next["stores"] = json!({});
    crate::filter::stage::shipped(&next).publish_filter(&file).unwrap();
    eventually("the new policy", async || {
        stage.ask(&Request::get("/load")).await.header("ratelimit-policy").starts_with("\"load\";q=7;")
    })
    .await;
    service.release();
    assert_eq!(waits.answer("GET").await.unwrap().status, 200);
    stage.assert_no_vm_failed().await;
}
