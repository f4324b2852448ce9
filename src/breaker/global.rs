//! Breakers that many instances share: what an instance reports to their authority, and what the authority answers.
//!
//! Every instance decides by its own [record](super::Shared), as for any breaker. Instances share only the transitions,
//! and who may probe:
//!
//! ```text
//! instance                                    authority
//!    | Report { from, kind, ... }        -->  | accepts it if `from` is the newest generation that it knows
//!    | <-- Standing { generation, ... }       | and answers with the current state
//! ```
//!
//! **An instance makes a transition first,** by its own evidence, and then reports it. So calls to a failing upstream
//! stop at once, even if the authority does not answer. An instance that learns of a higher
//! [generation](Standing::generation) takes over its state. If two instances report a transition from the same
//! generation, the first one wins, and the other takes over the result.
//!
//! **Probes are elected.** Once a breaker has been open for its time, the first instance that has a call, or had one
//! shortly before, asks to be [elected](ReportKind::Elect). While the election lasts it sends all probes, in a
//! generation of its own, and all other instances refuse calls. It [holds](ReportKind::Hold) the election while its
//! probes proceed. If it dies or gets no more calls, the election expires, and the next instance that asks is elected,
//! in another generation. The instance ends its election before the authority does, so two instances never probe at the
//! same time.
//!
//! **Messages may be lost, late, duplicated or out of order.** A report from an older generation changes nothing, so a
//! duplicate is rejected. An answer with a generation that is already known makes no transition.
//!
//! **Clocks need not agree.** Messages carry ages and remaining times in ms, and each side measures them by its own
//! clock.
//!
//! **The authority may lose its data.** A new generation is higher than all that the authority and the reporter know,
//! and at least the authority's clock in ms. So the answers of an authority that restarted empty are still new to every
//! instance. An instance that knows a higher generation than the authority reports its state again.
//!
//! The authority is a Durable Object, which runs [`Record`], or Redis, whose script is tested to be equivalent. All
//! numbers are below 2^53, so a script that computes in doubles gets the same results.

mod agreeing;
mod record;
mod wire;

pub(crate) use agreeing::ReportFields;

pub use record::Record;
pub use wire::{BYTES_OF_REPORT, ReportMessage, standings_from_bytes, standings_to_bytes};

use crate::key::KeyHash;

/// What an instance reports of one breaker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Report {
    /// The breaker's key, the same in all instances: see [`Seed::shared`](crate::key::Seed::shared).
    pub breaker: KeyHash,
    /// The newest [`Standing::generation`] that the instance knows; 0 for none.
    pub from: u64,
    /// The kind of report.
    pub kind: ReportKind,
    /// [`ReportKind::Closed`], [`ReportKind::Open`]: how long ago the transition was, in ms.
    pub age_ms: u64,
    /// The time until probes may come ([`ReportKind::Open`]), or for which the election should last
    /// ([`ReportKind::Elect`], [`ReportKind::Hold`]), in ms. At most [`LONGEST_MS`] counts.
    pub lasts_ms: u64,
    /// How long the breaker was last open, before jitter, in ms.
    pub open_for_ms: u64,
    /// How often the breaker has opened.
    pub opened: u64,
}

/// The kind of a [`Report`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ReportKind {
    /// No news: the instance only asks for the state.
    #[default]
    Nothing,
    /// The breaker has closed.
    Closed,
    /// The breaker has opened.
    Open,
    /// The instance has a call for a breaker whose open time is over, and wants to be elected to probe.
    Elect,
    /// The instance is elected, and its probes proceed.
    Hold,
}

/// The authority's answer: its state of one breaker.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Standing {
    /// Higher with each transition; 0 if there was none.
    pub generation: u64,
    /// What the breaker does.
    pub state: StandingState,
    /// How long it has been in this state, in ms.
    pub age_ms: u64,
    /// The remaining time in ms: until probes may come, or the election ends. 0 when it is over, and for a closed
    /// breaker.
    pub rest_ms: u64,
    /// [`Report::open_for_ms`].
    pub open_for_ms: u64,
    /// [`Report::opened`].
    pub opened: u64,
    /// Whether the instance that gets this answer made the transition; for an election, whether it is the elected one.
    pub mine: bool,
}

/// The state of a breaker at the authority. One that ramps is closed, and its age shows how far the ramp has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum StandingState {
    /// It admits calls.
    #[default]
    Closed,
    /// It refuses calls.
    Open,
    /// One instance is elected to probe, and all others refuse.
    HalfOpen,
}

impl ReportKind {
    /// All kinds, by their numbers.
    pub(crate) const ALL: [Self; 5] = [Self::Nothing, Self::Closed, Self::Open, Self::Elect, Self::Hold];

    /// The number of this kind in messages.
    #[must_use]
    pub const fn number(self) -> u64 {
        self as u64
    }
}

impl StandingState {
    const ALL: [Self; 3] = [Self::Closed, Self::Open, Self::HalfOpen];

    /// The state of this number.
    #[must_use]
    pub fn from_number(number: u64) -> Option<Self> {
        Self::ALL.get(usize::try_from(number).ok()?).copied()
    }
}

/// The longest time that a report can ask for: a day, which is also the most that a policy can set.
pub const LONGEST_MS: u64 = 86_400_000;
