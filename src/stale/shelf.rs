//! Where kept responses are stored: slots for their bytes, and pages of an index that says what is in each slot.
//!
//! There are [`PAGES`] pages of [`SLOTS`] slots under every policy, because a host may never free the name of a value.
//! A key belongs to one page, by its hash, and each page has an equal share of `max_bytes`. Several workers use a shelf
//! without a lock, only by compare-and-swap of single values. Still **the slots of a page never hold more bytes than
//! its share**:
//!
//! 1. Each entry of the index has a *charge*: the number of bytes that its slot may hold. A page is published only if
//!    the sum of its charges is within its share.
//! 2. To write a slot, a worker reads the slot's token, and then locks the entry in the index. In the same step it
//!    raises the charge to the size of what it will write, if that is larger. Then it writes with that token.
//! 3. After the write has succeeded, and only if the lock is still its own, it unlocks the entry and lowers the charge
//!    to the size of what it has written.
//!
//! So the charge always covers what the slot holds and whatever can still be written to it. A worker that can still
//! write holds a token that has not been used since, so no worker that locked the entry later has lowered the charge.
//!
//! If there is no room, responses are evicted in this order: those that may not be served any more, then those that
//! were kept once, then those that were kept repeatedly. Within each group the one untouched for longest goes first. A
//! response is kept again while clients ask for it, so this is the least recently used one. A flood of URLs that are
//! each requested once only evicts itself.

mod keep;
mod page;

pub use keep::{Kept, find, is_wanted, keep, trim};
pub use page::{Page, VERSION};

use crate::store::StoreError;
use crate::units::Span;

/// A value that workers share.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Place {
    /// A page of the index.
    Page(u32),
    /// A slot of a page.
    Slot(u32, u32),
}

/// A value as it was read: its bytes, empty if it was never written, and the token that a write must present.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Read {
    /// The bytes.
    pub bytes: Vec<u8>,
    /// The token; `None` if the value was never written.
    pub token: Option<u32>,
}

/// The host's shared values.
pub trait Shelf {
    /// Reads a value.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`].
    fn read(&mut self, place: Place) -> Result<Read, StoreError>;

    /// Writes a value, which is never empty, unless it was written since `token` was read.
    ///
    /// # Errors
    /// [`StoreError::Conflict`] if it was; nothing is written then. [`StoreError::Unavailable`].
    fn write(&mut self, place: Place, bytes: &[u8], token: Option<u32>) -> Result<(), StoreError>;
}

/// The number of pages.
pub const PAGES: u32 = 32;

/// The number of slots of a page.
pub const SLOTS: usize = 64;

/// The age at which a lock is taken for that of a dead worker. Locking, writing and unlocking take microseconds. A
/// worker that comes back later finds that its token or its lock is no longer valid.
pub const LOCK: Span = Span::from_secs(10);

/// A response that was kept within this time is not kept again.
pub const REFRESH: Span = Span::from_secs(10);

#[cfg(test)]
mod tests;
