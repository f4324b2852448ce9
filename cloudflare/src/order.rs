//! What an operator has changed, on its way to KV.

use crate::facts::Facts;
use crate::gate::Gate;
use crate::reply;
use js_sys::JSON;
use tidegate::decision::Reply;
use tidegate::status::Order;
use wasm_bindgen::prelude::*;

/// A value to be set in KV.
#[wasm_bindgen]
pub struct Change {
    order: Order,
}

#[wasm_bindgen]
impl Change {
    /// The key.
    #[wasm_bindgen(getter)]
    pub fn key(&self) -> String {
        match self.order {
            Order::SetMode(_) | Order::ClearMode => "mode",
            Order::Purge => "purge",
        }
        .to_owned()
    }

    /// The value, which for a purge is a new one each time; `undefined` to delete the key.
    pub fn value(&self, now_ms: f64) -> Option<String> {
        match self.order {
            Order::SetMode(mode) => Some(mode.as_str().to_owned()),
            Order::ClearMode => None,
            Order::Purge => Some((now_ms as u64).to_string()),
        }
    }
}

/// What the request orders, or what is wrong with that; `None` when it orders nothing that it may.
pub fn ordered(gate: &Gate, facts: &Facts<'_>) -> Option<JsValue> {
    Some(match gate.engine.order(facts)? {
        Ok(order) => Change { order }.into(),
        Err(unknown) => error(400, &unknown.to_string()),
    })
}

/// The answer to whoever has ordered a change: that it is kept, or why it could not be.
#[wasm_bindgen]
pub fn obeyed(problem: Option<String>) -> JsValue {
    match problem {
        None => answer(202, "{\"in_force_within_s\":60}\n".to_owned()),
        Some(problem) => error(503, &problem),
    }
}

fn error(status: u16, problem: &str) -> JsValue {
    // A text can always be written as JSON.
    let problem = JSON::stringify(&problem.into()).map(String::from).unwrap_or_default();
    answer(status, ["{\"error\":", &problem, "}\n"].concat())
}

fn answer(status: u16, body: String) -> JsValue {
    let reply = Reply {
        status,
        grpc_status: 0,
        details: "tidegate_status".to_owned(),
        content_type: "application/json".into(),
        body,
        retry_after_secs: None,
        for_grpc: false,
    };
    reply::response(&reply, "").into()
}
