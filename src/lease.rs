//! Permits that an instance has drawn in advance, so that a busy client's next requests touch no shared state.
//!
//! A lease is a number of permits that are charged to a key in the shared state already and not used yet. The instance
//! that holds it admits requests from it until it is used up or ends, and then gives back what is left. All instances
//! together never admit more than the quota, because permits are charged before they are used. A lease that is lost
//! with its instance counts as used.
//!
//! This works for windows, where it does not matter when a permit is used within its window: a lease ends with the
//! window that it was charged in ([`Meter::charge_lasts_until`](crate::limiter::Meter::charge_lasts_until)). Token
//! buckets have no leases. Their permits could be used later only until the bucket would have been full again without
//! them. For a client below its rate that is at once, and a refund by another instance makes it earlier without this
//! one knowing.
//!
//! The table here is fixed: sets of two slots, chosen by the key's hash. A slot goes to a new key unless it holds
//! permits. Many keys crowd each other out, which costs only speed. The table also remembers refusals for a moment, so
//! that a client which is refused again and again need not be looked up each time.
//!
//! A clock that steps back ends all leases. This instance does not notice a step that is over before its next request
//! or tick. A lease may then be used when its window comes a second time: at most the lease too much is admitted.

use crate::global::Global;
use crate::key::KeyHash;
use crate::limiter::{Outcome, State, Verdict};
use crate::policy::TierIndex;
use crate::units::{Permits, Span, Timestamp};

/// The leases of one instance, and the refusals that it remembers. The memory is taken at the first request, and never
/// grows.
#[derive(Debug, Default)]
pub struct Leases {
    sets: Vec<[Slot; WAYS]>,
    /// The state is in this instance's own memory, so there is nothing to draw in advance.
    alone: bool,
    /// How many slots hold permits.
    out: usize,
    /// The latest time seen, and how often the clock has stepped back behind it.
    latest: Timestamp,
    steps_back: u32,
    /// What is known of limits that many instances share. Without it, this instance counts each of them alone.
    global: Option<Box<Global>>,
}

/// An account: the key, and the quota that its permits belong to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Account {
    /// The key. It already implies the limit and the quota, which are kept to find the meter.
    pub key: KeyHash,
    /// The limit, as an index into the policy's limits.
    pub limit: u32,
    /// The quota, as an index into those of the limit for the tier.
    pub quota: u8,
    /// The client's tier.
    pub tier: TierIndex,
}

/// Permits drawn in advance.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lease {
    /// The permits that are left.
    pub left: Permits,
    /// The key's state as this instance last saw it, without the charge for the permits that are left.
    pub state: State,
    /// When the permits were charged.
    pub drawn_at: Timestamp,
    /// When they expire: from this time on they may not be used.
    pub ends_at: Timestamp,
}

/// What an instance knows of an account without asking for its state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Known {
    /// A lease with enough permits for the request.
    Lease(Lease),
    /// A refusal a moment ago that still applies.
    Refused(Outcome),
}

#[derive(Clone, Copy, Debug, Default)]
struct Slot {
    account: Account,
    seen_at: Timestamp,
    /// How many requests have come in quick succession, up to [`HOT`].
    heat: u8,
    /// How many requests the next lease is for.
    requests: u32,
    held: Held,
    /// The table's `steps_back` when that was stored.
    steps_back: u32,
}

#[derive(Clone, Copy, Debug, Default)]
enum Held {
    #[default]
    Nothing,
    Permits(Lease),
    Refusal {
        cost: Permits,
        outcome: Outcome,
        at: Timestamp,
        until: Timestamp,
    },
}

impl Leases {
    /// An empty table.
    #[must_use]
    pub const fn new() -> Self {
        Self { sets: Vec::new(), alone: false, out: 0, latest: Timestamp::EPOCH, steps_back: 0, global: None }
    }

    /// A table that never holds leases, for an instance whose state is in its own memory: reading the state costs no
    /// more than a lookup here.
    #[must_use]
    pub const fn none() -> Self {
        Self { sets: Vec::new(), alone: true, out: 0, latest: Timestamp::EPOCH, steps_back: 0, global: None }
    }

    /// Shares limits of the scope `global` with other instances from now on. Without this, each instance counts them
    /// alone.
    pub fn share(&mut self, global: Global) {
        self.global = Some(Box::new(global));
    }

    /// What is known of limits that many instances share, if they are shared.
    #[must_use]
    pub fn global(&mut self) -> Option<&mut Global> {
        self.global.as_deref_mut()
    }

    /// The same, read-only.
    #[must_use]
    pub fn global_ref(&self) -> Option<&Global> {
        self.global.as_deref()
    }

    /// Whether limits are shared with other instances.
    #[must_use]
    pub fn shares(&self) -> bool {
        self.global.is_some()
    }

    /// Whether permits are held. If so, [`Engine::end_leases`](crate::engine::Engine::end_leases) is due soon.
    #[must_use]
    pub fn hold_permits(&self) -> bool {
        self.out > 0
    }

    /// What is known of this account for a request of `cost`. The request counts towards how busy the client is. The
    /// answer holds for the `now` of the decision at hand.
    pub(crate) fn ask(&mut self, account: Account, cost: Permits, now: Timestamp) -> Option<Known> {
        self.note_time(now);
        let steps_back = self.steps_back;
        let slot = self.slot_for(account.key)?;
        if slot.account.key != account.key {
            *slot = Slot { account, ..Slot::default() };
        }
        let quick = slot.seen_at.after(HOT_GAP) > now;
        slot.heat = if quick { slot.heat.saturating_add(1).min(HOT) } else { 1 };
        slot.seen_at = now;
        if slot.account.tier != account.tier {
            // The client's quota has changed. Permits of the old quota are taken back with the next charge.
            if !matches!(slot.held, Held::Permits(_)) {
                slot.account = account;
                slot.held = Held::Nothing;
            }
            return None;
        }
        match slot.held {
            _ if slot.steps_back != steps_back => None,
            Held::Permits(lease) if lease.left >= cost && now < lease.ends_at => Some(Known::Lease(lease)),
            Held::Refusal { cost: refused, outcome, at, until } if refused == cost && now < until => {
                let Verdict::Refuse { retry_after } = outcome.verdict else { return None };
                let retry_after = retry_after.map(|wait| at.after(wait).since(now));
                Some(Known::Refused(Outcome { verdict: Verdict::Refuse { retry_after }, ..outcome }))
            }
            _ => None,
        }
    }

    /// The unused permits held under this key, whether or not they have expired, and their account.
    pub(crate) fn held(&self, key: KeyHash) -> Option<(Account, Lease)> {
        let slot = self.get(key)?;
        match slot.held {
            Held::Permits(lease) => Some((slot.account, lease)),
            _ => None,
        }
    }

    /// Whether the key's client sends so many requests that a lease may pay off.
    pub(crate) fn is_busy(&self, key: KeyHash) -> bool {
        self.get(key).is_some_and(|slot| slot.heat >= HOT)
    }

    /// How many permits to draw in addition to a request of `cost` that leaves `remaining`. Each lease is for twice as
    /// many requests as the last one, if that was used up, and never for so many that other instances lack permits.
    pub(crate) fn worth_drawing(&self, key: KeyHash, cost: Permits, remaining: Permits) -> Permits {
        let wanted = self.get(key).map_or(0, Slot::next_requests).saturating_mul(cost.get());
        let permits = wanted.min(remaining.get() >> SHARE_SHIFT);
        // Less than one request's permits would be of no use here, and missing elsewhere.
        Permits::new(permits.saturating_sub(permits.checked_rem(cost.get()).unwrap_or(permits)))
    }

    /// Takes a request's permits from the lease, which has enough. `state` is the key's new state.
    pub(crate) fn spend(&mut self, key: KeyHash, cost: Permits, state: State) {
        if let Some(slot) = self.find(key)
            && let Held::Permits(lease) = &mut slot.held
        {
            lease.left = lease.left.minus(cost);
            lease.state = state;
        }
    }

    /// Stores permits that have been charged in advance.
    pub(crate) fn grant(&mut self, account: Account, lease: Lease) {
        let steps_back = self.steps_back;
        let Some(slot) = self.find(account.key) else { return };
        slot.requests = slot.next_requests();
        slot.account = account;
        let before = core::mem::replace(&mut slot.held, Held::Permits(lease));
        slot.steps_back = steps_back;
        if !matches!(before, Held::Permits(_)) {
            self.out = self.out.saturating_add(1);
        }
    }

    /// Remembers that a request of `cost` was refused, until it may pass again, but at most for [`REFUSAL_LASTS`]: by
    /// then another instance may have given permits back.
    pub(crate) fn refuse(&mut self, account: Account, cost: Permits, outcome: Outcome, now: Timestamp) {
        let Verdict::Refuse { retry_after } = outcome.verdict else { return };
        let until = now.after(retry_after.map_or(REFUSAL_LASTS, |wait| wait.min(REFUSAL_LASTS)));
        let steps_back = self.steps_back;
        let Some(slot) = self.find(account.key) else { return };
        if !matches!(slot.held, Held::Permits(_)) {
            slot.account = account;
            slot.held = Held::Refusal { cost, outcome, at: now, until };
            slot.steps_back = steps_back;
        }
    }

    /// Forgets what is held under this key, because a charge to the shared state has taken back what was left of its
    /// lease.
    pub(crate) fn settle(&mut self, key: KeyHash) {
        let Some(slot) = self.find(key) else { return };
        if let Held::Permits(lease) = core::mem::take(&mut slot.held) {
            // A lease that is not used up was too large.
            slot.requests = if lease.left == Permits::ZERO { slot.requests } else { slot.requests >> 2 };
            self.out = self.out.saturating_sub(1);
        }
    }

    /// Removes and returns every lease that has ended, or whose key has had no request for `idle`.
    pub(crate) fn take_ended(&mut self, idle: Span, now: Timestamp) -> Vec<(Account, Lease)> {
        self.note_time(now);
        let steps_back = self.steps_back;
        let mut ended = Vec::new();
        for slot in self.sets.iter_mut().flatten() {
            let Held::Permits(lease) = slot.held else { continue };
            if slot.steps_back != steps_back || lease.ends_at <= now || slot.seen_at.after(idle) <= now {
                ended.push((slot.account, lease));
                *slot = Slot::default();
            }
        }
        self.out = self.out.saturating_sub(ended.len());
        ended
    }

    fn note_time(&mut self, now: Timestamp) {
        if now < self.latest {
            self.steps_back = self.steps_back.wrapping_add(1);
        }
        self.latest = now;
    }

    /// The slot of this key. For a new key, the slot without permits that was used longest ago; `None` if all hold
    /// permits.
    fn slot_for(&mut self, key: KeyHash) -> Option<&mut Slot> {
        if self.alone {
            return None;
        }
        if self.sets.is_empty() {
            self.sets = vec![[Slot::default(); WAYS]; SETS];
        }
        let set = self.sets.get_mut(set_of(key))?;
        let at = set.iter().position(|slot| slot.account.key == key).or_else(|| {
            let free = set.iter().enumerate().filter(|(_, slot)| !matches!(slot.held, Held::Permits(_)));
            free.min_by_key(|(_, slot)| slot.seen_at).map(|(at, _)| at)
        })?;
        set.get_mut(at)
    }

    fn get(&self, key: KeyHash) -> Option<&Slot> {
        self.sets.get(set_of(key))?.iter().find(|slot| slot.account.key == key)
    }

    fn find(&mut self, key: KeyHash) -> Option<&mut Slot> {
        self.sets.get_mut(set_of(key))?.iter_mut().find(|slot| slot.account.key == key)
    }
}

impl Slot {
    fn next_requests(&self) -> u32 {
        self.requests.saturating_mul(2).clamp(FIRST_REQUESTS, MOST_REQUESTS)
    }
}

fn set_of(key: KeyHash) -> usize {
    key.get() as usize & (SETS - 1)
}

/// How long a lease may be used: other instances lack the permits that it holds.
pub const LEASE_LASTS: Span = Span::from_secs(1);
/// A lease is given back after this time without a request.
pub const LEASE_IDLE: Span = Span::from_millis(200);

/// How long a refusal is remembered: far below the one second that clients wait at least, and long for a client that
/// does not wait.
const REFUSAL_LASTS: Span = Span::from_millis(100);
/// Requests that are closer together than this make a client busy.
const HOT_GAP: Span = Span::from_millis(20);
/// How many such requests in a row make a client busy.
const HOT: u8 = 4;
/// A lease takes at most a sixteenth of what is left, so that other instances lack little, and none of the last fifteen
/// permits.
const SHARE_SHIFT: u32 = 4;
const FIRST_REQUESTS: u32 = 4;
/// One request in 257 then touches the shared state. Larger leases would save nothing measurable.
const MOST_REQUESTS: u32 = 256;
/// A power of two. The table takes 50 KB: an instance has few busy keys at a time.
const SETS: usize = 256;
const WAYS: usize = 2;
const _: () = assert!(SETS.is_power_of_two());
