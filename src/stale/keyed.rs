//! How the keys of kept responses are hashed.

use crate::key::Seed;
use sha2::{Digest as _, Sha256};

use super::AnswerKey;
use crate::key::write;
use core::hash::Hasher;

/// How the keys of kept responses are hashed. In either way, a client cannot construct two requests with the same key.
#[derive(Clone, Copy, Debug)]
pub enum KeyHasher {
    /// With a secret, which is fast. For a shelf whose users share the secret.
    Secret(Seed),
    /// With SHA-256 (FIPS 180-4), the same everywhere. For a host's cache that outlives its instances.
    Everywhere,
}

impl From<Seed> for KeyHasher {
    fn from(seed: Seed) -> Self {
        Self::Secret(seed)
    }
}

impl KeyHasher {
    /// The key of the parts that `parts` writes, each a tag and bytes. Different sequences of parts have different
    /// encodings.
    pub(super) fn key(self, parts: impl FnOnce(&mut dyn FnMut(u8, &[u8]))) -> AnswerKey {
        match self {
            Self::Secret(seed) => {
                let mut hashers = DOMAINS.map(|domain| seed.hasher(domain));
                parts(&mut |tag, bytes| hashers.iter_mut().for_each(|hasher| write(hasher, tag, bytes)));
                AnswerKey(hashers.map(|hasher| hasher.finish()))
            }
            Self::Everywhere => {
                let mut hasher = Sha256::new();
                parts(&mut |tag, bytes| {
                    hasher.update([tag]);
                    hasher.update((bytes.len() as u64).to_le_bytes());
                    hasher.update(bytes);
                });
                let digest = hasher.finalize();
                let half = digest.first_chunk::<16>().copied().unwrap_or_default();
                AnswerKey::from_bytes(half)
            }
        }
    }
}

/// Two hash domains that `key` does not use, so the two hashes are independent.
const DOMAINS: [u8; 2] = [20, 21];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_apart_however_they_are_hashed() {
        for keyed in [KeyHasher::Secret(Seed::new([1, 2])), KeyHasher::Everywhere] {
            let key = |parts: &[(u8, &[u8])]| keyed.key(|each| parts.iter().for_each(|(tag, bytes)| each(*tag, bytes)));
            let all = [
                key(&[(1, b"ab"), (2, b"c")]),
                key(&[(1, b"a"), (2, b"bc")]),
                key(&[(1, b"abc")]),
                key(&[(2, b"abc")]),
                key(&[(1, b"ab"), (2, b"c"), (3, b"")]),
            ];
            for (place, one) in all.iter().enumerate() {
                assert!(!all[..place].contains(one), "{keyed:?} {place}");
            }
        }
        let same = |keyed: KeyHasher| keyed.key(|each| each(1, b"a"));
        assert_ne!(same(KeyHasher::Secret(Seed::new([1, 2]))), same(KeyHasher::Secret(Seed::new([1, 3]))));
    }
}
