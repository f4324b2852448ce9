//! `tidegate check` and `tidegate schema`, the real binary.

use std::io::Write;
use std::process::{Command, Output, Stdio};

use super::policies;
use tidegate::policy::Policy;

#[test]
fn check_lists_errors_in_the_order_of_the_text_with_their_lines() {
    for policy in policies("bad") {
        let file = policy.path.to_str().expect("a path in UTF-8");
        let output = tidegate(&["check", file], "");
        let expected: Vec<_> =
            policy.expected().iter().map(|(line, error)| format!("{file}:{line}: {error}")).collect();
        assert_eq!(text(&output.stdout).lines().collect::<Vec<_>>(), expected);
        assert_eq!(output.status.code(), Some(1), "{file}");
        assert_eq!(text(&output.stderr), "", "{file}");
    }
}

#[test]
fn check_approves_of_good_policies() {
    for policy in policies("good") {
        let file = policy.path.to_str().expect("a path in UTF-8");
        let output = tidegate(&["check", file], "");
        assert_eq!(output.status.code(), Some(0), "{}", text(&output.stdout));
        assert!(text(&output.stdout).starts_with(&format!("{file}: ok (")), "{}", text(&output.stdout));
    }
}

#[test]
fn check_says_which_limits_would_let_nothing_pass_in_an_emergency() {
    let policy = r#"{ "version": 1, "strict": { "factor_percent": 10 }, "limits": [
        { "name": "export", "quota": { "permits": 50, "window": "1h" }, "cost": 10 },
        { "name": "api", "quota": { "permits": 100, "window": "1h" }, "cost": 10 } ] }"#;
    let output = tidegate(&["check", "-"], policy);
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(
        text(&output.stdout),
        "stdin: ok (2 limits, 0 tiers)\nstdin: under the mode \"strict\" no request would pass the limit \"export\": each \
         costs 10 or more, and a quota would have only 5; raise \"factor_percent\" or the quota\n"
    );
    let strict = policy.replacen("\"version\": 1", "\"version\": 1, \"mode\": \"strict\"", 1);
    let output = tidegate(&["explain", "-", "--path", "/"], strict);
    let (export, api) = text(&output.stdout).split_once("api applies").expect("both limits");
    assert!(export.contains("  strict lets nothing pass: each costs 10 or more, and a quota has only 5\n"), "{export}");
    assert!(!api.contains("strict lets"), "{api}");
}

#[test]
fn check_says_that_envoy_shares_nothing_without_a_store_that_is_a_cluster() {
    let shared = r#"{ "version": 1, "limits": [{ "name": "api", "scope": "global", "quota": { "permits": 5, "window": "1s" } }] }"#;
    let output = tidegate(&["check", "-"], shared);
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(
        text(&output.stdout),
        "stdin: ok (1 limit, 0 tiers)\nstdin: Envoy would refuse this policy: the limit \"api\" is global, and \"stores\" has no \
         \"redis\" with a \"cluster\"; Cloudflare Workers need none\n"
    );
    let stored = shared.replacen("\"limits\"", "\"stores\": { \"redis\": { \"cluster\": \"redis\" } }, \"limits\"", 1);
    assert_eq!(text(&tidegate(&["check", "-"], stored).stdout), "stdin: ok (1 limit, 0 tiers)\n");
}

#[test]
fn check_says_what_can_never_act() {
    let policy = r#"{ "version": 1,
        "allow": { "addresses": ["10.1.0.0/16", "10.9.9.9", "192.0.2.7"], "headers": { "x-probe": ["secret"] } },
        "deny": { "addresses": ["10.0.0.0/8"], "headers": { "X-Probe": ["other", "secret"] } },
        "upstreams": { "origin": { "cluster": "origin" } },
        "routes": [
          { "name": "api", "match": { "path": "/api/**", "methods": ["GET"] }, "upstreams": ["origin"] },
          { "name": "all", "upstreams": ["origin"] },
          { "name": "posts", "match": { "path": "/api/**", "methods": ["POST"] }, "upstreams": ["origin"] }
        ] }"#;
    let output = tidegate(&["check", "-"], policy);
    assert_eq!(output.status.code(), Some(0));
    let denied = "has no effect: it is on \"deny\" too, which comes first; remove it from one of them";
    let told = format!(
        "stdin: ok (0 limits, 0 tiers)\n\
         stdin: the route \"posts\" is never taken: the route \"all\" before it takes all of its requests; put \"posts\" first\n\
         stdin: the network 10.1.0.0 to 10.1.255.255 on \"allow\" {denied}\n\
         stdin: the address 10.9.9.9 on \"allow\" {denied}\n\
         stdin: a value of the header \"x-probe\" on \"allow\" {denied}\n"
    );
    assert_eq!(text(&output.stdout), told);
}

#[test]
fn a_field_at_the_wrong_level_is_told_where_it_belongs() {
    let policy = r#"{ "version": 1, "limits": [{ "name": "api", "path": "/api/**", "quota": { "permits": 5, "window": "1s" } }] }"#;
    let output = tidegate(&["check", "-"], policy);
    assert_eq!(text(&output.stdout), "stdin:1: /limits/0/path: there is no field \"path\"; it belongs in \"match\"\n");
}

#[test]
fn check_ends_with_the_worst_of_its_files() {
    let output = tidegate(&["check", "-", "no-such-file.json"], "{}");
    assert_eq!(output.status.code(), Some(2));
    assert_eq!(text(&output.stdout), "stdin:1: /version: this field is missing; write 1\n");
    assert!(text(&output.stderr).starts_with("tidegate: cannot read no-such-file.json: "));
}

#[test]
fn check_says_where_a_text_is_not_utf8() {
    let output = tidegate(&["check", "-"], b"{\n\"version\": \"\xff\"}");
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(text(&output.stdout), "stdin:2: the text is not UTF-8 here; save it as UTF-8\n");
}

#[test]
fn a_text_with_a_mark_that_no_editor_shows_is_told_of_it() {
    for arguments in [&["check", "-"][..], &["explain", "-", "--path", "/"]] {
        let output = tidegate(arguments, "\u{feff}{ \"version\": 1, \"limits\": [] }");
        assert_eq!(output.status.code(), Some(1));
        let told =
            "stdin:1: the text begins with a byte order mark, which JSON has not; save it as UTF-8 without one\n";
        assert_eq!(text(&output.stdout), told);
    }
}

#[test]
fn a_document_without_an_end_is_read_to_a_bound() {
    let output = tidegate(&["check", "/dev/zero"], "");
    assert_eq!(output.status.code(), Some(2));
    let told = "tidegate: cannot read /dev/zero: it has more than 4194304 bytes, and a policy at most 1048576\n";
    assert_eq!(text(&output.stderr), told);
    let output = tidegate(&["check", "-"], " ".repeat(2_000_000));
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(text(&output.stdout), "stdin:1: the document has 2000000 bytes; write at most 1048576 bytes\n");
}

#[test]
fn schema_prints_the_schema() {
    let output = tidegate(&["schema"], "");
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(text(&output.stdout), Policy::json_schema());
}

fn tidegate(arguments: &[&str], input: impl AsRef<[u8]>) -> Output {
    let mut child = Command::new(env!("CARGO_BIN_EXE_tidegate"))
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the binary");
    // It may exit before it has read its input.
    let _ = child.stdin.take().expect("its input").write_all(input.as_ref());
    child.wait_with_output().expect("its output")
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).expect("text")
}
