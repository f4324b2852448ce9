//! Base64 (RFC 4648).
//!
//! The crate that everybody uses is 3 KB, compressed, of a Worker whose size is bounded. Tests hold this equal to it.

/// One of the two alphabets.
pub(crate) struct Base64 {
    digits: [u8; 64],
    /// The value of each byte; [`NONE`] for one that is no digit. A comparison or two for each would be slow for what comes with
    /// every request.
    values: [u8; 256],
}

impl Base64 {
    /// The alphabet of section 4.
    pub(crate) const STANDARD: &Self = &Self::new(*b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/");
    /// That of section 5, for URLs and file names.
    pub(crate) const URL_SAFE: &Self = &Self::new(*b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_");

    #[allow(clippy::indexing_slicing, clippy::arithmetic_side_effects, reason = "it runs in the compiler alone")]
    const fn new(digits: [u8; 64]) -> Self {
        let mut values = [NONE; 256];
        let mut value = 0;
        while value < 64 {
            values[digits[value as usize] as usize] = value;
            value += 1;
        }
        Self { digits, values }
    }

    /// The bytes as text, padded.
    pub(crate) fn encode(&self, bytes: &[u8]) -> String {
        let mut text = String::with_capacity(bytes.len().div_ceil(3).saturating_mul(4));
        for group in bytes.chunks(3) {
            let mut all = [0; 4];
            all.iter_mut().skip(1).zip(group).for_each(|(place, byte)| *place = *byte);
            let mut bits = u32::from_be_bytes(all);
            // A byte takes two digits, and each after it one more.
            for place in 0..4 {
                let digit = self.digits.get((bits >> 18 & 0x3f) as usize).filter(|_| place <= group.len());
                text.push(char::from(*digit.unwrap_or(&b'=')));
                bits <<= 6;
            }
        }
        text
    }

    /// The bytes of a text, with padding or without; `None` for what is no base64, and where bits are set that belong to no byte:
    /// two texts are never the same bytes, but for padding.
    pub(crate) fn decode(&self, text: &[u8]) -> Option<Vec<u8>> {
        let padding = text.iter().rev().take_while(|byte| **byte == b'=').count();
        let (digits, _) = text.split_at_checked(text.len().saturating_sub(padding))?;
        // Padding fills up a group of four, and begins none.
        if digits.len().div_ceil(4) != text.len().div_ceil(4) {
            return None;
        }
        let (groups, rest) = digits.as_chunks();
        let mut bytes = vec![0; groups.len().saturating_mul(3)];
        for (place, group) in bytes.as_chunks_mut().0.iter_mut().zip(groups) {
            let [_, whole @ ..] = self.bits(group)?.to_be_bytes();
            *place = whole;
        }
        let mut last = [b'A'; 4];
        last.iter_mut().zip(rest).for_each(|(place, digit)| *place = *digit);
        match (rest.len(), self.bits(&last)?.to_be_bytes()) {
            (0, _) => {}
            (2, [_, first, 0, 0]) => bytes.push(first),
            (3, [_, first, second, 0]) => bytes.extend_from_slice(&[first, second]),
            _ => return None,
        }
        Some(bytes)
    }

    /// The 24 bits of four digits.
    fn bits(&self, [first, second, third, fourth]: &[u8; 4]) -> Option<u32> {
        let value = |digit: &u8| u32::from(*self.values.get(usize::from(*digit)).unwrap_or(&NONE));
        let (first, second, third, fourth) = (value(first), value(second), value(third), value(fourth));
        // No value of a digit has the upper bit.
        let is_known = first | second | third | fourth < 0x80;
        is_known.then_some(first << 18 | second << 12 | third << 6 | fourth)
    }
}

/// Has a bit that no value of a digit has.
const NONE: u8 = 0xff;

#[cfg(test)]
mod tests {
    use super::*;
    use ::base64::Engine;
    use ::base64::alphabet::{Alphabet, STANDARD, URL_SAFE};
    use ::base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
    use proptest::prelude::*;

    const BOTH: [(&Base64, &Alphabet); 2] = [(Base64::STANDARD, &STANDARD), (Base64::URL_SAFE, &URL_SAFE)];

    fn everybodys(alphabet: &Alphabet) -> GeneralPurpose {
        let config = GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent);
        GeneralPurpose::new(alphabet, config)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(3_000))]

        #[test]
        fn bytes_are_written_as_by_everybody_and_read_again(bytes in prop::collection::vec(any::<u8>(), 0..40)) {
            for (ours, alphabet) in BOTH {
                let text = ours.encode(&bytes);
                prop_assert_eq!(&text, &everybodys(alphabet).encode(&bytes));
                prop_assert_eq!(ours.decode(text.as_bytes()), Some(bytes.clone()));
            }
        }

        #[test]
        fn a_text_is_read_or_refused_as_by_everybody(text in "[AQwg/_+=\u{e9}-]{0,10}={0,3}") {
            for (ours, alphabet) in BOTH {
                prop_assert_eq!(ours.decode(text.as_bytes()), everybodys(alphabet).decode(&text).ok(), "{}", &text);
            }
        }
    }
}
