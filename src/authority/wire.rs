//! Asks and grants as bytes, for a host that reaches its authority by messages: a version, then numbers of eight bytes
//! each, little-endian.

use super::bytes::permits;
use super::{Ask, Grant, Instance, Shared, Terms};
use crate::key::KeyHash;
use crate::words;

impl Ask {
    /// The length of an ask in bytes.
    pub const BYTES: usize = 13 * 8;

    /// The ask as bytes.
    #[must_use]
    pub fn to_bytes(&self) -> [u8; Self::BYTES] {
        let algorithm = match self.terms.algorithm {
            Shared::FixedWindow => FIXED_WINDOW,
            Shared::SlidingWindow => SLIDING_WINDOW,
            Shared::TokenBucket => TOKEN_BUCKET,
            Shared::InFlight => IN_FLIGHT,
        };
        let number = |permits: crate::units::Permits| u64::from(permits.get());
        words::array(&[
            VERSION,
            self.key.get(),
            algorithm,
            number(self.terms.permits),
            self.terms.window_ms,
            number(self.terms.burst),
            self.instance.get(),
            self.seq,
            number(self.need),
            number(self.least),
            number(self.want),
            number(self.back),
            self.back_of,
        ])
    }

    /// The ask in these bytes; `None` if they have another version or are not an ask.
    #[must_use]
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let mut numbers = numbers(bytes, Self::BYTES)?;
        let mut next = || numbers.next();
        let key = KeyHash::from_bits(next()?);
        let algorithm = match next()? {
            FIXED_WINDOW => Shared::FixedWindow,
            SLIDING_WINDOW => Shared::SlidingWindow,
            TOKEN_BUCKET => Shared::TokenBucket,
            IN_FLIGHT => Shared::InFlight,
            _ => return None,
        };
        let terms = Terms { algorithm, permits: permits(next()?)?, window_ms: next()?, burst: permits(next()?)? };
        Some(Self {
            key,
            terms,
            instance: Instance::new(next()?),
            seq: next()?,
            need: permits(next()?)?,
            least: permits(next()?)?,
            want: permits(next()?)?,
            back: permits(next()?)?,
            back_of: next()?,
        })
    }
}

impl Grant {
    /// The length of a grant in bytes.
    pub const BYTES: usize = 8 * 8;

    /// The grant as bytes.
    #[must_use]
    pub fn to_bytes(&self) -> [u8; Self::BYTES] {
        words::array(&[
            VERSION,
            u64::from(self.granted.get()),
            u64::from(self.left.get()),
            self.lasts_ms,
            self.retry_after_ms.unwrap_or(NEVER),
            self.reset_ms,
            self.window,
            self.drawn,
        ])
    }

    /// The grant in these bytes; `None` if they have another version or are not a grant.
    #[must_use]
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let mut numbers = numbers(bytes, Self::BYTES)?;
        let mut next = || numbers.next();
        Some(Self {
            granted: permits(next()?)?,
            left: permits(next()?)?,
            lasts_ms: next()?,
            retry_after_ms: Some(next()?).filter(|ms| *ms != NEVER),
            reset_ms: next()?,
            window: next()?,
            drawn: next()?,
        })
    }
}

/// The numbers after the version in a message of this length.
fn numbers(bytes: &[u8], length: usize) -> Option<impl Iterator<Item = u64>> {
    let (numbers, _) = bytes.as_chunks::<8>();
    let mut numbers = numbers.iter().map(|number| u64::from_le_bytes(*number));
    (bytes.len() == length && numbers.next() == Some(VERSION)).then_some(numbers)
}

const VERSION: u64 = 1;
const FIXED_WINDOW: u64 = 0;
const SLIDING_WINDOW: u64 = 1;
const TOKEN_BUCKET: u64 = 2;
const IN_FLIGHT: u64 = 3;
/// No wait would be long enough.
const NEVER: u64 = u64::MAX;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::units::Permits;
    use proptest::prelude::*;

    fn some_permits() -> impl Strategy<Value = Permits> {
        (0..=Permits::MAX.get()).prop_map(Permits::new)
    }

    proptest! {
        #[test]
        fn bytes_are_the_same_ask_again(
            (key, instance, seq, window_ms, back_of) in any::<(u64, u64, u64, u64, u64)>(),
            (permits, burst, need) in (some_permits(), some_permits(), some_permits()),
            (least, want, back) in (some_permits(), some_permits(), some_permits()),
            algorithm in 0_usize..4,
        ) {
            let algorithm = [Shared::FixedWindow, Shared::SlidingWindow, Shared::TokenBucket, Shared::InFlight][algorithm];
            let terms = Terms { algorithm, permits, window_ms, burst };
            let (key, instance) = (KeyHash::from_bits(key), Instance::new(instance));
            let ask = Ask { key, terms, instance, seq, need, least, want, back, back_of };
            prop_assert_eq!(Ask::from_bytes(&ask.to_bytes()), Some(ask));
        }

        #[test]
        fn bytes_are_the_same_grant_again(
            (granted, left) in (some_permits(), some_permits()),
            (lasts_ms, reset_ms, window, drawn) in any::<(u64, u64, u64, u64)>(),
            retry_after_ms in prop::option::of(0..NEVER),
        ) {
            let grant = Grant { granted, left, lasts_ms, retry_after_ms, reset_ms, window, drawn };
            prop_assert_eq!(Grant::from_bytes(&grant.to_bytes()), Some(grant));
        }

        #[test]
        fn any_bytes_are_a_message_or_none(mut bytes in prop::collection::vec(any::<u8>(), 0..120)) {
            let _ = (Ask::from_bytes(&bytes), Grant::from_bytes(&bytes));
            if let Some(version) = bytes.first_chunk_mut::<8>() {
                *version = VERSION.to_le_bytes();
            }
            bytes.resize(Ask::BYTES, 0);
            let _ = Ask::from_bytes(&bytes);
            bytes.resize(Grant::BYTES, 0);
            let _ = Grant::from_bytes(&bytes);
        }
    }

    #[test]
    fn another_version_or_length_is_no_message() {
        let good = Grant::default().to_bytes();
        let mut other = good;
        other[0] = 2;
        assert_eq!(Grant::from_bytes(&other), None);
        assert_eq!(Grant::from_bytes(&good[1..]), None);
        assert_eq!(Ask::from_bytes(&good), None);
    }
}
