//! A page of the index: what is in each of its slots.

use super::super::AnswerKey;
use super::{LOCK, SLOTS};
use crate::store::StoreError;
use crate::units::{Span, Timestamp};

/// The entries of one page's slots.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page {
    /// The last lock that was handed out.
    last_lock: u32,
    entries: Vec<Entry>,
}

/// One slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) key: AnswerKey,
    /// How many bytes the slot may hold; 0 if it is free.
    charge: u32,
    /// The lock of the worker that is writing the slot, unique within the page; 0 for none.
    lock: u32,
    /// When the response was kept or locked, in seconds.
    touched_secs: u32,
    /// The time until which the response may be served, in seconds.
    until_secs: u32,
    /// Whether the response was kept more than once.
    again: bool,
}

/// What must be done to make room for a response.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Move {
    /// This slot can be locked and filled.
    Fill(usize),
    /// These slots must be emptied first.
    Empty(Vec<usize>),
    /// Another worker is keeping the same response now.
    Busy,
    /// There is no room: the response is larger than the page's share, or other workers hold the slots.
    NoRoom,
}

impl Entry {
    const FREE: Self = Self { key: AnswerKey::NONE, charge: 0, lock: 0, touched_secs: 0, until_secs: 0, again: false };

    fn is_free(&self) -> bool {
        *self == Self::FREE
    }

    /// Whether a worker may still be writing the slot. After the clock was set back, a lock can count as old.
    fn is_locked(&self, now_secs: u32) -> bool {
        self.lock != 0 && u64::from(self.touched_secs.abs_diff(now_secs)) < LOCK.as_secs()
    }

    /// The eviction order: the lowest goes first.
    fn rank(&self, now_secs: u32) -> (bool, bool, u32) {
        let good = self.lock == 0 && self.until_secs > now_secs;
        (good, self.again, self.touched_secs)
    }
}

impl Page {
    /// An empty page.
    #[must_use]
    pub(super) fn empty() -> Self {
        Self { last_lock: 0, entries: vec![Entry::FREE; SLOTS] }
    }

    /// The slot of `key`, and its entry. The slot may be in the middle of a write: its content identifies itself.
    pub(super) fn find(&self, key: AnswerKey) -> Option<(usize, &Entry)> {
        self.entries.iter().enumerate().find(|(_, entry)| entry.key == key && !entry.is_free())
    }

    /// The number of bytes that the slots may hold.
    pub(super) fn charged(&self) -> u64 {
        self.entries.iter().map(|entry| u64::from(entry.charge)).sum()
    }

    /// What to do to keep this many bytes under `key` within `share`.
    pub(super) fn plan(&self, key: AnswerKey, bytes: u32, share: u64, now: Timestamp) -> Move {
        let now = secs(now);
        let own = self.find(key);
        if own.is_some_and(|(_, entry)| entry.is_locked(now)) {
            return Move::Busy;
        }
        let own = own.map(|(slot, _)| slot);
        let slot = own.or_else(|| self.entries.iter().position(Entry::is_free));
        let mut order = EvictionOrder { page: self, now_secs: now, left: [true; SLOTS] };
        if let Some(place) = own.and_then(|own| order.left.get_mut(own)) {
            *place = false;
        }
        // If no slot is free, the first one in eviction order is overwritten.
        let Some(slot) = slot.or_else(|| order.clone().next().map(|(slot, _)| slot)) else { return Move::NoRoom };
        let held = self.entries.get(slot).map_or(0, |entry| entry.charge);
        let mut then = self.charged().saturating_add(u64::from(bytes.saturating_sub(held)));
        if then <= share {
            return Move::Fill(slot);
        }
        let mut emptied = Vec::new();
        for (other, entry) in order {
            // Emptying the slot that will be overwritten frees only the bytes that the response does not need.
            let freed = if other == slot { entry.charge.saturating_sub(bytes) } else { entry.charge };
            then = then.saturating_sub(u64::from(freed));
            emptied.push(other);
            if then <= share {
                return Move::Empty(emptied);
            }
        }
        Move::NoRoom
    }

    /// The slots to empty to get the rest within `share`.
    pub(super) fn excess(&self, share: u64, now: Timestamp) -> Vec<usize> {
        let mut charged = self.charged();
        let mut emptied = Vec::new();
        for (slot, entry) in (EvictionOrder { page: self, now_secs: secs(now), left: [true; SLOTS] }) {
            if charged <= share {
                break;
            }
            charged = charged.saturating_sub(u64::from(entry.charge));
            emptied.push(slot);
        }
        emptied
    }

    /// Locks a slot to fill it with this many bytes, and returns the lock.
    pub(super) fn lock_to_fill(
        &mut self,
        slot: usize,
        key: AnswerKey,
        bytes: u32,
        until: Timestamp,
        now: Timestamp,
    ) -> u32 {
        let lock = self.next_lock();
        if let Some(entry) = self.entries.get_mut(slot) {
            let (again, charge) = (entry.key == key, entry.charge.max(bytes));
            *entry = Entry { key, charge, lock, touched_secs: secs(now), until_secs: secs(until), again };
        }
        lock
    }

    /// Locks slots to empty them, and returns the lock.
    pub(super) fn lock_to_empty(&mut self, slots: &[usize], now: Timestamp) -> u32 {
        let lock = self.next_lock();
        for slot in slots {
            if let Some(entry) = self.entries.get_mut(*slot) {
                entry.lock = lock;
                entry.touched_secs = secs(now);
            }
        }
        lock
    }

    /// Unlocks a slot that now holds this many bytes, if the lock is still this one. With zero bytes the slot becomes
    /// free.
    pub(super) fn unlock(&mut self, slot: usize, lock: u32, bytes: u32) {
        if let Some(entry) = self.entries.get_mut(slot).filter(|entry| entry.lock == lock) {
            *entry = if bytes == 0 { Entry::FREE } else { Entry { lock: 0, charge: bytes, ..*entry } };
        }
    }

    fn next_lock(&mut self) -> u32 {
        // 2^32 locks of one page take years. 0 is skipped because it means no lock.
        self.last_lock = self.last_lock.checked_add(1).unwrap_or(1);
        self.last_lock
    }

    /// The page as bytes: a version, the last lock, then each entry.
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(8 + SLOTS * ENTRY_BYTES);
        bytes.extend_from_slice(&VERSION.to_le_bytes());
        bytes.extend_from_slice(&self.last_lock.to_le_bytes());
        for entry in &self.entries {
            bytes.extend_from_slice(&entry.key.to_bytes());
            // The charge takes at most 31 bits: a response has at most a mebibyte.
            let charge = (entry.charge << 1) | u32::from(entry.again);
            for word in [charge, entry.lock, entry.touched_secs, entry.until_secs] {
                bytes.extend_from_slice(&word.to_le_bytes());
            }
        }
        bytes
    }

    /// Decodes a page; empty bytes are a page that was never published.
    pub(super) fn decode(bytes: &[u8]) -> Result<Self, StoreError> {
        if bytes.is_empty() {
            return Ok(Self::empty());
        }
        Self::read(bytes).ok_or(StoreError::Corrupt)
    }

    fn read(bytes: &[u8]) -> Option<Self> {
        let (version, rest) = bytes.split_first_chunk::<4>()?;
        let (last_lock, rest) = rest.split_first_chunk::<4>()?;
        if u32::from_le_bytes(*version) != VERSION || rest.len() != SLOTS.checked_mul(ENTRY_BYTES)? {
            return None;
        }
        let entry = |bytes: &[u8]| {
            let (key, rest) = bytes.split_first_chunk::<16>()?;
            let (words, _) = rest.as_chunks::<4>();
            let [charge, lock, touched_secs, until_secs] = *words.first_chunk::<4>()?;
            let charge = u32::from_le_bytes(charge);
            Some(Entry {
                key: AnswerKey::from_bytes(*key),
                charge: charge >> 1,
                lock: u32::from_le_bytes(lock),
                touched_secs: u32::from_le_bytes(touched_secs),
                until_secs: u32::from_le_bytes(until_secs),
                again: charge & 1 == 1,
            })
        };
        let entries = rest.chunks_exact(ENTRY_BYTES).map(entry).collect::<Option<Vec<_>>>()?;
        Some(Self { last_lock: u32::from_le_bytes(*last_lock), entries })
    }
}

impl Entry {
    /// Whether the response was kept or locked within `span`, or less than `span` after `now` by a clock that was set
    /// back since.
    pub(super) fn is_younger_than(&self, span: Span, now: Timestamp) -> bool {
        u64::from(self.touched_secs.abs_diff(secs(now))) < span.as_secs()
    }
}

/// The slots that may be emptied, in eviction order. Each step searches the page, because sorting would take more code
/// than the rest of this file.
#[derive(Clone)]
struct EvictionOrder<'p> {
    page: &'p Page,
    now_secs: u32,
    left: [bool; SLOTS],
}

impl<'p> Iterator for EvictionOrder<'p> {
    type Item = (usize, &'p Entry);

    fn next(&mut self) -> Option<Self::Item> {
        let mut first: Option<((bool, bool, u32), usize, &Entry)> = None;
        for (slot, (entry, left)) in self.page.entries.iter().zip(self.left).enumerate() {
            if !left || entry.is_free() || entry.is_locked(self.now_secs) {
                continue;
            }
            let rank = entry.rank(self.now_secs);
            if first.is_none_or(|(other, _, _)| rank < other) {
                first = Some((rank, slot, entry));
            }
        }
        let (_, slot, entry) = first?;
        *self.left.get_mut(slot)? = false;
        Some((slot, entry))
    }
}

/// Valid until the year 2106.
fn secs(at: Timestamp) -> u32 {
    u32::try_from(at.since(Timestamp::EPOCH).as_secs()).unwrap_or(u32::MAX)
}

/// The version of a page's bytes, the first of them, and of the names of pages and records.
pub const VERSION: u32 = 1;
const ENTRY_BYTES: usize = 32;
