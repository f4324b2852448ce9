//! Requests that wait for the authority.

use crate::key::KeyHash;
use crate::units::{Span, Timestamp};

/// The requests that wait, and those that are to be decided again.
#[derive(Debug, Default)]
pub(super) struct Waiting {
    /// In the order of `enter`: a request that waits again stands behind later ones.
    waiting: Vec<Waiter>,
    ready: Vec<Wake>,
    count: u64,
}

/// A request that is to be planned and decided again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wake {
    /// Its number.
    pub id: u32,
    /// When it began to wait: see [`Plan::resume`](crate::engine::Plan::resume).
    pub since: Timestamp,
}

#[derive(Debug)]
struct Waiter {
    wake: Wake,
    /// The keys that it waits for.
    keys: Vec<KeyHash>,
}

impl Waiting {
    /// Makes a request wait. If it has no keys to wait for, or finds no room, it is ready at once and counts as having
    /// waited too long.
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

    /// Releases the requests that have waited for `deadline`.
    pub(super) fn expire(&mut self, deadline: Span, now: Timestamp) {
        self.release(|waiter| waiter.wake.since.after(deadline) <= now);
    }

    pub(super) fn has_ready(&self) -> bool {
        !self.ready.is_empty()
    }

    /// The next one to be decided again.
    pub(super) fn ready(&mut self) -> Option<Wake> {
        // Moving the requests behind it costs little next to deciding on it, and there are not many.
        (!self.ready.is_empty()).then(|| self.ready.remove(0))
    }

    pub(super) fn leave(&mut self, id: u32) {
        self.waiting.retain(|waiter| waiter.wake.id != id);
        self.ready.retain(|wake| wake.id != id);
    }

    /// When the request that has waited longest began to wait.
    pub(super) fn since(&self) -> Option<Timestamp> {
        // A request that was decided again stands behind later ones.
        self.waiting.iter().map(|waiter| waiter.wake.since).min()
    }

    pub(super) fn take_count(&mut self) -> u64 {
        core::mem::take(&mut self.count)
    }

    fn release(&mut self, is_due: impl Fn(&Waiter) -> bool) {
        self.ready.extend(self.waiting.extract_if(.., |waiter| is_due(waiter)).map(|waiter| waiter.wake));
    }
}

/// The most requests that wait in one worker. The limit's `on_store_failure` decides the others.
const MOST_WAITING: usize = 1_024;
