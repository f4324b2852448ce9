//! The key table: what every client has used, in memory that never grows.
//!
//! The table is set-associative. A key's hash chooses one [`Page`], and in it the group of eight slots
//! where the search begins; a slot holds 32 more bits of the hash and the client's [`State`], 16 bytes in all. A search
//! ends at the key, at a group with a slot that was never used, or when it has seen the whole page. Nearly always it ends
//! in the first group, which is two cache lines.
//!
//! When a new key finds no slot that was never used, one is taken, in this order:
//!
//! 1. an entry that equals a fresh one by now (its window has passed, its bucket is full): nothing is lost;
//! 2. the live entry with the smallest used share of its quota, of those the one that would be fresh first.
//!
//! So heavy clients are the last to go: whoever wants his own count forgotten must bring all other keys of his page
//! nearer to their quotas than he is to his, without knowing (the hash is keyed) which keys those are. The new key
//! starts fresh. Evictions of live entries, and what share of a quota each forgave, are counted.

mod group;
mod survey;

pub use survey::Survey;

use crate::key::KeyHash;
use crate::limiter::{State, UsedShare};
use crate::units::Timestamp;
use group::Group;

/// Slots of one [`Page`].
pub const SLOTS: usize = Page::SLOTS;

/// The version of a page's bytes, the first of them.
pub const VERSION: u8 = 2;

/// How many pages hold `max_keys` live keys. At nine tenths full on average some pages overflow and forget those who have
/// used the least: `tests/bench/flood.rs` shows how many, for this size of page and others.
#[must_use]
pub fn pages_for(max_keys: u32) -> u32 {
    let slots = u64::from(max_keys).saturating_mul(10).div_ceil(9);
    u32::try_from(slots.div_ceil(SLOTS as u64)).unwrap_or(u32::MAX).max(1)
}

/// Which page of how many a key lives on.
#[must_use]
#[inline]
pub fn page_of(key: KeyHash, pages: u32) -> u32 {
    // The topmost bits, scaled; the tag takes the lowest and the first group those between.
    let scaled = (key.get() >> PAGE_SHIFT).saturating_mul(u64::from(pages)) >> (u64::BITS - PAGE_SHIFT);
    u32::try_from(scaled).unwrap_or(0)
}

/// A fixed number of slots, read and written as one value.
pub type Page = PageOf<GROUPS>;

/// A page of `G` groups, a power of two: [`Page`] is the one that the stores keep, benchmarks compare it with others.
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

    /// What writing to this place does to the entry that is there.
    #[must_use]
    #[inline]
    pub fn displaces(&self) -> Displaces {
        self.displaces
    }
}

/// What a write displaces.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Displaces {
    /// Nothing: the key's own entry, or a slot never used.
    Nothing,
    /// An entry that equals a fresh one.
    Fresh,
    /// A live entry, with the share of its quota that is forgiven.
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
    /// What keeps a group's number within the page.
    const MASK: usize = G.saturating_sub(1);

    /// Looks `key` up at `now`, and finds where it would go if it is not there.
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

    /// Writes `key`'s state where `probe` found its place.
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

    /// Finds a key that is not in its first group, or the place for one that is not there at all.
    #[inline(never)]
    fn search(&self, key: KeyHash, now: u64) -> Probe {
        for at in search_order::<G>(key) {
            if let Some(probe) = self.found(at, tag(key), now) {
                return probe;
            }
            // Keys go to the first free slot: none that begins here has gone on beyond a slot never used.
            if self.group(at).is_some_and(Group::has_never_used) {
                break;
            }
        }
        self.place(key, now)
    }

    /// Where a key goes that the page does not have: to the first free slot, or in place of the live entry that matters
    /// least.
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

/// The groups of a page in the order in which `key` is searched for: all of them, from the key's own first one.
fn search_order<const G: usize>(key: KeyHash) -> impl Iterator<Item = usize> {
    let first = home(key);
    (0..G).map(move |step| first.wrapping_add(step) & PageOf::<G>::MASK)
}

/// The bits that choose the group where a key's search begins.
fn home(key: KeyHash) -> usize {
    (key.get() >> TAG_BITS) as usize
}

/// Zero is the tag of a slot never used: the keys that would have it share another's.
fn tag(key: KeyHash) -> u32 {
    (key.get() as u32).max(1)
}

/// Groups of one page: 128 slots, two KiB. Larger pages forget less at the same fill, as `tests/bench/flood.rs` shows, and
/// Envoy copies two KiB as fast as half a KiB, to within what can be measured.
const GROUPS: usize = 16;
const MAX_GROUPS: usize = 32;
const TAG_BITS: u32 = 32;
/// The tag's 32 bits and the first group's 5 lie below those that choose the page.
const PAGE_SHIFT: u32 = TAG_BITS + MAX_GROUPS.trailing_zeros();
