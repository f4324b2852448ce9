//! Keeping a response, finding one, and making room.

use super::super::AnswerKey;
use super::page::Move;
use super::{PAGES, Page, Place, REFRESH, SLOTS, Shelf};
use crate::store::{MAX_ROUNDS, StoreError};
use crate::units::{Span, Timestamp};

/// The result of keeping a response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kept {
    /// The response is kept.
    Stored {
        /// The number of responses that were evicted for it.
        evicted: u32,
    },
    /// Another worker was keeping the same response.
    Busy,
    /// There is no room for it.
    NoRoom,
}

/// Whether a response with this key should be kept: there is none, or it was kept longer ago than [`REFRESH`] or a
/// tenth of `stale`, whichever is less.
///
/// # Errors
/// [`StoreError::Unavailable`] or [`StoreError::Corrupt`].
pub fn is_wanted<S: Shelf>(shelf: &mut S, key: AnswerKey, stale: Span, now: Timestamp) -> Result<bool, StoreError> {
    let page = Page::decode(&shelf.read(Place::Page(key.page(PAGES)))?.bytes)?;
    let refresh = REFRESH.min(Span::from_nanos(stale.as_nanos() / 10));
    Ok(page.find(key).is_none_or(|(_, entry)| !entry.is_younger_than(refresh, now)))
}

/// The bytes that may be the record of this key; [`Record::decode`](super::super::record::Record::decode) decides.
///
/// # Errors
/// [`StoreError::Unavailable`] or [`StoreError::Corrupt`].
pub fn find<S: Shelf>(shelf: &mut S, key: AnswerKey) -> Result<Option<Vec<u8>>, StoreError> {
    let number = key.page(PAGES);
    let page = Page::decode(&shelf.read(Place::Page(number))?.bytes)?;
    match page.find(key) {
        Some((slot, _)) => Ok(Some(shelf.read(place(number, slot))?.bytes)),
        None => Ok(None),
    }
}

/// Keeps a record under its key. All records together never exceed `max_bytes`.
///
/// # Errors
/// [`StoreError::Conflict`] if other workers were first in every round. After any error, kept responses are undamaged
/// and the bound holds.
pub fn keep<S: Shelf>(
    shelf: &mut S,
    key: AnswerKey,
    record: &[u8],
    until: Timestamp,
    now: Timestamp,
    max_bytes: u32,
) -> Result<Kept, StoreError> {
    let number = key.page(PAGES);
    let share = u64::from(max_bytes / PAGES);
    let Ok(size) = u32::try_from(record.len()) else { return Ok(Kept::NoRoom) };
    let mut evicted = 0_u32;
    for _ in 0..MAX_ROUNDS {
        let read = shelf.read(Place::Page(number))?;
        let mut page = Page::decode(&read.bytes)?;
        match page.plan(key, size, share, now) {
            Move::Busy => return Ok(Kept::Busy),
            Move::NoRoom => return Ok(Kept::NoRoom),
            Move::Empty(slots) => match empty(shelf, number, page, read.token, &slots, now) {
                Ok(emptied) => evicted = evicted.saturating_add(emptied),
                Err(StoreError::Conflict) => {}
                Err(error) => return Err(error),
            },
            Move::Fill(slot) => {
                // The token must be read before the lock is taken: see `shelf`.
                let token = shelf.read(place(number, slot))?.token;
                let lock = page.lock_to_fill(slot, key, size, until, now);
                match shelf.write(Place::Page(number), &page.encode(), read.token) {
                    Err(StoreError::Conflict) => continue,
                    published => published?,
                }
                shelf.write(place(number, slot), record, token)?;
                unlock(shelf, number, &[slot], lock, size)?;
                return Ok(Kept::Stored { evicted });
            }
        }
    }
    Err(StoreError::Conflict)
}

/// Reduces every page to its share of `max_bytes`, after a policy has lowered it.
///
/// # Errors
/// The last error of any page; the other pages have still been trimmed.
pub fn trim<S: Shelf>(shelf: &mut S, max_bytes: u32, now: Timestamp) -> Result<(), StoreError> {
    let share = u64::from(max_bytes / PAGES);
    let mut result = Ok(());
    for number in 0..PAGES {
        for _ in 0..MAX_ROUNDS {
            let trimmed = shelf.read(Place::Page(number)).and_then(|read| {
                let page = Page::decode(&read.bytes)?;
                let slots = page.excess(share, now);
                if slots.is_empty() { Ok(0) } else { empty(shelf, number, page, read.token, &slots, now) }
            });
            match trimmed {
                Err(StoreError::Conflict) => {}
                Err(error) => {
                    result = Err(error);
                    break;
                }
                Ok(_) => break,
            }
        }
    }
    result
}

/// Empties slots of a page that was read with `token`, and returns how many were emptied.
fn empty<S: Shelf>(
    shelf: &mut S,
    number: u32,
    mut page: Page,
    token: Option<u32>,
    slots: &[usize],
    now: Timestamp,
) -> Result<u32, StoreError> {
    let mut tokens = Vec::with_capacity(SLOTS);
    for slot in slots {
        tokens.push((*slot, shelf.read(place(number, *slot))?.token));
    }
    let lock = page.lock_to_empty(slots, now);
    shelf.write(Place::Page(number), &page.encode(), token)?;
    let mut emptied = Vec::with_capacity(SLOTS);
    for (slot, token) in tokens {
        match shelf.write(place(number, slot), EMPTIED, token) {
            Ok(()) => emptied.push(slot),
            // A delayed worker has written to the slot. It stays locked and charged until the lock is old enough for
            // another try.
            Err(StoreError::Conflict) => {}
            Err(error) => return Err(error),
        }
    }
    unlock(shelf, number, &emptied, lock, 0)?;
    Ok(u32::try_from(emptied.len()).unwrap_or(u32::MAX))
}

/// Unlocks slots that now hold this many bytes.
fn unlock<S: Shelf>(shelf: &mut S, number: u32, slots: &[usize], lock: u32, bytes: u32) -> Result<(), StoreError> {
    for _ in 0..MAX_ROUNDS {
        let read = shelf.read(Place::Page(number))?;
        let mut page = Page::decode(&read.bytes)?;
        for slot in slots {
            page.unlock(*slot, lock, bytes);
        }
        match shelf.write(Place::Page(number), &page.encode(), read.token) {
            Err(StoreError::Conflict) => {}
            published => return published,
        }
    }
    Err(StoreError::Conflict)
}

fn place(page: u32, slot: usize) -> Place {
    Place::Slot(page, u32::try_from(slot).unwrap_or(u32::MAX))
}

/// The content of an empty slot: one byte, which is never a record. Hosts do not distinguish an empty value from a
/// missing one.
const EMPTIED: &[u8] = &[0];
