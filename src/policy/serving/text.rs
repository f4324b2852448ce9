//! Texts of a certain form in the settings of routes.

use super::super::shapes::Text;
use super::super::value::Value;
use super::{Piece, pieces};

/// The name of an image format, or the file extension of an image.
pub(in crate::policy) enum ImageFormat {}

impl Text for ImageFormat {
    const WHAT: &str = "an image format";
    const PATTERN: Option<&str> = Some("^[a-z0-9+-]+$");
    const CHARS: (u32, u32) = (1, 32);
    const HINT: &str = "write it in lower case without \"image/\" or a dot, as in \"webp\"";

    type Parsed = str;

    fn parse(text: &str) -> Result<Value, Option<String>> {
        let right = text.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'+' | b'-'));
        right.then(|| Value::Text(text.to_owned())).ok_or(None)
    }
}

/// The template for the path at which an image service serves a variant.
pub(in crate::policy) enum Rewrite {}

impl Text for Rewrite {
    const WHAT: &str = "a template for a path";
    const PATTERN: Option<&str> =
        Some(r#"^(?=/)([!-"$-z|~]|\{(format|width)\})*\{path\}([!-"$-z|~]|\{(format|width)\})*$"#);
    const CHARS: (u32, u32) = (1, 1_024);
    const HINT: &str = "write a path with \"{path}\" once, and \"{format}\" and \"{width}\", as in \
                         \"/cdn-cgi/image/format={format},width={width}{path}\"";

    type Parsed = str;

    fn parse(text: &str) -> Result<Value, Option<String>> {
        let is_plain = |byte: u8| byte.is_ascii_graphic() && !matches!(byte, b'{' | b'}' | b'#');
        let pieces = pieces(text).ok_or(None)?;
        let plain = pieces.iter().all(|piece| !matches!(piece, Piece::Text(text) if !text.bytes().all(is_plain)));
        let paths = pieces.iter().filter(|piece| **piece == Piece::Path).count();
        let right = text.starts_with('/') && plain && paths == 1;
        right.then(|| Value::Text(text.to_owned())).ok_or(None)
    }
}

/// The target of a link to an asset.
pub(in crate::policy) enum LinkTarget {}

impl Text for LinkTarget {
    const WHAT: &str = "a path or URL";
    const PATTERN: Option<&str> = Some(r"^(/|https?://)[!#-;=?-~]*$");
    const CHARS: (u32, u32) = (1, 2_048);
    const HINT: &str = "write a path from the root, as in \"/app.css\", or a whole URL";

    type Parsed = str;

    fn parse(text: &str) -> Result<Value, Option<String>> {
        let begins = ["/", "https://", "http://"].iter().any(|begin| text.starts_with(begin));
        let right = begins && text.bytes().all(|byte| byte.is_ascii_graphic() && !matches!(byte, b'<' | b'>' | b'"'));
        right.then(|| Value::Text(text.to_owned())).ok_or(None)
    }
}

/// A version in the key of kept responses.
pub(in crate::policy) enum Version {}

impl Text for Version {
    const WHAT: &str = "a version";
    const PATTERN: Option<&str> = Some("^[!-~]+$");
    const CHARS: (u32, u32) = (1, 64);
    const HINT: &str = "write any text without spaces, as in \"2026-11-21\"";

    type Parsed = str;

    fn parse(text: &str) -> Result<Value, Option<String>> {
        text.bytes().all(|byte| byte.is_ascii_graphic()).then(|| Value::Text(text.to_owned())).ok_or(None)
    }
}
