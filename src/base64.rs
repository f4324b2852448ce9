//! Base64 (RFC 4648).
//!
//! The crate that everybody uses is 3 KB, compressed, of a Worker whose size is bounded. Tests hold this equal to it.

/// One of the two alphabets.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Base64 {
    /// The digits for 62 and 63, by which they differ.
    last: [u8; 2],
}

impl Base64 {
    /// The alphabet of section 4.
    pub(crate) const STANDARD: Self = Self { last: *b"+/" };
    /// That of section 5, for URLs and file names.
    pub(crate) const URL_SAFE: Self = Self { last: *b"-_" };

    /// The bytes as text, padded.
    pub(crate) fn encode(self, bytes: &[u8]) -> String {
        let mut text = String::with_capacity(bytes.len().div_ceil(3).saturating_mul(4));
        for group in bytes.chunks(3) {
            let mut all = [0; 4];
            all.iter_mut().skip(1).zip(group).for_each(|(place, byte)| *place = *byte);
            let mut bits = u32::from_be_bytes(all);
            // A byte takes two digits, and each after it one more.
            for _ in 0..=group.len() {
                text.push(self.digit((bits >> 18) as u8 & 0x3f));
                bits <<= 6;
            }
            (group.len()..3).for_each(|_| text.push('='));
        }
        text
    }

    /// The bytes of a text, with padding or without; `None` for what is no base64, and where bits are set that belong to no byte:
    /// two texts are never the same bytes, but for padding.
    pub(crate) fn decode(self, text: &[u8]) -> Option<Vec<u8>> {
        let padding = text.iter().rev().take_while(|byte| **byte == b'=').count();
        let (digits, _) = text.split_at_checked(text.len().saturating_sub(padding))?;
        // Padding fills up a group of four, and begins none.
        if digits.len().div_ceil(4) != text.len().div_ceil(4) {
            return None;
        }
        let mut bytes = Vec::with_capacity(digits.len());
        for group in digits.chunks(4) {
            let bits = group.iter().try_fold(0, |bits, digit| Some((bits << 6) | u32::from(self.value(*digit)?)))?;
            let [_, first, second, third] = match group.len() {
                4 => bits,
                3 if bits & 0x03 == 0 => bits << 6,
                2 if bits & 0x0f == 0 => bits << 12,
                _ => return None,
            }
            .to_be_bytes();
            bytes.extend([first, second, third].iter().take(group.len().saturating_sub(1)));
        }
        Some(bytes)
    }

    fn digit(self, value: u8) -> char {
        let [plus, slash] = self.last;
        char::from(match value {
            0..26 => b'A'.saturating_add(value),
            26..52 => b'a'.saturating_add(value.saturating_sub(26)),
            52..62 => b'0'.saturating_add(value.saturating_sub(52)),
            62 => plus,
            _ => slash,
        })
    }

    fn value(self, digit: u8) -> Option<u8> {
        let [plus, slash] = self.last;
        match digit {
            b'A'..=b'Z' => Some(digit.saturating_sub(b'A')),
            b'a'..=b'z' => Some(digit.saturating_sub(b'a').saturating_add(26)),
            b'0'..=b'9' => Some(digit.saturating_sub(b'0').saturating_add(52)),
            digit if digit == plus => Some(62),
            digit if digit == slash => Some(63),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ::base64::Engine;
    use ::base64::alphabet::{Alphabet, STANDARD, URL_SAFE};
    use ::base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
    use proptest::prelude::*;

    const BOTH: [(Base64, &Alphabet); 2] = [(Base64::STANDARD, &STANDARD), (Base64::URL_SAFE, &URL_SAFE)];

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
