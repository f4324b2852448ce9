//! An Envoy whose filter asks a rate-limit service.

use std::net::SocketAddr;

use serde_json::{Value, json};

use crate::bootstrap::Bootstrap;
use crate::filter::stage::{Stage, policy};

/// A limit on a path, counted by the service and keyed by the header `x-user`.
pub fn counted(name: &str, path: &str) -> Value {
    json!({
        "name": name, "match": { "path": path }, "key": ["header:x-user"], "scope": "global", "store": "rls",
        "algorithm": "token-bucket", "quota": { "permits": 2, "window": "31d" }, "on_store_failure": "deny",
    })
}

/// A policy with these limits, and a deadline for the service that suits a busy machine.
pub fn with_service(limits: impl IntoIterator<Item = Value>) -> Value {
    let mut policy = policy(limits);
    policy["stores"] = json!({ "rls": { "cluster": "rls", "domain": "shop", "deadline": "10s" } });
    policy
}

/// The bootstrap with the service at this address.
pub fn service_at(bootstrap: Bootstrap, addr: SocketAddr) -> Bootstrap {
    let http2 = json!({ "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
        "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
        "explicit_http_config": { "http2_protocol_options": {} },
    } });
    let cluster = "/static_resources/clusters/1";
    bootstrap.with_cluster("rls", addr).unwrap().insert(cluster, "typed_extension_protocol_options", http2).unwrap()
}

/// An Envoy of one worker with this policy, whose cluster `rls` has this address.
pub async fn stage(policy: &Value, addr: SocketAddr) -> Stage {
    Stage::of_workers(1, policy, |bootstrap| service_at(bootstrap, addr)).await
}
