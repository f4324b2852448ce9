//! The integration tests, in one binary: the core through its public interface, and the filter in the real Envoy.

#![allow(clippy::disallowed_methods, reason = "the suite drives real servers by the real clock")]

// The demo's modules: the tests drive the same Envoy, origin and store as the demo.
#[path = "../../src/bin/tidegate/demo/bootstrap.rs"]
mod bootstrap;
#[path = "../../src/bin/tidegate/demo/envoy.rs"]
mod envoy;
#[path = "../../src/bin/tidegate/demo/locations.rs"]
mod locations;
#[path = "../../src/bin/tidegate/demo/origin.rs"]
mod origin;
#[path = "../../src/bin/tidegate/demo/store.rs"]
mod store;

mod access;
mod adaptive;
mod allocation;
mod breaker;
mod concurrency;
mod core_is_pure;
mod decision;
mod delay;
mod demo;
mod engine;
mod explain;
mod filter;
mod fuzz;
mod global;
mod harness;
mod health;
mod limiter;
mod modes;
mod policy;
mod readme;
mod redis;
mod rig;
mod rls;
mod scenarios;
mod sharing;
mod shedding;
mod status;
mod table;
