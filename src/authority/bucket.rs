//! A token bucket that lends.
//!
//! Permits that were drawn ahead can still be used while the bucket fills up again. A full bucket and the permits that
//! are out could then be used at the same time, which is more than the burst. To prevent this, the bucket remembers
//! what it has lent and fills up only so far that
//!
//! ```text
//! level + lent <= burst
//! ```
//!
//! at any time. This gives the bound of every token bucket: in any span of time, no more is used than the burst and
//! what was refilled in that span. A lent permit counts as out until it expires, used or not. Two counters hold these
//! permits, one per epoch. An epoch is as long as lent permits last, and the older counter is dropped when a new epoch
//! begins. At most half of the burst is lent.
//!
//! Permits that are granted and not lent must be used soon: within [`SOON_MS`]. These are permits for requests that
//! already wait, all permits of a bucket too small to lend for longer than that, and what is wanted when nothing more
//! can be lent. They count as used when they are granted, by the authority's clock, and cannot be given back. So in any
//! span of time, the refill of [`SOON_MS`] may be used in addition.
//!
//! The debt is kept in nanoseconds, as in [`crate::limiter::token_bucket`]: `interval = window / permits`, rounded up.

use super::account::{Balance, Drawn, split_grant};
use super::{Ask, NANOS_PER_MILLI, Terms};
use crate::units::Permits;

/// What one key has used of its bucket.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Bucket {
    /// When the debt was computed.
    pub(super) at_ms: u64,
    /// How long the bucket would take to fill if it had lent nothing.
    pub(super) debt_ns: u64,
    /// When the epoch of `lent` began.
    pub(super) epoch_ms: u64,
    /// Permits lent in that epoch.
    pub(super) lent: Permits,
    /// Permits lent in the epoch before.
    pub(super) lent_before: Permits,
}

/// The dimensions of a bucket, from its terms.
#[derive(Clone, Copy)]
struct Size {
    interval_ns: u64,
    /// The debt of an empty bucket.
    capacity_ns: u64,
    epoch_ms: u64,
}

impl Bucket {
    /// How long lent permits last, in ms, which is also the length of an epoch: a quarter of the time that fills the
    /// bucket, and at most [`MAX_LEND_MS`].
    #[must_use]
    pub fn lend_ms(terms: &Terms) -> u64 {
        Size::of(terms).epoch_ms
    }

    /// How long it takes to fill an empty bucket, in ns.
    pub(super) fn fills_in_ns(terms: &Terms) -> u64 {
        Size::of(terms).capacity_ns
    }

    /// Takes the permits that are needed and, as far as the bucket can lend, some of those wanted in addition.
    pub(super) fn draw(&mut self, ask: &Ask, now_ms: u64) -> Drawn {
        let size = Size::of(&ask.terms);
        *self = self.at(&size, now_ms);
        let (need, ahead) = split_grant(ask, self.level(&size));
        let lends = ask.want > ask.need && need.plus(ahead) <= self.lendable(&ask.terms, &size);
        // What is not lent cannot be given back: draw no more of it ahead than is refilled meanwhile.
        let ahead = if lends { ahead } else { ahead.min(size.refilled_in(SOON_MS)) };
        let granted = need.plus(ahead);
        self.debt_ns = self.debt_ns.saturating_add(size.debt_of(granted));
        if !lends {
            return Drawn { granted, ends_ms: now_ms.saturating_add(SOON_MS), returnable: false };
        }
        self.lent = self.lent.plus(granted);
        Drawn { granted, ends_ms: now_ms.saturating_add(size.epoch_ms), returnable: true }
    }

    /// Credits permits that were lent in the epoch that began at `epoch_ms`. Returns whether that was possible.
    pub(super) fn give_back(&mut self, terms: &Terms, permits: Permits, epoch_ms: u64, now_ms: u64) -> bool {
        let size = Size::of(terms);
        *self = self.at(&size, now_ms);
        let lent = if epoch_ms == self.epoch_ms {
            &mut self.lent
        } else if epoch_ms.saturating_add(size.epoch_ms) == self.epoch_ms {
            &mut self.lent_before
        } else {
            return false;
        };
        let permits = permits.min(*lent);
        *lent = lent.minus(permits);
        // The debt covered all lent permits, so it still covers those that are out.
        self.debt_ns = self.debt_ns.saturating_sub(size.debt_of(permits));
        true
    }

    /// The balance for a request that needs `need` permits.
    pub(super) fn balance(&self, terms: &Terms, need: Permits, now_ms: u64) -> Balance {
        let size = Size::of(terms);
        let bucket = self.at(&size, now_ms);
        let to_epoch = |epochs: u64| {
            let at = bucket.epoch_ms.saturating_add(size.epoch_ms.saturating_mul(epochs));
            at.saturating_sub(now_ms).saturating_mul(NANOS_PER_MILLI)
        };
        // When the debt has fallen to this, given that it cannot fall below that of the lent permits.
        let down_to = |debt_ns: u64| {
            let after = |ns: u64, lent: Permits| match size.debt_of(lent).saturating_sub(debt_ns) {
                0 => 0,
                rest => ns.saturating_add(rest),
            };
            let all = after(to_epoch(1), bucket.lent.plus(bucket.lent_before));
            let ns = bucket.debt_ns.saturating_sub(debt_ns).max(all).max(after(to_epoch(2), bucket.lent));
            ns.div_ceil(NANOS_PER_MILLI)
        };
        let affordable = size.capacity_ns.checked_sub(size.debt_of(need));
        Balance { left: bucket.level(&size), reset_ms: down_to(0), retry_after_ms: affordable.map(down_to) }
    }

    /// When, in ms, the bucket is full and has nothing lent.
    pub(super) fn ends_ms(&self, terms: &Terms) -> u64 {
        self.at_ms.saturating_add(self.balance(terms, Permits::ZERO, self.at_ms).reset_ms)
    }

    /// The bucket at this time.
    fn at(self, size: &Size, now_ms: u64) -> Self {
        let epoch_ms = now_ms.saturating_sub(now_ms.checked_rem(size.epoch_ms).unwrap_or(0));
        let after_next = self.epoch_ms.saturating_add(size.epoch_ms.saturating_mul(2));
        let both = self.lent.plus(self.lent_before);
        // Until a counter is dropped, the debt stays at least that of the counter's permits. The refill goes on from
        // there.
        let drained = |debt_ns: u64, from_ms: u64, to_ms: u64| {
            let ms = to_ms.saturating_sub(from_ms).min(size.capacity_ns.div_ceil(NANOS_PER_MILLI));
            debt_ns.saturating_sub(ms.saturating_mul(NANOS_PER_MILLI))
        };
        let floor = |lent: Permits| size.debt_of(lent);
        let next = self.epoch_ms.saturating_add(size.epoch_ms);
        let (first, second) = (now_ms.min(next).max(self.at_ms), now_ms.min(after_next).max(self.at_ms));
        let debt_ns = drained(self.debt_ns, self.at_ms, first).max(floor(both));
        let debt_ns = if now_ms >= next { drained(debt_ns, first, second).max(floor(self.lent)) } else { debt_ns };
        let debt_ns = if now_ms >= after_next { drained(debt_ns, second, now_ms) } else { debt_ns };
        let (lent, lent_before) = if now_ms < next && epoch_ms == self.epoch_ms {
            (self.lent, self.lent_before)
        } else if epoch_ms < self.epoch_ms {
            // The clock has stepped back: all lent permits are still out.
            (both, Permits::ZERO)
        } else if now_ms < after_next {
            (Permits::ZERO, self.lent)
        } else {
            (Permits::ZERO, Permits::ZERO)
        };
        Self { at_ms: now_ms, debt_ns, epoch_ms, lent, lent_before }
    }

    /// How many more permits may be lent.
    fn lendable(&self, terms: &Terms, size: &Size) -> Permits {
        // Permits that would expire sooner are not worth lending.
        if size.epoch_ms < SOON_MS {
            return Permits::ZERO;
        }
        Permits::new(terms.burst.get() >> 1).minus(self.lent.plus(self.lent_before))
    }

    fn level(&self, size: &Size) -> Permits {
        let room_ns = size.capacity_ns.saturating_sub(self.debt_ns);
        // Floor: a permit that is only partly refilled does not count.
        let level = room_ns.checked_div(size.interval_ns).unwrap_or(0);
        Permits::new(u32::try_from(level).unwrap_or(u32::MAX))
    }
}

impl Size {
    fn of(terms: &Terms) -> Self {
        let permits = u64::from(terms.permits.get()).max(1);
        let interval_ns = terms.window_ms.saturating_mul(NANOS_PER_MILLI).div_ceil(permits).max(1);
        let capacity_ns = interval_ns.saturating_mul(u64::from(terms.burst.get()));
        let epoch_ms = ((capacity_ns / NANOS_PER_MILLI) >> FILL_SHIFT).clamp(1, MAX_LEND_MS);
        Self { interval_ns, capacity_ns, epoch_ms }
    }

    fn refilled_in(&self, ms: u64) -> Permits {
        let permits = ms.saturating_mul(NANOS_PER_MILLI).checked_div(self.interval_ns).unwrap_or(0);
        Permits::new(u32::try_from(permits).unwrap_or(u32::MAX))
    }

    fn debt_of(&self, permits: Permits) -> u64 {
        self.interval_ns.saturating_mul(u64::from(permits.get()))
    }
}

/// How long, in ms, permits that were granted and not lent may be used: time for the answer to arrive and the requests
/// to go on.
pub const SOON_MS: u64 = 100;
/// The longest time that lent permits last: other instances lack the permits that one holds.
const MAX_LEND_MS: u64 = 1_000;
/// A quarter of the time that fills the bucket.
const FILL_SHIFT: u32 = 2;
