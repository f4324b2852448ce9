//! For the tests alone: takes the instance down, to show what outlives it. Not in what is shipped.

use crate::host::Request;

/// Panics if the request asks for it.
#[allow(clippy::panic, reason = "this is what it is for")]
pub fn panic_if_asked(request: &Request) {
    if request.headers().get("x-tidegate-panic").is_some() {
        panic!("as the request asked");
    }
}

/// Panics if the ask is for the key of which all bits are set.
#[allow(clippy::panic, reason = "this is what it is for")]
pub fn panic_if_ask_says(ask: &tidegate::authority::Ask) {
    if ask.key.get() == u64::MAX {
        panic!("as the ask asked");
    }
}

/// Whether the request asks that its wait never end.
pub fn hangs(request: &Request) -> bool {
    request.headers().get("x-tidegate-hang").is_some()
}
