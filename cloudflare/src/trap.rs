//! For tests only, and not in the shipped build: crashes the instance, to show what survives.

use crate::host::Request;

/// Panics if the request has the header `x-tidegate-panic`.
#[allow(clippy::panic, reason = "this is what it is for")]
pub fn panic_if_asked(request: &Request) {
    if request.headers().get("x-tidegate-panic").is_some() {
        panic!("as the request asked");
    }
}

/// Panics if all bits of the ask's key are set.
#[allow(clippy::panic, reason = "this is what it is for")]
pub fn panic_if_ask_says(ask: &tidegate::authority::Ask) {
    if ask.key.get() == u64::MAX {
        panic!("as the ask asked");
    }
}

/// Whether the request asks for a wait that never ends.
pub fn hangs(request: &Request) -> bool {
    request.headers().get("x-tidegate-hang").is_some()
}
