//! Why a command had no result, from the HTTP answer or from Redis' error text.

use core::fmt;

/// Why Redis did not answer an ask.
///
/// After [`Unavailable`](Self::Unavailable) and [`Garbled`](Self::Garbled) it is unknown whether the ask was charged:
/// the same sequence number may be asked again. All other errors mean that nothing was charged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RedisError {
    /// Redis or its front end cannot be reached, answered too late, or says that it cannot work now.
    Unavailable,
    /// The credentials are missing or wrong, or do not allow the command.
    Unauthorized,
    /// Redis has forgotten the script, or never had it.
    NoScript,
    /// Redis has reached its memory limit, and evicts nothing.
    OutOfMemory,
    /// The key holds something other than our state.
    WrongType,
    /// Redis refused the command with another error, which begins with this word.
    Refused(&'static str),
    /// The answer does not fit the protocol: it is cut short, of another kind, or out of range.
    Garbled,
}

impl RedisError {
    /// Every error, in the order of their numbers.
    pub const ALL: [Self; 7] = [
        Self::Unavailable,
        Self::Unauthorized,
        Self::NoScript,
        Self::OutOfMemory,
        Self::WrongType,
        Self::Refused(OTHER),
        Self::Garbled,
    ];

    /// The meaning of an error text. It begins with a code in capitals. But up to Redis 6 an error within a script
    /// begins with `ERR`, and a proxy may put its own name first. So the code is searched among the first words.
    #[must_use]
    pub fn from_words(words: &str) -> Self {
        let codes = words.split_ascii_whitespace().take(FIRST_WORDS);
        codes.map(|word| word.trim_start_matches('-')).find_map(Self::from_code).unwrap_or(Self::Refused(OTHER))
    }

    /// The meaning of an HTTP status, before the body is looked at; `None` if the body has to tell.
    #[must_use]
    pub const fn from_status(status: u16) -> Option<Self> {
        match status {
            200 | 400 => None,
            401 | 403 | 407 => Some(Self::Unauthorized),
            // Too many requests for the plan, or too slow: it may work later.
            408 | 429 | 500.. | 0 => Some(Self::Unavailable),
            _ => Some(Self::Garbled),
        }
    }

    fn from_code(code: &str) -> Option<Self> {
        Some(match code {
            "NOSCRIPT" => Self::NoScript,
            "OOM" => Self::OutOfMemory,
            "WRONGTYPE" => Self::WrongType,
            "NOAUTH" | "WRONGPASS" | "NOPERM" | "Unauthorized" => Self::Unauthorized,
            // Redis is starting, is busy with another script, cannot save, or is the wrong node until another
            // takes over.
            "LOADING" | "BUSY" | "MISCONF" | "READONLY" | "MASTERDOWN" | "CLUSTERDOWN" | "TRYAGAIN" | "NOREPLICAS" => {
                Self::Unavailable
            }
            code => Self::Refused(REFUSALS.into_iter().find(|known| *known == code)?),
        })
    }
}

impl fmt::Display for RedisError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Unavailable => "Redis cannot be reached or cannot work now",
            Self::Unauthorized => "Redis refuses the credentials, or the command to them",
            Self::NoScript => "Redis has forgotten the script",
            Self::OutOfMemory => "Redis is out of memory: raise maxmemory, or let it evict keys that expire",
            Self::WrongType => "another program's value stands under a key that begins with tg:",
            Self::Refused(code) => return write!(f, "Redis refused the command: {code}"),
            Self::Garbled => "the answer is none of this protocol",
        })
    }
}

impl core::error::Error for RedisError {}

/// Errors worth naming: each has a cause that somebody can remove.
const REFUSALS: [&str; 3] = ["MOVED", "ASK", "CROSSSLOT"];
/// The code of all errors that have no code of their own.
const OTHER: &str = "ERR";
/// How many words are searched for a code. The longest text before one names a script and a line of it.
const FIRST_WORDS: usize = 12;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_words_of_redis_are_told_apart_by_their_code() {
        for (words, error) in [
            ("NOSCRIPT No matching script. Please use EVAL.", RedisError::NoScript),
            ("OOM command not allowed when used memory > 'maxmemory'.", RedisError::OutOfMemory),
            ("WRONGTYPE Operation against a key holding the wrong kind of value", RedisError::WrongType),
            ("WRONGPASS invalid or missing auth token", RedisError::Unauthorized),
            ("Unauthorized", RedisError::Unauthorized),
            ("NOPERM this user has no permissions to run the 'evalsha' command", RedisError::Unauthorized),
            ("LOADING Redis is loading the dataset in memory", RedisError::Unavailable),
            ("BUSY Redis is busy running a script.", RedisError::Unavailable),
            ("READONLY You can't write against a read only replica.", RedisError::Unavailable),
            (
                "ERR Error running script (call to f_0123): @user_script:9: -OOM command not allowed",
                RedisError::OutOfMemory,
            ),
            ("MOVED 3999 127.0.0.1:6381", RedisError::Refused("MOVED")),
            ("ERR unknown command 'NOSUCH'", RedisError::Refused("ERR")),
            ("a proxy said: NOSCRIPT No matching script", RedisError::NoScript),
            ("something went wrong", RedisError::Refused("ERR")),
            ("", RedisError::Refused("ERR")),
        ] {
            assert_eq!(RedisError::from_words(words), error, "{words}");
        }
    }

    #[test]
    fn a_status_decides_before_the_body_where_it_can() {
        for (status, error) in [
            (200, None),
            (400, None),
            (401, Some(RedisError::Unauthorized)),
            (403, Some(RedisError::Unauthorized)),
            (404, Some(RedisError::Garbled)),
            (302, Some(RedisError::Garbled)),
            (429, Some(RedisError::Unavailable)),
            (503, Some(RedisError::Unavailable)),
            (0, Some(RedisError::Unavailable)),
        ] {
            assert_eq!(RedisError::from_status(status), error, "{status}");
        }
    }
}
