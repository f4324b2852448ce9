//! The Protocol Buffers encoding, as far as these messages need it: fields of numbers and of bytes.

use super::RlsError;
use crate::varint;

/// A field as it was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Field<'a> {
    /// A number of variable length.
    Number(u64),
    /// A text, bytes or a message.
    Bytes(&'a [u8]),
    /// A number of four or eight bytes, which these messages do not use.
    Fixed,
}

/// Appends a number. Zero is left out: an absent number means zero.
pub(super) fn write_number(field: u32, number: u64, bytes: &mut Vec<u8>) {
    if number > 0 {
        varint::write(tag(field, NUMBER), bytes);
        varint::write(number, bytes);
    }
}

/// Appends bytes, even if there are none.
pub(super) fn write_bytes(field: u32, of: &[u8], bytes: &mut Vec<u8>) {
    varint::write(tag(field, BYTES), bytes);
    varint::write(of.len() as u64, bytes);
    bytes.extend_from_slice(of);
}

/// Calls `take` with every field of a message, known or not, in the order in which they were sent.
///
/// # Errors
/// [`RlsError::Malformed`] if the bytes are not a message, and the errors that `take` returns.
pub(super) fn read<'a>(
    mut bytes: &'a [u8],
    mut take: impl FnMut(u64, Field<'a>) -> Result<(), RlsError>,
) -> Result<(), RlsError> {
    while !bytes.is_empty() {
        let tag = varint::read(&mut bytes).ok_or(RlsError::Malformed)?;
        let field = match tag & 7 {
            NUMBER => Field::Number(varint::read(&mut bytes).ok_or(RlsError::Malformed)?),
            FIXED_64 => cut(&mut bytes, 8).map(|_| Field::Fixed)?,
            BYTES => {
                let size = varint::read(&mut bytes).and_then(|size| usize::try_from(size).ok());
                Field::Bytes(cut(&mut bytes, size.ok_or(RlsError::Malformed)?)?)
            }
            FIXED_32 => cut(&mut bytes, 4).map(|_| Field::Fixed)?,
            // Groups belong to an older syntax than these messages use.
            _ => return Err(RlsError::Malformed),
        };
        match tag >> 3 {
            0 => return Err(RlsError::Malformed),
            number => take(number, field)?,
        }
    }
    Ok(())
}

fn cut<'a>(bytes: &mut &'a [u8], size: usize) -> Result<&'a [u8], RlsError> {
    let (cut, rest) = bytes.split_at_checked(size).ok_or(RlsError::Malformed)?;
    *bytes = rest;
    Ok(cut)
}

const fn tag(field: u32, kind: u64) -> u64 {
    ((field as u64) << 3) | kind
}

const NUMBER: u64 = 0;
const FIXED_64: u64 = 1;
const BYTES: u64 = 2;
const FIXED_32: u64 = 5;

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(bytes: &[u8]) -> Result<Vec<(u64, Field<'_>)>, RlsError> {
        let mut fields = Vec::new();
        read(bytes, |number, field| {
            fields.push((number, field));
            Ok(())
        })?;
        Ok(fields)
    }

    #[test]
    fn what_was_written_is_read() {
        let mut bytes = Vec::new();
        write_number(1, 300, &mut bytes);
        write_number(2, 0, &mut bytes);
        write_bytes(20, b"ab", &mut bytes);
        bytes.extend([0x1d, 1, 2, 3, 4]);
        bytes.extend([0x21, 1, 2, 3, 4, 5, 6, 7, 8]);
        let expected = [(1, Field::Number(300)), (20, Field::Bytes(b"ab")), (3, Field::Fixed), (4, Field::Fixed)];
        assert_eq!(fields(&bytes).unwrap(), expected);
    }

    #[test]
    fn what_is_no_message_is_an_error() {
        for bytes in [
            [0x08].as_slice(),
            &[0x0a, 5, 1, 2],
            &[0x0a, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1],
            &[0x0b],
            &[0x0f, 0],
            &[0x0d, 1, 2, 3],
            &[0x09, 1, 2, 3, 4, 5, 6, 7],
            &[0x00, 1],
            &[0x80; 12],
        ] {
            assert_eq!(fields(bytes), Err(RlsError::Malformed), "{bytes:?}");
        }
    }
}
