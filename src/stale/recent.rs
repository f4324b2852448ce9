//! The responses that an instance has recently kept, for hosts whose cache is too slow to be asked about each response.

use super::AnswerKey;
use super::shelf::REFRESH;
use crate::units::{Span, Timestamp};

/// The keys that were recently kept, in a table of fixed size. If a key displaces another, the other's response is only
/// kept again too early.
#[derive(Debug)]
pub struct Recent(Vec<(AnswerKey, Timestamp)>);

impl Default for Recent {
    fn default() -> Self {
        Self(vec![(AnswerKey::NONE, Timestamp::EPOCH); usize::from(PLACES)])
    }
}

impl Recent {
    /// Whether a response with this key should be kept: none was within [`REFRESH`] or a tenth of `stale`, whichever is
    /// less. If so, it counts as kept from now on, so one of many simultaneous responses is kept.
    pub(super) fn take(&mut self, key: AnswerKey, stale: Span, now: Timestamp) -> bool {
        let Some(place) = self.place(key) else { return true };
        let refresh = REFRESH.min(Span::from_nanos(stale.as_nanos() / 10));
        // If the clock was set back, the key is due at once.
        if place.0 == key && now >= place.1 && now.since(place.1) < refresh {
            return false;
        }
        *place = (key, now);
        true
    }

    /// Makes the next response with this key due, because this one was not kept in the end.
    pub fn forget(&mut self, key: AnswerKey) {
        if let Some(place) = self.place(key).filter(|place| place.0 == key) {
            *place = (AnswerKey::NONE, Timestamp::EPOCH);
        }
    }

    fn place(&mut self, key: AnswerKey) -> Option<&mut (AnswerKey, Timestamp)> {
        let place = usize::try_from(key.page(u32::from(PLACES))).ok()?;
        self.0.get_mut(place)
    }
}

/// 24 KiB.
const PLACES: u16 = 1_024;

#[cfg(test)]
mod tests {
    use super::*;

    const STALE: Span = Span::from_secs(3_600);

    fn at(secs: u64) -> Timestamp {
        Timestamp::from_millis(1_000_000 + secs * 1_000)
    }

    #[test]
    fn one_answer_of_a_key_is_kept_in_ten_seconds_or_a_tenth_of_its_age() {
        let (mut recent, key, other) = (Recent::default(), AnswerKey([5, 6]), AnswerKey([6, 6]));
        assert!(recent.take(key, STALE, at(0)));
        assert!(!recent.take(key, STALE, at(9)));
        assert!(recent.take(other, STALE, at(9)));
        assert!(recent.take(key, STALE, at(10)));
        assert!(recent.take(key, Span::from_secs(30), at(13)));
        recent.forget(key);
        assert!(recent.take(key, STALE, at(13)));
        assert!(recent.take(key, STALE, at(5)), "the clock has stepped back");
    }

    #[test]
    fn memory_is_bounded_and_who_is_displaced_is_kept_again() {
        let mut recent = Recent::default();
        for key in 0..10_000 {
            assert!(recent.take(AnswerKey([key, 1]), STALE, at(0)));
        }
        assert_eq!(recent.0.len(), usize::from(PLACES));
        assert!(recent.take(AnswerKey([0, 1]), STALE, at(0)));
    }
}
