//! Numbers as bytes, seven bits each, the lowest first, as in WebAssembly and Protocol Buffers (LEB128). Nearly all
//! counts are small or zero, and take one byte.

/// Appends a number.
pub(crate) fn write(mut number: u64, bytes: &mut Vec<u8>) {
    while number >= 0x80 {
        bytes.push(number as u8 | 0x80);
        number >>= 7;
    }
    bytes.push(number as u8);
}

/// Takes a number off the front; `None` if there is no complete number of at most ten bytes.
pub(crate) fn read(bytes: &mut &[u8]) -> Option<u64> {
    let mut number = 0;
    for place in 0..10_u32 {
        let (byte, rest) = bytes.split_first()?;
        *bytes = rest;
        // Bits beyond the 64th are lost; `write` sets none.
        number |= u64::from(byte & 0x7f) << place.saturating_mul(7);
        if *byte < 0x80 {
            return Some(number);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_written_is_read() {
        let numbers = [0, 1, 127, 128, 300, u64::from(u32::MAX), u64::MAX];
        let mut bytes = Vec::new();
        numbers.iter().for_each(|number| write(*number, &mut bytes));
        let mut rest = bytes.as_slice();
        assert_eq!(numbers.map(|_| read(&mut rest).unwrap()), numbers);
        assert_eq!(read(&mut rest), None);
        assert_eq!(read(&mut [0x80; 30].as_slice()), None);
        assert_eq!(read(&mut [0xff].as_slice()), None);
    }
}
