//! The filter's metrics in Envoy's statistics.

use serde_json::json;

use super::client::{Connection, Request};
use super::stage::{Stage, eventually, limit, policy};

/// The value of the metric with exactly these labels, in the Prometheus text format.
pub fn sample(text: &str, name: &str, labels: &[(&str, &str)]) -> Option<u64> {
    text.lines().find_map(|line| {
        let (series, value) = line.rsplit_once(' ')?;
        let (found, rest) = series.split_once('{')?;
        let mut found_labels: Vec<&str> =
            rest.strip_suffix('}')?.split(',').filter(|label| !label.is_empty()).collect();
        found_labels.sort_unstable();
        let mut wanted: Vec<String> = labels.iter().map(|(label, value)| format!("{label}=\"{value}\"")).collect();
        wanted.sort_unstable();
        (found == name && found_labels == wanted).then(|| value.parse().ok())?
    })
}

/// Waits until the metric has this value: the filter exports its counts once per second.
pub async fn assert_shows(stage: &Stage, name: &str, labels: &[(&str, &str)], value: u64) {
    eventually(&format!("{name}{labels:?} is {value}"), || async {
        let text = stage.envoy.admin_get("/stats/prometheus").await.unwrap();
        sample(&text, name, labels) == Some(value)
    })
    .await;
}

#[tokio::test]
async fn every_decision_is_counted_by_limit_and_tier_over_all_workers() {
    let mut policy = policy([limit("api", "/api/**", &["address"], 5), limit("watched-2", "/api/**", &["address"], 3)]);
    policy["limits"][1]["on_exceed"] = json!("observe");
    policy["tiers"] = json!(["free", "premium-2"]);
    policy["client"]["tier"] = json!({ "header": "x-plan" });
    let stage = Stage::start(&policy).await;
    for _ in 0..8 {
        // Each on a new connection, so that both workers get some.
        stage.ask(&Request::get("/api/x").from("192.0.2.1")).await;
    }
    assert_eq!(stage.admitted(&Request::get("/api/x").from("192.0.2.2").with("x-plan", "premium-2"), 4).await, 4);
    let name = "tidegate_requests_total";
    for (limit, decision, tier, count) in [
        ("api", "admitted", "free", 5),
        ("api", "refused", "free", 3),
        ("api", "admitted", "premium-2", 4),
        ("watched-2", "admitted", "free", 3),
        // Two were admitted, and three refused by the other limit.
        ("watched-2", "observed", "free", 5),
        ("watched-2", "admitted", "premium-2", 3),
        ("watched-2", "observed", "premium-2", 1),
    ] {
        assert_shows(&stage, name, &[("limit", limit), ("decision", decision), ("tier", tier)], count).await;
    }
    assert_shows(&stage, "tidegate_store_failures_total", &[], 0).await;
    assert_shows(&stage, "tidegate_refunds_lost_total", &[], 0).await;
    assert_shows(&stage, "tidegate_table_max_keys", &[], 100_000).await;
    stage.end().await;
}

#[tokio::test]
async fn conflicts_between_workers_are_counted() {
    let mut one = limit("one", "/**", &[], 1);
    // More than are requested: a refused request is not charged and cannot conflict.
    one["quota"]["permits"] = json!(10_000_000);
    let stage = Stage::start(&policy([one])).await;
    // Two workers conflict at random: this takes as long as it takes, up to the bound of `eventually`.
    eventually("two workers have met at one page", || async {
        let clients = (0..16).map(|_| {
            let to = stage.http;
            tokio::spawn(async move {
                let mut connection = Connection::open(to).await.unwrap();
                for _ in 0..50 {
                    connection.send(&Request::get("/")).await.unwrap();
                }
            })
        });
        for client in clients.collect::<Vec<_>>() {
            client.await.unwrap();
        }
        let text = stage.envoy.admin_get("/stats/prometheus").await.unwrap();
        sample(&text, "tidegate_conflicts_total", &[]).is_some_and(|conflicts| conflicts > 0)
    })
    .await;
    stage.end().await;
}

#[tokio::test]
async fn table_shows_how_full_it_is_and_what_it_had_to_forget() {
    let mut policy = policy([limit("api", "/**", &["address"], 5)]);
    policy["state"] = json!({ "max_keys": 1_000 });
    let stage = Stage::start(&policy).await;
    assert_shows(&stage, "tidegate_table_live_keys", &[], 0).await;
    let mut connection = Connection::open(stage.http).await.unwrap();
    // 1,000 keys are 9 pages of 128 slots: 1,152 in total, which 4,000 clients fill completely.
    for client in 0..4_000_u32 {
        let address = format!("10.0.{}.{}", client >> 8, client & 255);
        assert_eq!(connection.send(&Request::get("/").from(address)).await.unwrap().status, 200);
    }
    assert_shows(&stage, "tidegate_table_live_keys", &[], 1_152).await;
    assert_shows(&stage, "tidegate_evictions_total", &[("kind", "live")], 4_000 - 1_152).await;
    // Each forgave one permit of five: 51 255ths.
    assert_shows(&stage, "tidegate_forgiven_debt_255ths_total", &[], (4_000 - 1_152) * 51).await;
    assert_shows(&stage, "tidegate_evictions_total", &[("kind", "fresh")], 0).await;
    stage.end().await;
}
