//! `tidegate explain`, run as a command.

use std::io::Write;
use std::process::{Command, Output, Stdio};

#[test]
fn a_request_is_explained_as_the_options_describe_it() {
    let options = ["--method", "POST", "--path", "/api//x?page=2", "--host", "Example.com:80", "--address", "[::1]:80"];
    let headers = ["--header", "X-Forwarded-For: 192.0.2.66", "--header", "x-forwarded-for: 198.51.100.4"];
    let out = explain(&[&options[..], &headers[..]].concat(), POLICY.as_bytes());
    assert_eq!(out.status.code(), Some(0));
    assert_eq!(
        String::from_utf8_lossy(&out.stdout),
        "path     /api/x
client   198.51.100.4, from x-forwarded-for, entry 1 from the right

api applies
  key    address 198.51.100.4, query parameter page 2
  quota  10 in any 1m (sliding window)
  over   refused with 429

reads does not apply: the method POST is not GET
"
    );
}

#[test]
fn explain_shows_the_stages_that_a_listed_client_reaches() {
    let told = |mode: &str, address: &str| {
        let fields = format!(
            r#""mode": "{mode}", "deny": {{ "addresses": ["192.0.2.1"] }}, "allow": {{ "addresses": ["192.0.2.2"] }},
            "upstreams": {{ "origin": {{ "cluster": "origin" }} }},
            "routes": [{{ "name": "all", "match": {{ "path": "/**" }}, "upstreams": ["origin"] }}], "limits""#
        );
        let policy = POLICY.replacen("\"limits\"", &fields, 1);
        let out = explain(&["--path", "/api/x", "--address", address], policy.as_bytes());
        String::from_utf8_lossy(&out.stdout).into_owned()
    };
    for (mode, address, words, has_route) in [
        ("enforce", "192.0.2.1", "deny     its address is on the list: refused with 403\n", false),
        (
            "observe",
            "192.0.2.1",
            "deny     its address is on the list: would be refused with 403; meets no limits\n",
            true,
        ),
        ("enforce", "192.0.2.2", "allow    its address is on the list: meets no limits\n", true),
    ] {
        let text = told(mode, address);
        assert!(text.contains(words), "{text}");
        assert_eq!(text.contains("\nroute all serves it"), has_route, "{text}");
        assert!(!text.contains("api applies"), "{text}");
    }
}

#[test]
fn explain_shows_that_a_limit_is_shared_and_what_happens_while_its_store_fails() {
    for (fields, words) in [
        ("", "each draws permits ahead; while the store fails it counts its share of the quota"),
        (
            r#""sharing": "exact", "on_store_failure": "deny","#,
            "each asks for every request; while the store fails it refuses it with 503",
        ),
        (
            r#""on_store_failure": "allow","#,
            "each draws permits ahead; while the store fails it lets the request go on",
        ),
    ] {
        let policy = POLICY.replacen(r#""name": "api","#, &format!(r#""name": "api", "scope": "global", {fields}"#), 1);
        let out = explain(&["--path", "/api/x", "--address", "192.0.2.1"], policy.as_bytes());
        let text = String::from_utf8_lossy(&out.stdout);
        assert!(text.contains(&format!("\n  shared by all instances: {words}\n")), "{text}");
        assert_eq!(text.matches("shared").count(), 1, "{text}");
    }
}

#[test]
fn explain_shows_the_shedding_of_a_request_and_whether_it_gets_a_status_page() {
    let policy = POLICY.replacen(
        "\"limits\"",
        r#""tiers": ["a", "b"], "priorities": { "a": "low" }, "health": {}, "shedding": { "degraded": { "low_percent": 12.5 } },
        "status": { "addresses": ["198.51.100.4"] }, "limits""#,
        1,
    );
    let told = |path: &str, address: &str| {
        let out = explain(&["--path", path, "--address", address], policy.as_bytes());
        String::from_utf8_lossy(&out.stdout).into_owned()
    };
    let text = told("/", "192.0.2.1");
    let shed = "\nshedding as low: up to 12.5% while the service is degraded, 100% while it is critical\n";
    assert!(text.contains(shed), "{text}");
    let text = told("/tidegate/health", "198.51.100.4");
    assert!(text.ends_with("\nstatus   answered with the page health\n"), "{text}");
    assert!(!told("/tidegate/health", "198.51.100.5").contains("\nstatus"));
}

#[test]
fn explain_shows_the_response_settings_of_a_route() {
    let policy = std::fs::read(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/policies/good/everything.json")).unwrap();
    let told = |options: &[&str]| {
        let out = explain(options, &policy);
        let words = String::from_utf8_lossy(&out.stdout).into_owned();
        words.split_once("\nroute ").map(|(_, words)| words.to_owned())
    };
    let image = ["--path", "/assets/a.jpg?w=300&v=1", "--header", "accept: image/webp", "--address", "192.0.2.1"];
    let words = told(&image).unwrap();
    assert_eq!(
        words,
        "assets serves it
  to     cdn (breaker default), else origin (breaker by-count)
  again  if it has no body and an upstream fails, up to 2 upstreams in all
  last   the static answer, 503
  image  the upstream is asked for /cdn-cgi/image/format=webp,width=320/assets/a.jpg?v=1
  cache  max-age=86400, stale-while-revalidate=3600, immutable, if the answer may be cached
  page   names </app.css>; rel=preload; as=style
  page   names <https://cdn.example.com/a.woff2>; rel=preload; as=font; crossorigin
  kept   a good answer may be served for 1h, one for each accept-encoding, x-market, x-plan
"
    );
    let secret = told(&[&image[..], &["--header", "authorization: Basic x"]].concat()).unwrap();
    assert!(secret.ends_with("  kept   nothing, since the request has authorization or no-store\n"), "{secret}");
    let plain = told(&["--path", "/", "--address", "192.0.2.1"]);
    assert_eq!(plain.as_deref(), Some("all serves it\n  to     origin (breaker by-count)\n"));
    let post = told(&[&image[..], &["--method", "POST"]].concat()).unwrap();
    assert!(post.contains("\n  again  never, for this method\n"), "{post}");
    assert_eq!(told(&["--path", "/assets/a.jpg", "--address", "203.0.113.1", "--method", "GET"]), None, "denied");
}

#[test]
fn explain_shows_that_a_breaker_is_shared() {
    let policy =
        std::fs::read(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/policies/good/shared-breakers.json")).unwrap();
    let out = explain(&["--path", "/", "--address", "192.0.2.1"], &policy);
    let words = String::from_utf8_lossy(&out.stdout);
    let to = "  to     cdn (breaker alone), else origin (breaker together, of all instances together), else mirror (breaker watched)\n";
    assert!(words.contains(to), "{words}");
}

#[test]
fn explain_of_a_bad_policy_names_it_and_fails() {
    for (policy, error) in [
        (POLICY.replace("60s", "60").into_bytes(), "stdin:7: /limits/0/quota/window: "),
        (POLICY.replace("api", "\u{0}").into_bytes(), "stdin:"),
        (b"{\n\xff".to_vec(), "stdin:2: the text is not UTF-8 here"),
    ] {
        let out = explain(&[], &policy);
        let words = String::from_utf8_lossy(&out.stdout);
        assert_eq!(out.status.code(), Some(1), "{words}");
        assert!(words.starts_with(error), "{words}");
    }
}

#[test]
fn the_address_option_must_be_an_address() {
    let output = explain(&["--address", "foo"], b"{\"version\":1}");
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("write an IP address"), "{output:?}");
    for address in ["192.0.2.7", "192.0.2.7:443", "2001:db8::1", "[2001:db8::1]:443"] {
        assert_eq!(explain(&["--address", address], b"{\"version\":1}").status.code(), Some(0), "{address}");
    }
}

#[test]
fn a_header_needs_a_colon() {
    let out = explain(&["--header", "x-plan"], POLICY.as_bytes());
    assert_eq!(out.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&out.stderr).contains("write a name, a colon and a value"));
}

fn explain(options: &[&str], policy: &[u8]) -> Output {
    let mut child = Command::new(env!("CARGO_BIN_EXE_tidegate"))
        .args(["explain", "-"])
        .args(options)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the command line");
    // With wrong options it may exit before it has read its input.
    let _ = child.stdin.take().expect("a pipe").write_all(policy);
    child.wait_with_output().expect("an end")
}

const POLICY: &str = r#"{
    "version": 1,
    "client": { "address": { "header": "x-forwarded-for", "trusted_hops": 1 } },
    "limits": [
        {
            "name": "api", "match": { "path": "/api/**" }, "key": ["address", "query:page"],
            "algorithm": "sliding-window", "quota": { "permits": 10, "window": "60s" }
        },
        {
            "name": "reads", "match": { "methods": ["GET"] }, "key": [],
            "algorithm": "fixed-window", "quota": { "permits": 1, "window": "1h" }
        }
    ]
}"#;
