//! Circuit breakers: when to stop calling an upstream, and when to start again.
//!
//! A *closed* breaker admits calls and counts how they end. After enough failures, or enough slow calls, it *opens* and
//! refuses every call. After some time it is *half-open* and admits a few probes. If all of them succeed it closes and
//! *ramps*: it admits a growing share of calls, up to all of them. (The words are those of resilience4j. The ramp is
//! the slow start of load balancers; Traefik's breaker has one.)
//!
//! Every worker of a host has a [`Local`]: a copy of the [`Shared`] record, and the calls of the window. A call through
//! a closed breaker makes no host call. Shared state is accessed only
//!
//! - when a breaker opens, for each probe and for each probe's outcome: the record is changed by compare-and-swap;
//! - on a tick, for example every 100 ms: the worker reads the record, and merges the calls that it has counted with
//!   those of the other workers.
//!
//! Within two ticks, all workers know what each has counted and which breakers are open. A late or lost merge only
//! delays this. A worker that dies loses the counts that it has not merged. Its probes count as failed once their
//! deadline has passed.
//!
//! Many instances share a breaker through an authority, see [`global`]. The authority's state is written into the same
//! record.
//!
//! This module has no clock, random generator or host: each step takes the time and a [`Draw`](crate::units::Draw), and
//! returns what to publish. [`Ledger`] drives the steps for hosts whose store answers at once. A host that has to wait
//! for its store can take the same steps itself.

mod bytes;
pub mod global;
mod ledger;
mod local;
mod ramp;
mod recovery;
mod set;
mod shared;
mod window;

pub use ledger::{Ledger, Part};
pub use local::{Admission, Local, Statistics, Ticket};
pub use recovery::Election;
pub(crate) use recovery::jittered;
pub use set::Breakers;
pub use shared::{Shared, State};
pub use window::Tally;

use crate::units::Span;

/// How a call ended, as a breaker counts it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The upstream's response is not a failure by the policy.
    Success,
    /// The call failed, as the policy defines failures.
    Failure,
    /// Unknown: the client went away before the response. The call counts as slow if it had already lasted that long,
    /// so an upstream that hangs is noticed even if no client waits for it.
    Ignored,
}

/// The largest expected difference between the clocks of those that share a record. A time further ahead than this
/// means that the local clock was set back.
const SKEW: Span = Span::from_secs(1);
