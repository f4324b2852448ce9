//! The keys that one worker knows, bounded.

use super::Shared;
use super::entry::Entry;
use crate::key::KeyHash;
use crate::units::{Permits, Span, Timestamp};

/// A fixed table of sets. A key whose set is full replaces the key that was requested longest ago and has no ask under
/// way. If there is none, the new key gets no entry.
#[derive(Debug, Default)]
pub(super) struct Table {
    sets: Vec<Vec<Entry>>,
    /// Whether any key may hold permits that could be given back.
    holds_permits: bool,
    /// When the first permits expire, or earlier; and when the entries were last checked for it.
    renewal: Option<Timestamp>,
    renewed_at: Timestamp,
}

impl Table {
    pub(super) fn get(&self, key: KeyHash) -> Option<&Entry> {
        self.sets.get(set_of(key))?.iter().find(|entry| entry.of.key == key)
    }

    pub(super) fn find(&mut self, key: KeyHash) -> Option<&mut Entry> {
        self.sets.get_mut(set_of(key))?.iter_mut().find(|entry| entry.of.key == key)
    }

    pub(super) fn find_or_make(&mut self, of: &Shared, now: Timestamp) -> Option<&mut Entry> {
        if self.sets.is_empty() {
            self.sets.resize_with(SETS, Vec::new);
        }
        let set = self.sets.get_mut(set_of(of.key))?;
        let at = match set.iter().position(|entry| entry.of.key == of.key) {
            Some(at) => at,
            None if set.len() < WAYS => {
                set.push(Entry::new(of, now));
                set.len().saturating_sub(1)
            }
            None => {
                let free = set.iter().enumerate().filter(|(_, entry)| entry.is_free());
                let (at, _) = free.min_by_key(|(_, entry)| entry.pace.last())?;
                *set.get_mut(at)? = Entry::new(of, now);
                at
            }
        };
        let entry = set.get_mut(at)?;
        // The policy may have changed since.
        entry.of = *of;
        Some(entry)
    }

    pub(super) fn holds_permits(&self) -> bool {
        self.holds_permits
    }

    pub(super) fn note_held(&mut self) {
        self.holds_permits = true;
    }

    /// The keys that hold permits of this worker's own and have no requests any more.
    pub(super) fn idle(&mut self, now: Timestamp) -> Vec<KeyHash> {
        let mut keys = Vec::new();
        if !self.holds_permits {
            return keys;
        }
        self.holds_permits = false;
        for entry in self.sets.iter_mut().flatten() {
            if entry.returnable.until <= now {
                entry.returnable.permits = Permits::ZERO;
            }
            if entry.returnable.permits == Permits::ZERO {
                continue;
            }
            self.holds_permits = true;
            if entry.pending.is_none() && entry.is_idle(now) && keys.len() < MOST_AT_ONCE {
                keys.push(entry.of.key);
            }
        }
        keys
    }

    /// Notes when permits of this key expire, because new ones may have to be drawn then.
    pub(super) fn note_renewal(&mut self, key: KeyHash) {
        let Some(at) = self.get(key).map(|entry| entry.renew_at).filter(|at| *at > Timestamp::EPOCH) else { return };
        self.renewal = Some(self.renewal.map_or(at, |renewal| renewal.min(at)));
    }

    /// When to look for permits that have expired.
    pub(super) fn next_renewal(&self) -> Option<Timestamp> {
        self.renewal.map(|at| at.max(self.renewed_at.after(RENEWAL_GAP)))
    }

    /// The keys whose permits have expired and that will need new ones.
    pub(super) fn renewals(&mut self, now: Timestamp) -> Vec<KeyHash> {
        let mut keys = Vec::new();
        if self.next_renewal().is_none_or(|at| at > now) {
            return keys;
        }
        (self.renewal, self.renewed_at) = (None, now);
        for entry in self.sets.iter_mut().flatten() {
            let is_due = entry.renew_at > Timestamp::EPOCH && entry.renew_at <= now && keys.len() < MOST_AT_ONCE;
            if is_due && entry.renews(now) {
                keys.push(entry.of.key);
            }
            if entry.renew_at > Timestamp::EPOCH {
                self.renewal = Some(self.renewal.map_or(entry.renew_at, |at| at.min(entry.renew_at)));
            }
        }
        keys
    }
}

fn set_of(key: KeyHash) -> usize {
    key.get() as usize & (SETS - 1)
}

/// Asks sent in one go that no request waits for; the others follow the next time.
const MOST_AT_ONCE: usize = 64;
/// A power of two. A full table takes about a mebibyte.
const SETS: usize = 1_024;
const WAYS: usize = 4;
const _: () = assert!(SETS.is_power_of_two());
/// The shortest time between two searches for expired permits: a search looks at all keys.
const RENEWAL_GAP: Span = Span::from_millis(5);
