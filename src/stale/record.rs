//! A kept response as bytes.
//!
//! In this order: a version, a checksum under the instance's seed over all that follows, the key, when the response
//! arrived and how old it was then, until when it may be served, its status, its header lines and its body. Numbers are
//! little-endian. Bytes that are incomplete, or the record of another key, are rejected.

use super::AnswerKey;
use crate::key::Seed;
use crate::units::Timestamp;
use core::hash::Hasher;

/// A kept response, borrowed from its bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record<'b> {
    pub(crate) head: Head,
    pub(crate) lines: Vec<(&'b [u8], &'b [u8])>,
    pub(crate) body: &'b [u8],
}

/// A kept response's data besides its header lines and body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Head {
    pub(crate) key: AnswerKey,
    /// When it arrived.
    pub(crate) kept_at: Timestamp,
    /// The time until which it may be served.
    pub(crate) until: Timestamp,
    /// Its age when it arrived, in seconds.
    pub(crate) age_secs: u32,
    pub(crate) status: u16,
}

impl<'b> Record<'b> {
    /// The record of `key` in these bytes; `None` if they are anything else.
    #[must_use]
    pub fn decode(bytes: &'b [u8], seed: Seed, key: AnswerKey) -> Option<Self> {
        let (version, rest) = bytes.split_first()?;
        let (check, rest) = rest.split_first_chunk::<8>()?;
        if *version != VERSION || u64::from_le_bytes(*check) != checksum(seed, rest) {
            return None;
        }
        let mut rest = rest;
        let mut take = Reader(&mut rest);
        let head = Head {
            key: AnswerKey::from_bytes(take.array()?),
            kept_at: Timestamp::from_nanos(u64::from_le_bytes(take.array()?)),
            until: Timestamp::from_nanos(u64::from_le_bytes(take.array()?)),
            age_secs: u32::from_le_bytes(take.array()?),
            status: u16::from_le_bytes(take.array()?),
        };
        if head.key != key {
            return None;
        }
        let count = u16::from_le_bytes(take.array()?);
        let mut lines = Vec::new();
        for _ in 0..count {
            lines.push((take.text()?, take.text()?));
        }
        Some(Self { head, lines, body: rest })
    }

    /// The first value of a header, by its lower-case name.
    pub(crate) fn first(&self, name: &str) -> Option<&'b [u8]> {
        self.lines.iter().find(|(other, _)| *other == name.as_bytes()).map(|(_, value)| *value)
    }
}

impl Head {
    /// Begins the record of a response with these header lines; its body follows. `None` if a line is too long for a
    /// record. The checksum is set by [`seal`].
    pub(crate) fn begin<'l>(&self, lines: impl Iterator<Item = (&'l [u8], &'l [u8])>) -> Option<Vec<u8>> {
        let mut bytes = vec![VERSION, 0, 0, 0, 0, 0, 0, 0, 0];
        bytes.extend_from_slice(&self.key.to_bytes());
        bytes.extend_from_slice(&self.kept_at.as_nanos().to_le_bytes());
        bytes.extend_from_slice(&self.until.as_nanos().to_le_bytes());
        bytes.extend_from_slice(&self.age_secs.to_le_bytes());
        bytes.extend_from_slice(&self.status.to_le_bytes());
        let at = bytes.len();
        bytes.extend_from_slice(&[0, 0]);
        let mut count = 0_u16;
        for (name, value) in lines {
            for text in [name, value] {
                bytes.extend_from_slice(&u16::try_from(text.len()).ok()?.to_le_bytes());
                bytes.extend_from_slice(text);
            }
            count = count.checked_add(1)?;
        }
        bytes.get_mut(at..)?.first_chunk_mut::<2>().map(|place| *place = count.to_le_bytes())?;
        Some(bytes)
    }
}

/// Sets the checksum of a complete record.
pub(crate) fn seal(bytes: &mut [u8], seed: Seed) {
    if let Some((head, rest)) = bytes.split_at_mut_checked(CHECKED_FROM)
        && let Some(place) = head.last_chunk_mut::<8>()
    {
        *place = checksum(seed, rest).to_le_bytes();
    }
}

struct Reader<'r, 'b>(&'r mut &'b [u8]);

impl<'b> Reader<'_, 'b> {
    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (found, rest) = self.0.split_first_chunk::<N>()?;
        *self.0 = rest;
        Some(*found)
    }

    fn text(&mut self) -> Option<&'b [u8]> {
        let len = usize::from(u16::from_le_bytes(self.array()?));
        let (text, rest) = self.0.split_at_checked(len)?;
        *self.0 = rest;
        Some(text)
    }
}

fn checksum(seed: Seed, bytes: &[u8]) -> u64 {
    let mut hasher = seed.hasher(DOMAIN_RECORD);
    hasher.write(bytes);
    hasher.finish()
}

const VERSION: u8 = 1;
/// After the version and the checksum.
const CHECKED_FROM: usize = 9;
const DOMAIN_RECORD: u8 = 22;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SEED: Seed = Seed::new([7, 9]);
    const KEY: AnswerKey = AnswerKey([1, 2]);

    fn head() -> Head {
        let (kept_at, until) = (Timestamp::from_nanos(5), Timestamp::from_nanos(6));
        Head { key: KEY, kept_at, until, age_secs: 3, status: 200 }
    }

    fn record(lines: &[(Vec<u8>, Vec<u8>)], body: &[u8]) -> Vec<u8> {
        let lines = lines.iter().map(|(name, value)| (name.as_slice(), value.as_slice()));
        let mut bytes = head().begin(lines).unwrap();
        bytes.extend_from_slice(body);
        seal(&mut bytes, SEED);
        bytes
    }

    proptest! {
        #[test]
        fn what_was_written_is_read(
            lines in prop::collection::vec((prop::collection::vec(any::<u8>(), 0..20), prop::collection::vec(any::<u8>(), 0..40)), 0..9),
            body in prop::collection::vec(any::<u8>(), 0..300),
        ) {
            let bytes = record(&lines, &body);
            let read = Record::decode(&bytes, SEED, KEY).unwrap();
            prop_assert_eq!(read.head, head());
            prop_assert_eq!(read.body, body.as_slice());
            let read: Vec<_> = read.lines.iter().map(|(name, value)| (name.to_vec(), value.to_vec())).collect();
            prop_assert_eq!(read, lines);
        }

        #[test]
        fn any_other_bytes_are_no_record(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            prop_assert_eq!(Record::decode(&bytes, SEED, KEY), None);
        }
    }

    #[test]
    fn a_record_cut_short_lengthened_or_changed_in_one_bit_is_none() {
        let bytes = record(&[(b"etag".to_vec(), b"\"1\"".to_vec())], b"all of the body");
        assert!(Record::decode(&bytes, SEED, KEY).is_some());
        for len in 0..bytes.len() {
            assert_eq!(Record::decode(&bytes[..len], SEED, KEY), None, "{len}");
        }
        assert_eq!(Record::decode(&[bytes.as_slice(), b"x"].concat(), SEED, KEY), None);
        for at in 0..bytes.len() * 8 {
            let mut changed = bytes.clone();
            changed[at / 8] ^= 1 << (at % 8);
            assert_eq!(Record::decode(&changed, SEED, KEY), None, "{at}");
        }
    }

    #[test]
    fn a_record_of_another_key_or_seed_is_none() {
        let bytes = record(&[], b"body");
        assert_eq!(Record::decode(&bytes, SEED, AnswerKey([1, 3])), None);
        assert_eq!(Record::decode(&bytes, Seed::new([7, 8]), KEY), None);
    }

    #[test]
    fn a_line_longer_than_a_record_can_say_is_not_kept() {
        let long = vec![b'x'; 65_536];
        assert_eq!(head().begin([(b"a".as_slice(), long.as_slice())].into_iter()), None);
    }
}
