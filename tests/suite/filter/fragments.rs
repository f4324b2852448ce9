//! The configuration examples of `envoy/README.md`, unchanged, in the real Envoy.

use std::path::Path;

use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use super::client::{Connection, Request};
use super::failing::{Upstream, good};
use super::stage::{Stage, eventually, limit, policy, shipped};
use crate::bootstrap::Bootstrap;
use crate::envoy::{Envoy, Options};

const README: &str = include_str!("../../../envoy/README.md");
const LISTENER: &str = "/static_resources/listeners/0";
const FILTERS: &str = "/filter_chains/0/filters/0/typed_config/http_filters";

/// The YAML example at this place of a section.
fn piece(section: &str, place: usize) -> Value {
    let text = README.split("\n## ").find(|text| text.starts_with(section)).unwrap_or_else(|| panic!("no {section}"));
    let block = text.split("```yaml\n").nth(place + 1).and_then(|rest| rest.split("```").next()).unwrap();
    serde_yaml_ng::from_str(block).unwrap()
}

/// The shipped filter's `typed_config`, which the examples leave out.
fn typed_config(bootstrap: &Bootstrap) -> Value {
    bootstrap.listener().unwrap().pointer(FILTERS).unwrap()[0]["typed_config"].clone()
}

fn permits(permits: u32) -> Value {
    policy([limit("api", "/**", &[], permits)])
}

async fn has_permits(stage: &Stage, permits: u32) -> bool {
    let told = stage.ask(&Request::get("/")).await.header("ratelimit-policy");
    told.starts_with(&format!("\"api\";q={permits};"))
}

#[tokio::test]
async fn a_filter_from_a_file_is_in_force_and_is_replaced_by_a_rename() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("tidegate.yaml");
    let publish = |policy: &Value| {
        let mut resources = piece("Change the policy", 1);
        resources["resources"][0]["typed_config"] = typed_config(&shipped(policy));
        let next = file.with_extension("next");
        std::fs::write(&next, resources.to_string()).unwrap();
        std::fs::rename(next, &file).unwrap();
    };
    publish(&permits(200));
    let stage = Stage::with(&permits(100), |bootstrap| {
        let mut filter = piece("Change the policy", 0)[0].clone();
        let source = &mut filter["config_discovery"]["config_source"]["path_config_source"];
        assert_eq!(source["path"], "/etc/envoy/tidegate.yaml");
        source["path"] = json!(file);
        filter["config_discovery"]["default_config"] = typed_config(&bootstrap);
        let bootstrap = bootstrap.set(&format!("{LISTENER}{FILTERS}/0"), filter).unwrap();
        bootstrap.insert("", "node", json!({ "id": "envoy", "cluster": "envoy" })).unwrap()
    })
    .await;
    eventually("the file is in force", || has_permits(&stage, 200)).await;
    publish(&permits(300));
    eventually("the next one is in force", || has_permits(&stage, 300)).await;
    stage.assert_no_vm_failed().await;
}

#[tokio::test]
async fn a_filter_that_is_pinned_by_its_hash_is_fetched_and_one_of_another_hash_never_runs() {
    let wasm = std::fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("dist/envoy/tidegate.wasm")).unwrap();
    let hash: String = Sha256::digest(&wasm).iter().map(|byte| format!("{byte:02x}")).collect();
    let files = Upstream::start(good(&wasm)).await;
    let code = format!("{LISTENER}{FILTERS}/0/typed_config/config/vm_config/code");
    let origin = Upstream::start(good("served")).await;
    for (hash, status) in [(hash, 200), ("0".repeat(64), 503)] {
        let mut pinned = piece("Pin the filter", 0)["code"].clone();
        assert_eq!(pinned["remote"]["sha256"], "the 64 digits");
        pinned["remote"]["sha256"] = json!(hash);
        let bootstrap = shipped(&permits(100)).upstream(origin.address).unwrap();
        let bootstrap = bootstrap.with_cluster("files", files.address).unwrap().set(&code, pinned).unwrap();
        let envoy = Envoy::start(Options::new(bootstrap.text())).await.unwrap();
        let mut connection = Connection::open(envoy.listener("http").unwrap()).await.unwrap();
        let answer = connection.send(&Request::get("/")).await.unwrap();
        let is_limited = answer.header("ratelimit-policy").starts_with("\"api\";");
        assert_eq!((answer.status, is_limited), (status, status == 200), "{}", envoy.log());
    }
    assert!(files.last().starts_with("GET /tidegate.wasm HTTP/1.1\r\n"), "{}", files.last());
}

/// The bootstrap with its listener patched as istiod does it.
fn patched(bootstrap: Bootstrap, patch: &Value) -> Bootstrap {
    assert_eq!((&patch["applyTo"], &patch["patch"]["operation"]), (&json!("HTTP_FILTER"), &json!("INSERT_BEFORE")));
    let wanted = &patch["match"]["listener"]["filterChain"]["filter"];
    let mut listener = bootstrap.listener().unwrap();
    assert_eq!(listener["filter_chains"][0]["filters"][0]["name"], wanted["name"]);
    let filters = listener.pointer_mut(FILTERS).and_then(Value::as_array_mut).unwrap();
    let before = filters.iter().position(|filter| filter["name"] == wanted["subFilter"]["name"]).unwrap();
    filters.insert(before, patch["patch"]["value"].clone());
    bootstrap.set(LISTENER, listener).unwrap()
}

#[tokio::test]
async fn the_patch_for_istio_puts_the_filter_before_the_router_also_without_ids_and_with_the_policy_as_a_struct() {
    let policy = permits(2);
    for is_bare in [false, true] {
        let stage = Stage::with(&policy, |bootstrap| {
            let mut typed = typed_config(&bootstrap);
            let config = &mut typed["config"];
            if is_bare {
                config.as_object_mut().unwrap().remove("root_id").unwrap();
                config["vm_config"].as_object_mut().unwrap().remove("vm_id").unwrap();
                let structure = "type.googleapis.com/google.protobuf.Struct";
                config["configuration"] = json!({ "@type": structure, "value": policy });
            }
            let mut patch = piece("Istio", 0)["spec"]["configPatches"][0].clone();
            patch["patch"]["value"]["typed_config"] = typed;
            patched(bootstrap.without_filter().unwrap(), &patch)
        })
        .await;
        assert_eq!(stage.admitted(&Request::get("/"), 5).await, 2, "bare: {is_bare}");
        stage.end().await;
    }
}
