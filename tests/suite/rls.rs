//! Limits that an external rate-limit service counts, in the real Envoy, with a test service built from the published
//! API definition.

mod asking;
mod failing;
mod messages;
pub mod service;
pub mod stage;
mod waiting;
