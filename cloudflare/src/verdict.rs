//! What becomes of a request.

use crate::host::Response;
use crate::order::Change;
use crate::shared_limits::GrantWait;
use crate::task::Task;
use crate::wait::Wait;

/// What becomes of a request, as far as that can be said at once.
pub enum Verdict {
    /// It passes as it is.
    Passes,
    /// It passes, and its answer says this of limits: name and value by turns, a line each.
    PassesWithFields(String),
    /// Its client gets this.
    Responds(Response),
    /// It goes on its way, at whose end its client gets an answer.
    Runs(Task),
    /// It waits for its turn.
    Waits(Wait),
    /// It waits for the authority over limits that are shared.
    AwaitsGrant(GrantWait),
    /// It is an operator's, and this is to be done.
    Changes(Change),
    /// What it has waited for has not come yet.
    Pending,
}
