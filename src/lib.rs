//! Tidegate protects a service from overload. It runs in front of the service.
//!
//! This crate is the core: every decision and every byte of state, and no host code. It has no clock, no random
//! generator, no log and no I/O. An adapter passes in the time, a random draw and a view of the request, and acts on
//! the decision.
//!
//! A request goes through `plan` → `decide` → `observe`, all three in [`engine`].

#![forbid(unsafe_code)]
#![deny(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::disallowed_methods
)]
#![cfg_attr(test, allow(clippy::arithmetic_side_effects))]

pub mod access;
pub mod api_key;
pub mod assets;
pub mod authority;
pub mod breaker;
mod date;
pub mod decision;
pub mod delay;
pub mod engine;
#[cfg(feature = "cli")]
pub mod explain;
pub mod fallback;
pub mod global;
pub mod health;
pub mod key;
pub mod lease;
pub mod limiter;
pub mod lookup;
pub mod matching;
pub mod metrics;
pub mod mode;
pub mod network;
pub mod number;
pub mod path;
pub mod policy;
pub mod request;
pub mod rls;
pub mod shed;
mod sorted;
pub mod sorted_map;
pub mod stale;
pub mod status;
pub mod store;
pub mod table;
pub mod units;
mod varint;
mod words;
