//! Webdis: a command as words between slashes in the body of a POST, and its answer as a JSON object.
//!
//! Tested with Webdis 0.1.9, the package of Debian 12. Its limits, and what follows from them:
//! - A request holds one command, so several asks take several requests.
//! - Words are percent-encoded. A dot is too, because Webdis takes what follows the last dot for the format of the
//!   answer.
//! - Its JSON ends a string at the first zero byte and holds only UTF-8. Our scripts answer with integers.
//! - An answer is `{"EVALSHA": ...}`. An error of Redis comes with status 200, as `{"EVALSHA": [false, "..."]}`. An
//!   error of Webdis itself has no body: 403 if its access list refuses, 503 if Redis is away.
//! - It reads 4 KiB at a time, and never answers a request with `connection: close` that arrives in more than one
//!   piece. So connections must be kept open between requests, as Envoy and `fetch` do.
//! - It supports no bearer tokens, only HTTP basic authentication, through its access list.
//! - It does not follow Redis Cluster from one node to another.

use super::RedisError;
use super::command::Words;
use super::reply::{self, Reply};
use crate::policy::json::Node;

/// Where requests go: Webdis reads a command in the body only at the root.
pub(super) const PATH: &str = "/";

/// The body of a request for this command.
pub(super) fn encode(command: &impl Words) -> Vec<u8> {
    let mut body = Vec::new();
    command.words(&mut |word| {
        if !body.is_empty() {
            body.push(b'/');
        }
        word.bytes().for_each(|byte| push_encoded(&mut body, byte));
    });
    body
}

/// The result of a command with this verb in a response's body.
pub(super) fn decode(body: &[u8], verb: &str) -> Result<Reply, RedisError> {
    let Some(Node::Object(fields)) = reply::read(body) else { return Err(RedisError::Garbled) };
    let [(name, answer)] = fields.as_slice() else { return Err(RedisError::Garbled) };
    if name != verb {
        return Err(RedisError::Garbled);
    }
    if let Node::List(items) = answer
        && let [Node::Bool(false), Node::Text(words)] = items.as_slice()
    {
        return Err(RedisError::from_words(words));
    }
    reply::integers(answer)
}

/// Appends the byte as it is if it has no meaning in a URL or to Webdis, and otherwise as an escape. So a dot is escaped.
fn push_encoded(body: &mut Vec<u8>, byte: u8) {
    if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'~') {
        body.push(byte);
        return;
    }
    let digit = |nibble: u8| HEX.get(usize::from(nibble)).copied().unwrap_or(b'0');
    body.extend([b'%', digit(byte >> 4), digit(byte & 0xf)]);
}

const HEX: &[u8; 16] = b"0123456789ABCDEF";
