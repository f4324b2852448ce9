//! The one integration binary: the core through its public face.

#![allow(clippy::disallowed_methods, reason = "the suite drives real servers by the real clock")]

mod allocation;
mod core_is_pure;
mod decision;
mod engine;
mod explain;
mod harness;
mod limiter;
mod policy;
mod table;
