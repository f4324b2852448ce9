//! The counters: plain numbers in the instance's memory, which the adapter exports on a tick.

use crate::limiter::UsedShare;
use crate::policy::{Priority, TierIndex};
use crate::table::Displaces;

/// The result of a request at one limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// The request passed and was charged.
    Admitted,
    /// The limit refused the request.
    Refused,
    /// The limit would have refused or delayed the request, but only observes.
    Observed,
    /// The limit refused the request because of a ban, without checking the quota.
    Banned,
    /// The limit delayed the request; then it passed and was charged.
    Delayed,
}

impl Fate {
    /// Every fate, in the order of their numbers.
    pub const ALL: [Self; 5] = [Self::Admitted, Self::Refused, Self::Observed, Self::Banned, Self::Delayed];

    /// The word for this result in metrics.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Admitted => "admitted",
            Self::Refused => "refused",
            Self::Observed => "observed",
            Self::Banned => "banned",
            Self::Delayed => "delayed",
        }
    }
}

/// A counter with a single number for the whole instance.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Total {
    /// Decisions that were repeated because another instance had published a page first.
    Conflicts,
    /// Charges decided by `on_store_failure`, because state could not be read or published.
    StoreFailures,
    /// Charges of a request that was finally refused, which could not be refunded because others kept publishing the
    /// page. The error is on the side of refusing.
    RefundsLost,
    /// Permits of ended requests that could not be released: they become free when their lease ends.
    ReleasesLost,
    /// Evicted entries that equalled a fresh one: nothing was lost.
    FreshEvictions,
    /// Evicted live entries: their clients start fresh.
    LiveEvictions,
    /// The debt of those live entries, in 255ths of a quota.
    ForgivenDebt,
    /// Requests that got the maintenance page.
    Maintenance,
    /// Requests of clients on the `deny` list.
    Denied,
    /// Requests of clients on the `allow` list, which met no limits.
    Allowed,
    /// Shed requests of priority `low`.
    ShedLow,
    /// Shed requests of priority `medium`.
    ShedMedium,
    /// Shed requests of priority `high`.
    ShedHigh,
    /// Responses that were kept.
    Kept,
    /// Responses that were not kept for lack of room or state, or because they were incomplete.
    NotKept,
    /// Kept responses that were evicted for others.
    KeptEvictions,
    /// Bans that began.
    Bans,
    /// Permits that refused requests were charged as penalties.
    PenaltyPermits,
    /// Requests that could have waited, but were refused because too many already did.
    RoomFull,
    /// Waiting requests that were refused because more important ones, or those of other clients, took their place.
    Displaced,
    /// Waiting requests that were refused because more important ones went ahead until the maximum delay was over.
    Overdue,
    /// Requests whose client went away while they waited.
    Abandoned,
    /// Requests sent to the authority of shared limits.
    Asks,
    /// Those of them that were not answered in time, or with an error.
    AskFailures,
    /// Client requests that waited for the authority.
    Awaited,
    /// Granted permits that could not be stored: they count as used.
    GrantsLost,
    /// Rounds in which the authority over shared breakers was asked.
    BreakerRounds,
    /// Those rounds that were not answered.
    BreakerRoundFailures,
    /// Transitions of breakers that came from other instances.
    BreakersLearnt,
}

impl Total {
    /// Every total, in the order of their numbers.
    pub const ALL: [Self; 29] = [
        Self::Conflicts,
        Self::StoreFailures,
        Self::RefundsLost,
        Self::ReleasesLost,
        Self::FreshEvictions,
        Self::LiveEvictions,
        Self::ForgivenDebt,
        Self::Maintenance,
        Self::Denied,
        Self::Allowed,
        Self::ShedLow,
        Self::ShedMedium,
        Self::ShedHigh,
        Self::Kept,
        Self::NotKept,
        Self::KeptEvictions,
        Self::Bans,
        Self::PenaltyPermits,
        Self::RoomFull,
        Self::Displaced,
        Self::Overdue,
        Self::Abandoned,
        Self::Asks,
        Self::AskFailures,
        Self::Awaited,
        Self::GrantsLost,
        Self::BreakerRounds,
        Self::BreakerRoundFailures,
        Self::BreakersLearnt,
    ];

    /// The name of this total on the status page.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Conflicts => "conflicts",
            Self::StoreFailures => "store_failures",
            Self::RefundsLost => "refunds_lost",
            Self::ReleasesLost => "releases_lost",
            Self::FreshEvictions => "evictions_fresh",
            Self::LiveEvictions => "evictions_live",
            Self::ForgivenDebt => "forgiven_debt_255ths",
            Self::Maintenance => "maintenance",
            Self::Denied => "denied",
            Self::Allowed => "allowed",
            Self::ShedLow => "shed_low",
            Self::ShedMedium => "shed_medium",
            Self::ShedHigh => "shed_high",
            Self::Kept => "kept",
            Self::NotKept => "not_kept",
            Self::KeptEvictions => "kept_evictions",
            Self::Bans => "bans",
            Self::PenaltyPermits => "penalty_permits",
            Self::RoomFull => "waits_refused_full",
            Self::Displaced => "waits_refused_displaced",
            Self::Overdue => "waits_refused_overdue",
            Self::Abandoned => "waits_abandoned",
            Self::Asks => "store_asks",
            Self::AskFailures => "store_ask_failures",
            Self::Awaited => "store_waits",
            Self::GrantsLost => "store_grants_lost",
            Self::BreakerRounds => "breaker_rounds",
            Self::BreakerRoundFailures => "breaker_round_failures",
            Self::BreakersLearnt => "breakers_learnt",
        }
    }

    /// Requests of this priority that were shed. Critical ones never are.
    #[must_use]
    pub const fn shed(priority: Priority) -> Self {
        match priority {
            Priority::Low => Self::ShedLow,
            Priority::Medium => Self::ShedMedium,
            Priority::High | Priority::Critical => Self::ShedHigh,
        }
    }
}

/// All counters of one instance.
#[derive(Clone, Debug)]
pub struct Counters {
    tiers: usize,
    requests: Vec<u64>,
    totals: [u64; Total::ALL.len()],
}

impl Counters {
    /// Counters for this many limits and tiers, all zero.
    #[must_use]
    pub fn new(limits: usize, tiers: usize) -> Self {
        let tiers = tiers.max(1);
        let cells = limits.saturating_mul(tiers).saturating_mul(Fate::ALL.len());
        Self { tiers, requests: vec![0; cells], totals: [0; Total::ALL.len()] }
    }

    /// Counts a request's result at the limit with this index.
    pub fn count(&mut self, limit: usize, tier: TierIndex, fate: Fate) {
        let cell = self.cell(limit, tier, fate);
        if let Some(count) = self.requests.get_mut(cell) {
            *count = count.saturating_add(1);
        }
    }

    /// Adds `n` to a total.
    pub fn add(&mut self, total: Total, n: u64) {
        if let Some(count) = self.totals.get_mut(total as usize) {
            *count = count.saturating_add(n);
        }
    }

    /// Counts the entry that a write has evicted.
    pub fn displaced(&mut self, displaced: Displaces) {
        match displaced {
            Displaces::Nothing => {}
            Displaces::Fresh => self.add(Total::FreshEvictions, 1),
            Displaces::Live(used) => {
                self.add(Total::LiveEvictions, 1);
                self.add(Total::ForgivenDebt, u64::from(UsedShare::get(used)));
            }
        }
    }

    /// The count of one result at one limit, since it was last taken.
    #[must_use]
    pub fn requests(&self, limit: usize, tier: TierIndex, fate: Fate) -> u64 {
        self.requests.get(self.cell(limit, tier, fate)).copied().unwrap_or(0)
    }

    /// The value of a total, since it was last taken.
    #[must_use]
    pub fn total(&self, total: Total) -> u64 {
        self.totals.get(total as usize).copied().unwrap_or(0)
    }

    /// Takes the count of one result at one limit and resets it to zero.
    pub fn take_requests(&mut self, limit: usize, tier: TierIndex, fate: Fate) -> u64 {
        let cell = self.cell(limit, tier, fate);
        self.requests.get_mut(cell).map_or(0, core::mem::take)
    }

    /// Takes the value of a total and resets it to zero.
    pub fn take_total(&mut self, total: Total) -> u64 {
        self.totals.get_mut(total as usize).map_or(0, core::mem::take)
    }

    fn cell(&self, limit: usize, tier: TierIndex, fate: Fate) -> usize {
        limit
            .saturating_mul(self.tiers)
            .saturating_add(tier.get())
            .saturating_mul(Fate::ALL.len())
            .saturating_add(fate as usize)
    }
}
