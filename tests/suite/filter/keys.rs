//! Which requests a limit applies to, and how it distinguishes clients.

use serde_json::{Value, json};

use super::client::Request;
use super::stage::{Stage, limit, policy, raw_paths};
use super::tiers::tiered;

/// Uses up a limit of two as `client`. Then `client` and `guise` (the same client, written differently) are refused,
/// and `other` is not.
async fn assert_told_apart(stage: &Stage, client: &Request, guise: &Request, other: &Request) {
    assert_eq!(stage.admitted(client, 3).await, 2, "{client:?}");
    assert_eq!(stage.admitted(guise, 1).await, 0, "the same client: {guise:?}");
    assert_eq!(stage.admitted(other, 3).await, 2, "another client: {other:?}");
}

#[tokio::test]
async fn each_kind_of_key_tells_clients_apart_and_is_not_fooled_by_another_guise() {
    let kinds = ["path", "method", "host", "header:x-key", "cookie:sid", "query:token", "claim:sub", "address", "tier"];
    let limits = kinds.map(|kind| {
        let name = kind.split(':').next().unwrap();
        limit(name, &format!("/{name}/**"), &[kind], 2)
    });
    let mut policy = policy(limits);
    policy["tiers"] = json!(["free", "premium"]);
    policy["client"]["tier"] = json!({ "header": "x-plan", "default": "free" });
    let stage = Stage::start(&policy).await;
    let get = Request::get;
    let cases = [
        (get("/path/a?x=1"), get("/path//./%61?x=2"), get("/path/b")),
        (get("/method/a"), get("/method/b"), get("/method/a").method("DELETE")),
        (
            get("/header/").with("x-key", "one"),
            get("/header/x").with("X-Key", "one"),
            get("/header/").with("x-key", "One"),
        ),
        (
            get("/cookie/").with("cookie", "a=b; sid=one"),
            get("/cookie/").with("cookie", "c=d").with("cookie", "sid=one"),
            get("/cookie/").with("cookie", "sid=two; a=b"),
        ),
        (get("/query/?token=one&x=1"), get("/query/?x=2&token=%6fne"), get("/query/?token=two")),
        (
            // {"sub":"one"}, the same with a further claim, and {"sub":"two"}.
            get("/claim/").with("x-jwt-payload", "eyJzdWIiOiJvbmUifQ"),
            get("/claim/").with("x-jwt-payload", "eyJhIjoxLCJzdWIiOiJvbmUifQ"),
            get("/claim/").with("x-jwt-payload", "eyJzdWIiOiJ0d28ifQ"),
        ),
        (get("/address/").from("192.0.2.1"), get("/address/").from("192.0.2.1:80"), get("/address/").from("192.0.2.2")),
        (
            get("/tier/").with("x-plan", "gold"),
            get("/tier/").with("x-plan", "free"),
            get("/tier/").with("x-plan", "premium"),
        ),
    ];
    for (client, guise, other) in cases {
        assert_told_apart(&stage, &client, &guise, &other).await;
    }
    let here = Request::get("/host/");
    assert_eq!(stage.admitted(&here, 3).await, 2);
    stage.end().await;
}

#[tokio::test]
async fn key_that_a_request_does_not_have_falls_back_to_the_address_and_not_to_one_counter_of_strangers() {
    let kinds = ["header:x-key", "cookie:sid", "query:token", "claim:sub"];
    let limits = kinds.map(|kind| {
        let name = kind.split(':').next().unwrap();
        limit(name, &format!("/{name}"), &[kind], 2)
    });
    let stage = Stage::start(&policy(limits)).await;
    for path in ["/header", "/cookie", "/query?token=", "/claim"] {
        let without = Request::get(path).with("x-key", "").with("cookie", "sid=one; sid=two");
        assert_told_apart(
            &stage,
            &without.clone().from("192.0.2.1"),
            &Request::get(path).from("192.0.2.1"),
            &without.clone().from("192.0.2.2"),
        )
        .await;
    }
    stage.end().await;
}

#[tokio::test]
async fn cookie_sent_on_two_lines_is_ambiguous_and_no_way_to_a_new_account() {
    let stage = Stage::start(&policy([limit("cookie", "/**", &["cookie:sid"], 3)])).await;
    let mut admitted = 0;
    for n in 0..10 {
        let other = Request::get("/").with("cookie", format!("sid=random-{n}"));
        let twice = other.with("cookie", "sid=real").from("192.0.2.1");
        admitted += usize::from(stage.ask(&twice).await.status == 200);
    }
    assert_eq!(admitted, 3);
    stage.end().await;
}

#[tokio::test]
async fn limit_is_for_the_requests_that_its_conditions_name_and_no_others() {
    let limit = |name: &str, matches: Value| {
        let mut limit = limit(name, "/**", &["address"], 1);
        limit["match"] = matches;
        limit
    };
    let stage = Stage::start(&policy([
        limit("deep", json!({ "path": "/deep/**" })),
        limit("star", json!({ "path": "/users/*/posts" })),
        limit("post", json!({ "path": "/post", "methods": ["POST"] })),
        limit("host", json!({ "path": "/host", "hosts": ["*.example"] })),
        limit("beta", json!({ "path": "/beta", "headers": { "x-beta": "v2*", "x-staff": null } })),
    ]))
    .await;
    let get = Request::get;
    let meant = [
        get("/deep/a/b?c=d"),
        get("/users/7/posts"),
        get("/post").method("POST"),
        get("/host"),
        get("/beta").with("x-beta", "v2.1"),
    ];
    for request in &meant {
        assert_eq!(stage.admitted(&request.clone().from("192.0.2.1"), 2).await, 1, "{request:?}");
    }
    let not_meant = [
        get("/deeper"),
        get("/users/7/posts/1"),
        get("/users//posts"),
        get("/post"),
        get("/beta").with("x-beta", "v1"),
        get("/beta").with("x-beta", "v2").with("x-staff", "yes"),
    ];
    for request in &not_meant {
        assert_eq!(stage.admitted(&request.clone().from("192.0.2.1"), 3).await, 3, "{request:?}");
    }
    stage.end().await;
}

#[tokio::test]
async fn path_is_matched_as_it_is_meant_whatever_envoy_is_told_to_do_with_it() {
    let policy = policy([limit("api", "/api/**", &["address"], 1)]);
    for stage in [Stage::start(&policy).await, Stage::with(&policy, raw_paths).await] {
        let request = |target: &str| Request::get(target).from("192.0.2.1");
        assert_eq!(stage.admitted(&request("/api/x"), 1).await, 1);
        for way_around in [
            "/api",
            "//api/x",
            "/./api/x",
            "/other/../api/x",
            "/%61pi/x",
            "/api//x",
            "/%2e/api/x",
            "/api?x",
            "/api/%2e%2e/api",
            "http://suite.example/api/x",
        ] {
            assert_eq!(stage.admitted(&request(way_around), 1).await, 0, "{way_around}");
        }
        for elsewhere in ["/apis", "/api/../other", "/other/api", "/API"] {
            assert_eq!(stage.admitted(&request(elsewhere), 2).await, 2, "{elsewhere}");
        }
        stage.end().await;
    }
}

#[tokio::test]
async fn client_of_each_tier_has_its_own_quota() {
    let stage = Stage::start(&tiered(json!({ "header": "x-plan" }))).await;
    let request = |address: &str| Request::get("/").from(address);
    assert_eq!(stage.admitted(&request("192.0.2.1"), 7).await, 1);
    assert_eq!(stage.admitted(&request("192.0.2.2").with("x-plan", "free"), 7).await, 3);
    assert_eq!(stage.admitted(&request("192.0.2.3").with("x-plan", "premium"), 7).await, 5);
    assert_eq!(stage.admitted(&request("192.0.2.4").with("x-plan", "no such plan"), 7).await, 1);
    stage.end().await;
}
