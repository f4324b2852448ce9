//! Tiers that no client can give itself.

use serde_json::{Value, json};
use tidegate::api_key::Digest;

use super::client::Request;
use super::stage::{Stage, limit, policy};
use crate::bootstrap::Bootstrap;

/// One permit for anyone, three for `free`, five for `premium`.
pub(super) fn tiered(tier: Value) -> Value {
    let mut limit = limit("api", "/**", &["address"], 1);
    limit["by_tier"] = json!({
        "free": { "permits": 3, "window": "31d" },
        "premium": { "permits": 5, "window": "31d" },
    });
    let mut policy = policy([limit]);
    policy["tiers"] = json!(["anonymous", "free", "premium"]);
    policy["client"]["tier"] = tier;
    policy
}

#[tokio::test]
async fn api_key_has_its_tier_and_whoever_has_none_of_ten_thousand_has_the_default() {
    let tier = |n: u32| if n.is_multiple_of(2) { "free" } else { "premium" };
    let hash = |n: u32| Digest::of(format!("secret-{n}").as_bytes()).unwrap().to_string();
    let keys: serde_json::Map<_, _> = (0..10_000).map(|n| (hash(n), json!(tier(n)))).collect();
    let mut policy = tiered(json!({ "api_keys": keys }));
    policy["client"]["api_key"] = json!({ "header": "x-api-key" });
    let stage = Stage::start(&policy).await;
    let request = |address: &str, key: &str| Request::get("/").from(address).with("x-api-key", key);
    for (address, key, admitted) in [
        ("192.0.2.1", "secret-0", 3),
        ("192.0.2.2", " secret-9999 ", 5),
        ("192.0.2.3", "secret-10000", 1),
        ("192.0.2.4", "Secret-1", 1),
        ("192.0.2.5", "premium", 1),
        // The hash is not the key: reading the policy does not give access.
        ("192.0.2.6", hash(1).as_str(), 1),
        ("192.0.2.7", "secret-1, secret-1", 1),
        ("192.0.2.8", "", 1),
    ] {
        assert_eq!(stage.admitted(&request(address, key), 7).await, admitted, "{key}");
    }
    let twice = request("192.0.2.9", "secret-1").with("x-api-key", "secret-1");
    assert_eq!(stage.admitted(&twice, 7).await, 1);
    assert_eq!(stage.admitted(&Request::get("/").from("192.0.2.10").with("x-plan", "premium"), 7).await, 1);
    stage.end().await;
}

#[tokio::test]
async fn claim_says_the_tier() {
    let stage = Stage::start(&tiered(json!({ "claim": "org.plan", "default": "free" }))).await;
    for (address, payload, admitted) in [
        // {"org":{"plan":"premium"}}
        ("192.0.2.1", "eyJvcmciOnsicGxhbiI6InByZW1pdW0ifX0", 5),
        // {"org":{"plan":"anonymous"}}
        ("192.0.2.2", "eyJvcmciOnsicGxhbiI6ImFub255bW91cyJ9fQ", 1),
        // {"org":{"plan":"premium","plan":"premium"}}
        ("192.0.2.3", "eyJvcmciOnsicGxhbiI6InByZW1pdW0iLCJwbGFuIjoicHJlbWl1bSJ9fQ", 3),
        // {"org":{"plan":2}}
        ("192.0.2.4", "eyJvcmciOnsicGxhbiI6Mn19", 3),
        ("192.0.2.5", "premium", 3),
    ] {
        let request = Request::get("/").from(address).with("x-jwt-payload", payload);
        assert_eq!(stage.admitted(&request, 7).await, admitted, "{payload}");
    }
    stage.end().await;
}

/// Envoy's own token verification before the filter, for the paths below `/api`, where a token may be missing.
fn verifying_tokens(bootstrap: Bootstrap) -> Bootstrap {
    let mut bootstrap: Value = serde_json::from_str(&bootstrap.text()).unwrap();
    let filters = "/static_resources/listeners/0/filter_chains/0/filters/0/typed_config/http_filters";
    let jwks = json!({ "keys": [{ "kty": "oct", "alg": "HS256", "kid": "k", "k": HMAC_KEY }] });
    let verification = json!({
        "name": "jwt",
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.filters.http.jwt_authn.v3.JwtAuthentication",
            "providers": { "issuer": {
                "issuer": "https://issuer.example",
                "forward_payload_header": "x-jwt-payload",
                "local_jwks": { "inline_string": jwks.to_string() },
            } },
            "rules": [
                { "match": { "prefix": "/open" } },
                { "match": { "prefix": "/api" }, "requires": { "requires_any": { "requirements": [
                    { "provider_name": "issuer" }, { "allow_missing": {} },
                ] } } },
            ],
        },
    });
    bootstrap.pointer_mut(filters).and_then(Value::as_array_mut).unwrap().insert(0, verification);
    Bootstrap::parse(&bootstrap.to_string()).unwrap()
}

#[tokio::test]
async fn claims_are_those_of_the_token_that_envoy_has_verified() {
    let tier = json!({ "claim": "org.plan" });
    let stage = Stage::with(&tiered(tier), verifying_tokens).await;
    let bearer = |token: &str| format!("Bearer {token}");
    let forged = |request: Request| request.with("x-jwt-payload", "eyJvcmciOnsicGxhbiI6InByZW1pdW0ifX0");
    let at = |path: &str, address: &str| Request::get(path).from(address);
    assert_eq!(stage.admitted(&at("/api", "192.0.2.1").with("authorization", bearer(TOKEN)), 7).await, 5);
    // Envoy drops what a client writes into the header, with or without a token.
    assert_eq!(stage.admitted(&forged(at("/api", "192.0.2.2")), 7).await, 1);
    assert_eq!(stage.admitted(&forged(at("/api", "192.0.2.3")).with("authorization", bearer(TOKEN)), 7).await, 5);
    let changed = TOKEN.replace(".AJQ", ".AJR");
    assert_eq!(stage.ask(&at("/api", "192.0.2.4").with("authorization", bearer(&changed))).await.status, 401);
    // Also for a rule that requires no token, and without a rule.
    assert_eq!(stage.admitted(&forged(at("/open", "192.0.2.5")), 7).await, 1);
    assert_eq!(stage.admitted(&forged(at("/other", "192.0.2.6")), 7).await, 1);
    stage.end().await;
}

const HMAC_KEY: &str = "YW4gaG1hYyBrZXkgb2YgdGhlIHN1aXRlLCBvZiAzMiBvciBtb3JlIGJ5dGVz";
/// `{"iss":"https://issuer.example","org":{"plan":"premium"}}`, signed with that key (HS256).
const TOKEN: &str = "eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCIsImtpZCI6ImsifQ.eyJpc3MiOiJodHRwczovL2lzc3Vlci5leGFtcGxlIiwib3JnI\
    jp7InBsYW4iOiJwcmVtaXVtIn19.AJQbzKwvxW0vsaf-0pWH8wMpr3hbUWQI0aE2HgR_irs";

#[tokio::test]
async fn policy_that_would_believe_a_client_never_gets_into_force() {
    let mut policy = tiered(json!({ "header": "x-plan" }));
    policy["client"]["trusted_headers"] = json!(["x-jwt-payload"]);
    let bootstrap = super::stage::shipped(&policy).text();
    let error = crate::envoy::Envoy::validate(&bootstrap).await.unwrap_err().to_string();
    assert!(error.contains("/client/tier/header: the header \"x-plan\" is whatever the client sends"), "{error}");
}
