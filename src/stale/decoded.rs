//! Responses whose content coding the host has undone before it hands over their body.

/// Adjusts the header of a response to a host that undoes these codings: it then states no coding and no length, and
/// that its body is chunked. Its entity tag becomes weak, because the bytes are not those that the tag was made for
/// (RFC 9110 section 8.8.1).
pub fn undo_coding(lines: &mut Vec<(String, String)>, undoes: &[&str]) {
    let coded = |(name, value): &(String, String)| name == "content-encoding" && undoes.contains(&value.as_str());
    if !lines.iter().any(coded) {
        return;
    }
    lines.retain(|(name, _)| !matches!(name.as_str(), "content-encoding" | "content-length" | "transfer-encoding"));
    lines.push(("transfer-encoding".to_owned(), "chunked".to_owned()));
    for (name, value) in lines {
        if name == "etag" && !value.starts_with("W/") {
            value.insert_str(0, "W/");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn undone(lines: &[(&str, &str)]) -> Vec<String> {
        let mut lines = lines.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        undo_coding(&mut lines, &["gzip", "br"]);
        lines.into_iter().map(|(name, value)| [name, value].join(": ")).collect()
    }

    #[test]
    fn what_is_decoded_says_nothing_of_its_coding_and_has_a_weak_tag() {
        let coded = [("etag", "\"a\""), ("content-encoding", "gzip"), ("content-length", "9"), ("vary", "x")];
        assert_eq!(undone(&coded), ["etag: W/\"a\"", "vary: x", "transfer-encoding: chunked"]);
        let weak = [("content-encoding", "br"), ("etag", "W/\"a\"")];
        assert_eq!(undone(&weak), ["etag: W/\"a\"", "transfer-encoding: chunked"]);
    }

    #[test]
    fn what_the_host_leaves_as_it_is_stays_so() {
        for coding in ["zstd", "gzip, br", "GZIP"] {
            let coded = [("content-encoding", coding), ("content-length", "9"), ("etag", "\"a\"")];
            assert_eq!(undone(&coded).len(), 3, "{coding}");
        }
        assert_eq!(undone(&[("content-length", "9"), ("etag", "\"a\"")]), ["content-length: 9", "etag: \"a\""]);
    }
}
