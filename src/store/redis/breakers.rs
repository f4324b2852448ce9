//! Breakers that many instances share, as Redis keeps them: see [`crate::breaker::global`]. One script answers all
//! reports of a round. All breakers are in one hash, so the script touches one key, on one node of a cluster.

use super::command::Words;
use super::script::Script;
use super::{HttpRequest, NO_STATUS, Redis, RedisError, upstash, webdis};
use crate::breaker::global::{ReportMessage, Standing};
use crate::fallback::Round;
use crate::key::KeyHash;
use crate::policy::Protocol;

/// A round of reports, and its answer.
#[derive(Debug)]
pub struct BreakerExchange {
    round: Round,
    /// Whether the script is sent along, because Redis did not know it.
    with_script: bool,
    standings: Result<Vec<Standing>, RedisError>,
}

impl Redis {
    /// Sends a round of reports.
    pub fn report(&self, round: Round) -> (BreakerExchange, HttpRequest<'_>) {
        let exchange = BreakerExchange { round, with_script: false, standings: Err(RedisError::Unavailable) };
        let request = exchange.request(self);
        (exchange, request)
    }
}

impl BreakerExchange {
    /// Handles an answer: its status and body, or `None` if there was none in time. Returns the request to send next;
    /// `None` when the exchange is over.
    pub fn receive<'r>(&mut self, redis: &'r Redis, answer: Option<(u16, &[u8])>) -> Option<HttpRequest<'r>> {
        self.standings = self.decode(redis, answer);
        let forgotten = self.standings == Err(RedisError::NoScript) && !self.with_script;
        self.with_script |= forgotten;
        forgotten.then(|| self.request(redis))
    }

    /// The round that was sent.
    #[must_use]
    pub fn round(&self) -> &Round {
        &self.round
    }

    /// The breakers' standings, one for each report of the round.
    ///
    /// # Errors
    /// Why they are not known.
    pub fn standings(&self) -> Result<&[Standing], RedisError> {
        self.standings.as_deref().map_err(|error| *error)
    }

    fn command(&self) -> Command<'_> {
        Command { message: &self.round.message, authority: self.round.authority, with_script: self.with_script }
    }

    fn request<'r>(&self, redis: &'r Redis) -> HttpRequest<'r> {
        redis.request_of(&self.command())
    }

    fn decode(&self, redis: &Redis, answer: Option<(u16, &[u8])>) -> Result<Vec<Standing>, RedisError> {
        let (status, body) = answer.unwrap_or((NO_STATUS, &[]));
        if let Some(error) = RedisError::from_status(status) {
            return Err(error);
        }
        let reply = match redis.protocol {
            Protocol::Upstash => upstash::decode(body, 1).pop().unwrap_or(Err(RedisError::Garbled)),
            Protocol::Webdis => webdis::decode(body, self.command().verb()),
        }?;
        let mut numbers = reply.into_iter();
        let reports = &self.round.message.reports;
        let standings: Option<Vec<_>> = reports.iter().map(|_| Standing::from_numbers(&mut numbers)).collect();
        standings.filter(|_| numbers.next().is_none()).ok_or(RedisError::Garbled)
    }
}

/// The command that runs the script for a round.
struct Command<'a> {
    message: &'a ReportMessage,
    authority: KeyHash,
    with_script: bool,
}

impl Words for Command<'_> {
    fn verb(&self) -> &'static str {
        if self.with_script { "EVAL" } else { "EVALSHA" }
    }

    fn words(&self, word: &mut dyn FnMut(&str)) {
        let script = Script::of_breakers();
        word(self.verb());
        if self.with_script {
            word(&script.source())
        } else {
            word(script.sha1())
        }
        word("1");
        word(&breakers_key(self.authority));
        word(&self.message.instance.get().to_string());
        for report in &self.message.reports {
            word(&format!("{:016x}", report.breaker.get()));
            let kind = report.kind.number();
            for number in [report.from, kind, report.age_ms, report.lasts_ms, report.open_for_ms, report.opened] {
                word(&number.min(MOST).to_string());
            }
        }
    }
}

/// The one key that holds all breakers.
#[must_use]
pub fn breakers_key(authority: KeyHash) -> String {
    format!("tg:{{{:016x}}}:{}", authority.get(), Script::of_breakers().suffix())
}

/// Doubles hold every integer up to this exactly.
const MOST: u64 = (1 << 53) - 1;
