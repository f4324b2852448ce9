//! Whether a key has too little for all who ask for it.
//!
//! One answer may be short by chance: others drew a moment before, and more has come since. Two in a row, from an authority
//! that has granted nearly all of the quota of late, mean that there are more requests than permits. Then a request that finds
//! none here need not ask: to wait would be in vain for most, and what comes next is asked for in the background, for all of them.

use crate::authority::{Grant, Shared, Terms};
use crate::units::{Span, Timestamp};

/// What answers of the authority say of one key.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Pressure {
    was_short: bool,
    short_at: Option<Timestamp>,
    /// When there was last too little; the epoch when there is enough.
    at: Timestamp,
    /// What all had drawn when a span began in which that is counted.
    drawn: Option<(u64, Timestamp)>,
    /// Whether less than nearly all was drawn in the last such span. Until one is over, nothing is known but the answers.
    spares: Option<bool>,
}

impl Pressure {
    /// Takes note of an answer: whether less was granted than was wanted, or so little left that soon there will be less.
    pub(super) fn learn(&mut self, is_short: bool, grant: &Grant, terms: &Terms, now: Timestamp) {
        let is_short = is_short || u64::from(grant.left.get()) <= scarce(terms);
        self.at = if is_short && self.was_short { now } else { Timestamp::EPOCH };
        self.was_short = is_short;
        self.short_at = if is_short { Some(now) } else { self.short_at };
        let Some((drawn, since)) = self.drawn else {
            self.drawn = Some((grant.drawn, now));
            return;
        };
        let span = now.since(since);
        if span < COUNTED {
            return;
        }
        let grown = u128::from(grant.drawn.saturating_sub(drawn)).saturating_mul(u128::from(terms.window_ms));
        let refilled = u128::from(terms.permits.get()).saturating_mul(u128::from(span.as_nanos() / NANOS_PER_MILLI));
        self.spares = Some(grown.saturating_mul(100) < refilled.saturating_mul(NEARLY_ALL_PERCENT));
        self.drawn = Some((grant.drawn, now));
    }

    /// Whether what one holds and does not use is taken from others who would.
    pub(super) fn is_felt(&self, algorithm: Shared, now: Timestamp) -> bool {
        let lately = algorithm == Shared::FixedWindow && self.short_at.is_some_and(|at| now < at.after(FELT));
        self.spares == Some(false) || self.at > Timestamp::EPOCH || lately
    }

    /// Whether there is too little for all now. In a fixed window nothing comes before the next.
    pub(super) fn is_on(&self, algorithm: Shared, now: Timestamp) -> bool {
        let spares = self.spares == Some(true) && algorithm != Shared::FixedWindow;
        self.at > Timestamp::EPOCH && now < self.at.after(LASTS) && !spares
    }

    /// A new window begins.
    pub(super) fn relieve(&mut self) {
        (self.was_short, self.at) = (false, Timestamp::EPOCH);
    }
}

/// What is refilled while a few are asked for: where no more is left, soon there is nothing. Where permits come slowly, that is
/// none.
pub(super) fn scarce(terms: &Terms) -> u64 {
    u64::from(terms.permits.get()).saturating_mul(SCARCE_MS).checked_div(terms.window_ms).unwrap_or(0)
}

/// What is refilled in so many milliseconds is soon used up.
const SCARCE_MS: u64 = 50;
/// So long there is taken to be too little. Shorter than the shortest retry-after that a client can be told, which is a second.
const LASTS: Span = Span::from_millis(500);
/// So long after a short answer nothing is drawn for a request that may not come.
const FELT: Span = Span::from_secs(2);
/// Over such spans is counted what all draw: so long that windows which were filled early weigh little.
const COUNTED: Span = Span::from_secs(1);
const NEARLY_ALL_PERCENT: u128 = 90;
const NANOS_PER_MILLI: u64 = 1_000_000;
