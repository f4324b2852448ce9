//! Which breakers a policy has.

use super::policy;
use tidegate::breaker::Breakers;
use tidegate::policy::Policy;

#[test]
fn a_policy_has_one_breaker_for_each_upstream_or_route() {
    let policy = policy(
        r#""breakers": { "shared": { "window": { "count": 9 } }, "own": { "window": { "count": 9 }, "per_route": true } },
        "upstreams": { "b": { "cluster": "b", "breaker": "shared" }, "a": { "cluster": "a", "breaker": "own" },
                       "c": { "cluster": "c" } },
        "routes": [{ "name": "r0", "upstreams": ["c", "a", "b"] }, { "name": "r1", "upstreams": ["b", "a"] }]"#,
    );
    let mut breakers = Breakers::new(&policy);
    let mut name = |route, upstream| {
        let place = breakers.place(route, upstream)?;
        assert!(breakers.get(place).is_some());
        breakers.identity(place).map(str::to_owned)
    };
    assert_eq!(name(0, 0), None);
    assert_eq!(name(0, 1).as_deref(), Some("a/r0"));
    assert_eq!(name(0, 2).as_deref(), Some("b"));
    assert_eq!(name(1, 0).as_deref(), Some("b"));
    assert_eq!(name(1, 1).as_deref(), Some("a/r1"));
    assert_eq!(name(2, 0), None);
    assert_eq!(breakers.len(), 3);
}

#[test]
fn the_number_of_breakers_is_bounded() {
    let routes = |count: usize| {
        let routes: Vec<String> =
            (0..count).map(|index| format!(r#"{{ "name": "r{index}", "upstreams": ["a", "b"] }}"#)).collect();
        let upstream = r#"{ "cluster": "x", "breaker": "own" }"#;
        let breakers = r#"{ "own": { "window": { "count": 9 }, "per_route": true } }"#;
        let upstreams = format!(r#"{{ "a": {upstream}, "b": {upstream} }}"#);
        Policy::parse(&format!(
            r#"{{ "version": 1, "breakers": {breakers}, "upstreams": {upstreams}, "routes": [{}] }}"#,
            routes.join(",")
        ))
    };
    assert!(routes(2_048).is_ok());
    assert_eq!(
        routes(2_049).unwrap_err().to_string(),
        "/breakers: upstreams and routes together have 4098 breakers, more than 4096; leave out \"per_route\" where many \
         routes lead to one upstream"
    );
}
