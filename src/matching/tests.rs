use super::*;
use crate::lookup::recorded::Recorded;
use crate::policy::{HeaderCondition, HostGlob};
use proptest::prelude::*;

#[test]
fn a_path_glob_means_what_its_words_say() {
    for (glob, fits, others) in [
        ("/**", &["/", "/a", "/a/", "/a/b/c"][..], &[][..]),
        ("/", &["/"], &["/a", "/a/"]),
        ("/api", &["/api"], &["/", "/api/", "/apis", "/api/x", "/API"]),
        ("/api/", &["/api/"], &["/api", "/api/x"]),
        ("/api/**", &["/api", "/api/", "/api/x", "/api/x/y"], &["/", "/apis", "/x/api"]),
        ("/*", &["/a", "/..."], &["/", "/a/", "/a/b"]),
        ("/users/*/posts", &["/users/7/posts"], &["/users//posts", "/users/posts", "/users/7/8/posts"]),
        ("/users/*/**", &["/users/7", "/users/7/x"], &["/users", "/users/"]),
        ("/a*b", &["/ab", "/axb", "/aab"], &["/a", "/b", "/ba", "/axbc"]),
        ("/ab*bc", &["/abbc", "/abxbc"], &["/abc"]),
        ("/v*/x", &["/v/x", "/v2/x"], &["/w/x", "/v2"]),
    ] {
        let matcher = Matcher::new(&[rule(glob)]);
        for (path, expected) in fits.iter().map(|path| (path, true)).chain(others.iter().map(|path| (path, false))) {
            assert_eq!(!find(&matcher, &Recorded::get(path)).is_empty(), expected, "{glob} {path}");
        }
    }
}

#[test]
fn hosts_methods_and_headers_all_have_to_hold() {
    let rules = [
        Match {
            hosts: vec![HostGlob::Exact("a.example".into()), HostGlob::Below("example".into())],
            ..Match::default()
        },
        Match { methods: vec!["GET".into(), "GET".into(), "POST".into()], ..Match::default() },
        Match { headers: vec![("x".into(), exact("1")), ("y".into(), HeaderCondition::Absent)], ..Match::default() },
        Match { headers: vec![("x".into(), glob("", ""))], ..Match::default() },
        Match::default(),
    ];
    let matcher = Matcher::new(&rules);
    let get = || Recorded::get("/p");
    assert_eq!(find(&matcher, &get().on("A.example:80")), [0, 1, 4]);
    assert_eq!(find(&matcher, &get().on("example")), [1, 4]);
    assert_eq!(find(&matcher, &get().on("aexample").with("x", " 1 ")), [1, 2, 3, 4]);
    assert_eq!(find(&matcher, &get().with("x", "1").with("y", "")), [1, 3, 4]);
    assert_eq!(find(&matcher, &get().with("x", "1").with("x", "1")), [1, 3, 4]);
}

#[test]
fn the_path_is_not_asked_for_when_no_rule_is_for_one() {
    let matcher =
        Matcher::new(&[Match::default(), rule("/**"), Match { methods: vec!["GET".into()], ..Match::default() }]);
    let request = Recorded::get("/a");
    assert_eq!(find(&matcher, &request), [0, 1, 2]);
    assert_eq!(request.asked(), ["method"]);
}

#[test]
fn nothing_is_asked_that_no_rule_standing_needs() {
    let rules = [
        Match { hosts: vec![HostGlob::Exact("h".into())], ..rule("/host") },
        Match { methods: vec!["GET".into()], headers: vec![("x".into(), exact("1"))], ..rule("/method/**") },
        rule("/plain/**"),
        Match { headers: vec![("x".into(), exact("1"))], ..rule("/method/a") },
    ];
    let matcher = Matcher::new(&rules);
    for (path, asked) in [
        ("/plain/a", &["path"][..]),
        ("/host", &["path", "authority"]),
        ("/method/a", &["path", "method", "x"]),
        ("/method/b", &["path", "method", "x"]),
        ("/other", &["path"]),
    ] {
        let request = Recorded::get(path);
        find(&matcher, &request);
        assert_eq!(request.asked(), asked, "{path}");
    }
    let mut post = Recorded::get("/method/b");
    post.method = b"POST".to_vec();
    find(&matcher, &post);
    assert_eq!(post.asked(), ["path", "method"]);
}

#[test]
fn an_endless_path_is_followed_only_as_deep_as_the_rules_go() {
    let matcher = Matcher::new(&[rule("/*/*/*/**"), rule("/a/*/**"), rule("/a/a/a/a/a")]);
    for path in ["/".repeat(8_192), "/a".repeat(4_096), format!("/{}", "a".repeat(8_192)), "/../%2e".repeat(1_000)] {
        find(&matcher, &Recorded::get(&path));
    }
    assert_eq!(find(&matcher, &Recorded::get(&"/a".repeat(4_096))), [0, 1]);
}

#[test]
fn a_matcher_of_nothing_finds_nothing() {
    assert_eq!(find(&Matcher::new(&[]), &Recorded::get("/")), [0; 0]);
    assert_eq!(find(&Matcher::default(), &Recorded::get("/")), [0; 0]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn the_rules_found_are_those_that_a_naive_search_finds(
        rules in prop::collection::vec(any_rule(), 0..24),
        requests in prop::collection::vec(any_request(), 1..8),
    ) {
        let matcher = Matcher::new(&rules);
        let mut found = vec![7];
        for request in &requests {
            let lookup = Lookup::new(request);
            let naive = (0..).zip(&rules).filter(|(_, rule)| mismatch(rule, &lookup).is_none());
            let naive: Vec<u32> = naive.map(|(index, _)| index).collect();
            matcher.find(&Lookup::new(request), &mut found);
            prop_assert_eq!(&found, &naive);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4_000))]

    #[test]
    fn a_rule_that_covers_another_is_met_by_every_request_that_meets_that(
        (rule, other) in (any_rule(), any_rule()),
        requests in prop::collection::vec(any_request(), 1..8),
    ) {
        prop_assert!(rule.covers(&rule));
        let meets = |rule: &Match, request: &Recorded| mismatch(rule, &Lookup::new(request)).is_none();
        if rule.covers(&other) {
            for request in requests.iter().filter(|request| meets(&other, request)) {
                prop_assert!(meets(&rule, request), "{request:?}");
            }
        }
    }
}

#[test]
fn a_rule_covers_those_that_ask_for_the_same_and_more() {
    for (glob, covered, others) in [
        ("/**", &["/", "/a", "/a/", "/a/**", "/*"][..], &[][..]),
        ("/a/**", &["/a", "/a/", "/a/*/b", "/a/**"], &["/", "/**", "/b", "/*/**", "/a*"]),
        ("/a/*", &["/a/b", "/a/b*", "/a/*"], &["/a", "/a/", "/a/**", "/a/b/c"]),
        ("/a*c", &["/ac", "/abc", "/ab*bc"], &["/a*", "/*c", "/a", "/*"]),
        ("/", &["/"], &["/a", "/**"]),
    ] {
        for (path, expected) in covered.iter().map(|path| (path, true)).chain(others.iter().map(|path| (path, false))) {
            assert_eq!(rule(glob).covers(&rule(path)), expected, "{glob} {path}");
        }
    }
    let get = Match { methods: vec!["GET".into()], ..Match::default() };
    let below = Match { hosts: vec![host("*.b.c")], ..Match::default() };
    let present = Match { headers: vec![("x".into(), glob("", ""))], ..Match::default() };
    let here =
        Match { hosts: vec![host("a.b.c"), host("*.a.b.c")], headers: vec![("x".into(), exact("1"))], ..get.clone() };
    for rule in [&get, &below, &present] {
        assert!(Match::default().covers(rule) && rule.covers(&here), "{rule:?}");
        assert!(!rule.covers(&Match::default()) && !here.covers(rule), "{rule:?}");
    }
    assert!(!below.covers(&Match { hosts: vec![host("b.c")], ..Match::default() }));
}

fn any_rule() -> impl Strategy<Value = Match> {
    let segment = prop::sample::select(vec!["a", "b", "ab", "*", "a*", "*b", "a*b", "ab*", ""]);
    let path = prop::option::weighted(0.8, (prop::collection::vec(segment, 0..4), any::<bool>()));
    let methods = prop::collection::vec(prop::sample::select(vec!["GET", "POST"]), 0..3);
    let host = prop::sample::select(vec!["a.b.c", "b.c", "*.b.c", "*.c"]).prop_map(host);
    let condition = prop_oneof![
        Just(HeaderCondition::Absent),
        prop::sample::select(vec!["", "a", "ab"]).prop_map(exact),
        prop::sample::select(vec![("", ""), ("a", ""), ("", "b"), ("a", "b")])
            .prop_map(|(prefix, suffix)| glob(prefix, suffix)),
    ];
    let headers = prop::collection::btree_map(prop::sample::select(vec!["x", "y", "z"]), condition, 0..3);
    (path, methods, prop::collection::vec(host, 0..3), headers).prop_map(|(path, methods, hosts, headers)| Match {
        path: path
            .map(|(segments, deep)| PathGlob { segments: segments.into_iter().map(segment_glob).collect(), deep }),
        methods: methods.into_iter().map(str::to_owned).collect(),
        hosts,
        headers: headers.into_iter().map(|(name, condition)| (name.to_owned(), condition)).collect(),
    })
}

fn any_request() -> impl Strategy<Value = Recorded> {
    let path = prop::collection::vec(prop::sample::select(vec!["/", "a", "b", "/a", "/b", "/ab", "/%61"]), 0..6);
    let authority = prop::sample::select(vec!["a.b.c", "B.c:80", "c", "x.a.b.c", ".b.c", ""]);
    let value = prop::option::of(prop::sample::select(vec!["", " a", "ab", "b", "aab", "ba"]));
    (path, authority, any::<bool>(), prop::array::uniform3(value)).prop_map(|(path, authority, get, values)| {
        let mut request = Recorded::get(&path.concat()).on(authority);
        if !get {
            request.method = b"POST".to_vec();
        }
        for (name, value) in ["x", "y", "z"].into_iter().zip(values) {
            if let Some(value) = value {
                request = request.with(name, value);
            }
        }
        request
    })
}

fn find(matcher: &Matcher, request: &Recorded) -> Vec<u32> {
    let mut found = vec![99];
    matcher.find(&Lookup::new(request), &mut found);
    found
}

/// A rule with only this path, in the policy's syntax.
fn rule(path: &str) -> Match {
    let (path, deep) = path.strip_suffix("/**").map_or((path, false), |path| (path, true));
    let segments = path.split('/').skip(1).map(segment_glob).collect();
    Match { path: Some(PathGlob { segments, deep }), ..Match::default() }
}

fn segment_glob(segment: &str) -> SegmentGlob {
    match segment.split_once('*') {
        Some((prefix, suffix)) => SegmentGlob::Star { prefix: prefix.into(), suffix: suffix.into() },
        None => SegmentGlob::Literal(segment.into()),
    }
}

fn host(host: &str) -> HostGlob {
    host.strip_prefix("*.").map_or_else(|| HostGlob::Exact(host.into()), |below| HostGlob::Below(below.into()))
}

fn exact(text: &str) -> HeaderCondition {
    HeaderCondition::Exact(text.to_owned())
}

fn glob(prefix: &str, suffix: &str) -> HeaderCondition {
    HeaderCondition::Glob { prefix: prefix.to_owned(), suffix: suffix.to_owned() }
}
