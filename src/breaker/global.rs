//! Breakers that many instances share: what instances tell the one place where they agree, and what that answers.
//!
//! Every instance goes on by its own [record](super::Shared), as it always does. What is shared is which transitions there
//! were, and who may probe:
//!
//! ```text
//! instance                                    authority
//!    | Report { from, says, ... }        -->  | takes it up, if `from` is the newest generation that it knows
//!    | <-- Standing { generation, ... }       | and says what stands
//! ```
//!
//! **A transition is made in the instance first,** by its own evidence, and told then; so an upstream that fails is left alone
//! at once, whatever the authority does. Whoever learns of a higher [generation](Standing::generation) than the one that he
//! knows takes over what stands. Of two that tell a transition from the same generation the first has made it, and the other
//! takes that over.
//!
//! **Probes are elected.** When a breaker has been open for its time, the first instance that has a call, or had one shortly
//! before, asks to be [elected](Says::Elect). The whole set of probes is its own, in a generation of its own, as long as the election lasts; all
//! others refuse. It [holds](Says::Hold) the election while its probes come on. One that dies, or has no more calls, loses it by
//! time, and the next one that asks is elected, in another generation. An election ends with the instance before it ends with the
//! authority, so that no two instances may send probes at one time.
//!
//! **Messages may be lost, late, doubled and out of order.** A report from a generation that is not the newest changes nothing,
//! so that one which comes twice, or after others, is refused the second time. A standing of a generation that is known already
//! changes nothing either.
//!
//! **Clocks need not agree.** Times travel as ages and rests, in ms; each side counts by its own clock.
//!
//! **The authority may forget.** A new generation is above all that it knows and all that the reporter knows, and no less than its
//! clock in ms: so what it says after it began empty is new to everyone. Whoever knows a higher generation than stands tells it
//! again.
//!
//! The authority is a Durable Object, which runs [`Record`], or Redis, whose script is held equal to it. All numbers are below
//! 2^53, so that a script which counts in doubles computes the same.

mod agreeing;
mod record;
mod wire;

pub(crate) use agreeing::Told;

pub use record::Record;
pub use wire::{Asked, BYTES_OF_REPORT, standings_from_bytes, standings_to_bytes};

use crate::key::KeyHash;

/// What an instance says of one breaker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Report {
    /// Which breaker. The same in all instances: see [`Seed::shared`](crate::key::Seed::shared).
    pub breaker: KeyHash,
    /// The newest [`Standing::generation`] that the instance knows; 0 for none.
    pub from: u64,
    /// What it has to say.
    pub says: Says,
    /// [`Says::Closed`], [`Says::Open`]: since when, in ms.
    pub age_ms: u64,
    /// For how long, in ms: until probes may come ([`Says::Open`]), or the election is to last ([`Says::Elect`], [`Says::Hold`]). At
    /// most [`LONGEST_MS`] counts.
    pub lasts_ms: u64,
    /// How long the breaker was last open before chance took its part, in ms.
    pub open_for_ms: u64,
    /// How often it has opened.
    pub opened: u64,
}

/// What a [`Report`] says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Says {
    /// Nothing: the instance wants to hear.
    #[default]
    Nothing,
    /// The breaker has closed.
    Closed,
    /// It has opened.
    Open,
    /// The instance has a call for a breaker whose time is over, and wants to be the one that probes.
    Elect,
    /// It is the one, and its probes come on.
    Hold,
}

/// What stands of one breaker.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Standing {
    /// Higher with each transition; 0 where there was none.
    pub generation: u64,
    /// What the breaker does.
    pub state: Stands,
    /// For how long it has, in ms.
    pub age_ms: u64,
    /// For how long it will, in ms: until probes may come, or the election ends. 0 when it is over, and for a closed breaker.
    pub rest_ms: u64,
    /// [`Report::open_for_ms`].
    pub open_for_ms: u64,
    /// [`Report::opened`].
    pub opened: u64,
    /// Whether the instance that is answered has made the transition, and is the one elected.
    pub mine: bool,
}

/// What a breaker does, as it stands with the authority. One that ramps is closed, and its age says how far it has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Stands {
    /// It admits calls.
    #[default]
    Closed,
    /// It refuses calls.
    Open,
    /// One instance is elected to probe, and all others refuse.
    HalfOpen,
}

impl Says {
    /// By their numbers.
    pub(crate) const ALL: [Self; 5] = [Self::Nothing, Self::Closed, Self::Open, Self::Elect, Self::Hold];

    /// The number of the word in messages.
    #[must_use]
    pub const fn number(self) -> u64 {
        self as u64
    }
}

impl Stands {
    const ALL: [Self; 3] = [Self::Closed, Self::Open, Self::HalfOpen];

    /// The state of this number.
    #[must_use]
    pub fn from_number(number: u64) -> Option<Self> {
        Self::ALL.get(usize::try_from(number).ok()?).copied()
    }
}

/// No breaker is open for longer, whatever a report says: a day, which is the most that a policy can ask for.
pub const LONGEST_MS: u64 = 86_400_000;
