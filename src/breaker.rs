//! Circuit breakers: when to stop calling an upstream, and how to begin again.
//!
//! A *closed* breaker admits calls and watches how they end. On enough failures, or calls slow enough, it *opens* and
//! refuses all. After a while it is *half-open* and admits a few probes; when all of them succeed it closes, and *ramps*
//! from a share of the calls to all of them. (The words are those of resilience4j; the ramp is the slow start of load
//! balancers, and Traefik's breaker has one.)
//!
//! Every worker of a host has a [`Local`]: a copy of the [`Shared`] record, and the calls of the window. A closed breaker
//! asks the host for nothing. Shared state is touched
//!
//! - when a breaker opens, for each probe and for its outcome: the record, by compare-and-swap;
//! - on a tick, every 100 ms, say: the record is read, and what the worker counted since is merged with what others did.
//!
//! So what one worker counted is known to whoever merges after it, and an opening to all, within two ticks. A merge that
//! is late or lost makes a window see less for that long, and nothing else; a worker that dies takes with it what it had
//! not merged, and its probes, which count as failed when their wait is over.
//!
//! Many instances share a breaker through an authority, see [`global`]; what stands there comes into the same record.
//!
//! Here is neither clock nor chance nor host: each step takes the time and a [`Draw`](crate::units::Draw), and says what
//! to publish. [`Ledger`] drives the steps for hosts that answer at once; where one must wait for a store, it can take
//! the same steps itself.

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

/// What became of a call, as a breaker sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It was answered as calls are to be.
    Success,
    /// It failed, as the policy understands it.
    Failure,
    /// Nobody knows: the client went away before the answer. It counts as slow if it had already lasted that long, so
    /// that an upstream that hangs is seen though no client waits for it.
    Ignored,
}

/// How far the clocks of those who share a record may lie apart. What is further ahead is a clock that was set back.
const SKEW: Span = Span::from_secs(1);
