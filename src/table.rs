//! The key table: what every client has used, in memory that never grows.
//!
//! The table is set-associative. A key's hash chooses one [`Page`], and in it the group of eight slots where the search
//! begins. A slot holds 32 more bits of the hash and the client's [`State`], 16 bytes in all. A search ends at the key,
//! at a group with a slot that was never used, or after the whole page. It almost always ends in the first group, which
//! is two cache lines.
//!
//! A new key takes a slot of its page in this order:
//!
//! 1. the first free one: never used, or with an entry that by now equals a fresh one (its window has passed, its
//!    bucket is full), so nothing is lost;
//! 2. the live entry with the smallest used share of its quota; among equals, the one that would be fresh first.
//!
//! So heavy clients are evicted last. A client that wants its own count forgotten must bring all other keys of its page
//! nearer to their quotas than it is to its own, without knowing which keys those are (the hash is keyed). The new key
//! starts fresh. Evictions of live entries are counted, and so is the share of a quota that each one forgave.

mod group;
mod survey;

pub use survey::Survey;

use crate::key::KeyHash;
use crate::limiter::{State, UsedShare};
use crate::units::Timestamp;
use group::Group;

/// Slots of one [`Page`].
pub const SLOTS: usize = Page::SLOTS;

/// The version of the page format: the first byte of a page.
pub const VERSION: u8 = 2;

/// How many pages hold `max_keys` live keys. They are nine tenths full on average. Some pages then overflow and evict
/// the clients that have used the least: `tests/bench/flood.rs` shows how many, for this page size and others.
#[must_use]
pub fn pages_for(max_keys: u32) -> u32 {
    let slots = u64::from(max_keys).saturating_mul(10).div_ceil(9);
    u32::try_from(slots.div_ceil(SLOTS as u64)).unwrap_or(u32::MAX).max(1)
}

/// The page, out of `pages`, that a key lives on.
#[must_use]
#[inline]
pub fn page_of(key: KeyHash, pages: u32) -> u32 {
    // The topmost bits of the hash, scaled. The tag takes the lowest bits, and the choice of the first group those in
    // between.
    let scaled = (key.get() >> PAGE_SHIFT).saturating_mul(u64::from(pages)) >> (u64::BITS - PAGE_SHIFT);
    u32::try_from(scaled).unwrap_or(0)
}

/// A fixed number of slots, read and written as one value.
pub type Page = PageOf<GROUPS>;

/// A page of `G` groups, a power of two. Stores keep [`Page`]; benchmarks compare it with other sizes.
#[derive(Clone, Debug, PartialEq, Eq)]
#[repr(align(128))]
pub struct PageOf<const G: usize> {
    groups: [group::Bytes; G],
}

/// Where a key is, or where it would go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Probe {
    group: usize,
    slot: usize,
    state: Option<State>,
    displaces: Displaces,
}

impl Probe {
    /// The key's state; `None` when the table does not know the key.
    #[must_use]
    #[inline]
    pub fn state(&self) -> Option<State> {
        self.state
    }

    /// What writing to this slot does to the entry that is there.
    #[must_use]
    #[inline]
    pub fn displaces(&self) -> Displaces {
        self.displaces
    }
}

/// What a write displaces.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Displaces {
    /// Nothing: the slot is the key's own, or was never used.
    Nothing,
    /// An entry that equals a fresh one.
    Fresh,
    /// A live entry. This is the share of its quota that is forgiven.
    Live(UsedShare),
}

impl<const G: usize> PageOf<G> {
    /// A page whose slots were never used.
    pub const EMPTY: Self = {
        assert!(G.is_power_of_two() && G <= MAX_GROUPS);
        Self { groups: [group::NEVER_USED; G] }
    };

    /// Slots of the page.
    pub const SLOTS: usize = group::SLOTS.saturating_mul(G);
    /// Keeps a group's number within the page.
    const MASK: usize = G.saturating_sub(1);

    /// Looks `key` up at `now`; if it is not there, finds the slot where it would go.
    #[must_use]
    #[inline]
    pub fn probe(&self, key: KeyHash, now: Timestamp) -> Probe {
        let home = home(key) & Self::MASK;
        let ticks = State::ticks(now);
        match self.found(home, tag(key), ticks) {
            Some(probe) => probe,
            None => self.search(key, ticks),
        }
    }

    /// Writes `key`'s state to the slot that `probe` found.
    #[inline]
    pub fn write(&mut self, probe: &Probe, key: KeyHash, state: State) {
        if let Some(group) = self.groups.get_mut(probe.group) {
            group::write(group, probe.slot, tag(key), state);
        }
    }

    /// How many entries are live at `now`.
    #[must_use]
    pub fn live(&self, now: Timestamp) -> usize {
        let now = State::ticks(now);
        self.groups.iter().map(|group| Group::new(group).live(now)).sum()
    }

    /// The page as bytes: a version, then its groups.
    pub fn encode(&self, bytes: &mut Vec<u8>) {
        bytes.clear();
        bytes.extend_from_slice(&u64::from(VERSION).to_le_bytes());
        bytes.extend_from_slice(self.groups.as_flattened());
    }

    /// The page of these bytes; `None` when they are of another version or length.
    #[must_use]
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let (version, bytes) = bytes.split_first_chunk::<8>()?;
        let mut page = Self::EMPTY;
        let groups = page.groups.as_flattened_mut();
        if u64::from_le_bytes(*version) != u64::from(VERSION) || groups.len() != bytes.len() {
            return None;
        }
        groups.copy_from_slice(bytes);
        Some(page)
    }

    fn group(&self, group: usize) -> Option<Group<'_>> {
        self.groups.get(group).map(Group::new)
    }

    #[inline]
    fn found(&self, group: usize, tag: u32, now: u64) -> Option<Probe> {
        let (slot, state) = self.group(group)?.find(tag, now)?;
        Some(Probe { group, slot, state: Some(state), displaces: Displaces::Nothing })
    }

    /// Finds a key that is not in its first group, or the slot for a key that is not on the page.
    #[inline(never)]
    fn search(&self, key: KeyHash, now: u64) -> Probe {
        for at in search_order::<G>(key) {
            if let Some(probe) = self.found(at, tag(key), now) {
                return probe;
            }
            // A key goes to the first free slot of its search, so no key that begins here lies beyond a slot that was
            // never used.
            if self.group(at).is_some_and(Group::has_never_used) {
                break;
            }
        }
        self.place(key, now)
    }

    /// The slot for a key that the page does not have: the first free one, or that of the live entry that ranks lowest.
    fn place(&self, key: KeyHash, now: u64) -> Probe {
        let mut probe = Probe { group: 0, slot: 0, state: None, displaces: Displaces::Nothing };
        let mut least = u64::MAX;
        for group in search_order::<G>(key) {
            let Some(entries) = self.group(group) else { continue };
            if let Some((slot, displaces)) = entries.free(now) {
                return Probe { group, slot, displaces, ..probe };
            }
            if let Some((rank, slot, used)) = entries.least(now).filter(|(rank, _, _)| *rank < least) {
                least = rank;
                probe = Probe { group, slot, displaces: Displaces::Live(used), ..probe };
            }
        }
        probe
    }
}

/// The groups of a page in the order of the search for `key`: all of them, beginning with the key's own.
fn search_order<const G: usize>(key: KeyHash) -> impl Iterator<Item = usize> {
    let first = home(key);
    (0..G).map(move |step| first.wrapping_add(step) & PageOf::<G>::MASK)
}

/// The bits that choose the group where a key's search begins.
fn home(key: KeyHash) -> usize {
    (key.get() >> TAG_BITS) as usize
}

/// Zero marks a slot that was never used, so a key with that tag gets the tag one instead.
fn tag(key: KeyHash) -> u32 {
    (key.get() as u32).max(1)
}

/// Groups of one page: 128 slots, two KiB. At the same fill, larger pages forget less, as `tests/bench/flood.rs` shows.
/// Envoy copies two KiB as fast as half a KiB, within the accuracy of measurement.
const GROUPS: usize = 16;
const MAX_GROUPS: usize = 32;
const TAG_BITS: u32 = 32;
/// The bits that choose the page lie above the 32 bits of the tag and the 5 bits of the first group.
const PAGE_SHIFT: u32 = TAG_BITS + MAX_GROUPS.trailing_zeros();
