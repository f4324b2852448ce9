//! A token bucket that lends.
//!
//! A permit that was drawn ahead is still to be used while the bucket fills up again. If nothing were done about that, a
//! full bucket and the permits that are out could be used at one time, which is more than the burst. So the bucket keeps in
//! mind what it has lent, and fills up only so far that
//!
//! ```text
//! level + lent <= burst
//! ```
//!
//! at any time. Of that the bound of every token bucket follows: in any span of time no more is used than the burst and
//! what was refilled in it. What is lent counts as out until it has expired, used or not: two counters of epochs as long as
//! permits last, of which the older is dropped when a new one begins. At most half of the burst is lent.
//!
//! What is not lent is to be used soon: within [`SOON_MS`]. That are permits for requests which wait already, all that a bucket
//! grants which is too small to lend for longer than that, and what is wanted when nothing more can be lent. The authority's
//! clock counts, so they count when they are granted, and never come back. So in any span of time as much more is used as is
//! refilled in [`SOON_MS`].
//!
//! The debt is kept in nanoseconds, as by [`crate::limiter::token_bucket`]: `interval = window / permits`, rounded up.

use super::account::{Balance, Drawn, parts};
use super::{Ask, NANOS_PER_MILLI, Terms};
use crate::units::Permits;

/// What one key has used of its bucket.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Bucket {
    /// When the debt was this.
    pub(super) at_ms: u64,
    /// After so long the bucket would be full, had it not lent anything.
    pub(super) debt_ns: u64,
    /// When the epoch of `lent` began.
    pub(super) epoch_ms: u64,
    /// Permits lent in that epoch.
    pub(super) lent: Permits,
    /// Permits lent in the epoch before.
    pub(super) lent_before: Permits,
}

/// A bucket as its terms say it.
#[derive(Clone, Copy)]
struct Size {
    interval_ns: u64,
    /// The debt of an empty bucket.
    capacity_ns: u64,
    epoch_ms: u64,
}

impl Bucket {
    /// How long permits that were lent last, in ms, which is the length of an epoch: a quarter of what it takes to fill the
    /// bucket, and [`MAX_LEND_MS`] at most.
    #[must_use]
    pub fn lend_ms(terms: &Terms) -> u64 {
        Size::of(terms).epoch_ms
    }

    /// How long it takes to fill an empty bucket, in ns.
    pub(super) fn fills_in_ns(terms: &Terms) -> u64 {
        Size::of(terms).capacity_ns
    }

    /// Takes what is needed and, while there is enough to lend, some of what is wanted beside it.
    pub(super) fn draw(&mut self, ask: &Ask, now_ms: u64) -> Drawn {
        let size = Size::of(&ask.terms);
        *self = self.at(&size, now_ms);
        let (need, ahead) = parts(ask, self.level(&size));
        let lends = ask.want > ask.need && need.plus(ahead) <= self.lendable(&ask.terms, &size);
        // What is not lent does not come back: no more of it than is refilled meanwhile.
        let ahead = if lends { ahead } else { ahead.min(size.refilled_in(SOON_MS)) };
        let granted = need.plus(ahead);
        self.debt_ns = self.debt_ns.saturating_add(size.debt_of(granted));
        if !lends {
            return Drawn { granted, ends_ms: now_ms.saturating_add(SOON_MS), returnable: false };
        }
        self.lent = self.lent.plus(granted);
        Drawn { granted, ends_ms: now_ms.saturating_add(size.epoch_ms), returnable: true }
    }

    /// Credits permits that were lent in the epoch that began at `epoch_ms`, and answers whether that was possible.
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
        // The debt was at least that of all that is lent: what is still out is still covered.
        self.debt_ns = self.debt_ns.saturating_sub(size.debt_of(permits));
        true
    }

    /// How the bucket stands for one who needs so much.
    pub(super) fn balance(&self, terms: &Terms, need: Permits, now_ms: u64) -> Balance {
        let size = Size::of(terms);
        let bucket = self.at(&size, now_ms);
        let to_epoch = |epochs: u64| {
            let at = bucket.epoch_ms.saturating_add(size.epoch_ms.saturating_mul(epochs));
            at.saturating_sub(now_ms).saturating_mul(NANOS_PER_MILLI)
        };
        // When the debt is down to so much, given that it does not fall below that of what is lent.
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

    /// From when on, in ms, the bucket is full and has nothing lent.
    pub(super) fn ends_ms(&self, terms: &Terms) -> u64 {
        self.at_ms.saturating_add(self.balance(terms, Permits::ZERO, self.at_ms).reset_ms)
    }

    /// The bucket as it is at this time.
    fn at(self, size: &Size, now_ms: u64) -> Self {
        let epoch_ms = now_ms.saturating_sub(now_ms.checked_rem(size.epoch_ms).unwrap_or(0));
        let after_next = self.epoch_ms.saturating_add(size.epoch_ms.saturating_mul(2));
        let both = self.lent.plus(self.lent_before);
        // Each counter keeps the debt from falling below that of its permits until it is dropped: what is refilled in
        // between is refilled from there.
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
            // The clock has stepped back: what is out is out.
            (both, Permits::ZERO)
        } else if now_ms < after_next {
            (Permits::ZERO, self.lent)
        } else {
            (Permits::ZERO, Permits::ZERO)
        };
        Self { at_ms: now_ms, debt_ns, epoch_ms, lent, lent_before }
    }

    /// How many permits more may be out.
    fn lendable(&self, terms: &Terms, size: &Size) -> Permits {
        // What would expire sooner is not worth lending.
        if size.epoch_ms < SOON_MS {
            return Permits::ZERO;
        }
        Permits::new(terms.burst.get() >> 1).minus(self.lent.plus(self.lent_before))
    }

    fn level(&self, size: &Size) -> Permits {
        let room_ns = size.capacity_ns.saturating_sub(self.debt_ns);
        // Floor: a permit that is only partly refilled is not there yet.
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

/// So long, in ms, permits may be used that were granted and not lent: their answer is under way, or their requests are.
pub const SOON_MS: u64 = 100;
/// Permits that are lent last so long at most: what waits in an instance, others lack.
const MAX_LEND_MS: u64 = 1_000;
/// A quarter of the time to fill.
const FILL_SHIFT: u32 = 2;
