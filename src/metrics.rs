//! What is counted. Plain numbers in the instance's memory; the adapter exports them on a tick.

use crate::limiter::UsedShare;
use crate::policy::{Priority, TierIndex};
use crate::table::Displaces;

/// What became of a request at one limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It passed and was charged.
    Admitted,
    /// The limit refused it.
    Refused,
    /// The limit would have refused it, or let it wait, but only observes.
    Observed,
    /// The limit refused it because of a ban, without looking at the quota.
    Banned,
    /// It waited at the limit, passed and was charged.
    Delayed,
}

impl Fate {
    /// Every fate, in the order of their numbers.
    pub const ALL: [Self; 5] = [Self::Admitted, Self::Refused, Self::Observed, Self::Banned, Self::Delayed];

    /// The word for it in metrics.
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

/// A plain counter: one number for the whole instance.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Total {
    /// Rounds that were decided anew because another instance had published a page first.
    Conflicts,
    /// Charges decided by `on_store_failure`, because state could not be read or published.
    StoreFailures,
    /// Charges of a request that was refused in the end and that could not be taken back, because others kept
    /// publishing the page. Errs on the side of refusing.
    RefundsLost,
    /// Permits of requests that have ended and that could not be given back: they are free again when their lease ends.
    ReleasesLost,
    /// Entries that equalled a fresh one and whose slot went to a new key: nothing was lost.
    FreshEvictions,
    /// Live entries whose slot went to a new key: their clients start fresh.
    LiveEvictions,
    /// What those live entries forgave, in 255ths of a quota.
    ForgivenDebt,
    /// Requests that got the page of maintenance.
    Maintenance,
    /// Requests of clients on the list `deny`.
    Denied,
    /// Requests of clients on the list `allow`, who met no limits.
    Allowed,
    /// Requests of the priority `low` that were shed.
    ShedLow,
    /// Requests of the priority `medium` that were shed.
    ShedMedium,
    /// Requests of the priority `high` that were shed.
    ShedHigh,
    /// Answers that were kept.
    Kept,
    /// Answers that might have been kept, but for want of room or state, or since they did not come whole.
    NotKept,
    /// Kept answers that went for others.
    KeptEvictions,
    /// Bans that began.
    Bans,
    /// Permits that refused requests were charged as penalties.
    PenaltyPermits,
    /// Requests that could have waited, and were refused since too many did.
    RoomFull,
    /// Requests refused since more important ones, or those of other clients, took their place among those who wait.
    Displaced,
    /// Requests refused since more important ones went ahead of them until they had waited as long as they may.
    Overdue,
    /// Requests whose client went away while they waited.
    Abandoned,
    /// Asks sent to the authority of shared limits.
    Asks,
    /// Those that were not answered in time, or with an error.
    AskFailures,
    /// Requests that waited for the authority.
    Awaited,
    /// Grants that could not be kept: their permits count as used.
    GrantsLost,
    /// Rounds in which the authority over shared breakers was asked.
    BreakerRounds,
    /// Those of them that were not answered.
    BreakerRoundFailures,
    /// Transitions of breakers that were learnt from other instances.
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

    /// The word for it where numbers are told in words.
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
    /// Counters for so many limits and tiers, all zero.
    #[must_use]
    pub fn new(limits: usize, tiers: usize) -> Self {
        let tiers = tiers.max(1);
        let cells = limits.saturating_mul(tiers).saturating_mul(Fate::ALL.len());
        Self { tiers, requests: vec![0; cells], totals: [0; Total::ALL.len()] }
    }

    /// Counts one request's fate at the limit numbered `limit`.
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

    /// Counts what a write displaced.
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

    /// What was counted of one fate at one limit since the last taking.
    #[must_use]
    pub fn requests(&self, limit: usize, tier: TierIndex, fate: Fate) -> u64 {
        self.requests.get(self.cell(limit, tier, fate)).copied().unwrap_or(0)
    }

    /// What a total has come to since the last taking.
    #[must_use]
    pub fn total(&self, total: Total) -> u64 {
        self.totals.get(total as usize).copied().unwrap_or(0)
    }

    /// Takes what was counted of one fate at one limit since the last taking.
    pub fn take_requests(&mut self, limit: usize, tier: TierIndex, fate: Fate) -> u64 {
        let cell = self.cell(limit, tier, fate);
        self.requests.get_mut(cell).map_or(0, core::mem::take)
    }

    /// Takes what a total has come to since the last taking.
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
