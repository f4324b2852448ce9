//! State as data: pages of the key table that are read, changed and published by compare-and-swap.
//!
//! A decision works on what a store has read. Publishing a page succeeds only if nobody else has published it since;
//! otherwise the engine reads again and decides again, a bounded number of times.

pub mod memory;
pub mod redis;
pub mod rls;

use crate::table::Page;
use core::fmt;

/// Where pages live.
///
/// A round is: [`begin`](Store::begin), then reads and writes, then one [`publish`](Store::publish) for each page written.
pub trait Store {
    /// How many pages there are, at least one. Constant.
    fn pages(&self) -> u32;

    /// Begins a round: the next read of each page sees what others have published since the last one.
    fn begin(&mut self);

    /// The page with this number, as it stands in this round. A page that was never published is empty.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] or [`StoreError::Corrupt`].
    fn read(&mut self, page: u32) -> Result<&Page, StoreError>;

    /// The same page, to be changed.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] or [`StoreError::Corrupt`].
    fn write(&mut self, page: u32) -> Result<&mut Page, StoreError>;

    /// Publishes what was written to the page in this round. Asked again in the same round, it answers the same.
    ///
    /// # Errors
    /// [`StoreError::Conflict`] if somebody else has published the page since it was read: nothing is published then.
    /// [`StoreError::Unavailable`] if the store cannot be reached.
    fn publish(&mut self, page: u32) -> Result<(), StoreError>;
}

/// Why state could not be read or published.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StoreError {
    /// Somebody else published the page first.
    Conflict,
    /// The store cannot be reached, or it refused.
    Unavailable,
    /// The bytes are not a page, or a page of an unknown version.
    Corrupt,
}

impl fmt::Display for StoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Conflict => "another instance kept changing the state",
            Self::Unavailable => "the state cannot be reached",
            Self::Corrupt => "the state is damaged or of an unknown version",
        })
    }
}

impl core::error::Error for StoreError {}

/// How often a request is decided again after conflicts. Each conflict means that another worker got through, so with
/// eight workers on one page, a request that fails 32 times has been overtaken by each of the others four times.
pub const MAX_ROUNDS: u32 = 32;
