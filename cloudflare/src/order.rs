//! A change that an operator has ordered, to be written to KV.

use crate::facts::Facts;
use crate::gate::Gate;
use crate::host::Response;
use crate::reply;
use crate::verdict::Verdict;
use js_sys::JSON;
use tidegate::decision::Reply;
use tidegate::status::Order;
use tidegate::units::Timestamp;

/// A value to be written to KV.
pub struct Change {
    order: Order,
}

impl Change {
    /// The key.
    pub fn key(&self) -> &'static str {
        match self.order {
            Order::SetMode(_) | Order::ClearMode => "mode",
            Order::Purge => "purge",
        }
    }

    /// The value, `None` to delete the key. Each purge has a new value.
    pub fn value(&self, now: Timestamp) -> Option<String> {
        match self.order {
            Order::SetMode(mode) => Some(mode.as_str().to_owned()),
            Order::ClearMode => None,
            Order::Purge => Some((now.as_nanos() / NANOS_PER_MILLI).to_string()),
        }
    }
}

/// The verdict on an operator's request: the change, or a response with what is wrong with it. `None` if the request
/// orders nothing, or is not authorised.
pub fn verdict(gate: &Gate, facts: &Facts<'_>) -> Option<Verdict> {
    Some(match gate.engine.order(facts)? {
        Ok(order) => Verdict::Changes(Change { order }),
        Err(unknown) => Verdict::Responds(error(400, &unknown.to_string())),
    })
}

/// The response to the operator: that the change is stored, or why it could not be.
pub fn change_response(problem: Option<&str>) -> Response {
    match problem {
        None => answer(202, "{\"in_force_within_s\":60}\n".to_owned()),
        Some(problem) => error(503, problem),
    }
}

fn error(status: u16, problem: &str) -> Response {
    // A string can always be written as JSON.
    let problem = JSON::stringify(&problem.into()).map(String::from).unwrap_or_default();
    answer(status, ["{\"error\":", &problem, "}\n"].concat())
}

fn answer(status: u16, body: String) -> Response {
    let reply = Reply {
        status,
        grpc_status: 0,
        details: "tidegate_status".to_owned(),
        content_type: "application/json".into(),
        body,
        retry_after_secs: None,
        for_grpc: false,
    };
    reply::response(&reply, "")
}

const NANOS_PER_MILLI: u64 = 1_000_000;
