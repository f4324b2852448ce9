//! Webdis: a command as words between slashes in the body of a POST, its answer as a JSON object.
//!
//! Tried with Webdis 0.1.9, the package of Debian 12. What it cannot do, and what follows from it:
//! - There is one command in a request, so several asks take several requests.
//! - Words are percent-encoded. A dot is too, since Webdis takes what follows the last one for the kind of answer to make.
//! - Its JSON ends a text at the first zero byte and holds nothing that is not UTF-8. What our scripts answer are integers.
//! - An answer is `{"EVALSHA": ...}`. An error of Redis comes with status 200, as `{"EVALSHA": [false, "..."]}`; one
//!   of Webdis itself has no body: 403 when its access list refuses, 503 when Redis is away.
//! - It reads 4 KiB at a time and never answers a request with `connection: close` that comes in more than one piece. So
//!   connections must be kept open between requests, as Envoy and `fetch` do.
//! - It knows no bearer tokens, but HTTP's basic authentication, by its access list.
//! - It does not follow Redis Cluster from one node to another.

use super::RedisError;
use super::command::Words;
use super::reply::{self, Reply};
use crate::policy::json::Node;

/// Where requests go: a command in the body is only read at the root.
pub(super) const PATH: &str = "/";

/// The body that asks for this command.
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

/// What the body answers to a command of this verb.
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

/// The byte as it is when it means nothing in a URL, which leaves the dot out; else as an escape.
fn push_encoded(body: &mut Vec<u8>, byte: u8) {
    if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'~') {
        body.push(byte);
        return;
    }
    let digit = |nibble: u8| HEX.get(usize::from(nibble)).copied().unwrap_or(b'0');
    body.extend([b'%', digit(byte >> 4), digit(byte & 0xf)]);
}

const HEX: &[u8; 16] = b"0123456789ABCDEF";
