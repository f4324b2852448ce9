//! Limits that many instances share: the one place where a key's permits are counted.
//!
//! Instances draw permits ahead. The authority charges all of them when they are drawn, so that however many instances
//! there are, and whatever becomes of their messages, the sum admitted never exceeds the quota: what is lost counts as used.
//! It is a Durable Object, which runs this code, or Redis, whose scripts are held equal to it.
//!
//! ```text
//! instance                              authority
//!    | Ask { seq, need, want, back } -->  | credits `back`, charges `granted`, remembers it under (key, instance, seq)
//!    | <-- Grant { granted, lasts_ms }    |
//! ```
//!
//! **Messages may be lost, late, doubled and out of order.** Of one instance and key the latest [`Ask::seq`] is remembered:
//! the same again is given the same permits and charged nothing more, an earlier one is given none. Permits given back are
//! credited only while that memory is there, at most as many as the instance was granted in that very window, and once.
//! Without it (it is bounded, and passes with the window) a return is lost, which costs permits and never grants any.
//!
//! **Clocks need not agree.** The authority's counts. A grant says how long its permits last, and an instance counts that
//! from when it *sent* the ask, so that they end with it before they end with the authority.
//!
//! **What a grant may be used for.** In a window it does not matter when a permit is used: a grant lasts as long as the
//! window that it was charged in. How a token bucket lends is told in [`bucket`]. Permits of requests in flight are held and not
//! used up, see [`in_flight`]: an instance says what it holds, and not what it gives back.
//!
//! All times are whole milliseconds, and every number here is below 2^53, so that a script which counts in doubles
//! computes the same.

mod account;
pub mod bucket;
mod bytes;
pub mod in_flight;
mod wire;

pub use account::{Account, MAX_INSTANCES};
use bucket::Bucket;

use std::collections::BTreeMap;

use crate::key::KeyHash;
use crate::limiter::Meter;
use crate::policy::{Algorithm, Quota};
use crate::units::{Permits, Span};

/// What an instance asks of the authority.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ask {
    /// Whose permits. The same in all instances: see [`Seed::shared`](crate::key::Seed::shared).
    pub key: KeyHash,
    /// The quota that they are of.
    pub terms: Terms,
    /// Who asks.
    pub instance: Instance,
    /// Which ask of this instance it is, from 1, below 2^53. Later asks for the same key have higher ones.
    pub seq: u64,
    /// Permits for requests that wait for them now, all together; as many of them are granted as are left. 0 to draw ahead,
    /// or to give back, for nobody in particular.
    pub need: Permits,
    /// What the cheapest of those requests costs: when fewer are left, none are granted, since none would be of use.
    pub least: Permits,
    /// Those, and what is to be drawn ahead: at least `need`. Equal to it where every request is to be asked for.
    pub want: Permits,
    /// Unused permits of earlier grants that are given back. For requests in flight what is kept: [`Ask::keeps`].
    pub back: Permits,
    /// The [`Grant::window`] that they were charged in. Of no meaning for requests in flight.
    pub back_of: u64,
}

/// What the authority answers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Grant {
    /// Permits charged, to be used: none, or from [`Ask::least`] to [`Ask::want`]. More than [`Ask::need`] only when all of
    /// that was there. For requests in flight all that the instance holds now, with what it keeps.
    pub granted: Permits,
    /// What the key has left after that.
    pub left: Permits,
    /// So long they may be used, in ms from when the instance *sent* the ask, less one: the authority's clock has whole
    /// milliseconds. 0 when nothing is granted.
    pub lasts_ms: u64,
    /// After so long, in ms, [`Ask::least`] (one permit, if that is none) would be granted if nothing else were charged
    /// meanwhile; 0 when something was granted, or is there. `None` when it is more than the whole quota.
    pub retry_after_ms: Option<u64>,
    /// After so long, in ms, the quota is renewed: the end of the window, or when the bucket is full again.
    pub reset_ms: u64,
    /// In which window the permits were charged: when it began, in ms since the Unix epoch by the authority's clock. For
    /// requests in flight see [`Grant::called`].
    pub window: u64,
    /// All that was granted for this key and not given back since the authority began to count it. By how much it grows
    /// between two grants, an instance knows which share of the demand is its own. For requests in flight all that is held now.
    pub drawn: u64,
}

/// The quota of an [`Ask`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Terms {
    /// How it is counted.
    pub algorithm: Shared,
    /// Permits per window.
    pub permits: Permits,
    /// The window in ms, at least 10. For requests in flight the lease.
    pub window_ms: u64,
    /// What a full token bucket holds. Of no meaning for windows.
    pub burst: Permits,
}

/// The algorithms that can be shared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shared {
    /// See [`crate::limiter::fixed_window`].
    FixedWindow,
    /// See [`crate::limiter::sliding_window`].
    SlidingWindow,
    /// See [`bucket`].
    TokenBucket,
    /// See [`in_flight`].
    InFlight,
}

impl Terms {
    /// The terms of a quota; `None` when it is to be found out how many permits it has.
    #[must_use]
    pub fn new(algorithm: Algorithm, quota: &Quota) -> Option<Self> {
        let algorithm = match algorithm {
            Algorithm::FixedWindow => Shared::FixedWindow,
            Algorithm::SlidingWindow => Shared::SlidingWindow,
            Algorithm::TokenBucket => Shared::TokenBucket,
            Algorithm::Concurrency if quota.least.is_some() => return None,
            Algorithm::Concurrency => Shared::InFlight,
        };
        let window_ms = quota.window.as_nanos() / NANOS_PER_MILLI;
        Some(Self { algorithm, permits: quota.permits, window_ms, burst: quota.burst })
    }

    /// The most permits that can be granted at once.
    #[must_use]
    pub fn most(&self) -> Permits {
        match self.algorithm {
            Shared::TokenBucket => self.burst,
            Shared::FixedWindow | Shared::SlidingWindow | Shared::InFlight => self.permits,
        }
    }

    /// Whether a script that counts in doubles counts this exactly: a sliding window multiplies the permits by its length, and
    /// a bucket's debt in nanoseconds is at most what fills it, which may be 104 days.
    #[must_use]
    pub fn is_countable(&self) -> bool {
        let largest = match self.algorithm {
            Shared::FixedWindow | Shared::InFlight => 0,
            Shared::SlidingWindow => u64::from(self.permits.get()).saturating_mul(self.window_ms),
            Shared::TokenBucket => Bucket::fills_in_ns(self),
        };
        largest < MAX_EXACT
    }

    fn meter(&self) -> Meter {
        let algorithm = match self.algorithm {
            Shared::FixedWindow => Algorithm::FixedWindow,
            Shared::SlidingWindow => Algorithm::SlidingWindow,
            Shared::TokenBucket => Algorithm::TokenBucket,
            Shared::InFlight => Algorithm::Concurrency,
        };
        let window = Span::from_millis(self.window_ms.max(1));
        Meter::new(algorithm, &Quota { permits: self.permits, window, burst: self.burst, least: None })
    }
}

/// Who asks: a random number below 2^53, drawn anew whenever an instance starts, so that one that starts again is
/// not taken for the one before.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Instance(u64);

impl Instance {
    /// The instance of these random bits, of which 53 count.
    #[must_use]
    pub const fn new(bits: u64) -> Self {
        Self(bits & (MAX_EXACT - 1))
    }

    /// The number, below 2^53.
    #[must_use]
    pub const fn get(self) -> u64 {
        self.0
    }
}

/// The accounts of many keys, bounded.
///
/// A host that keeps accounts elsewhere, each under its key, needs only [`Account`].
#[derive(Debug)]
pub struct Authority {
    accounts: BTreeMap<u64, Account>,
    max_keys: usize,
    /// Where the search for the next account to forget goes on.
    cursor: u64,
}

impl Authority {
    /// An authority that counts so many keys at one time. For one more it forgets one whose account has ended or, if there
    /// is none among the few that it looks at, the one of them that ends first.
    #[must_use]
    pub const fn new(max_keys: usize) -> Self {
        Self { accounts: BTreeMap::new(), max_keys, cursor: 0 }
    }

    /// Answers an ask at `now_ms`, in ms since the Unix epoch.
    pub fn answer(&mut self, ask: &Ask, now_ms: u64) -> Grant {
        let key = ask.key.get();
        if !self.accounts.contains_key(&key) && self.accounts.len() >= self.max_keys {
            self.forget_one(now_ms);
        }
        self.accounts.entry(key).or_default().answer(ask, now_ms)
    }

    /// The account of a key.
    #[must_use]
    pub fn account(&self, key: KeyHash) -> Option<&Account> {
        self.accounts.get(&key.get())
    }

    /// Takes up an account that was kept elsewhere.
    pub fn restore(&mut self, key: KeyHash, account: Account, now_ms: u64) {
        if !self.accounts.contains_key(&key.get()) && self.accounts.len() >= self.max_keys {
            self.forget_one(now_ms);
        }
        self.accounts.insert(key.get(), account);
    }

    /// Forgets every account that has ended, and answers how many are left.
    pub fn forget_ended(&mut self, now_ms: u64) -> usize {
        self.accounts.retain(|_, account| !account.has_ended(now_ms));
        self.accounts.len()
    }

    /// How many keys are counted.
    #[must_use]
    pub fn len(&self) -> usize {
        self.accounts.len()
    }

    /// Whether no key is counted.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.accounts.is_empty()
    }

    fn forget_one(&mut self, now_ms: u64) {
        let from_cursor = self.accounts.range(self.cursor..).chain(self.accounts.range(..self.cursor));
        let mut first: Option<(u64, u64)> = None;
        for (key, account) in from_cursor.take(LOOKED_AT) {
            self.cursor = key.wrapping_add(1);
            let ends_ms = if account.has_ended(now_ms) { 0 } else { account.ends_ms() };
            if first.is_none_or(|(_, earliest)| ends_ms < earliest) {
                first = Some((*key, ends_ms));
            }
        }
        if let Some((key, _)) = first {
            self.accounts.remove(&key);
        }
    }
}

/// Of so many accounts the first to end is forgotten: each is looked at in turn, so that a flood of keys costs little each.
const LOOKED_AT: usize = 16;
/// Doubles hold every whole number below this.
const MAX_EXACT: u64 = 1 << 53;
const NANOS_PER_MILLI: u64 = 1_000_000;
