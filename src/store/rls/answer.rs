//! The service's answer.

use super::RlsError;
use super::message::{Field, read};
use crate::units::Span;

/// An answer: `RateLimitResponse`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Answer {
    /// Whether the request is over any of its limits.
    pub over: bool,
    /// One for each descriptor, in the same order; a service may leave them out.
    pub statuses: Vec<Status>,
    /// Header lines to add to the client's response.
    pub response_headers: Vec<Header>,
    /// Header lines to add to the request if it goes on.
    pub request_headers: Vec<Header>,
    /// The body for a refused client; empty if the service gives none.
    pub body: Vec<u8>,
}

/// The status of one descriptor: `DescriptorStatus`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Status {
    /// Whether it is over its limit.
    pub code: Code,
    /// The longest time until there are permits again, if the service tells: until its window ends, or else the unit of
    /// its limit, within which a window ends.
    pub reset_after: Option<Span>,
}

/// `RateLimitResponse.Code`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Code {
    /// The service does not know.
    #[default]
    Unknown,
    /// Within the limit.
    Within,
    /// Over the limit.
    Over,
}

/// A header line, its name in lower case.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    /// The name.
    pub name: String,
    /// The value, without control characters other than tabs.
    pub value: Vec<u8>,
}

/// Reads an answer.
///
/// Header lines that frame a message, or say where it goes, are left out, so that a service cannot break a message with
/// them.
///
/// # Errors
/// [`RlsError::Malformed`], [`RlsError::TooLarge`] or [`RlsError::Undecided`].
pub fn answer(bytes: &[u8]) -> Result<Answer, RlsError> {
    if bytes.len() > LARGEST {
        return Err(RlsError::TooLarge);
    }
    let (mut answer, mut overall) = (Answer::default(), Code::Unknown);
    read(bytes, |number, field| {
        match (number, field) {
            (1, Field::Number(code)) => overall = Code::of(code),
            (2, Field::Bytes(status)) => push(&mut answer.statuses, self::status(status)?)?,
            (3, Field::Bytes(header)) => keep(&mut answer.response_headers, self::header(header)?)?,
            (4, Field::Bytes(header)) => keep(&mut answer.request_headers, self::header(header)?)?,
            (5, Field::Bytes(body)) => answer.body = body.to_vec(),
            (1..=5, _) => return Err(RlsError::Malformed),
            // Fields that later versions add.
            _ => {}
        }
        Ok(())
    })?;
    match overall {
        Code::Unknown => Err(RlsError::Undecided),
        code => Ok(Answer { over: code == Code::Over, ..answer }),
    }
}

impl Code {
    const fn of(number: u64) -> Self {
        match number {
            1 => Self::Within,
            2 => Self::Over,
            _ => Self::Unknown,
        }
    }
}

fn status(bytes: &[u8]) -> Result<Status, RlsError> {
    let (mut code, mut unit, mut reset) = (Code::Unknown, None, None);
    read(bytes, |number, field| {
        match (number, field) {
            (1, Field::Number(number)) => code = Code::of(number),
            (2, Field::Bytes(limit)) => unit = self::unit(limit)?,
            (4, Field::Bytes(duration)) => reset = Some(self::duration(duration)?),
            (1 | 2 | 4, _) => return Err(RlsError::Malformed),
            _ => {}
        }
        Ok(())
    })?;
    Ok(Status { code, reset_after: reset.or(unit) })
}

/// How long the unit of a limit is; `None` if it is missing or unknown.
fn unit(limit: &[u8]) -> Result<Option<Span>, RlsError> {
    let mut unit = None;
    read(limit, |number, field| {
        match (number, field) {
            (2, Field::Number(number)) => {
                let secs = UNITS.iter().find(|(of, _)| *of == number).map(|(_, secs)| *secs);
                unit = secs.map(Span::from_secs);
            }
            (2, _) => return Err(RlsError::Malformed),
            _ => {}
        }
        Ok(())
    })?;
    Ok(unit)
}

/// `google.protobuf.Duration`; a negative one counts as zero.
fn duration(bytes: &[u8]) -> Result<Span, RlsError> {
    let (mut secs, mut nanos) = (0, 0);
    read(bytes, |number, field| {
        match (number, field) {
            (1, Field::Number(number)) => secs = number,
            (2, Field::Number(number)) => nanos = number,
            (1 | 2, _) => return Err(RlsError::Malformed),
            _ => {}
        }
        Ok(())
    })?;
    let is_negative = |number: u64| number > i64::MAX.unsigned_abs();
    if is_negative(secs) || is_negative(nanos) {
        return Ok(Span::ZERO);
    }
    let whole = secs.min(LONGEST_SECS).saturating_mul(NANOS_PER_SEC);
    Ok(Span::from_nanos(whole.saturating_add(nanos.min(NANOS_PER_SEC))))
}

/// `None` for a header that is not passed on.
fn header(bytes: &[u8]) -> Result<Option<Header>, RlsError> {
    let (mut name, mut value, mut raw): (&[u8], &[u8], &[u8]) = Default::default();
    read(bytes, |number, field| {
        match (number, field) {
            (1, Field::Bytes(bytes)) => name = bytes,
            (2, Field::Bytes(bytes)) => value = bytes,
            (3, Field::Bytes(bytes)) => raw = bytes,
            (1..=3, _) => return Err(RlsError::Malformed),
            _ => {}
        }
        Ok(())
    })?;
    let is_token = |byte: &u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(byte);
    let value = if value.is_empty() { raw } else { value };
    if name.is_empty()
        || !name.iter().all(is_token)
        || value.iter().any(|byte| byte.is_ascii_control() && *byte != b'\t')
    {
        return Err(RlsError::Malformed);
    }
    let name = String::from_utf8_lossy(name).to_ascii_lowercase();
    let is_passed_on = !NOT_PASSED_ON.contains(&name.as_str());
    Ok(is_passed_on.then(|| Header { name, value: value.to_vec() }))
}

fn keep(headers: &mut Vec<Header>, header: Option<Header>) -> Result<(), RlsError> {
    header.map_or(Ok(()), |header| push(headers, header))
}

fn push<T>(items: &mut Vec<T>, item: T) -> Result<(), RlsError> {
    if items.len() >= MOST_ITEMS {
        return Err(RlsError::TooLarge);
    }
    items.push(item);
    Ok(())
}

/// Units by their numbers, in seconds: a second, a minute, an hour, a day, a month, a year, a week. The longest that
/// each can be.
const UNITS: [(u64, u64); 7] = [
    (1, 1),
    (2, 60),
    (3, 3_600),
    (4, DAY),
    (5, DAY.saturating_mul(31)),
    (6, DAY.saturating_mul(366)),
    (7, DAY.saturating_mul(7)),
];

const DAY: u64 = 86_400;

/// A year; no service has a longer window.
const LONGEST_SECS: u64 = DAY.saturating_mul(366);

const NANOS_PER_SEC: u64 = 1_000_000_000;

/// Header fields of one hop, of the body's length and of the request's route (RFC 9110 sections 7.2, 7.6 and 8.6).
const NOT_PASSED_ON: [&str; 9] = [
    "connection",
    "content-length",
    "host",
    "keep-alive",
    "proxy-connection",
    "te",
    "transfer-encoding",
    "upgrade",
    "x-tidegate-upstream",
];

/// The most descriptors, and the most header lines of each kind.
const MOST_ITEMS: usize = 64;

/// The longest answer, in bytes. A proxy would not accept more as a header. A host need not read a longer one.
pub const LARGEST: usize = 64 * 1_024;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_without_a_code_decides_nothing() {
        for bytes in [[].as_slice(), &[0x08, 0], &[0x08, 3], &[0x12, 2, 0x08, 1]] {
            assert_eq!(answer(bytes), Err(RlsError::Undecided), "{bytes:?}");
        }
        assert_eq!(answer(&[0x08, 1]).unwrap(), Answer::default());
        assert!(answer(&[0x08, 2]).unwrap().over);
    }

    #[test]
    fn what_is_no_answer_is_an_error() {
        // A code that is not a number, a garbled status, a header with a line break, text in place of a list.
        for bytes in
            [[0x0a, 1, 1].as_slice(), &[0x08, 1, 0x12, 1, 8], &[0x08, 1, 0x1a, 6, 0x0a, 1, b'a', 0x12, 1, b'\n']]
        {
            assert_eq!(answer(bytes), Err(RlsError::Malformed), "{bytes:?}");
        }
        assert_eq!(answer(b"HTTP/1.1 200 OK\r\n\r\n"), Err(RlsError::Malformed));
        let many: Vec<u8> = [0x12, 0].repeat(MOST_ITEMS + 1);
        assert_eq!(answer(&many), Err(RlsError::TooLarge));
        assert_eq!(answer(&vec![0; LARGEST + 1]), Err(RlsError::TooLarge));
    }

    #[test]
    fn lines_that_would_break_an_answer_are_left_out() {
        let line = |name: &str| {
            let mut header = vec![0x0a, name.len() as u8];
            header.extend(name.bytes());
            header.extend([0x1a, 1, b'v']);
            [&[0x1a, header.len() as u8], &header[..]].concat()
        };
        let bytes = [&[0x08, 2][..], &line("Content-Length"), &line("X-Limit"), &line("Host")].concat();
        let expected = [Header { name: "x-limit".to_owned(), value: b"v".to_vec() }];
        assert_eq!(answer(&bytes).unwrap().response_headers, expected);
        assert_eq!(answer(&[&[0x08, 1][..], &line(":status")].concat()), Err(RlsError::Malformed));
    }

    #[test]
    fn no_span_of_a_service_is_too_long_or_too_short_to_be_told() {
        assert_eq!(duration(&[0x08, 5, 0x10, 7]).unwrap(), Span::from_nanos(5_000_000_007));
        let most = [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f];
        assert_eq!(duration(&[&[0x08], &most[..]].concat()).unwrap(), Span::from_secs(LONGEST_SECS));
        let less = [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1];
        assert_eq!(duration(&[&[0x08], &less[..]].concat()).unwrap(), Span::ZERO);
        let minute = status(&[0x08, 2, 0x12, 2, 0x10, 2]).unwrap();
        assert_eq!(minute, Status { code: Code::Over, reset_after: Some(Span::from_secs(60)) });
    }
}
