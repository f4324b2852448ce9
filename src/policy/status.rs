//! The document's `status`: the status pages and the clients that may see them.

use super::document::Document;
use super::error::{Path, Problems};
use super::schema::document;
use super::shapes::{List, Text};
use super::value::{Value, View};
use crate::api_key::Digest;
use crate::network::{Network, Networks};
use crate::status;

document! {
    /// The pages `health`, `ready` and `status` below a path. Tidegate itself serves them to clients that may see them;
    /// all other requests go on as if there were no pages. Needs `addresses`, `token_sha256` or both; with both, either
    /// suffices.
    Status {
        /// The path below which the pages are.
        path: PagesPath = "/tidegate",
        /// Clients that may see the pages, by address or network.
        addresses: List<Network, 0, 1_000> = [],
        /// The SHA-256 hash of a token, in 64 hexadecimal digits. A client that sends the token as `authorization:
        /// Bearer TOKEN` may see the pages. Draw the token at random: a word could be guessed from its hash.
        token_sha256: Option<Digest>,
    }
}

/// Reads the status pages and the clients that may see them.
pub(super) fn status(document: View<'_, Document>, problems: &mut Problems) -> Option<Option<status::Status>> {
    let Some(status) = document.status()? else { return Some(None) };
    let (addresses, token) = (status.addresses()?, status.token_sha256()?);
    if addresses.is_empty() && token.is_none() {
        let hint = "write \"addresses\" as in [\"10.0.0.0/8\"], \"token_sha256\", or both";
        problems.report(&Path::Root.field("status"), &["nobody may see these pages"], &[hint]);
    }
    Some(Some(status::Status {
        path: status.path()?.to_owned(),
        addresses: Networks::new(addresses.known().copied()),
        token: token.copied(),
    }))
}

/// A path without characters that can be written in several ways.
pub(super) enum PagesPath {}

impl Text for PagesPath {
    const WHAT: &str = "a path";
    const PATTERN: Option<&str> = Some(r"^(/(?!\.{1,2}(/|$))[A-Za-z0-9._~-]+)+$");
    const CHARS: (u32, u32) = (2, 256);
    const HINT: &str = "write a path of letters, digits, \"-\", \".\", \"_\" and \"~\", as in \"/tidegate\"";

    type Parsed = str;

    fn parse(text: &str) -> Result<Value, Option<String>> {
        let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~');
        let segment = |part: &str| !matches!(part, "" | "." | "..") && part.bytes().all(is_plain);
        let right = text.strip_prefix('/').is_some_and(|path| path.split('/').all(segment));
        right.then(|| Value::Text(text.to_owned())).ok_or(None)
    }
}
