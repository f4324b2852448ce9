//! The verdict on a request.

use crate::host::Response;
use crate::names;
use crate::order::Change;
use crate::shared_limits::GrantWait;
use crate::task::Task;
use crate::wait::Wait;
use js_sys::{Array, JsString};

/// The verdict on a request, as far as it is known at once.
pub enum Verdict {
    /// It passes unchanged.
    Passes,
    /// It passes, and its response gets these fields about limits: names and values alternating.
    PassesWithFields(Array),
    /// The client gets this response.
    Responds(Response),
    /// This task forwards it, and ends in a response for the client.
    Runs(Task),
    /// It waits for its turn.
    Waits(Wait),
    /// It waits for the authority over shared limits.
    AwaitsGrant(GrantWait),
    /// It is an operator's request, which makes this change.
    Changes(Change),
    /// It still has to wait.
    Pending,
}

impl Verdict {
    /// The request passes, and its response gets these fields.
    pub fn passes<'n, 'v>(fields: impl Iterator<Item = (&'n str, &'v str)>) -> Self {
        let mut list = None;
        for (name, value) in fields {
            let list = list.get_or_insert_with(Array::new);
            names::with(name, |name| list.push(name));
            // Each combination of limits and tier has one policy.
            if name == "ratelimit-policy" {
                names::with(value, |value| list.push(value));
            } else {
                list.push(&JsString::from(value));
            }
        }
        list.map_or(Self::Passes, Self::PassesWithFields)
    }
}
