//! Limits that a rate-limit service counts, in the real Envoy, before a service of the published definition of the API.

mod asking;
mod failing;
mod messages;
mod service;
mod stage;
mod waiting;
