//! Charges of limits that instances share: see [`crate::global`].

use super::charging::Charging;
use super::plan::{Counted, Plan, Stage};
use super::{Charge, Engine};
use crate::authority::{Ask, Grant, Instance, Terms};
use crate::global::{Global, Missing, Rules, Shared};
use crate::key::{KeyHash, Keys, Seed};
use crate::lease::{Account, Leases};
use crate::limiter::drawn::Drawn;
use crate::limiter::{Meter, Outcome, Standing, Verdict};
use crate::metrics::{Counters, Total};
use crate::policy::{Limit, Quota, TierIndex};
use crate::store::{MAX_ROUNDS, Store, StoreError};
use crate::table::{Page, page_of};
use crate::units::{BasisPoints, Permits, Span, Timestamp};

/// A shared limit, prepared for deciding.
#[derive(Debug)]
pub(super) struct Sharing {
    /// By tier, then by quota.
    terms: Vec<Vec<Terms>>,
    exact: bool,
}

impl Sharing {
    pub(super) fn new(limit: &Limit) -> Option<Self> {
        let exact = limit.sharing?.exact;
        let terms = |quota: &Quota| Terms::new(limit.algorithm, quota);
        let terms = limit.quotas.iter().map(|quotas| quotas.iter().map(terms).collect::<Option<_>>());
        Some(Self { terms: terms.collect::<Option<_>>()?, exact })
    }

    /// The keys of a quota that all instances use. They depend on the window, because counts of one window cannot be
    /// continued with another.
    pub(super) fn keys(&self, seed: Seed, identity: u64, tier: TierIndex, quota: u8) -> Keys {
        let terms = self.terms.get(tier.get()).and_then(|terms| terms.get(usize::from(quota)));
        Keys::new(seed, identity ^ terms.map_or(0, |terms| terms.window_ms))
    }
}

/// The authority's answer to an [`Ask`], as the host passes it on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Answer {
    /// [`Ask::key`].
    pub key: KeyHash,
    /// [`Ask::seq`].
    pub seq: u64,
    /// What was granted; `None` if the store has failed.
    pub grant: Option<Grant>,
}

impl Answer {
    /// The answer to this ask.
    #[must_use]
    pub const fn to(ask: &Ask, grant: Option<Grant>) -> Self {
        Self { key: ask.key, seq: ask.seq, grant }
    }
}

impl Engine {
    /// What a worker needs for shared limits, to be given to its [`Leases`]; `None` if the policy shares no limit.
    /// `instance` must be random. `deadline` is the host's, for a policy that sets none.
    #[must_use]
    pub fn sharing(&self, instance: Instance, deadline: Span) -> Option<Global> {
        self.policy.limits.iter().find(|limit| limit.sharing.is_some())?;
        let stores = self.policy.stores();
        let rules = Rules { deadline: stores.deadline().unwrap_or(deadline), local_share: stores.local_share() };
        Some(Global::new(instance, rules))
    }

    /// Derives the keys that all instances share from this secret, if the policy names one and the host has it
    /// (`token_env`). Call it before the first request.
    pub fn set_shared_secret(&mut self, secret: &[u8]) {
        self.shared_seed = Seed::shared(secret);
    }

    /// Lets the request of a decided plan wait for the authority, under the number `id`, which no other request waiting
    /// for it may have.
    pub fn await_grant(&self, plan: &Plan, id: u32, leases: &mut Leases) {
        let awaiting = plan.charges.iter().filter(|charge| charge.stage == Stage::Awaiting);
        let keys: Vec<_> = awaiting.filter_map(|charge| charge.shared_key).collect();
        if let Some(global) = leases.global() {
            global.wait(id, plan.since, &keys, plan.now);
        }
    }

    /// Processes an answer of the authority: stores the granted permits where requests spend them.
    pub fn granted<S: Store>(
        &self,
        answer: &Answer,
        leases: &mut Leases,
        store: &mut S,
        counters: &mut Counters,
        now: Timestamp,
    ) {
        let Some(global) = leases.global() else { return };
        let Some(arrived) = global.answered(answer.key, answer.seq, answer.grant, now) else { return };
        let add = |page: &mut Page| {
            let probe = page.probe(arrived.account.key, now);
            let state = Drawn.add(probe.state(), arrived.permits, arrived.until, now);
            page.write(&probe, arrived.account.key, state);
            true
        };
        if change(arrived.account.key, store, counters, add).is_err() {
            // Lost permits count as used.
            counters.add(Total::GrantsLost, 1);
        }
    }

    /// Gives up asks whose deadline has passed, releases the requests that have waited as long, and gives back idle
    /// permits. Call it when [`Global::next_due`] says so. Afterwards there may be [asks](Global::asks) to send and
    /// requests [ready](Global::ready).
    pub fn tend<S: Store>(&self, leases: &mut Leases, store: &mut S, counters: &mut Counters, now: Timestamp) {
        let Some(global) = leases.global() else { return };
        global.expire(now);
        for (of, most) in global.idle(now) {
            let mut permits = Permits::ZERO;
            let take = |page: &mut Page| {
                let probe = page.probe(of.account.key, now);
                permits = Drawn.standing(probe.state(), now).remaining.min(most);
                if permits > Permits::ZERO {
                    page.write(&probe, of.account.key, Drawn.charge(probe.state(), permits, now));
                }
                permits > Permits::ZERO
            };
            let taken = change(of.account.key, store, counters, take).is_ok();
            global.give_back(&of, if taken { permits } else { Permits::ZERO }, now);
        }
        global.renew(now);
        let report = global.take_report(now);
        counters.add(Total::Asks, report.asks);
        counters.add(Total::AskFailures, report.failures);
        counters.add(Total::Awaited, report.waited);
    }

    /// The meter of a shared charge.
    pub(super) fn shared_meter(&self, charge: &Charge, tier: TierIndex) -> Option<Meter> {
        let share = match charge.counted {
            Counted::Share(share) => share,
            Counted::ByService => return None,
            Counted::Drawn | Counted::Held | Counted::Here => return Some(Meter::Drawn(Drawn)),
        };
        let limit = self.policy.limits.get(charge.limit())?;
        let quota = limit.quotas(tier).get(charge.quota())?;
        // At least one permit, because a small quota would otherwise round down to none.
        let whole = u64::from(BasisPoints::ALL.get());
        let of = |permits: Permits| {
            let part = u64::from(permits.get()).saturating_mul(u64::from(share.get())).checked_div(whole);
            Permits::new(part.and_then(|part| u32::try_from(part).ok()).unwrap_or(u32::MAX).max(1))
        };
        let quota = Quota { permits: of(quota.permits), burst: of(quota.burst), ..*quota };
        Some(Meter::new(limit.algorithm, &quota))
    }

    pub(super) fn shared(&self, charge: &Charge, tier: TierIndex) -> Option<Shared> {
        let sharing = self.limits.get(charge.limit())?.sharing.as_ref()?;
        let account = Account { key: charge.key, limit: charge.limit, quota: charge.quota, tier };
        let terms = *sharing.terms.get(tier.get())?.get(charge.quota())?;
        Some(Shared { account, key: charge.shared_key?, terms, exact: sharing.exact })
    }
}

impl<S: Store> Charging<'_, S> {
    /// Finds out what is known of a shared key that has too few permits here.
    pub(super) fn look_up(&mut self, charge: &mut Charge) {
        let lacks = charge.counted == Counted::Drawn && charge.exceeds() && charge.ban().is_none();
        let (true, Some(of), Some(global)) = (lacks, self.engine.shared(charge, self.tier), self.leases.global())
        else {
            return;
        };
        match global.missing(&of, charge.cost, self.since, self.now) {
            Missing::Refused { retry_after } => {
                let verdict = Verdict::Refuse { retry_after };
                charge.outcome = charge.outcome.map(|outcome| Outcome { verdict, ..outcome });
            }
            Missing::Unknown => (charge.stage, charge.outcome) = (Stage::Awaiting, None),
            Missing::Failed => {
                global.count_decided_without();
                self.fall_back(charge);
            }
        }
    }

    /// Whether the request has to wait for an authority or a service. It does not if another charge already refuses it.
    pub(super) fn awaits(&self, charges: &[Charge]) -> bool {
        charges.iter().any(|charge| matches!(charge.stage, Stage::Awaiting | Stage::Consulting))
            && !self.engine.refuses(charges)
    }

    /// How long the request waits for its authorities at most, if it has to wait.
    pub(super) fn awaited(&mut self, charges: &[Charge]) -> Option<Span> {
        let awaits = self.awaits(charges) && charges.iter().any(|charge| charge.stage == Stage::Awaiting);
        self.leases.global().filter(|_| awaits).map(|global| global.rules().deadline)
    }

    /// Records the decision on the request for its shared keys.
    pub(super) fn settle_shared(&mut self, charges: &mut [Charge], awaits: bool, refused: bool) {
        for charge in charges {
            if charge.counted == Counted::Held {
                self.settle_held(charge, awaits, refused);
            }
            if charge.counted != Counted::Drawn {
                continue;
            }
            let (Some(of), Some(global)) = (self.engine.shared(charge, self.tier), self.leases.global()) else {
                continue;
            };
            if charge.stage == Stage::Awaiting {
                if awaits {
                    global.ask(&of, charge.cost, self.now);
                }
                continue;
            }
            // As with limits of this instance alone: permits that were not charged are still available.
            let uncharged = charge.admits() && (refused || charge.sibling_exceeded);
            let state = if uncharged { charge.before } else { charge.outcome.map(|outcome| outcome.state) };
            let here = Drawn.standing(state, self.now).remaining;
            if charge.stage == Stage::Charged && !refused {
                global.used(&of, charge.cost, here, self.since.is_some(), self.now);
            }
            charge.shared_standing = global
                .standing(of.key, self.now)
                .map(|(left, reset_after)| Standing { remaining: left.plus(here), reset_after });
        }
    }

    /// The authority of a shared limit has failed: this instance counts its own share.
    pub(super) fn take_share(&mut self, charge: &mut Charge) {
        if charge.counted == Counted::Drawn
            && let (Some(key), Some(global)) = (charge.shared_key, self.leases.global())
        {
            charge.counted = Counted::Share(global.share(key));
        }
    }

    /// Records what was charged to a share as owed to the authority.
    pub(super) fn owe(&mut self, charge: &Charge) {
        if matches!(charge.counted, Counted::Share(_))
            && charge.pays()
            && let (Some(of), Some(global)) = (self.engine.shared(charge, self.tier), self.leases.global())
        {
            global.owe(&of, charge.cost, self.now);
        }
    }
}

/// Changes the page of a key, and publishes it if `change` returns true. Retries when another worker publishes it
/// first, up to [`MAX_ROUNDS`] times.
fn change<S: Store>(
    key: KeyHash,
    store: &mut S,
    counters: &mut Counters,
    mut change: impl FnMut(&mut Page) -> bool,
) -> Result<(), StoreError> {
    let number = page_of(key, store.pages());
    for _ in 0..MAX_ROUNDS {
        store.begin();
        if !change(store.write(number)?) {
            return Ok(());
        }
        match store.publish(number) {
            Err(StoreError::Conflict) => counters.add(Total::Conflicts, 1),
            published => return published,
        }
    }
    Err(StoreError::Conflict)
}
