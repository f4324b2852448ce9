//! Where kept answers lie: slots for their bytes, and pages of an index that says what is in which slot.
//!
//! There are [`PAGES`] pages of [`SLOTS`] slots, whatever the policy, since a host may never give back a name. A key
//! belongs to one page, by its hash; a page has its share of `max_bytes`. Several workers share a shelf without a lock,
//! by compare-and-swap of each value alone, and still **the slots of a page never hold more bytes than its share**:
//!
//! 1. Each entry of the index says how many bytes its slot may hold: its *charge*. A page is published only if its charges
//!    sum up to no more than the share.
//! 2. A worker that is to write a slot reads the slot's token, and then locks the entry in the index, where it sets the
//!    charge to the larger of the old one and what it is to write. It writes with that token.
//! 3. When that has succeeded, and only if the lock is still its own, it unlocks the entry and lowers the charge to what
//!    it has written.
//!
//! So at every moment the charge covers what the slot holds and whatever can still be written to it: somebody who could
//! still write holds a token that nobody has used since, so nobody who locked after him has come to lowering the charge.
//! A worker that dies between leaves a locked entry, which others may lock anew after [`LOCK`], by the same rule.
//!
//! When there is no room, answers go in this order: those that may not be served any more, then those that were kept
//! once, then those that were kept again and again, in each the longest untouched first. An answer is kept anew while
//! clients ask for it, so this is the least recently used; and a flood of addresses that are asked for once drives
//! out itself.

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

/// A value as it was read: its bytes, which are none if nobody has written it, and the token that a change of it must
/// present.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Read {
    /// The bytes.
    pub bytes: Vec<u8>,
    /// The token; `None` if nobody has written the value.
    pub token: Option<u32>,
}

/// The host's shared values.
pub trait Shelf {
    /// Reads a value.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`].
    fn read(&mut self, place: Place) -> Result<Read, StoreError>;

    /// Writes a value, which is never empty, if nobody has written it since `token` was read.
    ///
    /// # Errors
    /// [`StoreError::Conflict`] when somebody has: nothing is written. [`StoreError::Unavailable`].
    fn write(&mut self, place: Place, bytes: &[u8], token: Option<u32>) -> Result<(), StoreError>;
}

/// How many pages there are.
pub const PAGES: u32 = 32;

/// How many answers a page has room for.
pub const SLOTS: usize = 64;

/// After how long a lock is taken to be that of a worker that has died. Locking, writing and unlocking follow each other
/// within microseconds; one that comes later still finds that its token or its lock are no longer good.
pub const LOCK: Span = Span::from_secs(10);

/// An answer that was kept so lately is not kept anew.
pub const REFRESH: Span = Span::from_secs(10);

#[cfg(test)]
mod tests;
