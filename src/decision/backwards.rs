//! A short text that is written from its end to its beginning: the digits of a number come in that order.

/// The text so far. It lies on the stack, and is appended to a longer one in one step: each such step costs more than
/// the few bytes themselves.
pub(super) struct Backwards {
    bytes: [u8; MOST],
    begin: usize,
}

impl Backwards {
    /// An empty text.
    #[inline]
    pub(super) const fn new() -> Self {
        Self { bytes: [0; MOST], begin: MOST }
    }

    /// Puts these bytes before the text, if there is room: it holds [`MOST`].
    #[inline]
    pub(super) fn put<const N: usize>(&mut self, bytes: &[u8; N]) {
        if let Some(place) = self.bytes.get_mut(..self.begin).and_then(|free| free.last_chunk_mut()) {
            *place = *bytes;
            self.begin = self.begin.wrapping_sub(N);
        }
    }

    /// Puts a decimal number before the text. The standard library's formatting is more general and slower.
    #[inline]
    pub(super) fn put_number(&mut self, number: u32) {
        let (mut rest, mut begin) = (number, self.begin);
        loop {
            begin = begin.wrapping_sub(1);
            let Some(place) = self.bytes.get_mut(begin) else { return };
            *place = b'0' | (rest % 10) as u8;
            rest /= 10;
            if rest == 0 {
                break;
            }
        }
        self.begin = begin;
    }

    /// Puts eight bytes in base64 (RFC 4648 section 4) before the text.
    #[inline]
    pub(super) fn put_base64(&mut self, bytes: [u8; 8]) {
        const ALPHABET: [u8; 64] = *b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
        let mut bits = u64::from_be_bytes(bytes);
        let mut digits = [b'='; 12];
        // Sixty-four bits are ten digits and two thirds of one, whose rest is the zeros that are shifted in.
        for digit in digits.iter_mut().take(11) {
            *digit = ALPHABET.get((bits >> 58) as usize).copied().unwrap_or(b'=');
            bits <<= 6;
        }
        self.put(&digits);
    }

    /// The text.
    #[inline]
    pub(super) fn as_bytes(&self) -> &[u8] {
        self.bytes.get(self.begin..).unwrap_or_default()
    }
}

/// Enough for two numbers of ten digits, twelve digits of base64, and a few words between them.
const MOST: usize = 48;

#[cfg(test)]
mod tests {
    use super::*;
    use base64ct::{Base64, Encoding};
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn numbers_and_base64_are_written_as_by_anybody(number in prop_oneof![0_u32..2_000, any::<u32>()], bytes: [u8; 8]) {
            let mut text = Backwards::new();
            text.put_base64(bytes);
            text.put(b";pk=");
            text.put_number(number);
            let expected = format!("{number};pk={}", Base64::encode_string(&bytes));
            prop_assert_eq!(text.as_bytes(), expected.as_bytes());
        }
    }

    #[test]
    fn what_has_no_room_is_left_out() {
        let mut text = Backwards::new();
        text.put(b"end");
        text.put(&[b'x'; MOST]);
        assert_eq!(text.as_bytes(), b"end");
    }
}
