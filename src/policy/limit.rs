//! A limit: whom it counts, how, what one may have of it, and what happens to whoever wants more.

use super::{Cost, Delays, KeyPart, Match, Name, Priority, Sharing, TierIndex};
use crate::units::{Permits, Span};

/// One limit.
#[derive(Clone, Debug, PartialEq)]
pub struct Limit {
    pub(crate) name: Name,
    pub(crate) matches: Match,
    pub(crate) key: Vec<KeyPart>,
    pub(crate) algorithm: Algorithm,
    /// The quotas, at least one and of different windows, for each of the policy's tiers, in their order. A policy without
    /// tiers has them once.
    pub(crate) quotas: Vec<Vec<Quota>>,
    pub(crate) cost: Cost,
    /// Only requests with such an answer are charged, and when it comes; empty is every request, before it goes on.
    pub(crate) only_on: Vec<Answers>,
    pub(crate) on_exceed: OnExceed,
    /// How requests wait here; `None` where none does.
    pub(crate) delays: Option<Delays>,
    /// How important its requests are, where the policy says.
    pub(crate) priority: Option<Priority>,
    pub(crate) penalty: Option<Penalty>,
    pub(crate) ban: Option<Ban>,
    pub(crate) on_store_failure: OnStoreFailure,
    /// How permits are drawn, where many instances share the limit.
    pub(crate) sharing: Option<Sharing>,
    /// The rate-limit service of the policy's stores counts it, and the quotas while that fails.
    pub(crate) by_service: bool,
}

impl Limit {
    /// Whether many instances share it.
    #[must_use]
    pub fn is_shared(&self) -> bool {
        self.sharing.is_some()
    }

    /// The limit's name, unique in its policy.
    #[must_use]
    pub fn name(&self) -> &Name {
        &self.name
    }

    /// How it counts.
    #[must_use]
    pub fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    /// What a request costs.
    #[must_use]
    pub fn cost(&self) -> &Cost {
        &self.cost
    }

    /// Whether a request holds its permits until it has ended.
    #[must_use]
    pub fn holds(&self) -> bool {
        self.algorithm == Algorithm::Concurrency
    }

    /// Whether a request is charged when its answer comes, and not before it goes on.
    #[must_use]
    pub fn awaits_answer(&self) -> bool {
        !self.only_on.is_empty() || matches!(self.cost, Cost::Response(_))
    }

    /// What a client of this tier may have: all of these at once.
    #[must_use]
    pub fn quotas(&self, tier: TierIndex) -> &[Quota] {
        self.quotas.get(tier.get()).map_or(&[], Vec::as_slice)
    }
}

/// How a limit counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Algorithm {
    /// Two fixed windows, the earlier weighted by how much of it the sliding window still covers.
    SlidingWindow,
    /// A bucket of `burst` permits, refilled evenly at `permits` per `window`; computed by GCRA.
    TokenBucket,
    /// One counter per window, windows aligned to the Unix epoch.
    FixedWindow,
    /// Requests in flight: a permit is given back when its request has ended.
    Concurrency,
}

impl Algorithm {
    /// The word for it in the policy.
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

/// How much one client may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quota {
    /// Permits per window, `1..=Permits::MAX`.
    pub(crate) permits: Permits,
    /// The window, `10ms..=31d`, whole milliseconds. For requests in flight the lease, `10s..=1h`: after how long a permit that
    /// was never given back is free again, at most.
    pub(crate) window: Span,
    /// Token bucket: what a bucket holds when full, `1..=Permits::MAX`, and filling it takes at most 31 days.
    /// The same as `permits` for the others, and when the document does not say.
    pub(crate) burst: Permits,
    /// Requests in flight, when how many there may be is to be found out: the least, `1..=permits`, which is the most.
    pub(crate) least: Option<Permits>,
}

/// Answers by their status, both ends included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Answers {
    pub(crate) first: u16,
    pub(crate) last: u16,
}

impl Answers {
    /// Whether an answer of this status is one of them.
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
    /// It waits for its turn, and is refused when that would be too long.
    Delay,
    /// It is counted as refused and goes on.
    Observe,
}

/// What a refused request is charged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Penalty {
    /// For each request, at least one permit and at most `max`.
    pub(crate) cost: Permits,
    /// At most, in a window. Less than any quota of the limit by at least what a request costs.
    pub(crate) max: Permits,
}

/// When a client is refused for a time, whatever it has used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ban {
    /// After so many refusals, at least one.
    pub(crate) after: u32,
    /// Within this span, `1s..=31d`.
    pub(crate) within: Span,
    /// For so long, `1s..=31d`.
    pub(crate) lasts: Span,
}

/// What happens when the state of a limit cannot be had.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnStoreFailure {
    /// The limit counts with what this instance has in its own memory.
    Local,
    /// The request goes on.
    Allow,
    /// The request is refused.
    Deny,
}
