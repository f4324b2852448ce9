//! The REST protocol of Upstash: commands as JSON in the body of a POST, several in one request, a bearer token.
//!
//! Source: Upstash's documentation of its REST API. Requests go to `/pipeline`, even for a single command, so that
//! answers have only one form: a list with an object for each command, `{"result": ...}` or `{"error": "..."}`, in the
//! same order. An error of the whole request is a single such object.

use super::RedisError;
use super::command::Words;
use super::reply::{self, Reply};
use crate::policy::json::Node;

/// Where requests go, relative to the store's own path.
pub(super) const PATH: &str = "/pipeline";

/// The body of a request for these commands.
pub(super) fn encode(commands: impl Iterator<Item = impl Words>) -> Vec<u8> {
    let mut body = String::from("[");
    for command in commands {
        separate(&mut body);
        body.push('[');
        command.words(&mut |word| {
            separate(&mut body);
            push_text(&mut body, word);
        });
        body.push(']');
    }
    body.push(']');
    body.into_bytes()
}

/// The result of each of `count` commands in a response's body.
pub(super) fn decode(body: &[u8], count: usize) -> Vec<Result<Reply, RedisError>> {
    let answers = match reply::read(body) {
        Some(Node::List(answers)) if answers.len() == count => answers.iter().map(result).collect(),
        // A single error applies to all commands: none was carried out.
        Some(node @ Node::Object(_)) => vec![result(&node).and(Err(RedisError::Garbled)); count],
        _ => Vec::new(),
    };
    if answers.is_empty() { vec![Err(RedisError::Garbled); count] } else { answers }
}

fn result(answer: &Node) -> Result<Reply, RedisError> {
    match answer {
        Node::Object(fields) => match fields.as_slice() {
            [(name, Node::Text(words))] if name == "error" => Err(RedisError::from_words(words)),
            [(name, result)] if name == "result" => reply::integers(result),
            _ => Err(RedisError::Garbled),
        },
        _ => Err(RedisError::Garbled),
    }
}

fn separate(body: &mut String) {
    if !body.ends_with('[') {
        body.push(',');
    }
}

/// The word as a JSON string. All words are ours: ASCII, and of the control characters only line feeds.
fn push_text(body: &mut String, word: &str) {
    body.push('"');
    for c in word.chars() {
        match c {
            '"' | '\\' => body.extend(['\\', c]),
            '\n' => body.push_str("\\n"),
            c => body.push(c),
        }
    }
    body.push('"');
}
