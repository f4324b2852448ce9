//! Pages in this instance's own memory.

use super::{Store, StoreError};
use crate::table::{Page, pages_for};

/// A key table in memory that nobody else changes: publishing always succeeds.
///
/// All of the memory is taken when the first page is used, and it never grows.
#[derive(Debug)]
pub struct MemoryStore {
    count: u32,
    pages: Vec<Page>,
}

impl MemoryStore {
    /// A table for `max_keys` live keys.
    #[must_use]
    pub fn new(max_keys: u32) -> Self {
        Self { count: pages_for(max_keys), pages: Vec::new() }
    }

    fn page(&mut self, page: u32) -> Result<&mut Page, StoreError> {
        if page as usize >= self.pages.len() {
            self.take_memory();
        }
        self.pages.get_mut(page as usize).ok_or(StoreError::Unavailable)
    }

    #[cold]
    #[inline(never)]
    fn take_memory(&mut self) {
        self.pages.resize(self.count as usize, Page::EMPTY);
    }
}

impl Store for MemoryStore {
    fn pages(&self) -> u32 {
        self.count
    }

    fn begin(&mut self) {}

    fn read(&mut self, page: u32) -> Result<&Page, StoreError> {
        self.page(page).map(|page| &*page)
    }

    fn write(&mut self, page: u32) -> Result<&mut Page, StoreError> {
        self.page(page)
    }

    fn publish(&mut self, _page: u32) -> Result<(), StoreError> {
        Ok(())
    }
}
