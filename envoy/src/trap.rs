//! For the test suite only, and not in the shipped build: crashes the VM, to show what survives.

use crate::host::{self, Map};

/// Panics if the request has the header `x-tidegate-panic`.
#[allow(clippy::panic, reason = "this is what it is for")]
pub fn panic_if_asked() {
    if host::header(Map::Request, "x-tidegate-panic").is_ok_and(|value| value.is_some()) {
        panic!("as the request asked");
    }
}
