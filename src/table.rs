//! The key table: what every client has used, in memory that never grows.
//!
//! The table is set-associative. A key's hash chooses one [`Page`] of [`SLOTS`] slots and the slot in it where the search
//! begins; a slot holds 32 more bits of the hash and the client's [`State`], 16 bytes in all. A search ends at the key, at
//! a slot that was never used, or where it began.
//!
//! When a new key finds no free slot, one is taken, in this order:
//!
//! 1. an entry that equals a fresh one by now (its window has passed, its bucket is full): nothing is lost;
//! 2. the live entry with the smallest used share of its quota, of those the one that would be fresh first.
//!
//! So heavy clients are the last to go: whoever wants his own count forgotten must bring 31 other keys of his page
//! nearer to their quotas than he is to his, without knowing (the hash is keyed) which keys those are. The new key
//! starts fresh. Evictions of live entries, and what share of a quota each forgave, are counted.

mod survey;

pub use survey::Survey;

use crate::key::KeyHash;
use crate::limiter::{State, UsedShare};
use crate::units::Timestamp;

/// Slots of one page. 32 of 16 bytes are half a KiB: what Envoy copies in and out of its shared data as fast as a word.
pub const SLOTS: usize = 32;

/// How many pages hold `max_keys` live keys: at three quarters full on average, few pages overflow.
#[must_use]
pub fn pages_for(max_keys: u32) -> u32 {
    let slots = u64::from(max_keys).saturating_mul(4).div_ceil(3);
    u32::try_from(slots.div_ceil(SLOTS as u64)).unwrap_or(u32::MAX).max(1)
}

/// Which page of how many a key lives on.
#[must_use]
pub fn page_of(key: KeyHash, pages: u32) -> u32 {
    // The topmost bits, scaled; the tag takes the lowest and the first slot those between.
    let scaled = (key.get() >> PAGE_SHIFT).saturating_mul(u64::from(pages)) >> (u64::BITS - PAGE_SHIFT);
    u32::try_from(scaled).unwrap_or(0)
}

/// A fixed number of slots, read and written as one value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page {
    slots: [Slot; SLOTS],
}

/// Where a key is, or where it would go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Probe {
    slot: usize,
    state: Option<State>,
    displaces: Displaces,
}

impl Probe {
    /// The key's state; `None` when the table does not know the key.
    #[must_use]
    pub fn state(&self) -> Option<State> {
        self.state
    }

    /// What writing to this place does to the entry that is there.
    #[must_use]
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

impl Page {
    /// A page whose slots were never used.
    pub const EMPTY: Self = Self { slots: [Slot::NEVER_USED; SLOTS] };

    /// Looks `key` up at `now`, and finds where it would go if it is not there.
    #[must_use]
    pub fn probe(&self, key: KeyHash, now: Timestamp) -> Probe {
        let tag = tag(key);
        let now = State::ticks(now);
        for at in search_order(key) {
            let Some(slot) = self.slots.get(at) else { continue };
            if slot.is_never_used() {
                break;
            }
            if slot.tag() == tag {
                return Probe { slot: at, state: Some(slot.state(now)), displaces: Displaces::Nothing };
            }
        }
        self.place(key, now)
    }

    /// Where a key goes that the page does not have.
    fn place(&self, key: KeyHash, now: u64) -> Probe {
        let mut place = Place { slot: 0, rank: u64::MAX, displaces: Displaces::Nothing };
        for at in search_order(key) {
            let Some(slot) = self.slots.get(at) else { continue };
            if slot.is_never_used() {
                place.offer(at, 0, Displaces::Nothing);
                break;
            }
            match u32::try_from(slot.ticks_to_fresh(now)) {
                Ok(ahead) if ahead > 0 => {
                    let rank = (u64::from(slot.used().get()) << 32) | u64::from(ahead);
                    place.offer(at, rank, Displaces::Live(slot.used()));
                }
                _ => {
                    place.offer(at, 0, Displaces::Fresh);
                    break;
                }
            }
        }
        Probe { slot: place.slot, state: None, displaces: place.displaces }
    }

    /// Writes `key`'s state where `probe` found its place.
    pub fn write(&mut self, probe: &Probe, key: KeyHash, state: State) {
        if let Some(slot) = self.slots.get_mut(probe.slot) {
            *slot = Slot::new(tag(key), state);
        }
    }

    /// How many entries are live at `now`.
    #[must_use]
    pub fn live(&self, now: Timestamp) -> usize {
        let now = State::ticks(now);
        self.slots.iter().filter(|slot| !slot.is_never_used() && slot.ticks_to_fresh(now) > 0).count()
    }

    /// The page as bytes: a version, then each slot as two little-endian words.
    pub fn encode(&self, bytes: &mut Vec<u8>) {
        bytes.clear();
        bytes.extend_from_slice(&VERSION.to_le_bytes());
        for slot in &self.slots {
            bytes.extend_from_slice(&slot.high.to_le_bytes());
            bytes.extend_from_slice(&slot.low.to_le_bytes());
        }
    }

    /// The page of these bytes; `None` when they are of another version or length.
    #[must_use]
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let (version, slots) = bytes.split_first_chunk::<8>()?;
        if u64::from_le_bytes(*version) != VERSION || slots.len() != SLOTS * Slot::BYTES {
            return None;
        }
        let mut page = Self::EMPTY;
        for (slot, bytes) in page.slots.iter_mut().zip(slots.chunks_exact(Slot::BYTES)) {
            let (high, low) = bytes.split_first_chunk::<8>()?;
            let low = low.first_chunk::<8>()?;
            *slot = Slot { high: u64::from_le_bytes(*high), low: u64::from_le_bytes(*low) };
        }
        Some(page)
    }
}

/// `high`: 32 bits of the key's hash, then `fresh_at` in ticks modulo 2^32, which is unambiguous
/// within 208 days either way. `low`: the used share, then the payload. All zero when never used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Slot {
    high: u64,
    low: u64,
}

impl Slot {
    const NEVER_USED: Self = Self { high: 0, low: 0 };
    const BYTES: usize = 16;

    fn new(tag: u32, state: State) -> Self {
        let fresh_at = State::ticks(state.fresh_at()) & u64::from(u32::MAX);
        Self {
            high: (u64::from(tag) << 32) | fresh_at,
            low: (u64::from(state.used().get()) << PAYLOAD_BITS) | state.payload(),
        }
    }

    fn is_never_used(&self) -> bool {
        self.high == 0 && self.low == 0
    }

    fn tag(&self) -> u32 {
        (self.high >> 32) as u32
    }

    /// Ticks from `now` until the entry equals a fresh one; nothing or less when it already does.
    fn ticks_to_fresh(&self, now: u64) -> i32 {
        (self.high as u32).wrapping_sub(now as u32).cast_signed()
    }

    fn used(&self) -> UsedShare {
        UsedShare::from_byte((self.low >> PAYLOAD_BITS) as u8)
    }

    fn state(&self, now: u64) -> State {
        let fresh_at = now.saturating_add_signed(i64::from(self.ticks_to_fresh(now)));
        State::new(State::from_ticks(fresh_at), self.used(), self.low)
    }
}

/// The best place found so far for a new key: the first of the lowest rank. A free slot ranks zero.
struct Place {
    slot: usize,
    rank: u64,
    displaces: Displaces,
}

impl Place {
    fn offer(&mut self, slot: usize, rank: u64, displaces: Displaces) {
        if rank < self.rank {
            *self = Self { slot, rank, displaces };
        }
    }
}

/// The slots of a page in the order in which `key` is searched for: all of them, from the key's own first one.
fn search_order(key: KeyHash) -> impl Iterator<Item = usize> {
    let first = (key.get() >> TAG_BITS) as usize;
    (0..SLOTS).map(move |step| first.wrapping_add(step) & (SLOTS - 1))
}

fn tag(key: KeyHash) -> u32 {
    key.get() as u32
}

const VERSION: u64 = 1;
const TAG_BITS: u32 = 32;
const PAYLOAD_BITS: u32 = 56;
/// The tag's 32 bits and the first slot's 5 lie below those that choose the page.
const PAGE_SHIFT: u32 = TAG_BITS + SLOTS.trailing_zeros();
const _: () = assert!(SLOTS.is_power_of_two());
