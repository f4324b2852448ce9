//! Eight adjacent slots of a page: what a lookup touches.
//!
//! The tags of all eight, and the times at which they are fresh again, fill one cache line; the rest of their states
//! fills the next one. All tags are compared at once and without a branch. So the processor predicts the path whichever
//! slot holds the key, and starts the next decision while this one still waits for memory.
//!
//! A group is kept as the bytes that are published, so a page of any size is read and published by copying it.

use super::Displaces;
use crate::limiter::{State, UsedShare};
use core::hint::black_box;

/// Slots of one group: as many tags and times as fill a cache line of 64 bytes.
pub(super) const SLOTS: usize = 8;

/// Eight tags, then eight times, then eight rests, all little-endian. A tag of zero marks a slot that was never used. A
/// time is when the entry is fresh, in ticks modulo 2^32, which is unambiguous within 208 days either way. A rest is
/// the used share in its topmost byte, and the payload below it.
pub(super) type Bytes = [u8; SLOTS * 16];

/// A group that was never used.
pub(super) const NEVER_USED: Bytes = [0; SLOTS * 16];

/// A read-only view of a group.
#[derive(Clone, Copy)]
pub(super) struct Group<'a> {
    tags: &'a [[u8; 4]],
    fresh_at: &'a [[u8; 4]],
    rest: &'a [[u8; 8]],
}

impl<'a> Group<'a> {
    #[inline]
    pub(super) fn new(bytes: &'a Bytes) -> Self {
        let (tags, others) = bytes.split_at(TAGS_END);
        let (fresh_at, rest) = others.split_at(TAGS_END);
        Self { tags: tags.as_chunks().0, fresh_at: fresh_at.as_chunks().0, rest: rest.as_chunks().0 }
    }

    /// The slot with this tag, and its state.
    #[inline]
    pub(super) fn find(self, tag: u32, now: u64) -> Option<(usize, State)> {
        // Starts to load the cache line of the rests while the tags are compared. Otherwise the load would wait for the
        // slot.
        black_box(self.rest.first().copied().unwrap_or_default());
        let mut same = [0; SLOTS];
        for ((same, other), bit) in same.iter_mut().zip(self.tags).zip(BITS) {
            *same = if u32::from_le_bytes(*other) == tag { bit } else { 0 };
        }
        let same = same.into_iter().fold(0_u32, |all, one| all | one);
        // If no tag matches, this is beyond the last slot.
        let slot = (same.trailing_zeros() as usize).wrapping_sub(1);
        let fresh_at = u32::from_le_bytes(*self.fresh_at.get(slot)?);
        let rest = u64::from_le_bytes(*self.rest.get(slot)?);
        // Cannot overflow: a time has 41 bits of ticks.
        let fresh_at = now.cast_signed().wrapping_add(i64::from(ticks_to_fresh(fresh_at, now))).max(0);
        Some((slot, State::at_ticks(fresh_at.cast_unsigned(), used(rest), rest)))
    }

    /// Whether a slot was never used. No key that begins in this group lies beyond such a slot.
    pub(super) fn has_never_used(self) -> bool {
        self.slots().any(|(tag, _, _)| tag == NO_TAG)
    }

    /// The first slot that was never used, or whose entry equals a fresh one.
    pub(super) fn free(self, now: u64) -> Option<(usize, Displaces)> {
        let mut slots = self.slots().enumerate();
        let (slot, (tag, _, _)) = slots.find(|(_, (tag, fresh_at, _))| !is_live(*tag, *fresh_at, now))?;
        Some((slot, if tag == NO_TAG { Displaces::Nothing } else { Displaces::Fresh }))
    }

    /// The lowest-ranked of slots that are all live: its rank, the slot, and the share that it would forgive. A rank is
    /// lower for a smaller used share, and for an equal share if the entry is fresh earlier.
    pub(super) fn least(self, now: u64) -> Option<(u64, usize, UsedShare)> {
        let ranks = self.slots().enumerate().map(|(slot, (_, fresh_at, rest))| {
            let ahead = u64::from(fresh_at.wrapping_sub(now as u32));
            ((u64::from(used(rest).get()) << u32::BITS) | ahead, slot, used(rest))
        });
        ranks.min_by_key(|(rank, _, _)| *rank)
    }

    /// How many entries are live.
    pub(super) fn live(self, now: u64) -> usize {
        self.slots().filter(|(tag, fresh_at, _)| is_live(*tag, *fresh_at, now)).count()
    }

    fn slots(self) -> impl Iterator<Item = (u32, u32, u64)> + 'a {
        let slots = self.tags.iter().zip(self.fresh_at).zip(self.rest);
        slots.map(|((tag, fresh_at), rest)| {
            (u32::from_le_bytes(*tag), u32::from_le_bytes(*fresh_at), u64::from_le_bytes(*rest))
        })
    }
}

/// Writes one slot of a group.
#[inline]
pub(super) fn write(bytes: &mut Bytes, slot: usize, tag: u32, state: State) {
    let (tags, others) = bytes.split_at_mut(TAGS_END);
    let (fresh_at, rest) = others.split_at_mut(TAGS_END);
    let slots = (tags.as_chunks_mut().0.get_mut(slot), fresh_at.as_chunks_mut().0.get_mut(slot));
    if let ((Some(own), Some(fresh_at)), Some(rest)) = (slots, rest.as_chunks_mut().0.get_mut(slot)) {
        *own = tag.to_le_bytes();
        *fresh_at = (state.fresh_at_ticks() as u32).to_le_bytes();
        *rest = ((u64::from(state.used().get()) << PAYLOAD_BITS) | state.payload()).to_le_bytes();
    }
}

fn is_live(tag: u32, fresh_at: u32, now: u64) -> bool {
    tag != NO_TAG && ticks_to_fresh(fresh_at, now) > 0
}

/// Ticks from `now` until an entry equals a fresh one; zero or negative if it already does.
fn ticks_to_fresh(fresh_at: u32, now: u64) -> i32 {
    fresh_at.wrapping_sub(now as u32).cast_signed()
}

fn used(rest: u64) -> UsedShare {
    UsedShare::from_byte((rest >> PAYLOAD_BITS) as u8)
}

/// The tag of a slot that was never used.
const NO_TAG: u32 = 0;
const TAGS_END: usize = SLOTS * 4;
const PAYLOAD_BITS: u32 = 56;
/// A bit for each slot. Bit 0 is left out: with it, the compiler would treat the first slot unlike the others, and
/// compare it separately.
const BITS: [u32; SLOTS] = [2, 4, 8, 16, 32, 64, 128, 256];
