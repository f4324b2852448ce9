//! Envoys and Workers that share a Redis.

use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::json;
use tidegate::policy::Protocol;

use super::stage::{Setup, Sharing, shared};
use crate::filter::client::{Connection, Request};
use crate::filter::stage::policy;
use crate::locations::Locations;
use crate::redis::stage::token;

#[tokio::test]
async fn envoys_and_workers_have_one_quota_together() {
    for (protocol, word) in [(Protocol::Upstash, "upstash"), (Protocol::Webdis, "webdis")] {
        let stage = Sharing::start(&Setup { protocol, ..Setup::of([shared(120)]) }).await;
        let url = |addr| json!(format!("http://{addr}"));
        let mut policy = policy([shared(120)]);
        policy["stores"] = json!({
            "deadline": "5s",
            "redis": { "protocol": word, "url": url(stage.proxy.addr), "token": token(protocol) },
        });
        policy["upstreams"] = json!({ "origin": { "url": url(stage.envoys[0].origin.addr) } });
        policy["routes"] = json!([{ "name": "all", "upstreams": ["origin"] }]);
        let workers = Locations::start(Path::new("dist/cloudflare"), &policy.to_string()).unwrap();
        let places = [stage.envoys[0].http, stage.envoys[1].http, workers.addrs[0], workers.addrs[1]];
        let mut admitted = [0; 4];
        let ask = async |admitted: &mut [usize; 4]| {
            for (place, admitted) in places.iter().zip(admitted) {
                let mut connection = Connection::open(*place).await.unwrap();
                for _ in 0..5 {
                    let answer = connection.send(&Request::get("/")).await.unwrap();
                    assert!(matches!(answer.status, 200 | 429), "{answer:?}");
                    *admitted += usize::from(answer.status == 200);
                }
            }
        };
        let deadline = Instant::now() + Duration::from_secs(30);
        // What one has drawn and does not use goes back, so that nothing is left in the end.
        while admitted.iter().sum::<usize>() < 120 {
            assert!(Instant::now() < deadline, "{admitted:?} were admitted, and no more");
            ask(&mut admitted).await;
        }
        ask(&mut admitted).await;
        assert_eq!(admitted.iter().sum::<usize>(), 120, "{admitted:?}");
        assert!(admitted.iter().all(|admitted| *admitted > 0), "{admitted:?}");
        stage.end().await;
    }
}
