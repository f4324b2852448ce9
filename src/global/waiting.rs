//! Requests that wait for the authority.

use crate::key::KeyHash;
use crate::units::{Span, Timestamp};

/// Those who wait, and those who are to be decided again.
#[derive(Debug, Default)]
pub(super) struct Waiting {
    /// In the order in which they came.
    waiting: Vec<Waiter>,
    ready: Vec<Wake>,
    count: u64,
}

/// A request that is to be planned and decided again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wake {
    /// Its number.
    pub id: u32,
    /// Since when it has waited: see [`Plan::resume`](crate::engine::Plan::resume).
    pub since: Timestamp,
}

#[derive(Debug)]
struct Waiter {
    wake: Wake,
    /// The keys that it waits for.
    keys: Vec<KeyHash>,
}

impl Waiting {
    /// Lets a request wait. One that waits for nothing, or for which there is no room, is as one that has waited for ever.
    pub(super) fn enter(&mut self, wake: Wake, keys: Vec<KeyHash>, is_new: bool) {
        if keys.is_empty() || !self.has_room() {
            self.ready.push(Wake { since: Timestamp::EPOCH, ..wake });
            return;
        }
        self.count = self.count.saturating_add(u64::from(is_new));
        self.waiting.push(Waiter { wake, keys });
    }

    pub(super) fn has_room(&self) -> bool {
        self.waiting.len() < MOST_WAITING
    }

    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty() && self.ready.is_empty()
    }

    /// What is known of this key has changed.
    pub(super) fn answered(&mut self, key: KeyHash) {
        for waiter in &mut self.waiting {
            waiter.keys.retain(|of| *of != key);
        }
        self.release(|waiter| waiter.keys.is_empty());
    }

    /// Who has waited for `deadline` waits no more.
    pub(super) fn expire(&mut self, deadline: Span, now: Timestamp) {
        self.release(|waiter| waiter.wake.since.after(deadline) <= now);
    }

    pub(super) fn has_ready(&self) -> bool {
        !self.ready.is_empty()
    }

    /// The next one to be decided again.
    pub(super) fn ready(&mut self) -> Option<Wake> {
        // Moving those behind it is nothing beside deciding on it, and there are not many.
        (!self.ready.is_empty()).then(|| self.ready.remove(0))
    }

    pub(super) fn leave(&mut self, id: u32) {
        self.waiting.retain(|waiter| waiter.wake.id != id);
        self.ready.retain(|wake| wake.id != id);
    }

    /// Since when the one has waited that has waited longest.
    pub(super) fn since(&self) -> Option<Timestamp> {
        // One that was decided again stands behind those who came later.
        self.waiting.iter().map(|waiter| waiter.wake.since).min()
    }

    pub(super) fn take_count(&mut self) -> u64 {
        core::mem::take(&mut self.count)
    }

    fn release(&mut self, is_due: impl Fn(&Waiter) -> bool) {
        self.ready.extend(self.waiting.extract_if(.., |waiter| is_due(waiter)).map(|waiter| waiter.wake));
    }
}

/// More than these do not wait in one worker: what happens to them is the limit's `on_store_failure`.
const MOST_WAITING: usize = 1_024;
