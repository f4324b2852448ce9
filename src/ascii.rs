//! Bytes as text that goes anywhere.

use base64::engine::{Engine as _, GeneralPurpose};

/// The bytes in base64 (RFC 4648), as `engine` writes it.
pub(crate) fn base64(engine: &GeneralPurpose, bytes: &[u8]) -> String {
    // Into room for it: where the crate makes the text itself it brings along how to print an error that there cannot be, which is
    // 1 KB of a Worker whose size is bounded.
    let mut text = vec![0; bytes.len().div_ceil(3).saturating_mul(4)];
    let len = engine.encode_slice(bytes, &mut text).unwrap_or(0);
    text.truncate(len);
    String::from_utf8(text).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD};
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn bytes_are_written_as_the_crate_writes_them(bytes: Vec<u8>) {
            for engine in [STANDARD, STANDARD_NO_PAD] {
                prop_assert_eq!(base64(&engine, &bytes), engine.encode(&bytes));
            }
        }
    }
}
