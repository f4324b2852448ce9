//! Gathers a response while it streams through.

use super::AnswerKey;
use super::record::seal;
use super::shelf::{self, Kept, Shelf};
use crate::key::Seed;
use crate::store::StoreError;
use crate::units::Timestamp;

/// A response that is being collected, in the form of its future record. It never exceeds its maximum size.
#[derive(Debug)]
pub struct Collecting {
    key: AnswerKey,
    until: Timestamp,
    bytes: Vec<u8>,
    /// How many bytes of the body are missing, if the response states its length.
    missing: Option<u64>,
    max_object: usize,
}

/// A complete response.
#[derive(Debug, PartialEq, Eq)]
pub struct Collected {
    /// The key under which it is kept.
    pub key: AnswerKey,
    /// The time until which it may be served.
    pub until: Timestamp,
    /// The record.
    pub bytes: Vec<u8>,
}

impl Collected {
    /// Puts the response on the shelf, see [`shelf::keep`].
    ///
    /// # Errors
    /// Those of [`shelf::keep`].
    pub fn keep<S: Shelf>(&self, shelf: &mut S, now: Timestamp, max_bytes: u32) -> Result<Kept, StoreError> {
        shelf::keep(shelf, self.key, &self.bytes, self.until, now, max_bytes)
    }
}

impl Collecting {
    /// A response whose record begins with `bytes`; `None` if it is too large.
    pub(super) fn new(
        bytes: Vec<u8>,
        key: AnswerKey,
        until: Timestamp,
        length: Option<u64>,
        max_object: u32,
    ) -> Option<Self> {
        let max_object = usize::try_from(max_object).ok()?;
        let room = u64::try_from(max_object.checked_sub(bytes.len())?).ok()?;
        (length.unwrap_or(0) <= room).then_some(Self { key, until, bytes, missing: length, max_object })
    }

    /// The key under which the response will be kept.
    #[must_use]
    pub fn key(&self) -> AnswerKey {
        self.key
    }

    /// Whether this many more bytes of the body fit, so an adapter need not copy bytes that will not be kept.
    #[must_use]
    pub fn has_room(&self, size: usize) -> bool {
        self.bytes.len().checked_add(size).is_some_and(|size| size <= self.max_object)
    }

    /// Adds the next piece of the body. Returns `false` if the response is too large or longer than stated, and must be
    /// dropped.
    #[must_use]
    pub fn push(&mut self, piece: &[u8]) -> bool {
        let missing = match (self.missing, u64::try_from(piece.len())) {
            (Some(missing), Ok(size)) => missing.checked_sub(size).map(Some),
            (_, size) => size.ok().map(|_| None),
        };
        let Some(missing) = missing.filter(|_| self.has_room(piece.len())) else { return false };
        self.missing = missing;
        self.bytes.extend_from_slice(piece);
        true
    }

    /// Completes the response after its stream has ended properly; `None` if the body is shorter than stated.
    #[must_use]
    pub fn finish(mut self, seed: Seed) -> Option<Collected> {
        if self.missing.is_some_and(|missing| missing > 0) {
            return None;
        }
        seal(&mut self.bytes, seed);
        Some(Collected { key: self.key, until: self.until, bytes: self.bytes })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn collecting(length: Option<u64>) -> Option<Collecting> {
        Collecting::new(vec![0; 10], AnswerKey([1, 2]), Timestamp::EPOCH, length, 20)
    }

    #[test]
    fn an_answer_is_kept_only_when_all_of_it_has_come() {
        for (length, pieces, kept) in [
            (Some(4), &["ab", "cd"][..], true),
            (Some(4), &["ab", "c"], false),
            (Some(4), &["ab", "cde"], false),
            (Some(0), &[], true),
            (Some(10), &["0123456789"], true),
            (None, &["0123", "456789"], true),
            (None, &["0123", "4567890"], false),
            (None, &[], true),
        ] {
            let mut collecting = collecting(length).unwrap();
            let pushed = pieces.iter().all(|piece| collecting.push(piece.as_bytes()));
            assert_eq!(pushed && collecting.finish(Seed::new([1, 2])).is_some(), kept, "{length:?} {pieces:?}");
        }
        assert!(collecting(Some(11)).is_none());
    }
}
