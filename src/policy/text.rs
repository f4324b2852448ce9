//! Texts of a certain form: names, headers, methods, hosts, key parts and others.

use super::hint::hint;
use super::json::Node;
use super::nearest;
use super::read::Shape;
use super::schema::Declared;
use super::shapes::Text;
use super::value::{Parsed, Value};
use super::{HeaderCondition, HostGlob, KeyPart, Name, StatusRange};
use crate::request::Locality;

impl Text for Name {
    const WHAT: &str = "a name";
    const PATTERN: Option<&str> = Some("^[a-z0-9-]{1,64}$");
    const CHARS: (u32, u32) = (1, 64);
    const HINT: &str = "write a name of 1 to 64 of a-z, 0-9 and \"-\", as in \"api-reads\"";

    type Parsed = Self;

    fn parse(text: &str) -> Result<Value, Option<String>> {
        let right = text.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-'));
        right.then(|| Value::Name(Self(text.to_owned()))).ok_or(None)
    }
}

/// The name of a header, as written.
pub(super) enum HeaderName {}

impl Text for HeaderName {
    const WHAT: &str = "the name of a header";
    const PATTERN: Option<&str> = Some("^[!#$%&'*+.^_`|~0-9A-Za-z-]+$");
    const CHARS: (u32, u32) = (1, 128);
    const HINT: &str = "write a header's name of letters, digits and \"-\", as in \"x-plan\"";

    type Parsed = str;

    fn parse(text: &str) -> Result<Value, Option<String>> {
        is_token(text).then(|| unparsed(text)).ok_or(None)
    }
}

/// A request method.
pub(super) enum Method {}

impl Text for Method {
    const WHAT: &str = "a method";
    const PATTERN: Option<&str> = Some("^[A-Z][A-Z0-9_-]*$");
    const CHARS: (u32, u32) = (1, 32);
    const HINT: &str = "write a method in upper case, as in \"GET\"";

    type Parsed = str;

    fn parse(text: &str) -> Result<Value, Option<String>> {
        let right = text.starts_with(|c: char| c.is_ascii_uppercase())
            && text.bytes().all(|byte| matches!(byte, b'A'..=b'Z' | b'0'..=b'9' | b'_' | b'-'));
        right.then(|| unparsed(text)).ok_or(None)
    }
}

impl Text for HostGlob {
    const WHAT: &str = "a host";
    const PATTERN: Option<&str> = Some(r"^((\*\.)?[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*|\[[0-9A-Fa-f:.]+\])$");
    const CHARS: (u32, u32) = (1, 253);
    const HINT: &str = "write a host as in \"api.example.com\", or \"*.example.com\" for all below one";

    type Parsed = Self;

    fn parse(text: &str) -> Result<Value, Option<String>> {
        let lower = text.to_ascii_lowercase();
        let (below, host) = match lower.strip_prefix("*.") {
            Some(host) => (true, host),
            None => (false, lower.as_str()),
        };
        let label = |label: &str| {
            !label.is_empty() && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-'))
        };
        let literal = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).is_some_and(|address| {
            !address.is_empty() && address.bytes().all(|byte| byte.is_ascii_hexdigit() || matches!(byte, b':' | b'.'))
        });
        if host.split('.').all(label) || (literal && !below) {
            return Ok(Value::Host(if below { Self::Below(host.to_owned()) } else { Self::Exact(lower) }));
        }
        Err(match host.rsplit_once(':') {
            Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) && !name.contains(':') => {
                hint(|| "write the host without its port: hosts match on any port".to_owned())
            }
            _ if !host.is_ascii() => hint(|| "write an international host in its ASCII form (xn--...)".to_owned()),
            _ => None,
        })
    }
}

impl Declared for HeaderCondition {
    const SHAPE: Shape = Shape::TextOrNull(&HeaderPattern::FORM);

    type View<'v> = &'v Self;

    fn view(value: &Value) -> Option<&Self> {
        match value {
            Value::Null => Some(&Self::Absent),
            value => Self::parsed(value),
        }
    }

    fn schema() -> Node {
        Node::object([("anyOf", Node::List(vec![Node::object([("type", "null".into())]), HeaderPattern::schema()]))])
    }
}

/// A condition on a header that is present.
enum HeaderPattern {}

impl Text for HeaderPattern {
    const WHAT: &str = "a header's value or a pattern for it";
    const PATTERN: Option<&str> = Some(r"^(?![ ])[^*\x00-\x1f\x7f-\x9f]*(\*[^*\x00-\x1f\x7f-\x9f]*)?$(?<![ ])");
    const CHARS: (u32, u32) = (0, 1_024);
    const HINT: &str = "write the value without spaces around it, perhaps with one \"*\" for any text, or null for a \
                         header that must be absent";

    type Parsed = HeaderCondition;

    fn parse(text: &str) -> Result<Value, Option<String>> {
        if text.trim_matches(' ') != text || text.chars().any(char::is_control) {
            return Err(None);
        }
        match text.split_once('*') {
            Some((_, suffix)) if suffix.contains('*') => Err(hint(|| "write at most one \"*\"".to_owned())),
            Some((prefix, suffix)) => {
                Ok(Value::Header(HeaderCondition::Glob { prefix: prefix.to_owned(), suffix: suffix.to_owned() }))
            }
            None => Ok(Value::Header(HeaderCondition::Exact(text.to_owned()))),
        }
    }
}

impl Text for KeyPart {
    const WHAT: &str = "a part of a key";
    const PATTERN: Option<&str> = Some(
        r"^(address|path|method|host|tier|country|region|colo|(header|cookie):[!#$%&'*+.^_`|~0-9A-Za-z-]+|(query|claim):[^\x00-\x20\x7f-\x9f]+)$",
    );
    const CHARS: (u32, u32) = (1, 136);
    const HINT: &str = "write \"address\", \"path\", \"method\", \"host\", \"tier\", \"country\", \"region\", \"colo\", or \"header:NAME\", \
                         \"cookie:NAME\", \"query:NAME\", \"claim:NAME\" with a name";

    type Parsed = Self;

    fn parse(text: &str) -> Result<Value, Option<String>> {
        let Some((kind, name)) = text.split_once(':') else {
            return Ok(Value::Key(match text {
                "address" => Self::Address,
                "path" => Self::Path,
                "method" => Self::Method,
                "host" => Self::Host,
                "tier" => Self::Tier,
                "country" => Self::Locality(Locality::Country),
                "region" => Self::Locality(Locality::Region),
                "colo" => Self::Locality(Locality::Colo),
                _ if KEY_KINDS.iter().any(|kind| kind.strip_suffix(':') == Some(text)) => {
                    return Err(hint(|| format!("write a name after it, as in \"{text}:NAME\"")));
                }
                "ip" | "client_ip" | "remote_address" => return Err(hint(|| "write \"address\"".to_owned())),
                "api_key" | "api-key" => {
                    return Err(hint(|| "write \"header:NAME\" with the header of the key".to_owned()));
                }
                _ => return Err(nearest::suggestion(text, &KEY_WORDS)),
            }));
        };
        let is_name = !name.is_empty() && !name.contains(|c: char| c == ' ' || c.is_control());
        Ok(Value::Key(match kind {
            "header" if is_token(name) => Self::Header(name.to_ascii_lowercase()),
            "cookie" if is_token(name) => Self::Cookie(name.to_owned()),
            "query" if is_name => Self::Query(name.to_owned()),
            "claim" if is_name => Self::Claim(name.to_owned()),
            "header" | "cookie" => {
                return Err(hint(|| format!("write a name of letters, digits and \"-\" after \"{kind}:\"")));
            }
            "query" | "claim" => return Err(hint(|| format!("write a name without spaces after \"{kind}:\""))),
            _ => {
                let meant = text.strip_suffix(name).and_then(|kind| nearest::nearest(kind, &KEY_KINDS));
                return Err(meant.map(|kind| format!("did you mean \"{kind}{name}\"?")));
            }
        }))
    }
}

/// The key parts that stand alone.
const KEY_WORDS: [&str; 8] = ["address", "path", "method", "host", "tier", "country", "region", "colo"];

/// The key parts that take a name.
const KEY_KINDS: [&str; 4] = ["header:", "cookie:", "query:", "claim:"];

/// The name of an Envoy cluster.
pub(super) enum Cluster {}

impl Text for Cluster {
    const WHAT: &str = "the name of a cluster";
    const PATTERN: Option<&str> = Some("^[!-~]+$");
    const CHARS: (u32, u32) = (1, 256);
    const HINT: &str = "write the name of one of Envoy's clusters, without spaces";

    type Parsed = str;

    fn parse(text: &str) -> Result<Value, Option<String>> {
        text.bytes().all(|byte| byte.is_ascii_graphic()).then(|| unparsed(text)).ok_or(None)
    }
}

/// The base URL of an upstream or a store.
pub(super) enum Url {}

impl Text for Url {
    const WHAT: &str = "a URL";
    const PATTERN: Option<&str> = Some(r"^https?://[A-Za-z0-9._:\[\]-]+(/[!-~]*)?$");
    const CHARS: (u32, u32) = (1, 2_048);
    const HINT: &str = "write a URL that begins with https:// or http://, as in \"https://origin.example.com\"";

    type Parsed = str;

    fn parse(text: &str) -> Result<Value, Option<String>> {
        let rest = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://")).ok_or(None)?;
        let host = rest.split('/').next().unwrap_or_default();
        let is_host = |byte: u8| byte.is_ascii_alphanumeric() || b"._:[]-".contains(&byte);
        let right = !host.is_empty() && host.bytes().all(is_host) && rest.bytes().all(|byte| byte.is_ascii_graphic());
        right.then(|| unparsed(text)).ok_or(None)
    }
}

/// The value of a `Content-Type` header.
pub(super) enum ContentType {}

impl Text for ContentType {
    const WHAT: &str = "a content type";
    const PATTERN: Option<&str> = Some("^[!-~]+/[ -~]*[!-~]$");
    const CHARS: (u32, u32) = (3, 256);
    const HINT: &str = "write a media type, as in \"text/html\" or \"text/plain; charset=utf-8\"";

    type Parsed = str;

    fn parse(text: &str) -> Result<Value, Option<String>> {
        let printable = text.bytes().all(|byte| (b' '..=b'~').contains(&byte)) && !text.ends_with(' ');
        let (kind, rest) = text.split_once('/').ok_or(None)?;
        (printable && !kind.is_empty() && !kind.contains(' ') && !rest.is_empty()).then(|| unparsed(text)).ok_or(None)
    }
}

/// The body of a static response or of the maintenance page.
pub(super) enum Body {}

impl Text for Body {
    const WHAT: &str = "a body";
    const PATTERN: Option<&str> = None;
    // Every worker of the host holds the body in memory.
    const CHARS: (u32, u32) = (0, 65_536);
    const HINT: &str = "write the body as a string";

    type Parsed = str;

    fn parse(text: &str) -> Result<Value, Option<String>> {
        Ok(unparsed(text))
    }
}

/// Any text.
pub(super) enum AnyText {}

impl Text for AnyText {
    const WHAT: &str = "a string";
    const PATTERN: Option<&str> = None;
    const CHARS: (u32, u32) = (0, 2_048);
    const HINT: &str = "write a string";

    type Parsed = str;

    fn parse(text: &str) -> Result<Value, Option<String>> {
        Ok(unparsed(text))
    }
}

impl Text for StatusRange {
    const WHAT: &str = "a status";
    const PATTERN: Option<&str> = Some("^[1-5](xx|[0-9]{2})$");
    const CHARS: (u32, u32) = (3, 3);
    const HINT: &str = "write a status in quotes, as in \"401\", or \"4xx\" for all from 400 to 499";

    type Parsed = Self;

    fn parse(text: &str) -> Result<Value, Option<String>> {
        let class = text.strip_suffix("xx").map(|class| class.parse::<u16>().map(|class| class.saturating_mul(100)));
        let (first, last) = match class {
            Some(Ok(first)) => (first, first.saturating_add(99)),
            _ => text.parse().map(|status| (status, status)).map_err(|_| None)?,
        };
        (100..600).contains(&first).then_some(Value::StatusRange(Self { first, last })).ok_or(None)
    }
}

/// What a breaker or a fallback counts as a failure.
pub(super) enum Failure {}

impl Text for Failure {
    const WHAT: &str = "a failure known here";
    const PATTERN: Option<&str> = Some("^(connect|timeout|reset|5xx|[45][0-9]{2})$");
    const CHARS: (u32, u32) = (3, 7);
    const HINT: &str = "write \"connect\", \"timeout\", \"reset\", \"5xx\" or a status from \"400\" to \"599\"";

    type Parsed = str;

    fn parse(text: &str) -> Result<Value, Option<String>> {
        let status = matches!(text.as_bytes(), [b'4' | b'5', b'0'..=b'9', b'0'..=b'9']);
        if status || FAILURES.contains(&text) {
            return Ok(unparsed(text));
        }
        Err(nearest::suggestion(text, &FAILURES))
    }
}

const FAILURES: [&str; 4] = ["connect", "timeout", "reset", "5xx"];

fn unparsed(text: &str) -> Value {
    Value::Text(text.to_owned())
}

/// Whether the text is a token of RFC 9110 section 5.6.2.
fn is_token(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte))
}

#[cfg(test)]
mod tests {
    use super::super::error::{Path, Problems};
    use super::*;

    #[test]
    fn key_parts_are_words_or_a_kind_and_a_name() {
        for (text, part) in [
            ("address", KeyPart::Address),
            ("header:X-Api-Key", KeyPart::Header("x-api-key".to_owned())),
            ("cookie:Session", KeyPart::Cookie("Session".to_owned())),
            ("query:a:b", KeyPart::Query("a:b".to_owned())),
            ("claim:https://example.com/sub", KeyPart::Claim("https://example.com/sub".to_owned())),
        ] {
            assert_eq!(KeyPart::parse(text), Ok(Value::Key(part)), "{text}");
        }
        for (text, hint) in [
            ("adress", "did you mean \"address\"?"),
            ("haeder:x-plan", "did you mean \"header:x-plan\"?"),
            ("header", "write a name after it, as in \"header:NAME\""),
            ("ip", "write \"address\""),
            ("cookie:", "write a name of letters, digits and \"-\" after \"cookie:\""),
            ("claim:a b", "write a name without spaces after \"claim:\""),
        ] {
            assert_eq!(KeyPart::parse(text), Err(Some(hint.to_owned())), "{text}");
        }
        assert_eq!(KeyPart::parse("zzzzzzzzzz"), Err(None));
    }

    #[test]
    fn hosts_are_lower_case_without_a_port() {
        let host = |host| Ok(Value::Host(host));
        assert_eq!(HostGlob::parse("API.example.com"), host(HostGlob::Exact("api.example.com".to_owned())));
        assert_eq!(HostGlob::parse("*.example.com"), host(HostGlob::Below("example.com".to_owned())));
        assert_eq!(HostGlob::parse("[2001:DB8::1]"), host(HostGlob::Exact("[2001:db8::1]".to_owned())));
        for text in ["a.example:80", "a..b", "*", "*.", "*.[::1]", "a*.b", "ä.example", "a.b."] {
            assert!(HostGlob::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_header_condition_has_one_star_at_most() {
        for (node, condition) in [
            (Node::Null, HeaderCondition::Absent),
            ("on".into(), HeaderCondition::Exact("on".to_owned())),
            ("v2*".into(), HeaderCondition::Glob { prefix: "v2".to_owned(), suffix: String::new() }),
            ("a*b".into(), HeaderCondition::Glob { prefix: "a".to_owned(), suffix: "b".to_owned() }),
        ] {
            let value = HeaderCondition::SHAPE.read(&node, &Path::Root, &mut Problems::default());
            assert_eq!(HeaderCondition::view(&value), Some(&condition), "{node:?}");
        }
        for text in ["a*b*", " a", "a ", "a\nb"] {
            assert!(HeaderPattern::parse(text).is_err(), "{text}");
        }
    }
}
