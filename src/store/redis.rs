//! Redis as the authority of limits that many instances share: bytes out and bytes in, over HTTP.
//!
//! A proxy's plugin can only speak HTTP, and a Worker needs nothing else. So Redis stands behind one of two HTTP front
//! ends, each with a [`Protocol`] of its own. A script for each algorithm ([`Script`]) counts in Redis. It gives the
//! answers of [`crate::authority`], by Redis' own clock. A script touches one key, which holds the account of one
//! [`Ask::key`] and expires when the account equals one that was never used.
//!
//! What an adapter does:
//!
//! 1. [`Redis::begin`] takes asks from a queue, as many as one request can carry, and returns the request to send.
//! 2. [`Exchange::receive`] takes the answer, or the news that there is none. If Redis did not know a script, it
//!    returns a second request that brings the script along; there is no third request.
//! 3. [`Exchange::outcomes`] has a grant or an error for each ask.
//!
//! Redis also keeps breakers that many instances share, with a script of their own: [`Redis::report`].
//!
//! An ask may be sent again at any time: the same sequence number is charged once.
//!
//! Tested with Redis 7.0. The scripts need at least Redis 5, and 6.2 where more than 1,024 instances draw from one key or
//! more than 8,192 breakers are shared. Permits that Redis forgets can be drawn once more: after a restart without its
//! data, after a failover to a replica that had not received the last charges, or after an eviction, which
//! `maxmemory-policy noeviction` prevents.

mod breakers;
mod command;
mod error;
mod reply;
mod script;
mod upstash;
mod webdis;

use core::fmt;

use base64ct::{Base64, Encoding};

pub use breakers::{BreakerExchange, breakers_key};
pub use command::key;
pub use error::RedisError;
pub use script::Script;

use crate::authority::{Ask, Grant};
use crate::policy::Protocol;
use command::{Command, Words};

/// A Redis behind HTTP.
#[derive(Clone, PartialEq, Eq)]
pub struct Redis {
    protocol: Protocol,
    path: String,
    authorization: Option<String>,
}

/// An HTTP request to be sent by POST.
#[derive(Clone, PartialEq, Eq)]
pub struct HttpRequest<'r> {
    /// The path, which begins with the store's own.
    pub path: &'r str,
    /// The value of the header `authorization`, if the store needs one. A secret.
    pub authorization: Option<&'r str>,
    /// The value of the header `content-type`.
    pub content_type: &'static str,
    /// The body.
    pub body: Vec<u8>,
}

/// The asks of one request, and what came of them.
#[derive(Debug)]
pub struct Exchange {
    asks: Vec<(Ask, Result<Grant, RedisError>)>,
    progress: Progress,
}

/// Which request is under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Progress {
    /// All asks, by the hashes of their scripts.
    ByHash,
    /// The asks whose script Redis did not know, with the script.
    WithScript,
    /// None: the exchange is over.
    Done,
}

impl Redis {
    /// The Redis behind the front end at this path of its host: `/` or empty if the front end has the host to itself.
    /// For Upstash the token is sent as a bearer token. For Webdis it is `user:password`, if its access list requires
    /// one.
    ///
    /// # Errors
    /// [`BadToken`] if a header cannot carry the token.
    pub fn new(protocol: Protocol, path: &str, token: Option<&str>) -> Result<Self, BadToken> {
        let path = match protocol {
            Protocol::Upstash => [path.trim_end_matches('/'), upstash::PATH].concat(),
            Protocol::Webdis if path.is_empty() => webdis::PATH.to_owned(),
            Protocol::Webdis => path.to_owned(),
        };
        let authorization = token.map(|token| {
            if token.is_empty() || !token.bytes().all(|byte| byte.is_ascii_graphic()) {
                return Err(BadToken);
            }
            Ok(match protocol {
                Protocol::Upstash => ["Bearer ", token].concat(),
                Protocol::Webdis => ["Basic ", &Base64::encode_string(token.as_bytes())].concat(),
            })
        });
        Ok(Self { protocol, path, authorization: authorization.transpose()? })
    }

    /// How many asks one request can carry: 16, and one by Webdis.
    #[must_use]
    pub const fn max_asks(&self) -> usize {
        match self.protocol {
            Protocol::Upstash => MAX_ASKS,
            Protocol::Webdis => 1,
        }
    }

    /// The request for this one command.
    fn request_of(&self, command: &impl Words) -> HttpRequest<'_> {
        self.request_with(match self.protocol {
            Protocol::Upstash => upstash::encode([command].into_iter()),
            Protocol::Webdis => webdis::encode(command),
        })
    }

    fn request_with(&self, body: Vec<u8>) -> HttpRequest<'_> {
        let content_type = match self.protocol {
            Protocol::Upstash => "application/json",
            Protocol::Webdis => "text/plain",
        };
        HttpRequest { path: &self.path, authorization: self.authorization.as_deref(), content_type, body }
    }

    /// Takes the first asks from the queue, as many as one request can carry, and returns the request to send. `None`
    /// if the queue is empty.
    pub fn begin(&self, queue: &mut Vec<Ask>) -> Option<(Exchange, HttpRequest<'_>)> {
        if queue.is_empty() {
            return None;
        }
        let first = queue.drain(..self.max_asks().min(queue.len()));
        let asks = first.map(|ask| (ask, Err(RedisError::Unavailable))).collect();
        let exchange = Exchange { asks, progress: Progress::ByHash };
        let request = exchange.request(self);
        Some((exchange, request))
    }
}

/// Leaves out the token.
impl fmt::Debug for Redis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Redis").field("protocol", &self.protocol).field("path", &self.path).finish_non_exhaustive()
    }
}

/// Leaves out the token.
impl fmt::Debug for HttpRequest<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let body = self.body.escape_ascii().to_string();
        f.debug_struct("HttpRequest").field("path", &self.path).field("body", &body).finish_non_exhaustive()
    }
}

impl Exchange {
    /// Handles an answer: its status and body, or `None` if there was none in time. Returns the request to send next;
    /// `None` when the exchange is over.
    pub fn receive<'r>(&mut self, redis: &'r Redis, answer: Option<(u16, &[u8])>) -> Option<HttpRequest<'r>> {
        let replies = self.decode(redis, answer);
        let under_way = self.under_way();
        let pending = self.asks.iter_mut().filter(|(_, outcome)| under_way(outcome));
        for ((ask, outcome), reply) in pending.zip(replies) {
            *outcome = reply.and_then(|reply| command::grant(ask, &reply));
        }
        let forgotten = self.asks.iter().any(|(_, outcome)| *outcome == Err(RedisError::NoScript));
        self.progress = match self.progress {
            Progress::ByHash if forgotten => Progress::WithScript,
            _ => Progress::Done,
        };
        (self.progress == Progress::WithScript).then(|| self.request(redis))
    }

    /// What came of each ask. An error for asks that are still under way.
    pub fn outcomes(&self) -> impl Iterator<Item = (&Ask, Result<Grant, RedisError>)> {
        self.asks.iter().map(|(ask, outcome)| (ask, *outcome))
    }

    /// A filter for the asks that the request under way is about, by what has come of them so far.
    fn under_way(&self) -> fn(&Result<Grant, RedisError>) -> bool {
        match self.progress {
            Progress::ByHash => |_| true,
            Progress::WithScript => |outcome| *outcome == Err(RedisError::NoScript),
            Progress::Done => |_| false,
        }
    }

    fn commands(&self) -> impl Iterator<Item = Command<'_>> + Clone {
        let (with_script, under_way) = (self.progress == Progress::WithScript, self.under_way());
        let pending = self.asks.iter().filter(move |(_, outcome)| under_way(outcome));
        pending.map(move |(ask, _)| Command { ask, with_script })
    }

    fn request<'r>(&self, redis: &'r Redis) -> HttpRequest<'r> {
        redis.request_with(match redis.protocol {
            Protocol::Upstash => upstash::encode(self.commands()),
            Protocol::Webdis => self.commands().next().as_ref().map(webdis::encode).unwrap_or_default(),
        })
    }

    /// The answer to each of the commands under way.
    fn decode(&self, redis: &Redis, answer: Option<(u16, &[u8])>) -> Vec<Result<reply::Reply, RedisError>> {
        let commands = self.commands();
        let (status, body) = answer.unwrap_or((NO_STATUS, &[]));
        if let Some(error) = RedisError::from_status(status) {
            return commands.map(|_| Err(error)).collect();
        }
        match redis.protocol {
            Protocol::Upstash => upstash::decode(body, commands.count()),
            Protocol::Webdis => commands.map(|command| webdis::decode(body, command.verb())).collect(),
        }
    }
}

/// An HTTP header cannot carry the token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BadToken;

impl fmt::Display for BadToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the store's token is empty or holds blanks, control characters or what is not ASCII; write it as it was issued")
    }
}

impl core::error::Error for BadToken {}

/// A command with its script is under 4 KB, so 16 stay far below what front ends accept.
const MAX_ASKS: usize = 16;
/// Stands for an answer that never came.
const NO_STATUS: u16 = 0;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_go_under_the_path_of_the_store_with_its_credentials() {
        for (protocol, path, sent) in [
            (Protocol::Upstash, "", "/pipeline"),
            (Protocol::Upstash, "/", "/pipeline"),
            (Protocol::Upstash, "/redis", "/redis/pipeline"),
            (Protocol::Upstash, "/redis/", "/redis/pipeline"),
            (Protocol::Webdis, "", "/"),
            (Protocol::Webdis, "/redis", "/redis"),
        ] {
            assert_eq!(Redis::new(protocol, path, None).unwrap().path, sent, "{protocol:?} {path}");
        }
        let header = |protocol, token| Redis::new(protocol, "/", token).unwrap().authorization;
        assert_eq!(header(Protocol::Upstash, Some("user:password")).unwrap(), "Bearer user:password");
        // The example of RFC 7617, section 2, with another password, because that one contains a space.
        assert_eq!(header(Protocol::Webdis, Some("Aladdin:opensesame")).unwrap(), "Basic QWxhZGRpbjpvcGVuc2VzYW1l");
        assert_eq!(header(Protocol::Upstash, None), None);
    }

    #[test]
    fn an_empty_queue_begins_nothing() {
        assert!(Redis::new(Protocol::Upstash, "", None).unwrap().begin(&mut Vec::new()).is_none());
    }
}
