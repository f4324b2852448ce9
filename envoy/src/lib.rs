//! Tidegate as an Envoy filter: a thin adapter between the proxy-wasm ABI and the core.
//!
//! Calls between Envoy and the filter: `abi` has the functions that Envoy calls, `host` the calls into Envoy.
//!
//! The policy: `root` reads it (`structure` if it is YAML) and exports metrics; `leaving` clears the gauges of a policy
//! that is replaced; `clusters` logs where Envoy's clusters do not fit it.
//!
//! One request: `filter` takes it through the core, `waiting` delays it, `chain` forwards it to upstreams (`saved` is
//! the request to send again, `ends` tells how a call ended), `serving` applies its route's response rules, `streams`
//! finds the filter of a stream.
//!
//! Other services: `authority` asks the store of shared limits, `breakers` asks it for shared breakers, `rls` asks a
//! rate-limit service.
//!
//! Envoy's shared data: `store` has the key table, `shelf` kept responses, `ledger` the state of breakers, `health`
//! that of the service.

#![deny(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod abi;
mod authority;
mod breakers;
mod chain;
#[cfg(feature = "test-clock")]
mod clock;
mod clusters;
mod ends;
mod facts;
mod filter;
mod health;
mod host;
mod instance;
mod leaving;
mod ledger;
mod metrics;
mod random;
mod rls;
mod root;
mod saved;
mod serving;
mod shelf;
mod store;
mod streams;
mod structure;
#[cfg(feature = "panic-on-header")]
mod trap;
mod waiting;
