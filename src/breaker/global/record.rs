//! The authority's record of one breaker.

use super::{LONGEST_MS, Report, ReportKind, Standing, StandingState};
use crate::authority::Instance;
use crate::words;

/// The record of one breaker. The default is a breaker that never opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Record {
    generation: u64,
    state: StandingState,
    /// When the state began and when it ends, in ms since the Unix epoch by the authority's clock.
    since_ms: u64,
    ends_ms: u64,
    open_for_ms: u64,
    opened: u64,
    /// The instance that made the transition.
    instance: Instance,
}

impl Record {
    /// Answers a report at `now_ms`, in ms since the Unix epoch.
    pub fn answer(&mut self, report: &Report, instance: Instance, now_ms: u64) -> Standing {
        self.adjust_to_clock(now_ms);
        let lasts_ms = report.lasts_ms.min(LONGEST_MS);
        // The instance may know a higher generation that the authority has lost.
        let knows = report.from >= self.generation;
        let forgotten = report.from > self.generation;
        // A closed record's time is over, too: an instance that wants to probe has opened the breaker since, and that
        // report was lost.
        let is_over = self.ends_ms <= now_ms;
        let holds =
            report.from == self.generation && self.state == StandingState::HalfOpen && self.instance == instance;
        let since_ms = now_ms.saturating_sub(report.age_ms);
        let next = match report.kind {
            ReportKind::Closed if knows => Some((StandingState::Closed, since_ms, now_ms)),
            ReportKind::Open if knows => Some((StandingState::Open, since_ms, now_ms.saturating_add(lasts_ms))),
            ReportKind::Elect if forgotten || (knows && is_over) => {
                Some((StandingState::HalfOpen, now_ms, now_ms.saturating_add(lasts_ms)))
            }
            ReportKind::Hold if holds => {
                self.ends_ms = self.ends_ms.max(now_ms.saturating_add(lasts_ms));
                None
            }
            _ => None,
        };
        if let Some((state, since_ms, ends_ms)) = next {
            let generation = self.generation.max(report.from).saturating_add(1).max(now_ms);
            let (open_for_ms, opened) = (report.open_for_ms, report.opened);
            *self = Self { generation, state, since_ms, ends_ms, open_for_ms, opened, instance };
        }
        self.standing(instance, now_ms)
    }

    /// Adjusts the record to a clock that was set back: its full length starts again now. Otherwise it would last until
    /// the clock reaches its old time again.
    fn adjust_to_clock(&mut self, now_ms: u64) {
        if self.since_ms > now_ms {
            let length_ms = self.ends_ms.saturating_sub(self.since_ms);
            (self.since_ms, self.ends_ms) = (now_ms, now_ms.saturating_add(length_ms));
        }
    }

    fn standing(&self, instance: Instance, now_ms: u64) -> Standing {
        Standing {
            generation: self.generation,
            state: self.state,
            age_ms: now_ms.saturating_sub(self.since_ms),
            rest_ms: self.ends_ms.saturating_sub(now_ms),
            open_for_ms: self.open_for_ms,
            opened: self.opened,
            mine: self.generation > 0 && self.instance == instance,
        }
    }

    /// The size of a record in bytes.
    pub const BYTES: usize = 8 * 8;

    /// The record as bytes: a version, then the fields, each as a little-endian u64.
    #[must_use]
    pub fn to_bytes(&self) -> [u8; Self::BYTES] {
        words::array(&[
            VERSION,
            self.generation,
            self.state as u64,
            self.since_ms,
            self.ends_ms,
            self.open_for_ms,
            self.opened,
            self.instance.get(),
        ])
    }

    /// Decodes a record; `None` for another version, and for invalid bytes.
    #[must_use]
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let bytes: &[u8; Self::BYTES] = bytes.try_into().ok()?;
        let (numbers, _) = bytes.as_chunks::<8>();
        let mut numbers = numbers.iter().map(|number| u64::from_le_bytes(*number));
        let mut next = || numbers.next();
        if next()? != VERSION {
            return None;
        }
        Some(Self {
            generation: next()?,
            state: StandingState::from_number(next()?)?,
            since_ms: next()?,
            ends_ms: next()?,
            open_for_ms: next()?,
            opened: next()?,
            instance: Instance::new(next()?),
        })
    }
}

const VERSION: u64 = 1;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::key::KeyHash;
    use proptest::prelude::*;

    const ONE: Instance = Instance::new(1);
    const OTHER: Instance = Instance::new(2);

    fn report(from: u64, kind: ReportKind, lasts_ms: u64) -> Report {
        let breaker = KeyHash::from_bits(1);
        Report { breaker, from, kind, age_ms: 0, lasts_ms, open_for_ms: 1_000, opened: 1 }
    }

    #[test]
    fn of_two_that_tell_from_one_generation_the_first_has_made_the_transition() {
        let mut record = Record::default();
        let made = record.answer(&report(0, ReportKind::Open, 1_000), ONE, 5_000);
        assert_eq!((made.state, made.rest_ms, made.mine), (StandingState::Open, 1_000, true));
        let lost = record.answer(&report(0, ReportKind::Closed, 0), OTHER, 5_100);
        assert_eq!(lost, Standing { age_ms: 100, rest_ms: 900, mine: false, ..made });
        // The same report again, as after a lost answer.
        assert_eq!(record.answer(&report(0, ReportKind::Open, 1_000), ONE, 5_100), Standing { mine: true, ..lost });
    }

    #[test]
    fn one_is_elected_when_the_time_is_over_and_the_next_when_its_election_is() {
        let mut record = Record::default();
        let open = record.answer(&report(0, ReportKind::Open, 1_000), ONE, 5_000).generation;
        assert_eq!(
            record.answer(&report(open, ReportKind::Elect, 500), ONE, 5_999).state,
            StandingState::Open,
            "too early"
        );
        let elected = record.answer(&report(open, ReportKind::Elect, 500), OTHER, 6_000);
        assert_eq!((elected.state, elected.rest_ms, elected.mine), (StandingState::HalfOpen, 500, true));
        let from = elected.generation;
        assert!(!record.answer(&report(open, ReportKind::Elect, 500), ONE, 6_000).mine, "from an old generation");
        assert!(!record.answer(&report(from, ReportKind::Elect, 500), ONE, 6_499).mine, "too early");
        // Only the elected instance can hold the election.
        assert_eq!(record.answer(&report(from, ReportKind::Hold, 500), ONE, 6_400).rest_ms, 100);
        assert_eq!(record.answer(&report(from, ReportKind::Hold, 500), OTHER, 6_400).rest_ms, 500);
        assert!(!record.answer(&report(from, ReportKind::Elect, 500), ONE, 6_899).mine);
        let next = record.answer(&report(from, ReportKind::Elect, 500), ONE, 6_900);
        assert!(next.mine && next.generation > from);
        assert_eq!(
            record.answer(&report(from, ReportKind::Closed, 0), OTHER, 6_950).state,
            StandingState::HalfOpen,
            "too late"
        );
    }

    #[test]
    fn what_was_forgotten_is_told_again_and_new_to_all() {
        let mut record = Record::default();
        let known = record.answer(&report(0, ReportKind::Open, 1_000), ONE, 5_000).generation;
        record = Record::default();
        assert!(record.answer(&report(0, ReportKind::Open, 1_000), OTHER, 5_001).generation > known);
        record = Record::default();
        let again = record.answer(&report(known, ReportKind::Open, 900), ONE, 4_000);
        assert!(again.generation > known, "also by a clock that was set back");
    }

    #[test]
    fn a_clock_that_is_set_back_makes_nothing_last_longer_than_it_was_to_last() {
        let mut record = Record::default();
        let from = record.answer(&report(0, ReportKind::Open, 1_000), ONE, 10_000_000).generation;
        let back = record.answer(&report(from, ReportKind::Nothing, 0), ONE, 5_000);
        assert_eq!((back.age_ms, back.rest_ms), (0, 1_000));
        assert!(record.answer(&report(from, ReportKind::Elect, 500), OTHER, 6_000).mine);
    }

    #[test]
    fn nothing_is_open_for_longer_than_a_day() {
        let mut record = Record::default();
        assert_eq!(record.answer(&report(0, ReportKind::Open, u64::MAX), ONE, 5_000).rest_ms, LONGEST_MS);
    }

    proptest! {
        #[test]
        fn bytes_are_the_same_record_again(
            (generation, since_ms, ends_ms, open_for_ms, opened, instance) in any::<(u64, u64, u64, u64, u64, u64)>(),
            state in 0_u64..3,
        ) {
            let (state, instance) = (StandingState::from_number(state).unwrap(), Instance::new(instance));
            let record = Record { generation, state, since_ms, ends_ms, open_for_ms, opened, instance };
            prop_assert_eq!(Record::from_bytes(&record.to_bytes()), Some(record));
        }

        #[test]
        fn any_bytes_are_a_record_or_none(mut bytes in prop::collection::vec(any::<u8>(), 0..80)) {
            let _ = Record::from_bytes(&bytes);
            if let Some(version) = bytes.first_chunk_mut::<8>() {
                *version = VERSION.to_le_bytes();
            }
            bytes.resize(Record::BYTES, 0);
            let _ = Record::from_bytes(&bytes);
        }
    }
}
