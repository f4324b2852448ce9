//! Limits that a rate-limit service counts, in the real Envoy, before a service of the published definition of the API.

mod asking;
mod failing;
mod messages;
pub mod service;
pub mod stage;
mod waiting;
