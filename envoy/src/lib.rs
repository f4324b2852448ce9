//! Tidegate as an Envoy filter: a thin adapter between the proxy-wasm ABI and the core.
//!
//! `abi` is what Envoy calls, `host` what is called of Envoy. `root` reads the policy (`structure` where it is YAML) and
//! exports what was counted, `filter` takes one request through the core, `waiting` lets it wait, `chain` goes its way to the
//! upstreams with it (`saved` is the request that is sent again, `ends` how a call ended), `serving` does to its answer what its
//! route says, `authority` asks the store of limits that many Envoys share, `breakers` the same store for theirs, `rls` a rate-limit
//! service, `streams` finds the filter of a stream. In Envoy's shared data,
//! `store` keeps the key table, `shelf` good answers, `ledger` what all workers know of breakers, and `health` of the service.
//! `leaving` clears the gauges of a policy that goes, and `clusters` tells where Envoy's do not fit it.

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
