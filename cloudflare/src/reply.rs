//! A refusal as workerd sends it.

use crate::host::Response;
use js_sys::{Array, Object, Reflect};
use tidegate::decision::Reply;
use wasm_bindgen::JsValue;

/// The response of this reply, with `headers` beside its own: name and value by turns, a line each.
pub fn response(reply: &Reply, headers: &str) -> JsValue {
    let fields = Array::new();
    let add = |name: &str, value: &str| {
        fields.push(&Array::of2(&JsValue::from_str(name), &JsValue::from_str(value)));
    };
    add("content-type", &reply.content_type);
    add("cache-control", "no-store");
    if let Some(secs) = reply.retry_after_secs {
        add("retry-after", &secs.to_string());
    }
    let mut lines = headers.lines();
    while let (Some(name), Some(value)) = (lines.next(), lines.next()) {
        add(name, value);
    }
    let init = Object::new();
    // To set a field of a plain object cannot fail.
    let _ = Reflect::set(&init, &"status".into(), &reply.status.into());
    let _ = Reflect::set(&init, &"headers".into(), &fields);
    Response::new(&reply.body, &init).into()
}
