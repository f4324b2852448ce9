//! Other Envoy filters before and behind this one.

use serde_json::{Value, json};

use super::client::Request;
use super::failing::{Does, Upstream, answer, good};
use super::metrics::assert_shows;
use super::stage::{Stage, policy};
use crate::bootstrap::Bootstrap;

/// Adds a filter at this place of the filter chain.
fn with_filter(bootstrap: Bootstrap, place: usize, filter: Value) -> Bootstrap {
    let listener = bootstrap.listener().unwrap();
    let mut filters = listener.pointer(FILTERS).and_then(Value::as_array).unwrap().clone();
    filters.insert(place, filter);
    bootstrap.set(&format!("/static_resources/listeners/0{FILTERS}"), json!(filters)).unwrap()
}

/// Envoy's `ext_authz`: it asks a service over HTTP whether a request is allowed, and answers 503 if that fails.
fn asks_whether_it_may() -> Value {
    json!({ "name": "envoy.filters.http.ext_authz", "typed_config": {
        "@type": "type.googleapis.com/envoy.extensions.filters.http.ext_authz.v3.ExtAuthz",
        "http_service": { "server_uri": { "uri": "http://may", "cluster": "may", "timeout": "5s" } },
        "status_on_error": { "code": "ServiceUnavailable" },
    } })
}

#[tokio::test]
async fn refusal_of_a_filter_behind_is_the_clients_and_leads_to_no_other_upstream() {
    let may = Upstream::start(good("")).await;
    let (first, second) = (Upstream::start(good("first")).await, Upstream::start(good("second")).await);
    let mut policy = policy([]);
    let failures = json!(["connect", "reset", "5xx", "403"]);
    policy["breakers"] =
        json!({ "of-all": { "window": { "count": 10 }, "consecutive_failures": 2, "failures": failures } });
    policy["upstreams"] =
        json!({ "first": { "cluster": "first", "breaker": "of-all" }, "second": { "cluster": "second" } });
    policy["routes"] = json!([{
        "name": "all", "upstreams": ["first", "second"],
        "fallback": { "on": failures, "budget_percent": 100, "stale": "1h" },
    }]);
    policy["response"] = json!({ "x_tidegate": true });
    let clusters = [("may", &may), ("first", &first), ("second", &second)];
    let stage = Stage::with(&policy, |bootstrap| {
        let with_cluster =
            |bootstrap: Bootstrap, (name, it): (&str, &Upstream)| bootstrap.with_cluster(name, it.address).unwrap();
        with_filter(clusters.into_iter().fold(bootstrap, with_cluster), 1, asks_whether_it_may())
    })
    .await;
    let request = Request::get("/a");
    // This response is also kept.
    assert_eq!(stage.ask(&request).await.text(), "first");
    for (does, status) in [(Does::Answers(answer(403, "", "no")), 403), (Does::Cuts, 503)] {
        may.set(does);
        for request in [request.clone(), request.clone().method("OPTIONS"), Request::post("/a", b"body".to_vec())] {
            let refused = stage.ask(&request).await;
            assert_eq!((refused.status, refused.header("x-tidegate").as_str()), (status, ""), "{refused:?}");
        }
        // For a gRPC client the refusal is a 200 with the status in a header.
        let refused = stage.ask(&request.clone().with("content-type", "application/grpc")).await;
        assert_eq!(refused.status, 200, "{refused:?}");
        assert!(["7", "14"].contains(&refused.header("grpc-status").as_str()), "{refused:?}");
    }
    may.set(good(""));
    let served = stage.ask(&request).await;
    assert_eq!(
        (served.text().as_str(), served.header("x-tidegate").as_str()),
        ("first", "upstream=first; step=first; breakers=first:closed")
    );
    assert_eq!((first.requests(), second.requests()), (2, 0));
    assert_shows(&stage, "tidegate_breaker_calls_total", &[("breaker", "first")], 2).await;
    assert_shows(&stage, "tidegate_served_total", &[("route", "all"), ("by", "first")], 2).await;
    let shown = stage.envoy.admin_get("/stats/prometheus").await.unwrap();
    assert!(!shown.contains("tidegate_failed_total"), "{shown}");
    stage.end().await;
}

#[tokio::test]
async fn forged_upstream_does_not_lead_a_client_past_what_a_route_demands() {
    let mut policy = policy([]);
    policy["upstreams"] = json!({ "origin": { "cluster": "origin" } });
    policy["routes"] = json!([{ "name": "public", "match": { "path": "/public/**" }, "upstreams": ["origin"] }]);
    let rbac = "envoy.filters.http.rbac";
    let kind = "type.googleapis.com/envoy.extensions.filters.http.rbac.v3.RBAC";
    let nobody = json!({ "action": "DENY", "policies": { "all": {
        "permissions": [{ "any": true }], "principals": [{ "any": true }],
    } } });
    let closed = json!({
        "match": { "prefix": "/closed" }, "route": { "cluster": "origin" },
        "typed_per_filter_config": { rbac: { "@type": format!("{kind}PerRoute"), "rbac": { "rules": nobody } } },
    });
    let stage = Stage::with(&policy, |bootstrap| {
        let listener = bootstrap.listener().unwrap();
        let mut routes = listener.pointer(ROUTES).and_then(Value::as_array).unwrap().clone();
        routes.insert(1, closed);
        let bootstrap = bootstrap.set(&format!("/static_resources/listeners/0{ROUTES}"), json!(routes)).unwrap();
        with_filter(bootstrap, 0, json!({ "name": rbac, "typed_config": { "@type": kind } }))
    })
    .await;
    for (path, status) in [("/closed", 403), ("/public/a", 200), ("/other", 200)] {
        for request in [Request::get(path), Request::get(path).with("x-tidegate-upstream", "origin")] {
            assert_eq!(stage.ask(&request).await.status, status, "{request:?}");
        }
    }
    stage.end().await;
}

const FILTERS: &str = "/filter_chains/0/filters/0/typed_config/http_filters";
const ROUTES: &str = "/filter_chains/0/filters/0/typed_config/route_config/virtual_hosts/0/routes";
