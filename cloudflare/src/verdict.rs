//! The verdict on a request.

use crate::host::Response;
use crate::order::Change;
use crate::shared_limits::GrantWait;
use crate::task::Task;
use crate::wait::Wait;

/// The verdict on a request, as far as it is known at once.
pub enum Verdict {
    /// It passes unchanged.
    Passes,
    /// It passes, and its response gets these fields about limits: names and values alternating, one per line.
    PassesWithFields(String),
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
