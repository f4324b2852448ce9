//! An ask as a Redis command, and the grant in its script's answer.

use super::RedisError;
use super::reply::Reply;
use super::script::Script;
use crate::authority::{Ask, Grant, Shared};
use crate::units::Permits;

/// The command that runs an ask's script.
#[derive(Clone, Copy, Debug)]
pub(super) struct Command<'a> {
    /// The ask.
    pub(super) ask: &'a Ask,
    /// Whether the script is sent along, because Redis does not know it. Redis keeps it from then on.
    pub(super) with_script: bool,
}

/// A Redis command, word by word.
pub(super) trait Words {
    /// The command's name.
    fn verb(&self) -> &'static str;

    /// Calls `word` with each word of the command, in order.
    fn words(&self, word: &mut dyn FnMut(&str));
}

impl<W: Words> Words for &W {
    fn verb(&self) -> &'static str {
        (**self).verb()
    }

    fn words(&self, word: &mut dyn FnMut(&str)) {
        (**self).words(word);
    }
}

impl Words for Command<'_> {
    fn verb(&self) -> &'static str {
        if self.with_script { "EVAL" } else { "EVALSHA" }
    }

    fn words(&self, word: &mut dyn FnMut(&str)) {
        let (ask, terms) = (self.ask, &self.ask.terms);
        let script = Script::of(terms.algorithm);
        word(self.verb());
        if self.with_script {
            word(&script.source())
        } else {
            word(script.sha1())
        }
        // Only the part in braces decides which node of a cluster has the key.
        word("1");
        word(&key(ask));
        let permits = |permits: Permits| u64::from(permits.get());
        for number in [
            permits(terms.permits),
            terms.window_ms,
            permits(terms.burst),
            ask.instance.get(),
            ask.seq,
            permits(ask.need),
            permits(ask.least),
            permits(ask.want),
            permits(ask.back),
            ask.back_of,
        ] {
            word(&number.to_string());
        }
    }
}

/// The one key that the ask touches.
#[must_use]
pub fn key(ask: &Ask) -> String {
    format!("tg:{{{:016x}}}:{}", ask.key.get(), Script::of(ask.terms.algorithm).suffix())
}

/// The grant in a script's answer.
///
/// # Errors
/// [`RedisError::Garbled`] if it cannot be an answer to this ask. It is unknown what is wrong with it, so none of its
/// permits may be used.
pub(super) fn grant(ask: &Ask, reply: &Reply) -> Result<Grant, RedisError> {
    let (head, retry) = reply.split_first_chunk().ok_or(RedisError::Garbled)?;
    let [granted, left, lasts_ms, reset_ms, window, drawn] = *head;
    let retry_after_ms = match retry {
        [] => None,
        [after_ms] => Some(*after_ms),
        _ => return Err(RedisError::Garbled),
    };
    let permits = |count: u64| {
        u32::try_from(count)
            .ok()
            .filter(|count| *count <= Permits::MAX.get())
            .map(Permits::new)
            .ok_or(RedisError::Garbled)
    };
    let (granted, left) = (permits(granted)?, permits(left)?);
    let most = ask.want.max(ask.need);
    let in_range = match ask.terms.algorithm {
        Shared::InFlight => granted <= ask.keeps().plus(most),
        _ => granted == Permits::ZERO || (ask.least.min(ask.need)..=most).contains(&granted),
    };
    // No grant lasts longer than the window or lease that it is charged to. A bucket's permits last at most one second.
    let longest_ms = match ask.terms.algorithm {
        Shared::FixedWindow | Shared::SlidingWindow | Shared::InFlight => ask.terms.window_ms,
        Shared::TokenBucket => MAX_LEND_MS,
    };
    if !in_range || lasts_ms > longest_ms {
        return Err(RedisError::Garbled);
    }
    Ok(Grant { granted, left, lasts_ms, retry_after_ms, reset_ms, window, drawn })
}

/// How long permits last at most that [`crate::authority::bucket`] lends.
const MAX_LEND_MS: u64 = 1_000;
