//! Tidegate on Cloudflare: a thin adapter between workerd and the core.
//!
//! As a complete Worker (feature `entry`): `entry.mjs` calls one synchronous function per request, [`decide`]. Most
//! requests simply pass, and cost what they would in JavaScript. A request that takes a route, or whose response
//! matters to the policy, comes back as a [`Task`]; a request that has to wait comes back as a [`Wait`] or a
//! [`GrantWait`]. JavaScript drives these and awaits their promises. Each call into the instance is guarded, and a
//! failing instance does not take other requests under way down with it.
//!
//! In a Worker written in Rust (feature `library`): [`protect`] wraps its handler, and does in Rust what JavaScript
//! does above.

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

/// workerd's clock has whole milliseconds. In production it moves only when the isolate awaits something.
fn timestamp(now_ms: f64) -> Timestamp {
    #[cfg(feature = "test-clock")]
    let now_ms = clock::instead_of(now_ms);
    Timestamp::from_millis(now_ms as u64)
}

/// The time, for a step that did not get it as an argument.
fn now() -> Timestamp {
    timestamp(js_sys::Date::now())
}
