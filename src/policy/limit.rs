//! A limit: which clients it counts, how, their quotas, and what happens to requests over the limit.

use super::{Cost, Delays, KeyPart, Match, Name, Priority, Sharing, TierIndex};
use crate::units::{Permits, Span};

/// One limit.
#[derive(Clone, Debug, PartialEq)]
pub struct Limit {
    pub(crate) name: Name,
    pub(crate) matches: Match,
    pub(crate) key: Vec<KeyPart>,
    pub(crate) algorithm: Algorithm,
    /// The quotas for each of the policy's tiers, in their order: at least one, with different windows. A policy
    /// without tiers has one list of quotas.
    pub(crate) quotas: Vec<Vec<Quota>>,
    pub(crate) cost: Cost,
    /// Only requests with one of these statuses are charged, when the response arrives. If empty, every request is
    /// charged before it goes on.
    pub(crate) only_on: Vec<StatusRange>,
    pub(crate) on_exceed: OnExceed,
    /// How requests are delayed; `None` if they are not.
    pub(crate) delays: Option<Delays>,
    /// The priority of its requests; `None` if the policy sets none.
    pub(crate) priority: Option<Priority>,
    pub(crate) penalty: Option<Penalty>,
    pub(crate) ban: Option<Ban>,
    pub(crate) on_store_failure: OnStoreFailure,
    /// How instances draw permits; `None` if they do not share the limit.
    pub(crate) sharing: Option<Sharing>,
    /// Whether the policy's rate-limit service counts the limit. `quotas` then apply only while the service fails.
    pub(crate) by_service: bool,
}

impl Limit {
    /// Whether instances share the limit, counted by the policy's store.
    #[must_use]
    pub fn is_shared(&self) -> bool {
        self.sharing.is_some()
    }

    /// The limit's name, unique in its policy.
    #[must_use]
    pub fn name(&self) -> &Name {
        &self.name
    }

    /// How the limit counts.
    #[must_use]
    pub fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    /// What a request costs.
    #[must_use]
    pub fn cost(&self) -> &Cost {
        &self.cost
    }

    /// Whether a request holds its permits until it ends.
    #[must_use]
    pub fn holds(&self) -> bool {
        self.algorithm == Algorithm::Concurrency
    }

    /// Whether a request is charged when its response arrives, and not before it goes on.
    #[must_use]
    pub fn awaits_answer(&self) -> bool {
        !self.only_on.is_empty() || matches!(self.cost, Cost::Response(_))
    }

    /// The quotas of a client of this tier. All of them apply at once.
    #[must_use]
    pub fn quotas(&self, tier: TierIndex) -> &[Quota] {
        self.quotas.get(tier.get()).map_or(&[], Vec::as_slice)
    }
}

/// How a limit counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Algorithm {
    /// Two fixed windows; the earlier one is weighted by how much of it the sliding window still covers.
    SlidingWindow,
    /// A bucket of `burst` permits, refilled evenly at `permits` per `window`; computed by GCRA.
    TokenBucket,
    /// One counter per window, windows aligned to the Unix epoch.
    FixedWindow,
    /// Requests in flight: a permit is given back when its request ends.
    Concurrency,
}

impl Algorithm {
    /// The algorithm's word in the policy.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::SlidingWindow => "sliding-window",
            Self::TokenBucket => "token-bucket",
            Self::FixedWindow => "fixed-window",
            Self::Concurrency => "concurrency",
        }
    }
}

/// How much one client may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quota {
    /// Permits per window, `1..=Permits::MAX`.
    pub(crate) permits: Permits,
    /// The window, `10ms..=31d`, in whole milliseconds. For concurrency limits the lease, `10s..=1h`: after how long,
    /// at most, a permit that was never given back is free again.
    pub(crate) window: Span,
    /// For token buckets: what a full bucket holds, `1..=Permits::MAX`. Filling an empty bucket takes at most 31 days.
    /// The same as `permits` for other algorithms, and if the document does not set it.
    pub(crate) burst: Permits,
    /// For adaptive concurrency limits: the minimum, `1..=permits`; `permits` is the maximum.
    pub(crate) least: Option<Permits>,
}

/// A range of response statuses, both ends included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StatusRange {
    pub(crate) first: u16,
    pub(crate) last: u16,
}

impl StatusRange {
    /// Whether the status is in the range.
    #[must_use]
    pub const fn contains(&self, status: u16) -> bool {
        self.first <= status && status <= self.last
    }
}

/// What happens to a request over the limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnExceed {
    /// It is refused.
    Reject,
    /// It waits for its turn, and is refused if the wait would be too long.
    Delay,
    /// It is counted as refused and goes on.
    Observe,
}

/// What a refused request is charged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Penalty {
    /// The charge for each refused request: at least one permit and at most `max`.
    pub(crate) cost: Permits,
    /// The most that these charges take in a window. Every quota of the limit is larger by at least the cost of a
    /// request.
    pub(crate) max: Permits,
}

/// When a client is banned: refused for a time, whatever it has used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ban {
    /// The number of refusals that begin a ban, at least one.
    pub(crate) after: u32,
    /// The time within which they occur, `1s..=31d`.
    pub(crate) within: Span,
    /// The duration of a ban, `1s..=31d`.
    pub(crate) lasts: Span,
}

/// What happens when a limit's state is not available.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnStoreFailure {
    /// The limit counts in the memory of this instance.
    Local,
    /// The request goes on.
    Allow,
    /// The request is refused.
    Deny,
}
