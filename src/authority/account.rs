//! What one key has used, and what its instances were last granted.

use super::bucket::Bucket;
use super::in_flight::Holders;
use super::{Ask, Grant, Instance, NANOS_PER_MILLI, Shared, Terms};
use crate::limiter::{Meter, State, Verdict};
use crate::units::{Permits, Timestamp};

/// The account of one key.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Account {
    /// The latest time seen, in ms.
    pub(super) at_ms: u64,
    /// See [`Grant::drawn`].
    pub(super) drawn: u64,
    /// For windows: the state of the limiter.
    pub(super) state: Option<State>,
    /// For token buckets.
    pub(super) bucket: Bucket,
    /// When the account becomes equal to one that was never used.
    pub(super) ends_ms: u64,
    pub(super) latest: Vec<LastAnswer>,
    /// For requests in flight.
    pub(super) holders: Holders,
}

/// The last answer to an instance.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct LastAnswer {
    pub(super) instance: Instance,
    pub(super) seq: u64,
    pub(super) granted: Permits,
    /// The window in which the instance was last granted permits, and when those expire.
    pub(super) window: u64,
    pub(super) ends_ms: u64,
    /// The permits of that window that it may still give back.
    pub(super) out: Permits,
}

/// Permits taken from an account.
#[derive(Clone, Copy, Debug)]
pub(super) struct Drawn {
    pub(super) granted: Permits,
    pub(super) ends_ms: u64,
    /// Whether unused permits can be given back.
    pub(super) returnable: bool,
}

/// The balance of an account.
#[derive(Clone, Copy, Debug)]
pub(super) struct Balance {
    pub(super) left: Permits,
    pub(super) reset_ms: u64,
    pub(super) retry_after_ms: Option<u64>,
}

impl Account {
    /// Answers an ask at `now_ms`.
    ///
    /// A clock that steps back by at most [`MAX_STEP_BACK_MS`] is taken to stand still until it has caught up. If it
    /// steps back further, the account follows it: what counted in a window then counts in the window of the new time.
    pub fn answer(&mut self, ask: &Ask, now_ms: u64) -> Grant {
        let behind_ms = self.at_ms.saturating_sub(now_ms);
        let now_ms = if behind_ms <= MAX_STEP_BACK_MS { now_ms.max(self.at_ms) } else { now_ms };
        if self.has_ended(now_ms) {
            // The same as in a store whose keys expire.
            *self = Self::default();
        }
        self.at_ms = now_ms;
        if ask.terms.algorithm == Shared::InFlight {
            let grant = self.holders.answer(ask, now_ms);
            (self.drawn, self.ends_ms) = (grant.drawn, self.holders.ends_ms());
            return grant;
        }
        let mut counting = Counting { account: self, terms: &ask.terms, meter: ask.terms.meter(), now_ms };
        let window = counting.window();
        let latest = counting.latest(ask.instance);
        let drawn = match latest.filter(|latest| ask.seq <= latest.seq) {
            // The same ask again: its answer may have been lost.
            Some(latest) if ask.seq == latest.seq && latest.ends_ms > now_ms => latest,
            Some(latest) => LastAnswer { granted: Permits::ZERO, ..latest },
            None => counting.charge(ask, latest),
        };
        let balance = counting.balance(ask.least.max(Permits::ONE));
        let is_granted = drawn.granted > Permits::ZERO;
        Grant {
            granted: drawn.granted,
            left: balance.left,
            lasts_ms: if is_granted { drawn.ends_ms.saturating_sub(now_ms) } else { 0 },
            retry_after_ms: if is_granted { Some(0) } else { balance.retry_after_ms },
            reset_ms: balance.reset_ms,
            window: if is_granted { drawn.window } else { window },
            drawn: self.drawn,
        }
    }

    /// When, in ms since the Unix epoch, the account becomes equal to one that was never used.
    #[must_use]
    pub fn ends_ms(&self) -> u64 {
        self.ends_ms
    }

    /// Whether the account equals one that was never used.
    #[must_use]
    pub fn has_ended(&self, now_ms: u64) -> bool {
        self.ends_ms <= now_ms
    }
}

/// An account while it answers an ask.
struct Counting<'a> {
    account: &'a mut Account,
    terms: &'a Terms,
    meter: Meter,
    now_ms: u64,
}

impl Counting<'_> {
    /// Credits what is given back, draws what can be granted, and remembers both for the instance.
    fn charge(&mut self, ask: &Ask, latest: Option<LastAnswer>) -> LastAnswer {
        let mut latest = latest.unwrap_or(LastAnswer { instance: ask.instance, ..LastAnswer::default() });
        let window = self.window();
        let back = ask.back.min(latest.out);
        if ask.back_of == latest.window && back > Permits::ZERO && self.give_back(back, latest.window) {
            latest.out = latest.out.minus(back);
            self.account.drawn = self.account.drawn.saturating_sub(u64::from(back.get()));
        }
        let drawn = self.draw(ask);
        if drawn.granted > Permits::ZERO {
            let before = if latest.window == window { latest.out } else { Permits::ZERO };
            latest.out = if drawn.returnable { before.plus(drawn.granted) } else { before };
            (latest.window, latest.ends_ms) = (window, drawn.ends_ms);
            self.account.drawn = self.account.drawn.saturating_add(u64::from(drawn.granted.get()));
        }
        (latest.seq, latest.granted) = (ask.seq, drawn.granted);
        self.remember(latest);
        self.account.ends_ms = self.ends_ms().max(latest.ends_ms);
        latest
    }

    /// The start of the current window. Permits charged in it are given back to it.
    fn window(&self) -> u64 {
        let length_ms = match self.terms.algorithm {
            Shared::TokenBucket => Bucket::lend_ms(self.terms),
            _ => self.terms.window_ms.max(1),
        };
        self.now_ms.saturating_sub(self.now_ms.checked_rem(length_ms).unwrap_or(0))
    }

    fn draw(&mut self, ask: &Ask) -> Drawn {
        if self.terms.algorithm == Shared::TokenBucket {
            return self.account.bucket.draw(ask, self.now_ms);
        }
        let now = Timestamp::from_millis(self.now_ms);
        let ends_ms = self.meter.charge_lasts_until(now).map_or(0, |end| end.as_nanos() / NANOS_PER_MILLI);
        let left = self.meter.standing(self.account.state, now).remaining;
        let (need, ahead) = split_grant(ask, left);
        let granted = need.plus(ahead);
        if granted > Permits::ZERO {
            self.account.state = Some(self.meter.charge(self.account.state, granted, now));
        }
        Drawn { granted, ends_ms, returnable: true }
    }

    /// Credits permits that were charged in this window. Returns whether that was possible.
    fn give_back(&mut self, permits: Permits, window: u64) -> bool {
        if self.terms.algorithm == Shared::TokenBucket {
            return self.account.bucket.give_back(self.terms, permits, window, self.now_ms);
        }
        let (true, Some(state)) = (window == self.window(), self.account.state) else { return false };
        self.account.state = Some(self.meter.refund(state, permits, Timestamp::from_millis(self.now_ms)));
        true
    }

    fn balance(&self, need: Permits) -> Balance {
        if self.terms.algorithm == Shared::TokenBucket {
            return self.account.bucket.balance(self.terms, need, self.now_ms);
        }
        let now = Timestamp::from_millis(self.now_ms);
        let standing = self.meter.standing(self.account.state, now);
        let retry_after_ms = match self.meter.check(self.account.state, need, now).verdict {
            Verdict::Refuse { retry_after } => retry_after.map(|wait| wait.as_nanos().div_ceil(NANOS_PER_MILLI)),
            Verdict::Admit | Verdict::Delay { .. } => Some(0),
        };
        let reset_ms = standing.reset_after.as_nanos().div_ceil(NANOS_PER_MILLI);
        Balance { left: standing.remaining, reset_ms, retry_after_ms }
    }

    fn ends_ms(&self) -> u64 {
        match self.terms.algorithm {
            Shared::TokenBucket => self.account.bucket.ends_ms(self.terms),
            Shared::FixedWindow => self.window().saturating_add(self.terms.window_ms),
            // See `Holders::ends_ms`.
            Shared::InFlight => 0,
            Shared::SlidingWindow => self.window().saturating_add(self.terms.window_ms.saturating_mul(2)),
        }
    }

    fn latest(&self, instance: Instance) -> Option<LastAnswer> {
        self.account.latest.iter().find(|latest| latest.instance == instance).copied()
    }

    fn remember(&mut self, new: LastAnswer) {
        let latest = &mut self.account.latest;
        if let Some(old) = latest.iter_mut().find(|latest| latest.instance == new.instance) {
            *old = new;
        } else if latest.len() < MAX_INSTANCES {
            latest.push(new);
        } else if let Some(first) = latest.iter_mut().min_by_key(|latest| latest.ends_ms) {
            // That instance can no longer give back permits; it loses nothing else.
            *first = new;
        }
    }
}

/// Splits what is granted to an ask while `left` permits are left: permits for waiting requests, and permits drawn
/// ahead. Of what the waiting requests leave, at most a quarter is drawn ahead, so that other instances find some too.
/// None of the last three are.
pub(super) fn split_grant(ask: &Ask, left: Permits) -> (Permits, Permits) {
    if ask.least > left {
        return (Permits::ZERO, Permits::ZERO);
    }
    let need = ask.need.min(left);
    let spare = Permits::new(left.minus(need).get() >> SHARE_SHIFT);
    (need, ask.want.minus(ask.need).min(spare))
}

/// How many instances' last answers an account remembers. For one more it forgets the one whose grant ends first.
pub const MAX_INSTANCES: usize = 1_024;
/// Adjustments of a clock that is merely set right are smaller steps than this.
const MAX_STEP_BACK_MS: u64 = 10_000;
const SHARE_SHIFT: u32 = 2;
