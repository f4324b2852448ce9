//! A refusal as workerd sends it.

use crate::host::Response;
use js_sys::{Array, Object, Reflect};
use tidegate::decision::Reply;
use wasm_bindgen::JsValue;

/// The response of this reply, with `fields` beside its own: name and value by turns, a line each.
pub fn response(reply: &Reply, fields: &str) -> JsValue {
    let headers = Array::new();
    let add = |name: &str, value: &str| {
        headers.push(&Array::of2(&JsValue::from_str(name), &JsValue::from_str(value)));
    };
    add("content-type", &reply.content_type);
    add("cache-control", "no-store");
    if let Some(secs) = reply.retry_after_secs {
        add("retry-after", &secs.to_string());
    }
    // Envoy's access log says it; here nothing does.
    #[cfg(feature = "test-clock")]
    add("x-tidegate-test-reason", &reply.details);
    let mut lines = fields.lines();
    while let (Some(name), Some(value)) = (lines.next(), lines.next()) {
        add(name, value);
    }
    let init = Object::new();
    // To set a field of a plain object cannot fail.
    let _ = Reflect::set(&init, &"status".into(), &reply.status.into());
    let _ = Reflect::set(&init, &"headers".into(), &headers);
    // A maintenance page may have a status that goes without a body, and workerd throws where there is one.
    let body = if matches!(reply.status, 204 | 205 | 304) { JsValue::NULL } else { JsValue::from_str(&reply.body) };
    Response::new(body, &init).into()
}
