//! What all workers know of a breaker: the few values that change when it opens, probes or closes.
//!
//! The record is published only by compare-and-swap. So each generation has exactly one successor, even if several
//! workers see the reason for it.

use super::bytes::Reader;
use crate::store::StoreError;
use crate::units::{Span, Timestamp};
use crate::words;

/// The state of a breaker, as published. The default is a breaker that never opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Shared {
    /// Incremented with each transition. A call's outcome counts only in the generation in which the call began.
    pub(super) generation: u64,
    pub(super) phase: Phase,
    /// When the phase began.
    pub(super) since: Timestamp,
    /// How long the breaker was last open, before jitter; zero if it never was.
    pub(super) open_for: Span,
    /// How often the breaker has opened.
    pub(super) opened: u64,
    /// For a breaker that many instances share: the newest generation of a [`Standing`](super::global::Standing) known
    /// here.
    pub(super) agreed: u64,
    /// Whether this instance has made a transition that the authority does not know of.
    pub(super) unreported: bool,
}

/// The phase of a breaker. One that ramps is closed, and has not been closed for longer than its ramp.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Phase {
    /// Calls are admitted: all of them, or a share during the ramp.
    #[default]
    Closed,
    /// Calls are refused.
    Open {
        /// The first call at or after this is a probe.
        until: Timestamp,
    },
    /// Probes are admitted.
    HalfOpen(Probes),
    /// Another instance is elected to probe. Calls are refused here.
    Elsewhere {
        /// The latest end of that election.
        until: Timestamp,
    },
}

/// The progress of a half-open breaker's probes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Probes {
    /// Probes handed out, without those that ended without an outcome.
    pub(super) given: u32,
    /// Probes that have succeeded.
    pub(super) succeeded: u32,
    /// Probes without an outcome at this time have failed.
    pub(super) deadline: Timestamp,
    /// The end of this instance's right to hand out probes: never, or the end of its election.
    pub(super) give_until: Timestamp,
}

impl Probes {
    /// Probes that need no election.
    pub(super) const fn own(given: u32, deadline: Timestamp) -> Self {
        Self { given, succeeded: 0, deadline, give_until: FOR_EVER }
    }

    /// Whether any probe has no outcome yet.
    pub(super) fn awaited(&self) -> bool {
        self.given > self.succeeded
    }
}

/// The state of a breaker, by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// It admits calls.
    Closed,
    /// It refuses calls.
    Open,
    /// It admits probes.
    HalfOpen,
    /// It admits a growing share of calls.
    Ramping,
}

impl State {
    /// The word for this state.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Open => "open",
            Self::HalfOpen => "half-open",
            Self::Ramping => "ramping",
        }
    }
}

impl Shared {
    /// When the phase began; `None` if the breaker never opened.
    #[must_use]
    pub fn since(&self) -> Option<Timestamp> {
        (self.opened > 0).then_some(self.since)
    }

    /// How often the breaker has opened.
    #[must_use]
    pub fn opened(&self) -> u64 {
        self.opened
    }

    /// The number of the generation, incremented with each transition.
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// Whether other instances should take over this record: the breaker is closed, or is still open at `now`.
    #[must_use]
    pub(crate) fn counts_at(&self, now: Timestamp) -> bool {
        match self.phase {
            Phase::Closed => true,
            Phase::Open { until } => until > now,
            Phase::HalfOpen(_) | Phase::Elsewhere { .. } => false,
        }
    }

    /// Whether probes may start or end within this span, or have recently. A phase that ended over a second ago does
    /// not count: without calls there are no probes.
    pub(crate) fn is_near_probes(&self, span: Span, now: Timestamp) -> bool {
        let (from, until) = match self.phase {
            Phase::Closed => return false,
            Phase::Open { until } => (until.before(span), until),
            Phase::HalfOpen(probes) => (self.since, probes.give_until),
            Phase::Elsewhere { until } => (self.since, until),
        };
        from <= now && now <= until.after(NO_CALLS)
    }

    /// The authority's generation in which this instance is elected to probe, while it is.
    #[must_use]
    pub fn elected(&self) -> Option<u64> {
        matches!(self.phase, Phase::HalfOpen(probes) if probes.give_until != FOR_EVER).then_some(self.agreed)
    }

    /// The record as bytes: a version, a byte for the phase, then little-endian numbers. A record without values of a
    /// shared breaker is written in the first version, which older filters understand.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let own = Probes::own(0, Timestamp::EPOCH);
        let (word, probes) = match self.phase {
            Phase::Closed => (CLOSED, own),
            Phase::Open { until } => (OPEN, Probes { deadline: until, ..own }),
            Phase::HalfOpen(probes) => (HALF_OPEN, probes),
            Phase::Elsewhere { until } => (ELSEWHERE, Probes { deadline: until, ..own }),
        };
        let is_shared = self.agreed > 0 || self.unreported || word == ELSEWHERE || probes.give_until != FOR_EVER;
        let numbers = [
            self.generation,
            self.since.as_nanos(),
            self.open_for.as_nanos(),
            self.opened,
            probes.deadline.as_nanos(),
            u64::from(probes.given) | (u64::from(probes.succeeded) << 32),
        ];
        let of_shared = [self.agreed, u64::from(self.unreported), probes.give_until.as_nanos()];
        let mut bytes = vec![if is_shared { SHARED_VERSION } else { VERSION }, word];
        words::append(&mut bytes, &numbers);
        if is_shared {
            words::append(&mut bytes, &of_shared);
        }
        bytes
    }

    /// Decodes a record.
    ///
    /// # Errors
    /// [`StoreError::Corrupt`] for an unknown version, and for an impossible record.
    pub fn decode(bytes: &[u8]) -> Result<Self, StoreError> {
        Self::read(&mut Reader::new(bytes)).ok_or(StoreError::Corrupt)
    }

    fn read(reader: &mut Reader<'_>) -> Option<Self> {
        let version = reader.byte()?;
        let word = reader.byte()?;
        let generation = reader.u64()?;
        let since = Timestamp::from_nanos(reader.u64()?);
        let open_for = Span::from_nanos(reader.u64()?);
        let opened = reader.u64()?;
        let until = Timestamp::from_nanos(reader.u64()?);
        let (given, succeeded) = (reader.u32()?, reader.u32()?);
        let (agreed, unreported, give_until) = match version {
            VERSION => (0, false, FOR_EVER),
            SHARED_VERSION => (reader.u64()?, reader.u64()? != 0, Timestamp::from_nanos(reader.u64()?)),
            _ => return None,
        };
        let probes = Probes { given, succeeded, deadline: until, give_until };
        let phase = match word {
            CLOSED => Phase::Closed,
            OPEN => Phase::Open { until },
            HALF_OPEN if probes.succeeded <= probes.given => Phase::HalfOpen(probes),
            ELSEWHERE => Phase::Elsewhere { until },
            _ => return None,
        };
        reader.is_empty().then_some(Self { generation, phase, since, open_for, opened, agreed, unreported })
    }
}

const VERSION: u8 = 1;
/// With the additional values of a breaker that many instances share.
const SHARED_VERSION: u8 = 2;
const CLOSED: u8 = 0;
const OPEN: u8 = 1;
const HALF_OPEN: u8 = 2;
const ELSEWHERE: u8 = 3;

/// If no call came for this long after its time, no probe is expected.
const NO_CALLS: Span = Span::from_secs(1);

/// Later than any time: no end.
const FOR_EVER: Timestamp = Timestamp::from_nanos(u64::MAX);

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn phases() -> impl Strategy<Value = Phase> {
        let probes =
            (any::<u32>(), any::<u32>(), any::<u64>(), any::<u64>()).prop_map(|(one, other, ns, give_until)| {
                let (given, succeeded) = (one.max(other), one.min(other));
                let give_until = Timestamp::from_nanos(if give_until % 2 == 0 { u64::MAX } else { give_until });
                Phase::HalfOpen(Probes { given, succeeded, deadline: Timestamp::from_nanos(ns), give_until })
            });
        let open = any::<u64>().prop_map(|ns| Phase::Open { until: Timestamp::from_nanos(ns) });
        let elsewhere = any::<u64>().prop_map(|ns| Phase::Elsewhere { until: Timestamp::from_nanos(ns) });
        prop_oneof![Just(Phase::Closed), open, probes, elsewhere]
    }

    proptest! {
        #[test]
        fn bytes_are_the_same_record_again(
            phase in phases(),
            (generation, since, open_for, opened) in any::<(u64, u64, u64, u64)>(),
            agreed in prop_oneof![Just(0), any::<u64>()], unreported in any::<bool>(),
        ) {
            let (since, open_for) = (Timestamp::from_nanos(since), Span::from_nanos(open_for));
            let shared = Shared { generation, phase, since, open_for, opened, agreed, unreported };
            prop_assert_eq!(Shared::decode(&shared.encode()), Ok(shared));
        }

        #[test]
        fn any_bytes_are_a_record_or_corrupt(mut bytes in prop::collection::vec(any::<u8>(), 0..80), version in 1_u8..3, word in 0_u8..5) {
            let _ = Shared::decode(&bytes);
            if let [first, phase, ..] = &mut bytes[..] {
                (*first, *phase) = (version, word);
            }
            let _ = Shared::decode(&bytes);
        }
    }

    #[test]
    fn a_record_that_is_never_shared_is_written_as_older_filters_read_it() {
        let own = Shared { phase: Phase::HalfOpen(Probes::own(3, Timestamp::from_millis(9))), ..Shared::default() };
        assert_eq!((own.encode().len(), own.encode()[0]), (50, VERSION));
        assert_eq!(Shared { agreed: 1, ..own }.encode()[0], SHARED_VERSION);
    }

    #[test]
    fn another_version_or_length_is_corrupt() {
        let good = Shared::default().encode();
        let mut other = good.clone();
        other[0] = SHARED_VERSION + 1;
        assert_eq!(Shared::decode(&other), Err(StoreError::Corrupt));
        assert_eq!(Shared::decode(&good[..good.len() - 1]), Err(StoreError::Corrupt));
        assert_eq!(Shared::decode(&[&good[..], &[0]].concat()), Err(StoreError::Corrupt));
        assert_eq!(Shared::decode(&[]), Err(StoreError::Corrupt));
    }
}
