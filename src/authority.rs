//! The authority of limits that many instances share: the one place where a key's permits are counted.
//!
//! Instances draw permits ahead. The authority charges all of them when they are drawn. So the sum admitted never
//! exceeds the quota, however many instances there are and whatever happens to their messages: permits that are lost
//! count as used. The authority is a Durable Object, which runs this code, or Redis, whose scripts are tested to give
//! the same answers.
//!
//! ```text
//! instance                              authority
//!    | Ask { seq, need, want, back } -->  | credits `back`, charges `granted`, remembers it under (key, instance, seq)
//!    | <-- Grant { granted, lasts_ms }    |
//! ```
//!
//! **Messages may be lost, late, duplicated and out of order.** For each instance and key the latest [`Ask::seq`] is
//! remembered. An ask with the same number gets the same permits and is charged nothing more; an ask with an earlier
//! number gets none. Permits that are given back are credited only while that number is remembered, at most as many as
//! the instance was granted in that very window, and only once. Memory of it is bounded and ends with the window. A
//! return without it is lost, which costs permits and never grants any.
//!
//! **Clocks need not agree.** Only the authority's clock counts. A grant says how long its permits last, and an
//! instance counts that from when it *sent* the ask. So they expire in the instance before they expire with the
//! authority.
//!
//! **How long a grant can be used.** In a window it does not matter when a permit is used: a grant lasts as long as the
//! window that it was charged in. For token buckets, see [`bucket`]. Permits of requests in flight are held and not
//! used up, see [`in_flight`]: an instance says what it keeps, and not what it gives back.
//!
//! All times are whole milliseconds, and every number here is below 2^53, so a script that counts in doubles computes
//! the same.

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

/// A request of an instance for permits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ask {
    /// The key. The same in all instances: see [`Seed::shared`](crate::key::Seed::shared).
    pub key: KeyHash,
    /// The quota of the key.
    pub terms: Terms,
    /// The instance that asks.
    pub instance: Instance,
    /// The number of this ask, from 1, below 2^53. Each ask of an instance for a key has a higher number than the one
    /// before.
    pub seq: u64,
    /// The permits that waiting requests need, all together. If fewer are left, those are granted. 0 for an ask that
    /// only draws ahead or gives back.
    pub need: Permits,
    /// The cost of the cheapest of those requests. If fewer permits are left, none are granted, because no request
    /// could use them.
    pub least: Permits,
    /// `need` plus the permits to draw ahead. Equal to `need` where every request asks.
    pub want: Permits,
    /// Unused permits of earlier grants that are given back. For requests in flight, the permits to keep:
    /// [`Ask::keeps`].
    pub back: Permits,
    /// The [`Grant::window`] that they were charged in. Not used for requests in flight.
    pub back_of: u64,
}

/// The authority's answer to an [`Ask`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Grant {
    /// Permits charged for the instance to use: none, or from [`Ask::least`] to [`Ask::want`], and more than
    /// [`Ask::need`] only if all of that was left. For requests in flight, all permits that the instance holds now,
    /// including those that it keeps.
    pub granted: Permits,
    /// The permits that the key has left after that.
    pub left: Permits,
    /// How long they may be used, in ms from when the instance *sent* the ask. The instance has to subtract one,
    /// because the authority's clock has whole milliseconds. 0 if nothing is granted.
    pub lasts_ms: u64,
    /// The wait, in ms, after which [`Ask::least`] (or one permit, if that is zero) would be granted if nothing else
    /// were charged meanwhile; 0 if something was granted or enough is left. `None` if it is more than the whole quota.
    pub retry_after_ms: Option<u64>,
    /// The time, in ms, until the quota is renewed: until the window ends, or the bucket is full again.
    pub reset_ms: u64,
    /// The window in which the permits were charged: its start, in ms since the Unix epoch by the authority's clock.
    /// For requests in flight see [`Grant::called_back`].
    pub window: u64,
    /// All permits granted for this key and not given back since the authority began to count it. From its growth
    /// between two grants an instance learns its own share of the demand. For requests in flight, all permits held now.
    pub drawn: u64,
}

/// The quota of an [`Ask`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Terms {
    /// How it is counted.
    pub algorithm: Shared,
    /// Permits per window.
    pub permits: Permits,
    /// The window in ms, at least 10. For requests in flight, the lease.
    pub window_ms: u64,
    /// What a full token bucket holds. Not used for windows.
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
    /// The terms of a quota; `None` for a concurrency limit that finds out for itself how many permits it has.
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

    /// Whether a script that counts in doubles counts this exactly. A sliding window multiplies the permits by its
    /// length. A bucket's debt in nanoseconds is at most what fills the bucket, which may be 104 days.
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

/// The identity of an instance: a random number below 2^53, drawn whenever an instance starts. So an instance that
/// restarts is not taken for the one before.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Instance(u64);

impl Instance {
    /// An instance with these random bits; the lower 53 count.
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
    /// The key at which the next search for an account to forget begins.
    cursor: u64,
}

impl Authority {
    /// An authority that counts at most `max_keys` keys at a time. To make room for another, it looks at a few accounts
    /// and forgets the one that ends first.
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

    /// Takes over an account that was kept elsewhere.
    pub fn restore(&mut self, key: KeyHash, account: Account, now_ms: u64) {
        if !self.accounts.contains_key(&key.get()) && self.accounts.len() >= self.max_keys {
            self.forget_one(now_ms);
        }
        self.accounts.insert(key.get(), account);
    }

    /// Forgets every account that has ended, and returns how many are left.
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

/// How many accounts are compared to find one to forget. The search moves on each time, so a flood of keys costs little
/// per key.
const LOOKED_AT: usize = 16;
/// Doubles hold every whole number below this.
const MAX_EXACT: u64 = 1 << 53;
const NANOS_PER_MILLI: u64 = 1_000_000;
