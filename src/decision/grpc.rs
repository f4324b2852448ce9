//! A refusal in the form for gRPC clients.

use super::Reply;
use crate::lookup::trim_blanks;
use crate::request::RequestFacts;
use core::fmt::Write;

impl Reply {
    /// What a gRPC client gets in place of the status and the body: a response with status 200 that is its own
    /// trailers, with these header lines. `None` for all other clients. For hosts that do not convert it themselves, as
    /// Envoy does.
    ///
    /// Source: "gRPC over HTTP2", `Trailers-Only` and `Percent-Encoded`.
    #[must_use]
    pub fn trailers_only(&self) -> Option<[(&'static str, String); 3]> {
        self.for_grpc.then(|| {
            [
                ("content-type", "application/grpc".to_owned()),
                ("grpc-status", self.grpc_status.to_string()),
                ("grpc-message", percent_encoded(&self.body)),
            ]
        })
    }
}

/// Whether the request's client uses gRPC: `application/grpc`, which may be followed by the format of its messages.
/// gRPC-Web has another content type, and sends trailers in the body.
pub(crate) fn is_spoken(facts: &dyn RequestFacts) -> bool {
    let kind = facts.header("content-type");
    let kind = kind.as_deref().map(trim_blanks).unwrap_or_default();
    let rest =
        kind.get(..NAME.len()).filter(|name| name.eq_ignore_ascii_case(NAME)).and_then(|_| kind.get(NAME.len()..));
    matches!(rest, Some([] | [b'+' | b';' | b' ', ..]))
}

fn percent_encoded(text: &str) -> String {
    let mut encoded = String::new();
    for byte in text.bytes() {
        if matches!(byte, b' '..=b'~') && byte != b'%' {
            encoded.push(char::from(byte));
        } else {
            // Writing to a string cannot fail.
            let _ = write!(encoded, "%{byte:02X}");
        }
    }
    encoded
}

const NAME: &[u8] = b"application/grpc";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lookup::recorded::Recorded;

    #[test]
    fn grpc_is_spoken_by_its_own_content_type_alone() {
        for (kind, spoken) in [
            ("application/grpc", true),
            (" Application/GRPC ", true),
            ("application/grpc+proto", true),
            ("application/grpc;x=y", true),
            ("application/grpc-web", false),
            ("application/grp", false),
            ("application/json", false),
            ("", false),
        ] {
            assert_eq!(is_spoken(&Recorded::default().with("content-type", kind)), spoken, "{kind}");
        }
    }

    #[test]
    fn message_has_nothing_but_printable_ascii() {
        assert_eq!(percent_encoded("{\"a\": 1}\n100% é"), "{\"a\": 1}%0A100%25 %C3%A9");
    }
}
