//! Tidegate on Cloudflare: a thin adapter between workerd and the core.
//!
//! As a Worker of its own (feature `entry`): `entry.mjs` calls one synchronous function for each request, [`decide`]. Most
//! requests simply pass, and cost what they would in JavaScript. One whose answer matters to the policy, or that goes along a route
//! of it, comes back as a [`Task`], and one that has to wait as a [`Wait`]. JavaScript drives both, and awaits for them: all that
//! enters the instance is guarded, and an instance that dies takes no request along that is under way.
//!
//! In a Worker in Rust (feature `library`): [`protect`] stands before its handler, and does in Rust what JavaScript does there.

#![deny(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod authority;
mod cache;
mod chain;
#[cfg(feature = "test-clock")]
mod clock;
mod ends;
#[cfg(feature = "entry")]
mod exports;
mod facts;
mod flight;
mod gate;
mod host;
mod isolate;
#[cfg(feature = "library")]
mod library;
mod memory;
mod names;
mod order;
mod origin;
mod redis;
mod reply;
mod serving;
mod shared_breakers;
mod shared_limits;
mod task;
#[cfg(feature = "panic-on-header")]
mod trap;
mod verdict;
mod wait;

#[cfg(feature = "entry")]
pub use exports::*;
#[cfg(feature = "library")]
pub use library::TidegateAuthority;
#[cfg(feature = "library")]
pub use library::protect;
use tidegate::units::Timestamp;

/// The clock is a whole number of milliseconds, and in production moves only when the isolate waits for something.
fn timestamp(now_ms: f64) -> Timestamp {
    #[cfg(feature = "test-clock")]
    let now_ms = clock::instead_of(now_ms);
    Timestamp::from_millis(now_ms as u64)
}

/// The time of a step that was not told it.
fn now() -> Timestamp {
    timestamp(js_sys::Date::now())
}
