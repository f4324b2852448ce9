//! Whether a key has too few permits for all requests that want them.
//!
//! One answer may be short by chance: other instances drew a moment before, and more permits have come since. Two short
//! answers in a row mean that there are more requests than permits, if the authority has recently granted nearly all of
//! the quota. A request that finds no permits here then does not ask. For most requests waiting would be in vain, and
//! asks in the background fetch the next permits for all of them.

use crate::authority::{Grant, Shared, Terms};
use crate::units::{Span, Timestamp};

/// What the authority's answers say of one key.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Pressure {
    was_short: bool,
    short_at: Option<Timestamp>,
    /// When permits were last short; the epoch while there are enough.
    at: Timestamp,
    /// What all instances had drawn when the current span of counting began, and when that was.
    drawn: Option<(u64, Timestamp)>,
    /// Whether less than [`NEARLY_ALL_PERCENT`] of the quota was drawn in the last such span; `None` before one is over.
    spares: Option<bool>,
}

impl Pressure {
    /// Learns from an answer whether it was short: less was granted than was wanted, or so little is left that the next
    /// will be.
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

    /// Whether permits that one instance holds and does not use are missing elsewhere.
    pub(super) fn is_felt(&self, algorithm: Shared, now: Timestamp) -> bool {
        let lately = algorithm == Shared::FixedWindow && self.short_at.is_some_and(|at| now < at.after(FELT));
        self.spares == Some(false) || self.at > Timestamp::EPOCH || lately
    }

    /// Whether there are too few permits for all now. In a fixed window none are added before the next begins.
    pub(super) fn is_on(&self, algorithm: Shared, now: Timestamp) -> bool {
        let spares = self.spares == Some(true) && algorithm != Shared::FixedWindow;
        self.at > Timestamp::EPOCH && now < self.at.after(LASTS) && !spares
    }

    /// A new window has begun.
    pub(super) fn relieve(&mut self) {
        (self.was_short, self.at) = (false, Timestamp::EPOCH);
    }
}

/// The permits that are refilled while a few asks are under way. If no more are left, there will soon be none. Zero
/// where permits refill slowly.
pub(super) fn scarce(terms: &Terms) -> u64 {
    u64::from(terms.permits.get()).saturating_mul(SCARCE_MS).checked_div(terms.window_ms).unwrap_or(0)
}

/// Permits refilled within this time are soon used up.
const SCARCE_MS: u64 = 50;
/// How long permits count as short. Shorter than the shortest retry-after that a client can be told, which is one
/// second.
const LASTS: Span = Span::from_millis(500);
/// How long after a short answer nothing is drawn for requests that may not come.
const FELT: Span = Span::from_secs(2);
/// The shortest span over which the permits drawn are counted: so long that windows which were used up early weigh
/// little.
const COUNTED: Span = Span::from_secs(1);
const NEARLY_ALL_PERCENT: u128 = 90;
const NANOS_PER_MILLI: u64 = 1_000_000;
