//! For the suite alone: takes the VM down, to show what outlives it. Not in what is shipped.

use crate::host::{self, Map};

/// Panics if the request asks for it.
#[allow(clippy::panic, reason = "this is what it is for")]
pub fn spring() {
    if host::header(Map::Request, "x-tidegate-panic").is_ok_and(|value| value.is_some()) {
        panic!("as the request asked");
    }
}
