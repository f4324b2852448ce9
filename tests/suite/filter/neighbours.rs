//! Other filters of Envoy before and behind this one.

use serde_json::{Value, json};

use super::client::Request;
use super::stage::{Stage, policy};
use crate::bootstrap::Bootstrap;

/// With one more filter at this place among the filters.
fn with_filter(bootstrap: Bootstrap, place: usize, filter: Value) -> Bootstrap {
    let listener = bootstrap.listener().unwrap();
    let mut filters = listener.pointer(FILTERS).and_then(Value::as_array).unwrap().clone();
    filters.insert(place, filter);
    bootstrap.set(&format!("/static_resources/listeners/0{FILTERS}"), json!(filters)).unwrap()
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
