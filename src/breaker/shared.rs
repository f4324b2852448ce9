//! What all workers know of a breaker: the little that changes when it opens, probes or closes.
//!
//! It is published by compare-and-swap alone, so that each generation has one successor, whoever saw the reason first.

use super::bytes::Reader;
use crate::store::StoreError;
use crate::units::{Span, Timestamp};

/// The state of a breaker, as published. As a default: closed, since ever.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Shared {
    /// One more with each transition. A call's outcome counts only in the generation in which the call began.
    pub(super) generation: u64,
    pub(super) phase: Phase,
    /// When the phase began.
    pub(super) since: Timestamp,
    /// How long the breaker was last open, before chance took its part; zero when it never was.
    pub(super) open_for: Span,
    /// How often it has opened.
    pub(super) opened: u64,
}

/// What a breaker does. A breaker that ramps is closed, and has not been for long.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Phase {
    /// Calls are admitted: all, or during the ramp a share.
    #[default]
    Closed,
    /// Calls are refused.
    Open {
        /// The first call at or after this is a probe.
        until: Timestamp,
    },
    /// Probes are admitted.
    HalfOpen(Probes),
}

/// How far the probes of a half-open breaker have come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Probes {
    /// How many were given out, but for those that told nothing.
    pub(super) given: u32,
    /// How many of them have succeeded.
    pub(super) succeeded: u32,
    /// When what has no outcome by then has failed.
    pub(super) deadline: Timestamp,
}

impl Probes {
    /// Whether the outcome of any is awaited.
    pub(super) fn awaited(&self) -> bool {
        self.given > self.succeeded
    }
}

/// The name of what a breaker does.
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
    /// The word for it.
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
    /// The most bytes that [`Shared::encode`] makes.
    pub const BYTES: usize = 50;

    /// When the phase began; `None` for a breaker that never opened.
    #[must_use]
    pub fn since(&self) -> Option<Timestamp> {
        (self.opened > 0).then_some(self.since)
    }

    /// How often the breaker has opened.
    #[must_use]
    pub fn opened(&self) -> u64 {
        self.opened
    }

    /// One more with each transition.
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// Whether the record tells others of a state that lasts: that the breaker is closed, or open still.
    #[must_use]
    pub(crate) fn counts_at(&self, now: Timestamp) -> bool {
        match self.phase {
            Phase::Closed => true,
            Phase::Open { until } => until > now,
            Phase::HalfOpen(_) => false,
        }
    }

    /// The record as bytes: a version, a word for the phase, then little-endian numbers.
    #[must_use]
    pub fn encode(&self) -> [u8; Self::BYTES] {
        let (word, until, probes) = match self.phase {
            Phase::Closed => (CLOSED, Timestamp::EPOCH, Probes::default()),
            Phase::Open { until } => (OPEN, until, Probes::default()),
            Phase::HalfOpen(probes) => (HALF_OPEN, probes.deadline, probes),
        };
        let numbers = [
            self.generation.to_le_bytes(),
            self.since.as_nanos().to_le_bytes(),
            self.open_for.as_nanos().to_le_bytes(),
            self.opened.to_le_bytes(),
            until.as_nanos().to_le_bytes(),
            (u64::from(probes.given) | (u64::from(probes.succeeded) << 32)).to_le_bytes(),
        ];
        let mut bytes = [0; Self::BYTES];
        let all = [VERSION, word].into_iter().chain(numbers.into_iter().flatten());
        bytes.iter_mut().zip(all).for_each(|(byte, value)| *byte = value);
        bytes
    }

    /// The record of these bytes.
    ///
    /// # Errors
    /// [`StoreError::Corrupt`] for an unknown version, and for what no breaker can be.
    pub fn decode(bytes: &[u8]) -> Result<Self, StoreError> {
        Self::read(&mut Reader::new(bytes)).ok_or(StoreError::Corrupt)
    }

    fn read(reader: &mut Reader<'_>) -> Option<Self> {
        if reader.byte()? != VERSION {
            return None;
        }
        let word = reader.byte()?;
        let generation = reader.u64()?;
        let since = Timestamp::from_nanos(reader.u64()?);
        let open_for = Span::from_nanos(reader.u64()?);
        let opened = reader.u64()?;
        let until = Timestamp::from_nanos(reader.u64()?);
        let probes = Probes { given: reader.u32()?, succeeded: reader.u32()?, deadline: until };
        let phase = match word {
            CLOSED => Phase::Closed,
            OPEN => Phase::Open { until },
            HALF_OPEN if probes.succeeded <= probes.given => Phase::HalfOpen(probes),
            _ => return None,
        };
        reader.is_empty().then_some(Self { generation, phase, since, open_for, opened })
    }
}

const VERSION: u8 = 1;
const CLOSED: u8 = 0;
const OPEN: u8 = 1;
const HALF_OPEN: u8 = 2;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn phases() -> impl Strategy<Value = Phase> {
        let probes = (any::<u32>(), any::<u32>(), any::<u64>()).prop_map(|(one, other, ns)| {
            let (given, succeeded) = (one.max(other), one.min(other));
            Phase::HalfOpen(Probes { given, succeeded, deadline: Timestamp::from_nanos(ns) })
        });
        let open = any::<u64>().prop_map(|ns| Phase::Open { until: Timestamp::from_nanos(ns) });
        prop_oneof![Just(Phase::Closed), open, probes]
    }

    proptest! {
        #[test]
        fn bytes_are_the_same_record_again(
            phase in phases(),
            (generation, since, open_for, opened) in any::<(u64, u64, u64, u64)>(),
        ) {
            let (since, open_for) = (Timestamp::from_nanos(since), Span::from_nanos(open_for));
            let shared = Shared { generation, phase, since, open_for, opened };
            prop_assert_eq!(Shared::decode(&shared.encode()), Ok(shared));
        }

        #[test]
        fn any_bytes_are_a_record_or_corrupt(mut bytes in prop::collection::vec(any::<u8>(), 0..60), word in 0_u8..4) {
            let _ = Shared::decode(&bytes);
            if let [version, phase, ..] = &mut bytes[..] {
                (*version, *phase) = (VERSION, word);
            }
            let _ = Shared::decode(&bytes);
        }
    }

    #[test]
    fn another_version_or_length_is_corrupt() {
        let good = Shared::default().encode();
        let mut other = good;
        other[0] = VERSION + 1;
        assert_eq!(Shared::decode(&other), Err(StoreError::Corrupt));
        assert_eq!(Shared::decode(&good[..Shared::BYTES - 1]), Err(StoreError::Corrupt));
        assert_eq!(Shared::decode(&[&good[..], &[0]].concat()), Err(StoreError::Corrupt));
        assert_eq!(Shared::decode(&[]), Err(StoreError::Corrupt));
    }
}
