//! The permits that requests in flight hold: given back when a request ends, renewed while it lasts.
//!
//! Both change the key's state by compare-and-swap, as charges do. Permits that could not be given back become free
//! when their lease ends; each such case is counted.

use super::charging::Charging;
use super::delaying::{Books, Room};
use super::observing::{Reply, Ticket};
use super::plan::Counted;
use super::{Charge, Engine, Stage};
use crate::global::Global;
use crate::key::{Companion, KeyHash};
use crate::lease::Leases;
use crate::limiter::Meter;
use crate::limiter::adaptive::{Adaptive, Learned, Sample};
use crate::limiter::concurrency::Slots;
use crate::metrics::{Counters, Total};
use crate::policy::{KeyPart, TierIndex};
use crate::store::memory::MemoryStore;
use crate::store::{MAX_ROUNDS, Store, StoreError};
use crate::table::{Page, page_of};
use crate::units::{Permits, Timestamp};

/// Permits that a request holds.
#[derive(Clone, Copy, Debug)]
pub(super) struct HeldPermits {
    limit: u32,
    quota: u8,
    key: KeyHash,
    permits: Permits,
    taken_at: Timestamp,
    place: Place,
    /// The limit would have refused the request.
    beyond: bool,
    /// For an adaptive limit, which learns from this request.
    adaptive: Option<AdaptiveLimit>,
}

/// An adaptive limit as it was when a request arrived.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct AdaptiveLimit {
    /// How many permits the limit had.
    pub(super) permits: Permits,
    /// How many permits were in flight, including this request's own and those beyond the limit.
    in_flight: Permits,
}

/// Where permits were taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    /// In the store that an instance's workers share.
    Store,
    /// In this instance's own memory, because the store had failed.
    Local,
    /// Taken from the permits that this worker holds from the authority, which uses this key.
    Global(KeyHash),
}

impl HeldPermits {
    /// What the charge of an admitted request holds; `None` if it was not charged, or holds nothing.
    pub(super) fn by(charge: &Charge) -> Option<Self> {
        let place = match (charge.stage, charge.counted, charge.shared_key) {
            (Stage::Known, Counted::Held, Some(key)) => Some(Place::Global(key)),
            (Stage::Charged, ..) => Some(Place::Store),
            (Stage::Local, ..) => Some(Place::Local),
            _ => None,
        };
        let charged = charge.pays() && place.is_some();
        (charge.holds && (charged || charge.beyond)).then_some(Self {
            limit: charge.limit,
            quota: charge.quota,
            key: charge.key,
            permits: charge.cost,
            taken_at: charge.charged_at,
            place: place.unwrap_or(Place::Store),
            beyond: charge.beyond,
            adaptive: charge.adaptive,
        })
    }

    pub(super) fn learns(&self) -> bool {
        self.adaptive.is_some()
    }

    /// Where the permits are counted.
    fn account(&self) -> KeyHash {
        account(self.key, self.beyond)
    }
}

/// How many requests are in flight at a limit whose key does not depend on the client, and how many may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Load {
    /// The limit, as an index into the policy's limits.
    pub limit: usize,
    /// The tier, if the limit counts each tier separately.
    pub tier: Option<TierIndex>,
    /// Permits held now.
    pub in_flight: Permits,
    /// How many permits there are: the policy's number, or the one that an adaptive limit has found.
    pub permits: Permits,
    /// Whether `in_flight` counts this worker's requests alone, as it does if instances share the limit.
    pub of_worker: bool,
}

impl<S: Store> Charging<'_, S> {
    /// Counts a request that goes on although an adaptive limit would have refused it, or whose charges were all taken
    /// back: either way, the upstream works on it.
    pub(super) fn hold_beyond(&mut self, charges: &mut [Charge], refused: bool) {
        for charge in charges.iter_mut().filter(|charge| charge.adaptive.is_some() && !charge.awaits_answer) {
            let local = match charge.stage {
                Stage::Charged | Stage::Open | Stage::Settled => false,
                Stage::Local => true,
                _ => continue,
            };
            let engine = self.engine;
            let slots = engine.policy_meter(charge.limit, self.tier, charge.quota).and_then(Meter::slots);
            let Some(slots) = slots.filter(|_| (refused || !charge.pays()) && charge.cost > Permits::ZERO) else {
                continue;
            };
            let (account, cost, now) = (account(charge.key, true), charge.cost, self.now);
            let mut change = |page: &mut Page| {
                let probe = page.probe(account, now);
                page.write(&probe, account, slots.charge(probe.state(), cost, now));
            };
            let store: &mut dyn Store = if local { self.local } else { self.store };
            charge.beyond = change_page(store, charge.key, self.counters, &mut change).is_ok();
        }
    }
}

impl Engine {
    /// How many permits the charge's key has, if the limit is adaptive.
    pub(super) fn adaptive_limit(
        &self,
        charge: &Charge,
        page: &Page,
        tier: TierIndex,
        now: Timestamp,
    ) -> Option<AdaptiveLimit> {
        let slots = self.policy_meter(charge.limit, tier, charge.quota).filter(|_| charge.holds)?.slots()?;
        let adaptive = slots.adaptive()?;
        let permits = adaptive.permits(page.probe(charge.key.companion(Companion::Estimate), now).state());
        Some(AdaptiveLimit { permits, in_flight: in_flight(slots, page, charge.key, now).plus(charge.cost) })
    }

    /// Gives back what an ended request has held, and lets adaptive limits learn from the upstream's response. If
    /// instances share permits, there may be [asks](crate::global::Global::asks) to send afterwards.
    pub fn release<S: Store>(
        &self,
        ticket: Ticket,
        store: &mut S,
        local: &mut MemoryStore,
        leases: &mut Leases,
        counters: &mut Counters,
        now: Timestamp,
    ) {
        for held in &ticket.held {
            let Some(slots) = self.slots(held, ticket.tier) else { continue };
            let store: &mut dyn Store = match held.place {
                Place::Store => store,
                Place::Local => local,
                Place::Global(key) => {
                    if let Some(global) = leases.global() {
                        global.release(key, held.permits, held.taken_at, now);
                    }
                    continue;
                }
            };
            let mut change = |page: &mut Page| give_back(page, held, slots, &ticket, now);
            if change_page(store, held.key, counters, &mut change).is_err() {
                counters.add(Total::ReleasesLost, 1);
            }
        }
    }

    /// Renews what a request has held for so long that it will soon expire. Call it for every request in flight at
    /// least once in [`RENEWED_WITHIN_MS`](Self::RENEWED_WITHIN_MS) milliseconds.
    pub fn renew<S: Store>(
        &self,
        ticket: &mut Ticket,
        store: &mut S,
        local: &mut MemoryStore,
        leases: &mut Leases,
        counters: &mut Counters,
        now: Timestamp,
    ) {
        let mut books = Books { store, local, leases, counters };
        for held in &mut ticket.held {
            self.renew_held(held, ticket.tier, &mut books, now);
        }
    }

    /// The same for all waiting requests. Call it as often, while requests wait.
    pub fn renew_waiting<S: Store>(&self, room: &mut Room, books: &mut Books<'_, S>, now: Timestamp) {
        room.renew(now, &mut |waiting| {
            for charge in &mut waiting.charges {
                if let Some(mut held) = HeldPermits::by(charge) {
                    self.renew_held(&mut held, waiting.tier, books, now);
                    charge.charged_at = held.taken_at;
                }
            }
        });
    }

    fn renew_held<S: Store>(&self, held: &mut HeldPermits, tier: TierIndex, books: &mut Books<'_, S>, now: Timestamp) {
        let Some(slots) = self.slots(held, tier).filter(|slots| !slots.is_current(held.taken_at, now)) else { return };
        let store: &mut dyn Store = match held.place {
            Place::Store => books.store,
            Place::Local => books.local,
            Place::Global(key) => {
                let renews = |global: &mut Global| global.keep_held(key, held.permits, held.taken_at, now);
                if books.leases.global().is_some_and(renews) {
                    held.taken_at = now;
                }
                return;
            }
        };
        let mut change = |page: &mut Page| {
            let probe = page.probe(held.account(), now);
            let left = probe.state().map(|state| slots.refund(state, held.permits, held.taken_at));
            page.write(&probe, held.account(), slots.charge(left, held.permits, now));
        };
        let changed = change_page(store, held.key, books.counters, &mut change);
        // After a failure the next call tries again, if possible before the permits have expired.
        if changed.is_ok() {
            held.taken_at = now;
        }
    }

    /// Less than the shortest epoch, which is half of the shortest lease.
    pub const RENEWED_WITHIN_MS: u32 = 4_000;

    /// Calls `each` with the load of every concurrency limit whose key does not depend on the client. Skips loads that
    /// cannot be read.
    pub fn loads<S: Store>(&self, store: &mut S, leases: &Leases, now: Timestamp, each: &mut dyn FnMut(Load)) {
        store.begin();
        for (index, (limit, ready)) in self.policy.limits.iter().zip(&self.limits).enumerate() {
            let by_tier = match limit.key.as_slice() {
                [] => false,
                [KeyPart::Tier] => true,
                _ => continue,
            };
            let Some(keys) = ready.keys.first().filter(|_| limit.holds()) else { continue };
            for (place, meters) in ready.meters.iter().enumerate().take(if by_tier { usize::MAX } else { 1 }) {
                let tier = TierIndex::new(place).filter(|_| by_tier);
                if let Some(load) = self.shared_load(index, tier, leases, now) {
                    each(load);
                    continue;
                }
                let name = tier.map(|tier| self.policy.tiers.get(tier.get()).map_or("", |name| name.as_str()));
                let key = keys.of_all(name);
                let (Some(slots), Ok(page)) =
                    (meters.first().and_then(|meter| meter.slots()), store.read(page_of(key, store.pages())))
                else {
                    continue;
                };
                let estimate = page.probe(key.companion(Companion::Estimate), now).state();
                let permits = slots.adaptive().map_or(slots.permits(), |adaptive| adaptive.found(estimate));
                let in_flight = in_flight(slots, page, key, now);
                each(Load { limit: index, tier, in_flight, permits, of_worker: false });
            }
        }
    }

    fn slots(&self, held: &HeldPermits, tier: TierIndex) -> Option<&Slots> {
        self.policy_meter(held.limit, tier, held.quota)?.slots()
    }
}

fn give_back(page: &mut Page, held: &HeldPermits, slots: &Slots, ticket: &Ticket, now: Timestamp) {
    let probe = page.probe(held.account(), now);
    // Without an entry, the permits are already forgotten.
    if let Some(state) = probe.state() {
        page.write(&probe, held.account(), slots.refund(state, held.permits, held.taken_at));
    }
    let (Some(adaptive), Some(found), Some(Reply { latency, failed })) =
        (slots.adaptive(), held.adaptive, ticket.reply)
    else {
        return;
    };
    let sample = Sample { began: ticket.admitted_at, latency, dropped: failed, in_flight: found.in_flight };
    let keys = [Companion::Estimate, Companion::Samples, Companion::Quiet].map(|of| held.key.companion(of));
    let before = keys.map(|key| page.probe(key, now).state());
    let [estimate, window, quiet] = before;
    let learned = adaptive.learn(Learned { estimate, window, quiet }, &sample, now);
    let after = [learned.estimate, learned.window, learned.quiet];
    for ((key, state), before) in keys.into_iter().zip(after).zip(before) {
        if let Some(state) = state.filter(|state| Some(*state) != before) {
            let probe = page.probe(key, now);
            page.write(&probe, key, state);
        }
    }
}

/// How many permits are in flight, including those beyond a limit that only observes.
fn in_flight(slots: &Slots, page: &Page, key: KeyHash, now: Timestamp) -> Permits {
    let within = slots.in_flight(page.probe(key, now).state(), now);
    if !slots.adaptive().is_some_and(Adaptive::observes) {
        return within;
    }
    within.plus(slots.in_flight(page.probe(account(key, true), now).state(), now))
}

fn account(key: KeyHash, beyond: bool) -> KeyHash {
    if beyond { key.companion(Companion::Beyond) } else { key }
}

/// Changes the page of `key` and publishes it. Retries when another worker publishes it first, up to [`MAX_ROUNDS`]
/// times.
fn change_page(
    store: &mut dyn Store,
    key: KeyHash,
    counters: &mut Counters,
    change: &mut dyn FnMut(&mut Page),
) -> Result<(), StoreError> {
    let number = page_of(key, store.pages());
    for _ in 0..MAX_ROUNDS {
        store.begin();
        change(store.write(number)?);
        match store.publish(number) {
            Err(StoreError::Conflict) => counters.add(Total::Conflicts, 1),
            published => return published,
        }
    }
    Err(StoreError::Conflict)
}
