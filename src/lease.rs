//! Permits that an instance has drawn in advance, so that a busy client's next requests touch no shared state.
//!
//! A lease is permits that are charged to a key in the shared state already and not used yet. Whoever holds it admits
//! requests by it until it is used up or ends, and takes back what is left then: all instances together never admit more
//! than the quota, since what counts is charged before it is used, and a lease that is lost with its instance counts as used.
//!
//! That holds for windows, where it does not matter when within its window a permit is used: a lease ends with the window
//! that it was charged in ([`Meter::charge_lasts_until`]). A token bucket has no leases. Its permits could be used later only
//! while the bucket would not have been full again without them, which is over at once for a client below its rate, and
//! which another instance's refund makes earlier without this one knowing.
//!
//! The table here is fixed: sets of two slots, chosen by the key's hash. A slot goes to a new key unless it holds permits, so
//! many keys crowd each other out, which costs speed alone. It also remembers refusals, for a moment: a client that
//! is refused again and again need not be looked up each time.
//!
//! A clock that steps back ends all leases. A step that this instance sees nothing of, since it is over before its next
//! request or tick, may give a window's lease to the same window's second coming: at most the lease.

use crate::global::Global;
use crate::key::KeyHash;
use crate::limiter::{Outcome, State, Verdict};
use crate::policy::TierIndex;
use crate::units::{Permits, Span, Timestamp};

/// The leases of one instance, and what it remembers of refusals. The memory is taken at the first request, and never grows.
#[derive(Debug, Default)]
pub struct Leases {
    sets: Vec<[Slot; WAYS]>,
    /// The state is this instance's own, and there is nothing to draw from anybody.
    alone: bool,
    /// How many slots hold permits.
    out: usize,
    /// The latest time seen, and how often the clock has stepped back behind it.
    latest: Timestamp,
    steps_back: u32,
    /// What is known of limits that many instances share. Without it each counts alone.
    global: Option<Box<Global>>,
}

/// Which account: the key, and the quota that its permits are of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Account {
    /// The key; it tells the limit and the quota too, which are kept to find the meter by.
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
    /// How many are left.
    pub left: Permits,
    /// The key's state as this instance last saw it, without what is left.
    pub state: State,
    /// When they were charged.
    pub drawn_at: Timestamp,
    /// Until when, exclusive, they may be used.
    pub ends_at: Timestamp,
}

/// What an instance knows of an account without asking for its state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Known {
    /// It holds a lease that has enough.
    Lease(Lease),
    /// It was refused a moment ago, and would be again.
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
    /// How often the clock had stepped back when that was held.
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
    /// No leases.
    #[must_use]
    pub const fn new() -> Self {
        Self { sets: Vec::new(), alone: false, out: 0, latest: Timestamp::EPOCH, steps_back: 0, global: None }
    }

    /// Never any leases: for an instance whose state is in its own memory, where to ask costs no more than to know.
    #[must_use]
    pub const fn none() -> Self {
        Self { sets: Vec::new(), alone: true, out: 0, latest: Timestamp::EPOCH, steps_back: 0, global: None }
    }

    /// Shares limits of the scope `global` with other instances from here on. Without this each instance counts them
    /// alone.
    pub fn share(&mut self, global: Global) {
        self.global = Some(Box::new(global));
    }

    /// What is known of limits that many instances share, if they are shared.
    #[must_use]
    pub fn global(&mut self) -> Option<&mut Global> {
        self.global.as_deref_mut()
    }

    /// The same, to be looked at.
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
    pub fn are_out(&self) -> bool {
        self.out > 0
    }

    /// What is known of this account for a request of `cost`, which is counted as its next one. Answers for the `now` of the
    /// decision at hand, for which what is known stays true.
    pub(crate) fn ask(&mut self, account: Account, cost: Permits, now: Timestamp) -> Option<Known> {
        self.see(now);
        let steps_back = self.steps_back;
        let slot = self.slot_for(account.key)?;
        if slot.account.key != account.key {
            *slot = Slot { account, ..Slot::default() };
        }
        let quick = slot.seen_at.after(HOT_GAP) > now;
        slot.heat = if quick { slot.heat.saturating_add(1).min(HOT) } else { 1 };
        slot.seen_at = now;
        if slot.account.tier != account.tier {
            // The quota is another. What is held for that one is taken back with the next charge.
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

    /// The permits held under this key that no request has used, whether or not they still may be, and of which account.
    pub(crate) fn held(&self, key: KeyHash) -> Option<(Account, Lease)> {
        let slot = self.get(key)?;
        match slot.held {
            Held::Permits(lease) => Some((slot.account, lease)),
            _ => None,
        }
    }

    /// Whether the key's client sends so much that a lease may save asking for its state.
    pub(crate) fn is_busy(&self, key: KeyHash) -> bool {
        self.get(key).is_some_and(|slot| slot.heat >= HOT)
    }

    /// How many permits to draw beside a request of `cost` that leaves `remaining`: each time for twice as many requests,
    /// as long as they are used, and never so many that other instances lack them.
    pub(crate) fn worth_drawing(&self, key: KeyHash, cost: Permits, remaining: Permits) -> Permits {
        let wanted = self.get(key).map_or(0, Slot::next_requests).saturating_mul(cost.get());
        let permits = wanted.min(remaining.get() >> SHARE_SHIFT);
        // What is less than a request's would be of no use here, and missing elsewhere.
        Permits::new(permits.saturating_sub(permits.checked_rem(cost.get()).unwrap_or(permits)))
    }

    /// Takes a request's permits from the lease, which has enough: the state is now this.
    pub(crate) fn spend(&mut self, key: KeyHash, cost: Permits, state: State) {
        if let Some(slot) = self.find(key)
            && let Held::Permits(lease) = &mut slot.held
        {
            lease.left = lease.left.minus(cost);
            lease.state = state;
        }
    }

    /// Holds permits that have been charged in advance.
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

    /// Remembers that a request of `cost` was refused, until it may pass again but no longer than [`REFUSAL_LASTS`]: by then
    /// another instance may have given permits back.
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

    /// Forgets what is held under this key: it was charged anew, and what was left of a lease taken back with that.
    pub(crate) fn settle(&mut self, key: KeyHash) {
        let Some(slot) = self.find(key) else { return };
        if let Held::Permits(lease) = core::mem::take(&mut slot.held) {
            // What is not used up was too much.
            slot.requests = if lease.left == Permits::ZERO { slot.requests } else { slot.requests >> 2 };
            self.out = self.out.saturating_sub(1);
        }
    }

    /// Takes out every lease that has ended, or of which nobody has asked for `idle`.
    pub(crate) fn take_ended(&mut self, idle: Span, now: Timestamp) -> Vec<(Account, Lease)> {
        self.see(now);
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

    fn see(&mut self, now: Timestamp) {
        if now < self.latest {
            self.steps_back = self.steps_back.wrapping_add(1);
        }
        self.latest = now;
    }

    /// The slot of this key, or the one that it may have: of those without permits the one asked for longest ago.
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

/// How long a lease may be used: what waits in an instance, others lack.
pub const LEASE_LASTS: Span = Span::from_secs(1);
/// After how long without a request a lease is given back.
pub const LEASE_IDLE: Span = Span::from_millis(200);

/// So long a refusal is remembered: far below the second that clients wait at least, and long for who does not wait.
const REFUSAL_LASTS: Span = Span::from_millis(100);
/// Requests so close to each other make a client busy.
const HOT_GAP: Span = Span::from_millis(20);
/// So many of them in a row.
const HOT: u8 = 4;
/// A lease takes at most a sixteenth of what is left, so that little is missing elsewhere, and none of the last fifteen.
const SHARE_SHIFT: u32 = 4;
const FIRST_REQUESTS: u32 = 4;
/// The shared state is then touched by one request of 257: more would save nothing that can be measured.
const MOST_REQUESTS: u32 = 256;
/// A power of two. The table is 50 KB: hot keys of one instance, of which there are few by nature.
const SETS: usize = 256;
const WAYS: usize = 2;
const _: () = assert!(SETS.is_power_of_two());
