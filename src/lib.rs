//! Tidegate protects a service from overload. It runs in front of the service.
//!
//! This crate is the core: every decision and every byte of state, and no host code. It has no clock, no random
//! generator, no log and no I/O. An adapter passes in the time, a random draw and a view of the request, and acts on
//! the decision.
//!
//! A request goes through `plan` → `decide` → `observe`, all three in [`engine`]. A minimal host:
//!
//! ```
//! use std::borrow::Cow;
//! use tidegate::engine::{Engine, Plan};
//! use tidegate::key::Seed;
//! use tidegate::lease::Leases;
//! use tidegate::metrics::Counters;
//! use tidegate::policy::Policy;
//! use tidegate::request::RequestFacts;
//! use tidegate::store::memory::MemoryStore;
//! use tidegate::units::{Span, Timestamp};
//!
//! /// A `GET` of one path, from one address.
//! struct Request;
//!
//! impl RequestFacts for Request {
//!     fn method(&self) -> Cow<'_, [u8]> { b"GET".into() }
//!     fn path(&self) -> Cow<'_, [u8]> { b"/api/orders?page=2".into() }
//!     fn authority(&self) -> Cow<'_, [u8]> { b"example.com".into() }
//!     fn peer(&self) -> Option<Cow<'_, [u8]>> { Some(b"192.0.2.7:4711".into()) }
//!     fn header(&self, _name: &str) -> Option<Cow<'_, [u8]>> { None }
//! }
//!
//! let document = r#"{
//!     "version": 1,
//!     "limits": [{ "name": "api", "match": { "path": "/api/**" }, "quota": { "permits": 1, "window": "60s" } }]
//! }"#;
//! let policy = Policy::parse(document).expect("all errors of the document, each with its path");
//! let mut counters = Counters::new(policy.limits().len(), policy.tiers().len());
//! let mut store = MemoryStore::new(policy.max_keys());
//! // The seed comes from a random source: a client that knew it could choose which keys collide.
//! let engine = Engine::new(policy, Seed::new([0x0123_4567_89ab_cdef, 0xfedc_ba98_7654_3210]));
//! let (mut plan, mut leases, mut local) = (Plan::new(), Leases::none(), MemoryStore::new(0));
//!
//! let mut decide = |now| {
//!     engine.plan(&Request, &mut plan);
//!     engine.decide(&mut plan, &mut store, &mut local, &mut leases, &mut counters, now)
//! };
//! // The start of a minute: windows are aligned to the Unix epoch.
//! let now = Timestamp::from_millis(1_800_000_000_000);
//! assert!(decide(now).refusal.is_none());
//!
//! let refusal = decide(now).refusal.expect("the one permit is used");
//! let reply = refusal.reply(&engine, &Request);
//! assert_eq!((reply.status, reply.retry_after_secs), (429, Some(120)));
//! // `Retry-After` is true to the nanosecond.
//! let retry_after = refusal.retry_after.expect("it would pass then");
//! assert!(decide(now.after(retry_after.minus(Span::from_nanos(1)))).refusal.is_some());
//! assert!(decide(now.after(retry_after)).refusal.is_none());
//! ```

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
