//! The alerts and the recording rules in `envoy/README.md` select metrics that a real Envoy exports.

use serde_json::json;

use super::client::Request;
use super::failing::refusing;
use super::stage::{Stage, eventually, limit, policy};

const README: &str = include_str!("../../../envoy/README.md");

/// What an expression selects: a metric, and the accepted values of each label.
#[derive(Debug)]
struct Selector {
    metric: &'static str,
    labels: Vec<(&'static str, Vec<&'static str>)>,
}

/// The selectors of an expression. Of regular expressions, only the alternatives that the README uses are read.
fn selectors(expression: &'static str) -> Vec<Selector> {
    let is_word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    // Names of recording rules have a colon after `tidegate`, and are no metrics.
    let own = ["tidegate_", "envoy_http_downstream"].map(|prefix| expression.match_indices(prefix));
    let starts = own.into_iter().flatten().map(|(at, _)| at);
    let selector = |at: usize| {
        let from = expression[..at].rfind(|c| !is_word(c)).map_or(0, |before| before + 1);
        let metric = expression[from..].split(|c| !is_word(c)).next().unwrap_or_default();
        let rest = &expression[from + metric.len()..];
        let labels = rest.strip_prefix('{').and_then(|rest| rest.split('}').next()).unwrap_or_default();
        let labels = labels.split(',').filter(|label| !label.is_empty()).map(|label| {
            let (name, value) = label.split_once('=').unwrap();
            (name, value.trim_matches(['~', '"']).split('|').collect())
        });
        Selector { metric, labels: labels.collect() }
    };
    starts.map(selector).collect()
}

/// Whether some series of the Prometheus text has each value of each label of the selector.
fn is_exported(text: &str, selector: &Selector) -> bool {
    let mut series = text.lines().filter(|line| line.split('{').next() == Some(selector.metric));
    let has = |label: &str| series.clone().any(|line| line.contains(label));
    let of_labels = |(name, values): &(&str, Vec<&str>)| values.iter().all(|value| has(&format!("{name}=\"{value}\"")));
    selector.labels.iter().all(of_labels) && series.next().is_some()
}

#[tokio::test]
async fn the_expressions_of_the_readme_select_metrics_that_envoy_exports() {
    let (alerts, rules) = README.split_once("Useful alerts in Prometheus:").unwrap().1.split_once("```yaml").unwrap();
    let alerts = alerts.split("\n- `").skip(1).map(|item| item.split('`').next().unwrap());
    let selectors: Vec<Selector> = alerts.chain(rules.split("```").next()).flat_map(selectors).collect();
    assert!(selectors.len() >= 8, "{selectors:?}");

    let mut policy = policy([limit("api", "/api", &["address"], 1)]);
    policy["limits"][0]["ban"] = json!({ "after": 2, "within": "1h", "for": "1h" });
    policy["breakers"] = json!({ "of-all": { "window": { "count": 10 }, "consecutive_failures": 2 } });
    policy["upstreams"] = json!({ "gone": { "cluster": "gone", "breaker": "of-all" } });
    policy["routes"] = json!([{ "name": "gone", "match": { "path": "/gone" }, "upstreams": ["gone"] }]);
    let gone = refusing();
    let stage = Stage::with(&policy, |bootstrap| bootstrap.with_cluster("gone", gone).unwrap()).await;
    for path in ["/api", "/gone"].repeat(6) {
        stage.ask(&Request::get(path).from("192.0.2.1")).await;
    }
    for selector in &selectors {
        eventually(&format!("{selector:?} is exported"), || async {
            is_exported(&stage.envoy.admin_get("/stats/prometheus").await.unwrap(), selector)
        })
        .await;
    }
    stage.end().await;
}
