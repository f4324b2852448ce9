//! The responses that the Worker makes or changes.

use crate::host::{Response, log_warning, put};
use js_sys::{Array, Object};
use tidegate::assets::Edit;
use tidegate::decision::Reply;
use tidegate::policy::StaticResponse;
use wasm_bindgen::JsValue;

/// The response for this reply. `fields` are added: names and values alternating, one per line.
pub fn response(reply: &Reply, fields: &str) -> Response {
    let retry_after = reply.retry_after_secs.map(|secs| secs.to_string());
    let trailers = reply.trailers_only();
    // A response without a body has no content type.
    let has_type = trailers.is_none() && !reply.body.is_empty();
    let own = [
        ("content-type", has_type.then_some(reply.content_type.as_ref())),
        ("cache-control", Some("no-store")),
        ("retry-after", retry_after.as_deref()),
    ];
    let own = own.into_iter().filter_map(|(name, value)| Some((name, value?)));
    let of_grpc = trailers.iter().flatten().map(|(name, value)| (*name, value.as_str()));
    let (status, body) = if trailers.is_some() { (200, JsValue::NULL) } else { (reply.status, text(&reply.body)) };
    answer(status, &reply.details, of_grpc.chain(own).chain(pairs(fields)), &body)
}

/// The response for a policy's static answer.
pub fn fixed(fixed: &StaticResponse) -> Response {
    let lines = fixed.lines.iter().map(|(name, value)| (name.as_str(), value.as_str()));
    answer(fixed.status, "tidegate_static", lines, &text(&fixed.body))
}

/// A body with this text. `null` if it is empty: workerd would otherwise set a content type.
fn text(text: &str) -> JsValue {
    if text.is_empty() { JsValue::NULL } else { JsValue::from_str(text) }
}

/// A response of these parts. `details` is the reason, which Envoy's access log has too; here only test builds show it.
pub fn answer<'a>(
    status: u16,
    details: &str,
    lines: impl Iterator<Item = (&'a str, &'a str)>,
    body: &JsValue,
) -> Response {
    let headers = Array::new();
    for (name, value) in lines {
        headers.push(&Array::of2(&JsValue::from_str(name), &JsValue::from_str(value)));
    }
    #[cfg(feature = "test-clock")]
    headers.push(&Array::of2(&"x-tidegate-test-reason".into(), &details.into()));
    #[cfg(not(feature = "test-clock"))]
    let _ = details;
    let init = Object::new();
    put(&init, "status", &status.into());
    put(&init, "headers", &headers);
    // These statuses have no body; workerd throws if there is one.
    let body = if matches!(status, 204 | 205 | 304) { &JsValue::NULL } else { body };
    Response::new(body, &init)
}

/// Applies `edits` to the response's headers and adds `fields`. Returns the response unchanged if it cannot be copied.
pub fn with_fields(answer: Response, edits: &[Edit], fields: &str) -> Response {
    if edits.is_empty() && fields.is_empty() {
        return answer;
    }
    let body = answer.answer_body().map_or(JsValue::NULL, JsValue::from);
    let Ok(changed) = Response::like(&body, &answer) else { return answer };
    let headers = changed.answer_headers();
    let edits = edits.iter().map(|edit| (edit.name, edit.value.as_str(), edit.replaces));
    // Structured fields are lists: an upstream with limits of its own may have added members.
    let fields = pairs(fields).map(|(name, value)| (name, value, name.starts_with("x-")));
    for (name, value, replaces) in edits.chain(fields) {
        let sent = if replaces { headers.set(name, value) } else { headers.append(name, value) };
        if sent.is_err() {
            log_warning(&["tidegate: cannot send ", name].concat());
        }
    }
    changed
}

/// The names and values of `fields`, which alternate, one per line.
pub fn pairs(fields: &str) -> impl Iterator<Item = (&str, &str)> {
    let mut lines = fields.lines();
    core::iter::from_fn(move || Some((lines.next()?, lines.next()?)))
}
