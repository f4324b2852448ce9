//! API keys, known only by their hashes: a leaked policy reveals none of them, and the time to compare the keys of a
//! table reveals nothing about them.

use core::fmt;

use sha2::{Digest as _, Sha256};

use crate::lookup::trim_blanks;
use crate::policy::TierIndex;
use crate::sorted::{find, sorted};

/// The SHA-256 hash of an API key. Stored as words, because comparing and copying words takes less code than bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Digest([u64; 4]);

impl Digest {
    /// The hash of this key; `None` if it is empty or longer than 4,096 bytes, which no key is.
    #[must_use]
    pub fn of(key: &[u8]) -> Option<Self> {
        (1..=KEY_MAX_LEN).contains(&key.len()).then(|| Self::from_bytes(&Sha256::digest(key)))
    }

    /// Whether the two are equal, in constant time.
    #[must_use]
    pub fn equals(&self, other: &Self) -> bool {
        let difference = self.0.iter().zip(&other.0).fold(0, |difference, (one, other)| difference | (one ^ other));
        // Without this, the compiler may stop at the first difference.
        core::hint::black_box(difference) == 0
    }

    /// The hash given by exactly 64 hexadecimal digits in lower case.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let digit = |byte: &u8| match byte {
            b'0'..=b'9' => Some(byte.saturating_sub(b'0')),
            b'a'..=b'f' => Some(byte.saturating_sub(b'a').saturating_add(10)),
            _ => None,
        };
        let mut digits = text.as_bytes().iter();
        let mut bytes = [0; 32];
        for byte in &mut bytes {
            *byte = (digit(digits.next()?)? << 4) | digit(digits.next()?)?;
        }
        digits.next().is_none().then(|| Self::from_bytes(&bytes))
    }

    fn from_bytes(bytes: &[u8]) -> Self {
        let mut words = [0; 4];
        for (word, bytes) in words.iter_mut().zip(bytes.chunks_exact(8)) {
            *word = bytes.iter().fold(0, |word, byte| (word << 8) | u64::from(*byte));
        }
        Self(words)
    }
}

/// The 64 digits.
impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|word| write!(f, "{word:016x}"))
    }
}

/// API keys by their hashes, sorted, each with the tier of its clients. Deny and allow lists ignore the tier.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ApiKeys(Vec<(Digest, TierIndex)>);

impl ApiKeys {
    /// These keys, in any order.
    pub(crate) fn new(keys: impl IntoIterator<Item = (Digest, TierIndex)>) -> Self {
        Self(sorted(keys))
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The tier of this key; `None` if it is not in the table.
    #[must_use]
    pub fn tier(&self, key: Digest) -> Option<TierIndex> {
        find(&self.0, &key, |(digest, _)| digest).map(|(_, tier)| *tier)
    }

    /// Whether a key is in both tables.
    pub(crate) fn shares_key_with(&self, other: &Self) -> bool {
        self.0.iter().any(|(key, _)| other.tier(*key).is_some())
    }

    /// Whether a value is a comma-separated list of several items, one of which is a key of this table: a refused key
    /// must not pass by being sent together with others. A list of more than 16 items counts as if it had one.
    #[must_use]
    pub fn contains_item_of(&self, value: &[u8]) -> bool {
        let is_known = |text: &[u8]| Digest::of(text).is_some_and(|digest| self.tier(digest).is_some());
        let items = || value.split(|&byte| byte == b',').map(trim_blanks);
        // Bounds the work: a header full of commas would cost thousands of hashes.
        items().nth(MAX_ITEMS).is_some() || (items().nth(1).is_some() && items().any(is_known))
    }
}

/// The longest text that is hashed: longer than any key, even one that is a token.
const KEY_MAX_LEN: usize = 4_096;

/// How many items of a list are checked.
const MAX_ITEMS: usize = 16;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hash_is_that_of_sha256_and_read_from_its_digits() {
        // FIPS 180-2, appendix B.1.
        let abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(Digest::parse(abc), Digest::of(b"abc"));
        assert_eq!(Digest::parse(abc).map(|digest| digest.to_string()).as_deref(), Some(abc));
        assert!(Digest::of(b"abc").is_some() && Digest::of(b"abd") != Digest::of(b"abc"));
        for wrong in ["", &abc[1..], &abc.to_uppercase(), &format!("{abc}0"), &abc.replace('b', "g"), "\u{e9}"] {
            assert_eq!(Digest::parse(wrong), None, "{wrong}");
        }
        assert!(Digest::of(&[b'a'; KEY_MAX_LEN]).is_some());
        assert_eq!((Digest::of(b""), Digest::of(&[b'a'; KEY_MAX_LEN + 1])), (None, None));
    }

    #[test]
    fn a_key_is_found_by_its_hash_and_in_a_list() {
        let keys: Vec<_> = (0..10_000_u32).map(|number| format!("key-{number}")).collect();
        let tier = |number: usize| TierIndex::new(number % 16).unwrap();
        let known = keys.iter().enumerate().map(|(number, key)| (Digest::of(key.as_bytes()).unwrap(), tier(number)));
        let table = ApiKeys::new(known);
        for (number, key) in keys.iter().enumerate().step_by(97) {
            assert_eq!(Digest::of(key.as_bytes()).and_then(|digest| table.tier(digest)), Some(tier(number)));
        }
        assert_eq!(table.tier(Digest::of(b"key-10000").unwrap()), None);
        for (value, stands) in [
            ("key-7", false),
            ("key-7,other", true),
            ("other , key-7\t", true),
            ("other", false),
            ("key-7x", false),
            ("", false),
            (",,", false),
            ("a,b,c,d,e,f,g,h,i,j,k,l,m,n,o,p", false),
            ("a,b,c,d,e,f,g,h,i,j,k,l,m,n,o,p,q", true),
        ] {
            assert_eq!(table.contains_item_of(value.as_bytes()), stands, "{value}");
        }
    }
}
