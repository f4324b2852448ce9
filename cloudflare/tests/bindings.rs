//! The functions that JavaScript calls, in wasm, with the `Request` class of the engine that runs it.

use js_sys::{Array, Function, Reflect};
use tidegate_cloudflare::{answer_ask, configure, decide, mode_problem};
use wasm_bindgen::{JsCast, JsValue};
use wasm_bindgen_test::wasm_bindgen_test;

const POLICY: &str = r#"{"version": 1, "on_failure": "refuse", "limits": [
    {"name": "api", "algorithm": "fixed-window", "match": {"path": "/api/**"}, "quota": {"permits": 1, "window": "31d"}}]}"#;
const NOW_MS: f64 = 1_800_014_400_000.0;
/// No bindings.
const NOTHING: JsValue = JsValue::UNDEFINED;

/// A request of this engine.
fn request(path: &str) -> JsValue {
    let make = Function::new_with_args(
        "path",
        "return new Request('http://example.com' + path, { headers: { 'cf-connecting-ip': '192.0.2.1' } })",
    );
    make.call1(&JsValue::NULL, &path.into()).unwrap()
}

fn decided(path: &str) -> JsValue {
    decide(request(path).unchecked_ref(), NOW_MS)
}

#[wasm_bindgen_test]
fn a_request_passes_with_fields_and_the_next_is_refused_by_a_response() {
    assert_eq!(configure(POLICY, "", &NOTHING), Ok("refuse".to_owned()));
    assert_eq!(decided("/elsewhere"), JsValue::UNDEFINED);
    let fields = String::from(decided("/api/a").unchecked_into::<Array>().join("\n"));
    assert!(fields.starts_with("ratelimit-policy\n\"api\";q=1;w=2678400\nratelimit\n\"api\";r=0;t="), "{fields}");
    let refused = decided("/api/b");
    assert_eq!(Reflect::get(&refused, &"status".into()), Ok(429.into()));
}

#[wasm_bindgen_test]
fn a_bad_policy_tells_its_errors_and_what_was_in_force_stays() {
    configure(POLICY, "", &NOTHING).unwrap();
    let errors = configure(r#"{"version": 2, "limit": []}"#, "", &NOTHING).unwrap_err().as_string().unwrap();
    assert_eq!(errors.lines().count(), 2, "{errors}");
    assert!(errors.lines().all(|line| line.starts_with("tidegate: policy error: /")), "{errors}");
    assert!(decided("/api/a").is_object());
}

#[wasm_bindgen_test]
fn a_mode_stands_in_place_of_the_policys() {
    assert_eq!(mode_problem(" strict\n"), None);
    assert!(mode_problem("strct").is_some_and(|problem| problem.contains("write one of \"enforce\"")));
    configure(POLICY, "maintenance", &NOTHING).unwrap();
    assert_eq!(Reflect::get(&decided("/elsewhere"), &"status".into()), Ok(503.into()));
    assert!(configure(POLICY, "strct", &NOTHING).is_err());
}

#[wasm_bindgen_test]
fn what_is_no_ask_is_not_answered() {
    assert!(answer_ask(&[1, 2, 3], None, NOW_MS).is_none());
    assert!(answer_ask(&[0; 104], Some([].into()), NOW_MS).is_none());
}
