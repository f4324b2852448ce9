//! Reports and standings as bytes, for an authority that is reached by messages: little-endian u64 numbers. A message
//! begins with its version. In a message of reports the instance follows. Then there are seven numbers for each
//! breaker.

use super::{Report, ReportKind, Standing, StandingState};
use crate::authority::Instance;
use crate::key::KeyHash;
use crate::words;

/// The reports that one instance sends in one message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReportMessage {
    /// The instance that reports.
    pub instance: Instance,
    /// The reports, at most [`ReportMessage::MAX_REPORTS`].
    pub reports: Vec<Report>,
}

impl ReportMessage {
    /// The maximum number of reports in one message.
    pub const MAX_REPORTS: usize = 32;

    /// The message as bytes.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        words::append(&mut bytes, &[VERSION, self.instance.get()]);
        for it in &self.reports {
            let (breaker, kind) = (it.breaker.get(), it.kind.number());
            words::append(&mut bytes, &[breaker, it.from, kind, it.age_ms, it.lasts_ms, it.open_for_ms, it.opened]);
        }
        bytes
    }

    /// Decodes a message; `None` for another version, and for invalid bytes.
    #[must_use]
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let (mut numbers, count) = numbers(bytes, 2)?;
        let instance = Instance::new(numbers.next()?);
        let mut report = || {
            Some(Report {
                breaker: KeyHash::from_bits(numbers.next()?),
                from: numbers.next()?,
                kind: *ReportKind::ALL.get(usize::try_from(numbers.next()?).ok()?)?,
                age_ms: numbers.next()?,
                lasts_ms: numbers.next()?,
                open_for_ms: numbers.next()?,
                opened: numbers.next()?,
            })
        };
        let reports = (0..count).map(|_| report()).collect::<Option<_>>()?;
        Some(Self { instance, reports })
    }
}

/// The answer as bytes, with a standing for each report.
#[must_use]
pub fn standings_to_bytes(standings: &[Standing]) -> Vec<u8> {
    let mut bytes = Vec::new();
    words::append(&mut bytes, &[VERSION]);
    for it in standings {
        let (state, mine) = (it.state as u64, u64::from(it.mine));
        words::append(&mut bytes, &[it.generation, state, it.age_ms, it.rest_ms, it.open_for_ms, it.opened, mine]);
    }
    bytes
}

/// Decodes an answer; `None` for another version, and for invalid bytes.
#[must_use]
pub fn standings_from_bytes(bytes: &[u8]) -> Option<Vec<Standing>> {
    let (mut numbers, count) = numbers(bytes, 1)?;
    (0..count).map(|_| Standing::from_numbers(&mut numbers)).collect()
}

impl Standing {
    /// Reads a standing from seven numbers, in the order of the fields; `None` if they are invalid.
    pub(crate) fn from_numbers(numbers: &mut impl Iterator<Item = u64>) -> Option<Self> {
        Some(Self {
            generation: numbers.next()?,
            state: StandingState::from_number(numbers.next()?)?,
            age_ms: numbers.next()?,
            rest_ms: numbers.next()?,
            open_for_ms: numbers.next()?,
            opened: numbers.next()?,
            mine: match numbers.next()? {
                0 => false,
                1 => true,
                _ => return None,
            },
        })
    }
}

/// The numbers of a message after its version, and the number of breakers in it. `before` counts the version and
/// whatever else precedes the breakers.
fn numbers(bytes: &[u8], before: usize) -> Option<(impl Iterator<Item = u64>, usize)> {
    let (chunks, rest) = bytes.as_chunks::<8>();
    let of_breakers = chunks.len().checked_sub(before)?;
    let count = of_breakers / NUMBERS;
    let mut numbers = chunks.iter().map(|number| u64::from_le_bytes(*number));
    let is_whole = rest.is_empty() && of_breakers.is_multiple_of(NUMBERS) && count <= ReportMessage::MAX_REPORTS;
    (is_whole && numbers.next() == Some(VERSION)).then_some((numbers, count))
}

const VERSION: u64 = 1;
/// The numbers for each breaker, in either direction.
const NUMBERS: usize = 7;
/// The size of a report in bytes. The first eight are its breaker's key.
pub const BYTES_OF_REPORT: usize = NUMBERS * 8;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn bytes_are_the_same_message_again(
            instance in any::<u64>(),
            all in prop::collection::vec(
                (any::<[u64; 6]>(), 0_usize..5, 0_u64..3, any::<bool>()),
                0..=ReportMessage::MAX_REPORTS,
            ),
        ) {
            let report = |(numbers, kind, _, _): &([u64; 6], usize, u64, bool)| {
                let [breaker, from, age_ms, lasts_ms, open_for_ms, opened] = *numbers;
                let (breaker, kind) = (KeyHash::from_bits(breaker), ReportKind::ALL[*kind]);
                Report { breaker, from, kind, age_ms, lasts_ms, open_for_ms, opened }
            };
            let asked = ReportMessage { instance: Instance::new(instance), reports: all.iter().map(report).collect() };
            prop_assert_eq!(ReportMessage::from_bytes(&asked.to_bytes()), Some(asked));
            let standing = |(numbers, _, state, mine): &([u64; 6], usize, u64, bool)| {
                let [generation, age_ms, rest_ms, open_for_ms, opened, _] = *numbers;
                let state = StandingState::from_number(*state).unwrap();
                Standing { generation, state, age_ms, rest_ms, open_for_ms, opened, mine: *mine }
            };
            let standings: Vec<_> = all.iter().map(standing).collect();
            prop_assert_eq!(standings_from_bytes(&standings_to_bytes(&standings)), Some(standings));
        }

        #[test]
        fn any_bytes_are_a_message_or_none(mut bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let _ = (ReportMessage::from_bytes(&bytes), standings_from_bytes(&bytes));
            if let Some(version) = bytes.first_chunk_mut::<8>() {
                *version = VERSION.to_le_bytes();
            }
            bytes.resize(16 + 2 * BYTES_OF_REPORT, 0);
            let _ = ReportMessage::from_bytes(&bytes);
            bytes.resize(8 + 2 * BYTES_OF_REPORT, 0);
            let _ = standings_from_bytes(&bytes);
        }
    }

    #[test]
    fn another_version_or_length_is_no_message_nor_is_one_of_too_many() {
        let good = standings_to_bytes(&[Standing::default()]);
        assert!(standings_from_bytes(&good).is_some() && ReportMessage::from_bytes(&good).is_none());
        assert_eq!(standings_from_bytes(&good[8..]), None);
        assert_eq!(standings_from_bytes(&good[..8 + 6]), None);
        let mut other = good.clone();
        other[0] = 2;
        assert_eq!(standings_from_bytes(&other), None);
        assert_eq!(
            standings_from_bytes(&standings_to_bytes(&[Standing::default(); ReportMessage::MAX_REPORTS + 1])),
            None
        );
    }
}
