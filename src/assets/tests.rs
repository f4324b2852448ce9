use super::*;
use crate::key::Seed;
use crate::lookup::recorded::Recorded;
use crate::units::{Span, Timestamp};

const NOW: Timestamp = Timestamp::from_nanos(784_111_777_000_000_000);

/// The assets of a policy with one route for everything, with these fields.
fn assets(fields: &str) -> Assets {
    assets_of("{}", fields)
}

/// The same, with clients that are distinguished in this way.
fn assets_of(client: &str, fields: &str) -> Assets {
    let route = format!(r#"{{ "name": "all", "upstreams": ["o"], {fields} }}"#);
    let upstreams = r#"{ "o": { "cluster": "o" } }"#;
    let text = format!(r#"{{ "version": 1, "client": {client}, "upstreams": {upstreams}, "routes": [{route}] }}"#);
    Assets::new(&Policy::parse(&text).unwrap(), Seed::new([1, 2]))
}

const IMAGES: &str = r#""variants": {
    "formats": ["avif", "webp"], "widths": [640, 320, 1280],
    "rewrite": "/cdn-cgi/image/format={format},width={width}{path}"
}"#;

fn target(assets: &Assets, request: &Recorded) -> Option<String> {
    assets.plan(request, true)?.target.map(|target| String::from_utf8(target).unwrap())
}

#[test]
fn an_image_is_asked_for_in_the_format_and_width_that_the_client_needs() {
    let assets = assets(IMAGES);
    for (path, accept, hint, expected) in [
        ("/a.jpg", "image/avif,image/webp,*/*", "", Some("/cdn-cgi/image/format=avif,width=1280/a.jpg")),
        ("/a.jpg", "image/webp,image/avif;q=0.9", "", Some("/cdn-cgi/image/format=webp,width=1280/a.jpg")),
        ("/a.jpg", "image/avif;q=0,image/webp", "", Some("/cdn-cgi/image/format=webp,width=1280/a.jpg")),
        ("/a.jpg", "image/*,*/*", "", None),
        ("/a.jpg", "", "", None),
        ("/a.JPG?w=300&v=2", "image/avif", "", Some("/cdn-cgi/image/format=avif,width=320/a.JPG?v=2")),
        ("/a.jpg?w=320", "image/avif", "", Some("/cdn-cgi/image/format=avif,width=320/a.jpg")),
        ("/a.jpg?w=321", "image/avif", "640", Some("/cdn-cgi/image/format=avif,width=640/a.jpg")),
        ("/a.jpg?w=99999999999", "image/avif", "", Some("/cdn-cgi/image/format=avif,width=1280/a.jpg")),
        ("/a.jpg?w=-1", "image/avif", "200", Some("/cdn-cgi/image/format=avif,width=320/a.jpg")),
        ("/x/../..//a.jpg", "image/avif", "", Some("/cdn-cgi/image/format=avif,width=1280/a.jpg")),
        ("/a.css", "image/avif", "", None),
        ("/jpg", "image/avif", "", None),
        ("/cdn-cgi/image/format=x,width=1/a.jpg", "image/avif", "", None),
    ] {
        let request = Recorded::get(path).with("accept", accept).with("sec-ch-width", hint);
        assert_eq!(target(&assets, &request).as_deref(), expected, "{path} {accept} {hint}");
        let mut post = request.clone();
        post.method = b"POST".to_vec();
        assert_eq!(assets.plan(&post, true), None);
    }
}

#[test]
fn there_are_no_more_variants_of_an_image_than_the_policy_has() {
    let assets = assets(IMAGES);
    let mut targets = std::collections::BTreeSet::new();
    for width in 0..5_000 {
        for accept in ["image/avif", "image/webp;q=0.3", "image/avif;q=0.2,image/webp;q=0.1", "x/y"] {
            let request = Recorded::get(&format!("/a.png?w={width}")).with("accept", accept);
            targets.insert(target(&assets, &request));
        }
    }
    assert_eq!(targets.len(), 2 * 3 + 1);
}

#[test]
fn clients_that_accept_no_format_get_the_one_for_all_others() {
    let fields = r#""variants": { "formats": ["avif"], "otherwise": "jpeg", "rewrite": "/i{path}?f={format}" }"#;
    let assets = assets(fields);
    let request = Recorded::get("/a.jpg?x=1").with("accept", "image/png");
    assert_eq!(target(&assets, &request).as_deref(), Some("/i/a.jpg?f=jpeg&x=1"));
}

/// The value of a response header after the edits.
fn edited(assets: &Assets, request: &Recorded, name: &str, answer: &Answer<'_>) -> Option<String> {
    let edits = assets.edits(&assets.plan(request, true)?, answer);
    let edited = answer.edited(&edits);
    let values: Vec<_> = edited.values(name).map(|value| String::from_utf8_lossy(value).into_owned()).collect();
    (!values.is_empty()).then(|| values.join(", "))
}

#[test]
fn caches_are_told_what_the_rule_says() {
    let assets = assets(r#""cache": { "ttl": "1d", "stale_while_revalidate": "1500ms", "immutable": true }"#);
    let rule = "max-age=86400, stale-while-revalidate=1, immutable";
    for (status, lines, expected) in [
        (200, &[][..], Some(rule.to_owned())),
        (304, &[("etag", "\"1\"")], Some(rule.to_owned())),
        (206, &[("content-range", "bytes 0-1/9")], Some(rule.to_owned())),
        (200, &[("cache-control", "public, max-age=5, s-maxage=9, IMMUTABLE")], Some(format!("{rule}, public"))),
        (
            200,
            &[("cache-control", "no-transform"), ("cache-control", "max-age=0, x=\"a, b\"")],
            Some(format!("{rule}, no-transform, x=\"a, b\"")),
        ),
        (200, &[("cache-control", "no-store")], Some("no-store".to_owned())),
        (200, &[("cache-control", "max-age=9, private")], Some("max-age=9, private".to_owned())),
        (200, &[("cache-control", "no-cache")], Some("no-cache".to_owned())),
        (200, &[("set-cookie", "a=b")], None),
        (404, &[], None),
        (500, &[("cache-control", "max-age=1")], Some("max-age=1".to_owned())),
    ] {
        let answer = Answer::of(status, lines);
        assert_eq!(edited(&assets, &Recorded::get("/"), "cache-control", &answer), expected, "{status} {lines:?}");
    }
}

#[test]
fn caches_are_told_that_images_vary_also_when_the_image_itself_is_served() {
    let assets = assets(IMAGES);
    for (lines, expected) in [
        (&[][..], "accept, sec-ch-width"),
        (&[("vary", "Accept-Encoding")], "Accept-Encoding, accept, sec-ch-width"),
        (&[("vary", "Accept, x")], "Accept, x, sec-ch-width"),
        (&[("vary", "*")], "*"),
    ] {
        for accept in ["image/avif", "image/png"] {
            let request = Recorded::get("/a.jpg").with("accept", accept);
            assert_eq!(edited(&assets, &request, "vary", &Answer::of(200, lines)).as_deref(), Some(expected));
        }
    }
    assert_eq!(edited(&assets, &Recorded::get("/a.css"), "vary", &Answer::of(200, &[])), None);
}

#[test]
fn pages_name_what_they_will_need() {
    let assets = assets(
        r#""preload": [{ "path": "/app.css", "as": "style" }, { "path": "https://c.example/f.woff2", "as": "font" }]"#,
    );
    let links = "</app.css>; rel=preload; as=style, <https://c.example/f.woff2>; rel=preload; as=font; crossorigin";
    for (status, kind, expected) in [
        (200, "text/html; charset=utf-8", Some(links)),
        (200, "TEXT/HTML", Some(links)),
        (200, "application/xhtml+xml", Some(links)),
        (200, "text/css", None),
        (200, "text/html5", None),
        (404, "text/html", None),
        (304, "text/html", None),
    ] {
        let answer = Answer::of(status, &[("content-type", kind)]);
        assert_eq!(edited(&assets, &Recorded::get("/"), "link", &answer).as_deref(), expected, "{status} {kind}");
    }
    let own = Answer::of(200, &[("content-type", "text/html"), ("link", "</own.js>; rel=preload; as=script")]);
    let both = format!("</own.js>; rel=preload; as=script, {links}");
    assert_eq!(edited(&assets, &Recorded::get("/"), "link", &own), Some(both));
}

fn key(assets: &Assets, request: &Recorded) -> Option<AnswerKey> {
    assets.plan(request, true)?.key
}

#[test]
fn answers_to_different_requests_have_different_keys() {
    let stale = r#""fallback": { "on": ["5xx"], "stale": "1h" }"#;
    let one = assets(stale);
    let get = |path: &str| Recorded::get(path).on("a.example").with("accept-encoding", "gzip");
    let same = key(&one, &get("/a?b=1")).unwrap();
    assert_eq!(key(&one, &get("/a?b=1").with("accept", "x").with("cookie", "c=1")), Some(same));
    let mut head = get("/a?b=1");
    head.method = b"HEAD".to_vec();
    assert_eq!(key(&one, &head), Some(same), "what was kept of GET answers HEAD");
    assert_eq!(key(&one, &Recorded::get("/a?b=1").on("a.example").with("accept-encoding", "br;q=0,GZIP")), Some(same));
    let newer = assets(&format!(r#"{stale}, "cache": {{ "version": "2" }}"#));
    let varied = assets(&format!(r#"{stale}, "cache": {{ "vary": ["X-Market"] }}"#));
    let others = [
        key(&one, &get("/a?b=2")),
        key(&one, &get("/a")),
        key(&one, &get("/a/?b=1")),
        key(&one, &get("//a?b=1")),
        key(&one, &Recorded::get("/a?b=1").on("b.example").with("accept-encoding", "gzip")),
        // The host's name is forwarded as it is, and may appear in the response.
        key(&one, &Recorded::get("/a?b=1").on("a.example:8080").with("accept-encoding", "gzip")),
        key(&one, &Recorded::get("/a?b=1").on("a.example.").with("accept-encoding", "gzip")),
        key(&one, &Recorded::get("/a?b=1").on("a.example")),
        key(&one, &Recorded::get("/a?b=1").on("a.example").with("accept-encoding", "")),
        key(&one, &get("/a?b=1").with("x-forwarded-proto", "https")),
        // What a client may say in their place.
        key(&one, &get("/a?b=1").with("x-forwarded-host", "b.example")),
        key(&one, &get("/a?b=1").with("x-original-url", "b.example")),
        key(&newer, &get("/a?b=1")),
        key(&varied, &get("/a?b=1")),
        key(&varied, &get("/a?b=1").with("x-market", "de")),
    ];
    for (place, other) in others.iter().enumerate() {
        assert!(other.is_some_and(|other| other != same), "{place}");
        assert!(others[..place].iter().all(|earlier| earlier != other), "{place}");
    }
    for (name, value) in [("authorization", "Basic x"), ("cache-control", "max-age=0, no-store")] {
        assert_eq!(key(&one, &get("/a?b=1").with(name, value)), None);
    }
    assert_eq!(one.plan(&get("/a?b=1"), false).unwrap().key, None, "nobody knows what a body asks for");
    let mut post = get("/a?b=1");
    post.method = b"POST".to_vec();
    assert_eq!(one.plan(&post, true), None);
}

#[test]
fn an_answer_is_kept_by_what_its_route_says() {
    let answer = Answer::of(200, &[("content-length", "4"), ("vary", "accept"), ("content-type", "image/avif")]);
    let stale = r#""fallback": { "on": ["5xx"], "stale": "1h" }"#;
    let kept = |assets: &Assets, request: &Recorded| {
        let planned = assets.plan(request, true).unwrap();
        let edits = assets.edits(&planned, &answer);
        let draft = assets.keeping(&planned)?.draft(&answer.edited(&edits), NOW)?;
        Some(draft.until().since(NOW))
    };
    let image = Recorded::get("/a.jpg").with("accept", "image/avif");
    let hour = Some(Span::from_secs(3_600));
    // It varies by Accept, which only the target of a variant covers.
    assert_eq!(kept(&assets(stale), &image), None);
    let images = assets(&format!("{stale}, {IMAGES}"));
    assert_eq!(kept(&images, &image), hour);
    let mut head = image.clone();
    head.method = b"HEAD".to_vec();
    assert_eq!(kept(&images, &head), None);
    // For one client, unless the route has a caching rule.
    let with_cookie = image.clone().with("cookie", "sid=1");
    let with_certificate = image.clone().with("x-forwarded-client-cert", "Hash=1");
    assert_eq!([&with_cookie, &with_certificate].map(|request| kept(&images, request)), [None; 2]);
    let for_caches = format!(r#"{stale}, {IMAGES}, "cache": {{ "ttl": "1m" }}"#);
    assert_eq!(kept(&assets(&for_caches), &with_cookie), hour);
    // The policy itself distinguishes clients by these.
    let client = r#"{
        "api_key": { "header": "X-Api-Key" }, "claims": { "header": "x-jwt-payload" }, "trusted_headers": ["x-jwt-payload"]
    }"#;
    for (name, value) in [("x-api-key", "k1"), ("x-jwt-payload", "e30")] {
        let request = image.clone().with(name, value);
        assert_eq!(kept(&assets_of(client, &format!("{stale}, {IMAGES}")), &request), None, "{name}");
        assert_eq!(kept(&assets_of(client, &for_caches), &request), hour, "{name}");
    }
}

#[test]
fn a_request_of_a_route_that_says_nothing_is_not_asked_for_more_than_its_path() {
    let text = r#"{ "version": 1, "upstreams": { "o": { "cluster": "o" } }, "routes": [
        { "name": "api", "match": { "path": "/api/**" }, "upstreams": ["o"] },
        { "name": "all", "upstreams": ["o"], "cache": { "ttl": "1d" } }
    ] }"#;
    let assets = Assets::new(&Policy::parse(text).unwrap(), Seed::new([1, 2]));
    let request = Recorded::get("/api/x");
    assert_eq!(assets.plan(&request, true), None);
    assert_eq!(request.asked(), ["path"]);
    assert!(assets.plan(&Recorded::get("/x"), true).is_some());
    let none = Assets::new(&Policy::parse(r#"{ "version": 1 }"#).unwrap(), Seed::new([1, 2]));
    let request = Recorded::get("/");
    assert_eq!(none.plan(&request, true), None);
    assert_eq!(request.asked(), [""; 0]);
}

#[test]
fn where_the_zone_has_the_service_an_image_is_asked_for_in_its_terms_and_kept_as_the_same_variant() {
    let (by_cf, by_path) = (IMAGES.replacen('{', r#"{ "cf_image": true,"#, 1), IMAGES.to_owned());
    let stale = r#", "fallback": { "on": ["5xx"], "stale": "1h" }"#;
    let (by_cf, by_path) = (assets(&(by_cf + stale)), assets(&(by_path + stale)));
    let request = Recorded::get("/x/../a.jpg?w=300&v=2").with("accept", "image/webp");
    let (one, other) = (by_cf.plan(&request, true).unwrap(), by_path.plan(&request, true).unwrap());
    assert_eq!((&one.target, one.key), (&other.target, other.key));
    assert_eq!(other.image, None);
    let image = one.image.unwrap();
    assert_eq!((image.format.as_deref(), image.width), (Some("webp"), Some(320)));
    assert_eq!(image.source, b"/a.jpg?v=2");
    // The service's own fetch gets the original image.
    let resizer = request.with("via", "1.1 image-resizing-proxy");
    let plan = by_cf.plan(&resizer, true).unwrap();
    assert_eq!((plan.target, plan.image), (None, None));
    // A client that accepts none of the formats gets the original image.
    assert_eq!(by_cf.plan(&Recorded::get("/a.jpg"), true).unwrap().image, None);
}
