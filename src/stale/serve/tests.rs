use super::super::AnswerKey;
use super::super::record::Head;
use super::*;
use crate::lookup::recorded::Recorded;
use crate::units::Span;

const KEPT_AT: Timestamp = Timestamp::from_nanos(784_111_777_000_000_000);
const BODY: &[u8] = b"0123456789";

fn record(status: u16, lines: &[(&'static str, &'static str)]) -> Record<'static> {
    let until = KEPT_AT.after(Span::from_secs(600));
    Record {
        head: Head { key: AnswerKey::NONE, kept_at: KEPT_AT, until, age_secs: 5, status },
        lines: lines.iter().map(|(name, value)| (name.as_bytes(), value.as_bytes())).collect(),
        body: BODY,
    }
}

fn asset() -> Record<'static> {
    record(
        200,
        &[
            ("content-type", "text/css"),
            ("content-encoding", "gzip"),
            ("cache-control", "max-age=60"),
            ("date", "Sun, 06 Nov 1994 08:49:37 GMT"),
            ("etag", "W/\"a,b\""),
            ("last-modified", "Sun, 06 Nov 1994 08:00:00 GMT"),
            ("cache-status", "cdn; hit"),
            ("vary", "accept-encoding"),
        ],
    )
}

fn at(secs: u64) -> Timestamp {
    KEPT_AT.after(Span::from_secs(secs))
}

fn line(served: &Served<'_>, name: &str) -> String {
    let values = served.lines.iter().filter(|(other, _)| *other == name.as_bytes());
    values.map(|(_, value)| String::from_utf8_lossy(value).into_owned()).collect::<Vec<_>>().join(", ")
}

fn get() -> Recorded {
    Recorded::get("/app.css").with("accept-encoding", "gzip, br")
}

#[test]
fn a_kept_answer_tells_its_age_and_where_it_is_from() {
    for (secs, why, age, status) in [
        (0, Why::NotAsked, "5", "tidegate; hit; ttl=55"),
        (55, Why::NotAsked, "60", "tidegate; hit; ttl=0"),
        (455, Why::NotAsked, "460", "tidegate; hit; ttl=-400"),
        (10, Why::Failed(Some(503)), "15", "tidegate; fwd=bypass; fwd-status=503; ttl=45"),
        (455, Why::Failed(Some(503)), "460", "tidegate; fwd=stale; fwd-status=503; ttl=-400"),
        (455, Why::Failed(None), "460", "tidegate; fwd=stale; ttl=-400; detail=unanswered"),
    ] {
        let served = serve(&asset(), &get(), why, at(secs)).unwrap();
        assert_eq!((served.status, served.body), (200, BODY));
        assert_eq!(line(&served, "age"), age);
        assert_eq!(line(&served, "cache-status"), format!("cdn; hit, {status}"));
        assert_eq!(line(&served, "content-encoding"), "gzip");
        assert_eq!(line(&served, "accept-ranges"), "bytes");
    }
    assert_eq!(serve(&asset(), &get(), Why::NotAsked, at(601)), None);
}

#[test]
fn a_compressed_answer_goes_to_clients_that_take_it() {
    for (accepted, taken) in [
        (None, true),
        (Some("gzip"), true),
        (Some("br, *"), true),
        (Some("x-gzip;q=0, GZIP;q=0.1"), true),
        (Some("br"), false),
        (Some("identity"), false),
        (Some("gzip;q=0, *"), false),
        (Some(""), false),
    ] {
        let request = accepted.iter().fold(Recorded::get("/"), |request, value| request.with("accept-encoding", value));
        assert_eq!(serve(&asset(), &request, Why::NotAsked, at(1)).is_some(), taken, "{accepted:?}");
        assert!(serve(&record(200, &[]), &request, Why::NotAsked, at(1)).is_some(), "{accepted:?}");
    }
}

#[test]
fn a_client_that_has_the_answer_already_is_told_so() {
    for (name, value, status) in [
        ("if-none-match", "\"x\", W/\"a,b\"", 304),
        ("if-none-match", "\"a,b\"", 304),
        ("if-none-match", "*", 304),
        ("if-none-match", "\"a\", \"b\"", 200),
        ("if-none-match", "garbage", 200),
        ("if-modified-since", "Sun, 06 Nov 1994 08:00:00 GMT", 304),
        ("if-modified-since", "Sun, 06 Nov 1994 09:00:00 GMT", 304),
        ("if-modified-since", "Sun, 06 Nov 1994 07:59:59 GMT", 200),
        ("if-modified-since", "yesterday", 200),
    ] {
        for method in ["GET", "HEAD"] {
            let mut request = get().with(name, value);
            request.method = method.into();
            let served = serve(&asset(), &request, Why::NotAsked, at(1)).unwrap();
            assert_eq!(served.status, status, "{name}: {value}");
            assert_eq!(served.body.is_empty(), status == 304);
            assert_eq!(line(&served, "content-type").is_empty(), status == 304);
            assert_eq!(line(&served, "etag"), "W/\"a,b\"");
            assert_eq!(line(&served, "age"), "6");
        }
    }
    // The tag decides if there is one.
    let request = get().with("if-none-match", "\"x\"").with("if-modified-since", "Sun, 06 Nov 1994 09:00:00 GMT");
    assert_eq!(serve(&asset(), &request, Why::NotAsked, at(1)).unwrap().status, 200);
    // A redirect is not conditional.
    let moved = record(301, &[("location", "/b"), ("etag", "\"1\"")]);
    let request = get().with("if-none-match", "\"1\"").with("range", "bytes=0-1");
    assert_eq!(serve(&moved, &request, Why::NotAsked, at(1)).unwrap().status, 301);
}

#[test]
fn a_range_of_a_kept_answer_is_served_as_such() {
    let tagged = record(
        200,
        &[
            ("etag", "\"1\""),
            ("date", "Sun, 06 Nov 1994 08:49:37 GMT"),
            ("last-modified", "Sun, 06 Nov 1994 08:00:00 GMT"),
        ],
    );
    for (range, condition, status, content_range, body) in [
        ("bytes=2-4", None, 206, "bytes 2-4/10", &b"234"[..]),
        ("bytes=-2", None, 206, "bytes 8-9/10", b"89"),
        ("bytes=10-", None, 416, "bytes */10", b""),
        ("bytes=0-1,3-4", None, 200, "", BODY),
        ("bytes=2-4", Some("\"1\""), 206, "bytes 2-4/10", b"234"),
        ("bytes=2-4", Some("\"2\""), 200, "", BODY),
        ("bytes=2-4", Some("W/\"1\""), 200, "", BODY),
        ("bytes=2-4", Some("Sun, 06 Nov 1994 08:00:00 GMT"), 206, "bytes 2-4/10", b"234"),
        ("bytes=2-4", Some("Sun, 06 Nov 1994 09:00:00 GMT"), 200, "", BODY),
    ] {
        let request =
            condition.iter().fold(get().with("range", range), |request, value| request.with("if-range", value));
        let served = serve(&tagged, &request, Why::NotAsked, at(1)).unwrap();
        assert_eq!((served.status, served.body), (status, body), "{range} {condition:?}");
        assert_eq!(line(&served, "content-range"), content_range);
        let mut head = request.clone();
        head.method = b"HEAD".to_vec();
        assert_eq!(serve(&tagged, &head, Why::NotAsked, at(1)).unwrap().status, 200);
    }
    // A condition is evaluated before the range.
    let request = get().with("range", "bytes=2-4").with("if-none-match", "\"1\"");
    assert_eq!(serve(&tagged, &request, Why::NotAsked, at(1)).unwrap().status, 304);
}
