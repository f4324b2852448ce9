//! Which parts of a request go to a further upstream, and which parts of its response go to the client, for hosts that
//! make the call themselves.

use crate::date;
use crate::decision::grpc;
use crate::lookup::trim_blanks;
use crate::request::RequestFacts;
use crate::units::{Span, Timestamp};

/// The header lines of a request, including pseudo-headers, as a further upstream gets them: without hop-by-hop headers
/// (RFC 9110 section 7.6.1), and without those that tell the host how to send the request.
pub fn request<'a>(lines: &[(&'a [u8], &'a [u8])]) -> Vec<(&'a [u8], &'a [u8])> {
    kept(lines, &NOT_SENT_AGAIN)
}

/// The header lines of a response as the client gets them: without its status, hop-by-hop headers, and
/// `content-length`, which the host sets itself.
pub fn answer<'a>(lines: &[(&'a [u8], &'a [u8])]) -> Vec<(&'a [u8], &'a [u8])> {
    kept(lines, &NOT_ANSWERED)
}

/// Tells caches not to keep the response to a request that claims to speak gRPC, where the host sends it in gRPC's own form: with status
/// 200 and without a body. Any client can claim so when it requests a page, and a shared cache would then serve nothing as the page.
/// Returns the body that may become gRPC's message, which is a header line: empty if it is too long for one.
pub fn keep_from_caches<'a, 'b>(
    lines: &mut Vec<(&'a [u8], &'a [u8])>,
    body: &'b [u8],
    facts: &dyn RequestFacts,
) -> &'b [u8] {
    if !grpc::is_spoken(facts) {
        return body;
    }
    // `CDN-Cache-Control` (RFC 9213) and `Surrogate-Control` too, which take precedence over `Cache-Control`.
    lines.retain(|(name, _)| !name.ends_with(b"-control"));
    lines.push((b"cache-control", b"no-store"));
    if body.len() > LONGEST_MESSAGE { b"" } else { body }
}

/// The pause that a response asks for with `Retry-After`, in whole seconds or as a date (RFC 9110 section 10.2.3).
/// `made` is the response's own `Date`. If it is there, the pause is the difference of the two dates, which is right
/// even if the upstream's clock is wrong. Otherwise the date is compared with `now`. A past date asks for no pause.
#[must_use]
pub fn retry_after(value: &[u8], made: Option<&[u8]>, now: Timestamp) -> Option<Span> {
    let value = trim_blanks(value);
    if let Some(until) = date::parse(value) {
        let from = made.and_then(|made| date::parse(trim_blanks(made)));
        let now_secs = now.since(Timestamp::EPOCH).as_nanos() / NANOS_PER_SEC;
        return Some(Span::from_secs(until.saturating_sub(from.unwrap_or(now_secs))));
    }
    // `parse` would also accept a sign.
    let number = str::from_utf8(value).ok().filter(|_| value.iter().all(u8::is_ascii_digit))?;
    number.parse().ok().map(Span::from_secs)
}

fn kept<'a>(lines: &[(&'a [u8], &'a [u8])], dropped: &[&str]) -> Vec<(&'a [u8], &'a [u8])> {
    let is = |name: &[u8], other: &[u8]| name.eq_ignore_ascii_case(trim_blanks(other));
    let connection = lines.iter().filter(|(name, _)| is(name, b"connection"));
    let options: Vec<&[u8]> = connection.flat_map(|(_, value)| value.split(|byte| *byte == b',')).collect();
    let is_kept = |(name, _): &&(&[u8], &[u8])| {
        let hop = HOP_BY_HOP.iter().chain(dropped).any(|other| is(name, other.as_bytes()));
        // `connection` must not remove pseudo-headers.
        !hop && (name.starts_with(b":") || !options.iter().any(|option| is(name, option)))
    };
    lines.iter().filter(is_kept).copied().collect()
}

const HOP_BY_HOP: [&str; 7] =
    ["connection", "keep-alive", "proxy-connection", "te", "trailer", "transfer-encoding", "upgrade"];

const NOT_SENT_AGAIN: [&str; 6] = [
    "content-length",
    "expect",
    "x-tidegate-upstream",
    "x-envoy-upstream-rq-timeout-ms",
    "x-envoy-upstream-rq-per-try-timeout-ms",
    "x-envoy-expected-rq-timeout-ms",
];

/// In bytes. Escaping makes it at most three times as long, and clients commonly accept 8 KiB of headers.
const LONGEST_MESSAGE: usize = 2_048;

const NOT_ANSWERED: [&str; 2] = [":status", "content-length"];

const NANOS_PER_SEC: u64 = 1_000_000_000;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lookup::recorded::Recorded;

    #[test]
    fn lines_of_one_connection_stay_there_also_those_that_it_names() {
        let lines: [(&[u8], &[u8]); 9] = [
            (b":method", b"GET"),
            (b":path", b"/a"),
            (b"Connection", b"close, X-Own ,:path"),
            (b"x-own", b"1"),
            (b"accept", b"*/*"),
            (b"TE", b"trailers"),
            (b"x-tidegate-upstream", b"cdn"),
            (b"accept", b"text/html"),
            (b"content-length", b"0"),
        ];
        let sent: [(&[u8], &[u8]); 4] =
            [(b":method", b"GET"), (b":path", b"/a"), (b"accept", b"*/*"), (b"accept", b"text/html")];
        assert_eq!(request(&lines), sent);
        let lines: [(&[u8], &[u8]); 5] = [
            (b":status", b"200"),
            (b"set-cookie", b"a=1"),
            (b"set-cookie", b"b=2"),
            (b"content-length", b"5"),
            (b"transfer-encoding", b"chunked"),
        ];
        let sent: [(&[u8], &[u8]); 2] = [(b"set-cookie", b"a=1"), (b"set-cookie", b"b=2")];
        assert_eq!(answer(&lines), sent);
    }

    #[test]
    fn no_cache_is_told_to_keep_what_a_request_gets_that_says_it_speaks_grpc() {
        let page: [(&[u8], &[u8]); 4] = [
            (b"cache-control", b"public"),
            (b"surrogate-control", b"max-age=9"),
            (b"cdn-cache-control", b"max-age=9"),
            (b"etag", b"1"),
        ];
        for (kind, left) in
            [("text/html", &page[..]), ("application/grpc", &[page[3], (b"cache-control", b"no-store")])]
        {
            let (mut lines, facts) = (page.to_vec(), Recorded::get("/").with("content-type", kind));
            for (len, at_grpc) in [(2_048, 2_048), (2_049, 0)] {
                let body = vec![b'x'; len];
                let said = keep_from_caches(&mut lines, &body, &facts);
                assert_eq!(said.len(), if kind == "text/html" { len } else { at_grpc }, "{kind}");
                assert_eq!(lines, left, "{kind}");
            }
        }
    }

    #[test]
    fn retry_after_is_whole_seconds_or_a_date() {
        let now = Timestamp::from_millis(784_111_777_900);
        let at = |value: &str, made: Option<&str>| {
            retry_after(value.as_bytes(), made.map(str::as_bytes), now).map(|span| span.as_nanos() / NANOS_PER_SEC)
        };
        for (value, secs) in
            [("0", Some(0)), (" 120 ", Some(120)), ("", None), ("-1", None), ("+1", None), ("1.5", None)]
        {
            assert_eq!(at(value, None), secs, "{value:?}");
        }
        assert_eq!(at("99999999999999999999", None), None);
        // That is the date of `now`, less nine tenths of a second.
        let date = "Sun, 06 Nov 1994 08:49:37 GMT";
        for (value, secs) in [
            (date, 0),
            (" Sun, 06 Nov 1994 08:50:07 GMT ", 30),
            ("Fri, 31 Dec 1993 23:59:59 GMT", 0),
            ("Sun, 06 Nov 1994 09:49:37 GMT", 3_600),
        ] {
            assert_eq!(at(value, None), Some(secs), "{value:?}");
            assert_eq!(at(value, Some("no date")), Some(secs), "{value:?}");
        }
        // An upstream whose clock is a day late still means twenty seconds.
        assert_eq!(at("Sat, 05 Nov 1994 08:49:57 GMT", Some("Sat, 05 Nov 1994 08:49:37 GMT")), Some(20));
        assert_eq!(at("Sunday, 06-Nov-94 08:49:37 GMT", None), None);
    }
}
