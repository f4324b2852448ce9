//! Which worker of an instance asks the authority over shared breakers, and whether the authority answers. This is a
//! record beside those of the breakers, published by compare-and-swap.

use crate::breaker::{Ledger, Part};
use crate::store::{MAX_ROUNDS, StoreError};
use crate::units::{Span, Timestamp};
use crate::words;

/// When the authority was last asked, and whether it has answered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Turn {
    asked_at: Timestamp,
    /// When the first unanswered round was sent; the epoch if the last round was answered.
    unanswered_since: Timestamp,
    /// The breaker with which the next round begins, if a round does not hold all of them.
    cursor: u64,
}

impl Turn {
    /// Reads the current record.
    pub(super) fn read<L: Ledger>(ledger: &mut L) -> Result<Self, StoreError> {
        Ok(ledger.read(Part::Transitions)?.and_then(Self::decode).unwrap_or_default())
    }

    /// Publishes `next` in place of this record, if this is still the current one.
    pub(super) fn replace<L: Ledger>(&self, next: Self, ledger: &mut L) -> Result<(), StoreError> {
        if Self::read(ledger)? == *self { next.publish(ledger) } else { Err(StoreError::Conflict) }
    }

    /// Publishes this record, unless another worker has published since it was read.
    fn publish<L: Ledger>(&self, ledger: &mut L) -> Result<(), StoreError> {
        let numbers = [VERSION, self.asked_at.as_nanos(), self.unanswered_since.as_nanos(), self.cursor];
        ledger.publish(Part::Transitions, &words::array::<32>(&numbers))
    }

    /// Whether it is time to ask again, with this interval. A clock that was set back does not delay it.
    pub(super) fn is_due(&self, every: Span, now: Timestamp) -> bool {
        now >= self.asked_at.after(every) || self.asked_at > now
    }

    /// Whether the last round has not been answered.
    pub(super) fn is_unanswered(&self) -> bool {
        self.unanswered_since > Timestamp::EPOCH
    }

    /// Whether the authority has been silent for so long that breakers decide without it.
    pub(super) fn is_authority_silent(&self, now: Timestamp) -> bool {
        self.is_unanswered() && now >= self.unanswered_since.after(GIVES_UP)
    }

    /// The record after a round of at most `most` of `all` breakers is sent.
    pub(super) fn asked(&self, all: usize, most: usize, now: Timestamp) -> Self {
        let since = self.unanswered_since;
        let unanswered_since = if self.is_unanswered() && since <= now { since } else { now };
        let cursor = self.cursor().saturating_add(most).checked_rem(all.max(1)).unwrap_or(0);
        // The epoch means answered, and a worker's clock may read it.
        let unanswered_since = unanswered_since.max(Timestamp::from_nanos(1));
        Self { asked_at: now, unanswered_since, cursor: u64::try_from(cursor).unwrap_or(0) }
    }

    pub(super) fn cursor(&self) -> usize {
        usize::try_from(self.cursor).unwrap_or(0)
    }

    /// Publishes that a round sent at `sent_at` was answered.
    pub(super) fn answered<L: Ledger>(ledger: &mut L, sent_at: Timestamp) {
        for _ in 0..MAX_ROUNDS {
            let Ok(turn) = Self::read(ledger) else { return };
            // A late answer to an earlier round says nothing about the rounds that are unanswered.
            if !turn.is_unanswered() || sent_at < turn.unanswered_since {
                return;
            }
            let answered = Self { unanswered_since: Timestamp::EPOCH, ..turn };
            if answered.publish(ledger) != Err(StoreError::Conflict) {
                return;
            }
        }
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let (numbers, rest) = bytes.as_chunks::<8>();
        let [version, asked_at, unanswered_since, cursor] = numbers else { return None };
        let number = |bytes: &[u8; 8]| u64::from_le_bytes(*bytes);
        (rest.is_empty() && number(version) == VERSION).then(|| Self {
            asked_at: Timestamp::from_nanos(number(asked_at)),
            unanswered_since: Timestamp::from_nanos(number(unanswered_since)),
            cursor: number(cursor),
        })
    }
}

/// No breaker's record begins with these bytes: an older filter that reads this one takes it for damaged.
const VERSION: u64 = 0x7475_726e;

/// How long the authority may be silent before breakers decide by what the instance sees itself: three rounds.
const GIVES_UP: Span = Span::from_secs(3);
