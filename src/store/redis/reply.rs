//! What a script answers: a few integers, in JSON.

use super::RedisError;
use crate::policy::json::Node;

/// The integers of an answer, each at most 2^53.
pub(super) type Reply = Vec<u64>;

/// The body as JSON; `None` if it is not JSON, or too long to be an answer.
pub(super) fn read(body: &[u8]) -> Option<Node> {
    if body.len() > MAX_BODY_BYTES {
        return None;
    }
    Node::parse(core::str::from_utf8(body).ok()?).ok()
}

/// The integers in this list.
pub(super) fn integers(answer: &Node) -> Result<Reply, RedisError> {
    let integer = |node: &Node| match node {
        Node::Number(number) => number.as_integer(),
        _ => None,
    };
    match answer {
        Node::List(items) => items.iter().map(integer).collect::<Option<_>>().ok_or(RedisError::Garbled),
        _ => Err(RedisError::Garbled),
    }
}

/// Far above the longest answer to one request: each ask is answered in under 200 bytes, errors included.
const MAX_BODY_BYTES: usize = 16 * 1024;
