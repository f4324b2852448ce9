//! The filter as shipped, in the real Envoy, under real requests. Each test has an Envoy of its own.

pub mod client;
pub mod failing;
mod http2;
pub mod stage;

mod access;
mod adaptive;
mod addresses;
mod answers;
mod assets;
mod bad_policy;
mod bans;
mod bodies;
mod breakers;
pub mod chain;
pub mod concurrency;
mod costs;
mod counting;
mod delays;
mod failures;
mod flood;
mod health;
mod hostile;
mod keys;
pub mod metrics;
mod modes;
mod panic;
mod poisoning;
mod protocols;
mod quotas;
mod refusal;
mod reload;
mod sliding;
mod status;
mod strange;
mod tiers;
mod upstream;
