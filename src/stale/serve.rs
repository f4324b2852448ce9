//! Answers a request with a kept response.

use super::freshness::Freshness;
use super::range::{Part, part};
use super::record::Record;
use crate::assets::{Answer, accept};
use crate::date;
use crate::lookup::{Lookup, trim_blanks};
use crate::request::RequestFacts;
use crate::units::Timestamp;
use std::borrow::Cow;

/// Why a kept response is served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// No upstream was asked, because none was available.
    NotAsked,
    /// All upstreams that were asked have failed. The status is that of the last response, if there was any.
    Failed(Option<u16>),
}

/// The response that the client gets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Served<'b> {
    /// The status: that of the kept response, 206, 304 or 416.
    pub status: u16,
    /// The header lines, with names in lower case. The host sets the length of the body.
    pub lines: Vec<(&'b [u8], Cow<'b, [u8]>)>,
    /// The body. For `HEAD` the host leaves it out.
    pub body: &'b [u8],
}

/// Answers the request with its kept response, at `now`; `None` if that may not be served any more, or has a coding
/// that the client does not accept.
///
/// `If-None-Match` and `If-Modified-Since` can get 304. A single `Range` gets 206 if `If-Range` allows it (RFC 9110
/// sections 13 and 14); several ranges get the whole body. The response has an `Age`, and a `Cache-Status` (RFC 9211)
/// that names this cache and how many seconds the response stays fresh, negative if it is stale.
#[must_use]
pub fn serve<'b>(record: &Record<'b>, facts: &dyn RequestFacts, why: Why, now: Timestamp) -> Option<Served<'b>> {
    let request = Lookup::new(facts);
    if now > record.head.until || !takes_coding(record, &request) {
        return None;
    }
    let resident = now.since(record.head.kept_at).as_secs();
    let age = resident.saturating_add(u64::from(record.head.age_secs));
    let answer = Answer::new(record.head.status, record.lines.iter().copied());
    let lifetime = Freshness::of(&answer, 0).lifetime_secs;
    let mut served = Served { status: record.head.status, lines: Vec::new(), body: record.body };
    let mut content_range = None;
    if record.head.status == 200 {
        if is_not_modified(record, &request) {
            served.status = 304;
            served.body = b"";
        } else if request.method() == b"GET" {
            content_range = take_part(record, &request, &mut served);
        }
    }
    let is_sent = |name: &[u8]| match served.status {
        304 => WITH_304.iter().any(|other| other.as_bytes() == name),
        // The other headers describe the body, which is not sent.
        416 => name == b"date" || name == b"cache-status",
        _ => true,
    };
    served.lines.extend(
        record.lines.iter().filter(|(name, _)| is_sent(name)).map(|(name, value)| (*name, Cow::Borrowed(*value))),
    );
    if record.head.status == 200 && served.status != 304 {
        served.lines.push((b"accept-ranges", Cow::Borrowed(b"bytes")));
    }
    served.lines.extend(content_range.map(|range| (b"content-range".as_slice(), Cow::Owned(range.into_bytes()))));
    served.lines.push((b"age", Cow::Owned(age.to_string().into_bytes())));
    served.lines.push((b"cache-status", Cow::Owned(cache_status(why, lifetime, age).into_bytes())));
    Some(served)
}

/// The value of `Cache-Status`. This cache asks an upstream first, if one is available, so the value has `bypass` while
/// the kept response is fresh.
fn cache_status(why: Why, lifetime: u64, age: u64) -> String {
    let (sign, ttl) =
        if age > lifetime { ("-", age.saturating_sub(lifetime)) } else { ("", lifetime.saturating_sub(age)) };
    let forwarded = if age >= lifetime { "fwd=stale" } else { "fwd=bypass" };
    match why {
        Why::NotAsked => format!("tidegate; hit; ttl={sign}{ttl}"),
        Why::Failed(Some(status)) => format!("tidegate; {forwarded}; fwd-status={status}; ttl={sign}{ttl}"),
        Why::Failed(None) => format!("tidegate; {forwarded}; ttl={sign}{ttl}; detail=unanswered"),
    }
}

fn takes_coding(record: &Record<'_>, request: &Lookup<'_>) -> bool {
    let codings = record.first("content-encoding").unwrap_or_default();
    // Without the header any coding is acceptable: RFC 9110 section 12.5.3.
    let Some(accepted) = request.header("accept-encoding") else { return true };
    codings.split(|byte| *byte == b',').map(trim_blanks).filter(|coding| !coding.is_empty()).all(|coding| {
        coding.eq_ignore_ascii_case(b"identity") || accept::weight(accepted, coding).is_some_and(|weight| weight > 0)
    })
}

/// RFC 9110 section 13.2.2. A cache evaluates only these two conditions.
fn is_not_modified(record: &Record<'_>, request: &Lookup<'_>) -> bool {
    if let Some(tags) = request.header("if-none-match") {
        let Some(tag) = record.first("etag") else { return tags == b"*" };
        return tags == b"*" || entity_tags(tags).any(|other| opaque(other) == opaque(tag));
    }
    let (Some(since), Some(modified)) = (request.header("if-modified-since"), record.first("last-modified")) else {
        return false;
    };
    since == modified || matches!((date::parse(since), date::parse(modified)), (Some(since), Some(at)) if at <= since)
}

/// Reduces the response to the requested range and returns the value of `Content-Range`.
fn take_part<'b>(record: &Record<'b>, request: &Lookup<'_>, served: &mut Served<'b>) -> Option<String> {
    let range = request.header("range")?;
    if request.header("if-range").is_some_and(|validator| !is_same(record, validator)) {
        return None;
    }
    let len = record.body.len();
    match part(range, len) {
        Part::Whole => None,
        Part::Bytes(bytes) => {
            let (start, last) = (bytes.start, bytes.end.saturating_sub(1));
            served.body = record.body.get(bytes)?;
            served.status = 206;
            Some(format!("bytes {start}-{last}/{len}"))
        }
        Part::Unsatisfiable => {
            served.status = 416;
            served.body = b"";
            Some(format!("bytes */{len}"))
        }
    }
}

/// Whether a range of this response may be combined with the parts that the client has: they have the same strong tag,
/// or the same date if the response was made at least a second later (RFC 9110 section 13.1.5).
fn is_same(record: &Record<'_>, validator: &[u8]) -> bool {
    if validator.starts_with(b"\"") {
        return record.first("etag") == Some(validator);
    }
    let (Some(modified), Some(made)) = (record.first("last-modified"), record.first("date")) else { return false };
    let old_enough = matches!((date::parse(modified), date::parse(made)), (Some(at), Some(made)) if at < made);
    validator == modified && old_enough
}

/// The entity tags of a list, with their quotes. Tags may contain commas.
fn entity_tags(list: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut quoted = false;
    let at_comma = move |byte: &u8| {
        quoted ^= *byte == b'"';
        *byte == b',' && !quoted
    };
    list.split(at_comma).map(trim_blanks)
}

/// The tag without the prefix of weak tags.
fn opaque(tag: &[u8]) -> &[u8] {
    tag.strip_prefix(b"W/").unwrap_or(tag)
}

/// The headers of the full response that a 304 repeats (RFC 9110 section 15.4.5).
const WITH_304: [&str; 8] =
    ["cache-control", "cache-status", "content-location", "date", "etag", "expires", "last-modified", "vary"];

#[cfg(test)]
mod tests;
