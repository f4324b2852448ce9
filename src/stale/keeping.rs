//! Which responses may be kept.

use super::freshness::Freshness;
use super::record::Head;
use super::shelf::{self, Shelf};
use super::{AnswerKey, Collecting, Recent};
use crate::assets::Answer;
use crate::lookup::trim_blanks;
use crate::store::StoreError;
use crate::units::{Span, Timestamp};

/// The rules for keeping the response to one request.
#[derive(Clone, Copy, Debug)]
pub struct Keeping<'p> {
    /// The key of the request.
    pub(crate) key: AnswerKey,
    /// The maximum age of a kept response.
    pub(crate) stale: Span,
    /// The headers by which the response may vary, in lower case. Their values are in the key.
    pub(crate) vary: &'p [String],
    /// Further headers by which the response may vary. Their values are not in the key, because the target in the key
    /// already depends on them.
    pub(crate) in_target: &'p [&'static str],
    /// Whether the response may be for one client alone, judging by the request and the route.
    pub(crate) personal: bool,
}

/// A response that may be kept, before any of its body was collected.
#[derive(Debug)]
pub struct Draft {
    head: Head,
    bytes: Vec<u8>,
    /// The length of the body, if the response states it.
    length: Option<u64>,
    stale: Span,
}

impl Keeping<'_> {
    /// The response in the form in which it would be kept, or `None` if it may not be. The rules are those of RFC 9111
    /// section 3, and stricter where a mistake would show one client's response to another.
    ///
    /// - It is a complete and good response that may be valid for a long time: 200, 301, 308.
    /// - It does not forbid it: no `no-store`, `private` or `no-cache`. It may be served for the shortest time that the
    ///   policy, `must-revalidate` (or its like) and `stale-if-error` allow.
    /// - It has no `Set-Cookie`. If the request identifies its client, for example by a cookie, the response states that
    ///   it is for all clients.
    /// - It varies only by headers that the key covers.
    /// - It states where its body ends, because one that ends with its connection may have been cut short. It is no
    ///   event stream, which never ends.
    #[must_use]
    pub fn draft(&self, answer: &Answer<'_>, now: Timestamp) -> Option<Draft> {
        if !matches!(answer.status, 200 | 301 | 308) || FORBIDDEN.iter().any(|name| answer.first(name).is_some()) {
            return None;
        }
        let freshness = Freshness::of(answer, now.since(Timestamp::EPOCH).as_secs());
        if freshness.forbids || (self.personal && !freshness.shared) || !self.varies_by_key(answer) {
            return None;
        }
        if answer.first("content-type").is_some_and(|kind| kind.starts_with(b"text/event-stream")) {
            return None;
        }
        let length = answer.first("content-length").map(|text| str::from_utf8(text).ok()?.parse::<u64>().ok());
        // A response with an unreadable length is not kept.
        let length = match length {
            Some(length) => Some(length?),
            None => {
                answer.first("transfer-encoding")?;
                None
            }
        };
        let left = Span::from_secs(freshness.lifetime_secs.saturating_sub(freshness.age_secs));
        let mut longest = self.stale;
        if freshness.fresh_only {
            longest = longest.min(left);
        }
        if let Some(secs) = freshness.stale_if_error_secs {
            longest = longest.min(left.plus(Span::from_secs(secs)));
        }
        if longest == Span::ZERO {
            return None;
        }
        let age_secs = u32::try_from(freshness.age_secs).unwrap_or(u32::MAX);
        let head = Head { key: self.key, kept_at: now, until: now.after(longest), age_secs, status: answer.status };
        let nominated: Vec<&[u8]> = answer.values("connection").flat_map(list).collect();
        let kept = |name: &[u8]| {
            !NOT_KEPT.iter().any(|other| other.as_bytes() == name)
                && !nominated.iter().any(|other| other.eq_ignore_ascii_case(name))
        };
        let bytes = head.begin(answer.lines().filter(|(name, _)| kept(name)))?;
        Some(Draft { head, bytes, length, stale: self.stale })
    }

    fn varies_by_key(&self, answer: &Answer<'_>) -> bool {
        answer.values("vary").flat_map(list).all(|name| {
            let is = |other: &str| name.eq_ignore_ascii_case(other.as_bytes());
            self.vary.iter().any(|other| is(other)) || self.in_target.iter().any(|other| is(other))
        })
    }
}

impl Draft {
    /// The key under which the response would be kept.
    #[must_use]
    pub fn key(&self) -> AnswerKey {
        self.head.key
    }

    /// The time until which it may be served.
    #[must_use]
    pub fn until(&self) -> Timestamp {
        self.head.until
    }

    /// Whether the response should be kept: the shelf has none under its key, or only an old one.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] or [`StoreError::Corrupt`].
    pub fn is_wanted<S: Shelf>(&self, shelf: &mut S, now: Timestamp) -> Result<bool, StoreError> {
        shelf::is_wanted(shelf, self.head.key, self.stale, now)
    }

    /// Like [`Draft::is_wanted`], for an instance that only remembers what it has recently kept.
    #[must_use]
    pub fn is_due(&self, recent: &mut Recent, now: Timestamp) -> bool {
        recent.take(self.head.key, self.stale, now)
    }

    /// Starts to collect the body; `None` if the record would be larger than `max_object` bytes.
    #[must_use]
    pub fn collect(self, max_object: u32) -> Option<Collecting> {
        Collecting::new(self.bytes, self.head.key, self.head.until, self.length, max_object)
    }
}

/// The items of a list header.
fn list(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    value.split(|byte| *byte == b',').map(trim_blanks).filter(|item| !item.is_empty())
}

/// A response with one of these headers is for one client, or is a part of a response.
const FORBIDDEN: [&str; 4] = ["set-cookie", "set-cookie2", "content-range", "www-authenticate"];

/// Headers that are not kept: hop-by-hop headers (RFC 9110 section 7.6.1), headers that are set again when the response
/// is served, and headers for the one client that asked.
const NOT_KEPT: [&str; 17] = [
    "connection",
    "keep-alive",
    "proxy-connection",
    "proxy-authenticate",
    "proxy-authentication-info",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "content-length",
    "accept-ranges",
    "age",
    "ratelimit",
    "ratelimit-policy",
    "retry-after",
    "x-request-id",
    "x-envoy-upstream-service-time",
];

#[cfg(test)]
mod tests {
    use super::super::record::{Record, seal};
    use super::*;
    use crate::key::Seed;

    const NOW: Timestamp = Timestamp::from_nanos(784_111_777_000_000_000);

    fn keeping<'p>(vary: &'p [String]) -> Keeping<'p> {
        let (stale, in_target) = (Span::from_secs(3_600), [].as_slice());
        Keeping { key: AnswerKey([1, 2]), stale, vary, in_target, personal: false }
    }

    /// For how many seconds a response with these lines, besides its length, is kept; `None` if it is not.
    fn kept_secs(status: u16, lines: &[(&'static str, &'static str)], keeping: &Keeping<'_>) -> Option<u64> {
        let lines = [&[("content-length", "4")], lines].concat();
        let draft = keeping.draft(&Answer::of(status, &lines), NOW)?;
        Some(draft.until().since(NOW).as_secs())
    }

    #[test]
    fn what_is_kept_and_for_how_long() {
        let vary = ["accept-encoding".to_owned(), "x-market".to_owned()];
        let keeping = keeping(&vary);
        for (status, lines, secs) in [
            (200, &[][..], Some(3_600)),
            (301, &[("location", "/b")], Some(3_600)),
            (308, &[("location", "/b")], Some(3_600)),
            (302, &[("location", "/b")], None),
            (206, &[("content-range", "bytes 0-3/9")], None),
            (200, &[("content-range", "bytes 0-3/9")], None),
            (404, &[], None),
            (500, &[("cache-control", "public")], None),
            (304, &[], None),
            (200, &[("set-cookie", "a=b")], None),
            (200, &[("cache-control", "no-store")], None),
            (200, &[("cache-control", "max-age=60, Private")], None),
            (200, &[("cache-control", "no-cache")], None),
            (200, &[("cache-control", "max-age=60")], Some(3_600)),
            (200, &[("cache-control", "max-age=60, must-revalidate")], Some(60)),
            (200, &[("cache-control", "max-age=60, must-revalidate"), ("age", "59")], Some(1)),
            (200, &[("cache-control", "max-age=60, must-revalidate"), ("age", "60")], None),
            (200, &[("cache-control", "s-maxage=90")], Some(90)),
            (200, &[("cache-control", "max-age=60, stale-if-error=30")], Some(90)),
            (200, &[("cache-control", "max-age=60, stale-if-error=99999")], Some(3_600)),
            (200, &[("vary", "Accept-Encoding, X-Market")], Some(3_600)),
            (200, &[("vary", "Accept-Encoding"), ("vary", "Cookie")], None),
            (200, &[("vary", "*")], None),
            (200, &[("content-type", "text/event-stream; charset=utf-8")], None),
        ] {
            assert_eq!(kept_secs(status, lines, &keeping), secs, "{status} {lines:?}");
        }
    }

    #[test]
    fn to_a_request_with_a_cookie_only_what_is_for_all_is_kept() {
        let keeping = Keeping { personal: true, ..keeping(&[]) };
        assert_eq!(kept_secs(200, &[("cache-control", "max-age=60")], &keeping), None);
        assert_eq!(kept_secs(200, &[("cache-control", "public, max-age=60")], &keeping), Some(3_600));
        assert_eq!(kept_secs(200, &[("cache-control", "s-maxage=60")], &keeping), Some(60));
    }

    #[test]
    fn an_answer_that_may_be_cut_short_unseen_is_not_kept() {
        let keeping = keeping(&[]);
        assert!(keeping.draft(&Answer::of(200, &[]), NOW).is_none());
        assert!(keeping.draft(&Answer::of(200, &[("content-length", "4, 4")]), NOW).is_none());
        assert!(keeping.draft(&Answer::of(200, &[("transfer-encoding", "chunked")]), NOW).is_some());
    }

    #[test]
    fn headers_of_one_hop_or_of_one_client_are_not_kept() {
        let answer = Answer::of(
            200,
            &[
                ("connection", "close, X-Hop"),
                ("x-hop", "1"),
                ("keep-alive", "5"),
                ("age", "9"),
                ("content-length", "4"),
                ("etag", "\"1\""),
                ("link", "</a>"),
                ("link", "</b>"),
                ("x-request-id", "7"),
            ],
        );
        let mut bytes = keeping(&[]).draft(&answer, NOW).unwrap().bytes;
        let seed = Seed::new([1, 2]);
        seal(&mut bytes, seed);
        let record = Record::decode(&bytes, seed, AnswerKey([1, 2])).unwrap();
        let lines: [(&[u8], &[u8]); 3] = [(b"etag", b"\"1\""), (b"link", b"</a>"), (b"link", b"</b>")];
        assert_eq!(record.lines, lines);
        assert_eq!(record.head.age_secs, 9);
    }
}
