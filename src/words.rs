//! Numbers as bytes: eight each, the lowest first. Records and messages consist of them.

/// Appends the numbers to `bytes`.
pub(crate) fn append(bytes: &mut Vec<u8>, numbers: &[u64]) {
    for number in numbers {
        bytes.extend_from_slice(&number.to_le_bytes());
    }
}

/// The numbers as a record of this length; bytes beyond them are zero.
pub(crate) fn array<const BYTES: usize>(numbers: &[u64]) -> [u8; BYTES] {
    let mut bytes = [0; BYTES];
    let (places, _) = bytes.as_chunks_mut();
    for (place, number) in places.iter_mut().zip(numbers) {
        *place = number.to_le_bytes();
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_takes_eight_bytes_of_which_the_lowest_comes_first() {
        let expected = [1, 2, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff];
        let mut bytes = vec![7];
        append(&mut bytes, &[0x201, u64::MAX]);
        assert_eq!(bytes.split_first(), Some((&7, expected.as_slice())));
        assert_eq!(array(&[0x201, u64::MAX]), expected);
    }
}
