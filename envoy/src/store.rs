//! The key table in Envoy's shared data, one value per page, so that all workers count together.
//!
//! Shared data outlives a VM and a policy, and is gone when the last VM of its `vm_id` ends. Envoy never frees a key,
//! so pages are fixed and few.

use crate::host::{self, HostError};
use tidegate::store::{Store, StoreError};
use tidegate::table::{Page, VERSION, pages_for};

/// The pages that the current decision has read.
pub struct SharedStore {
    count: u32,
    read: Vec<ReadPage>,
    bytes: Vec<u8>,
}

struct ReadPage {
    number: u32,
    page: Page,
    /// The token that the page was read with; `None` if it was never published.
    cas: Option<u32>,
    published: Option<Result<(), StoreError>>,
}

impl SharedStore {
    /// A table for `max_keys` live keys.
    pub fn new(max_keys: u32) -> Self {
        Self { count: pages_for(max_keys), read: Vec::new(), bytes: Vec::new() }
    }

    fn page(&mut self, number: u32) -> Result<&mut ReadPage, StoreError> {
        let at = match self.read.iter().position(|read| read.number == number) {
            Some(at) => at,
            None => {
                self.read.push(ReadPage::fetch(number)?);
                self.read.len().saturating_sub(1)
            }
        };
        self.read.get_mut(at).ok_or(StoreError::Unavailable)
    }
}

impl Store for SharedStore {
    fn pages(&self) -> u32 {
        self.count
    }

    fn begin(&mut self) {
        self.read.clear();
    }

    fn read(&mut self, page: u32) -> Result<&Page, StoreError> {
        self.page(page).map(|read| &read.page)
    }

    fn write(&mut self, page: u32) -> Result<&mut Page, StoreError> {
        self.page(page).map(|read| &mut read.page)
    }

    fn publish(&mut self, page: u32) -> Result<(), StoreError> {
        let Some(read) = self.read.iter_mut().find(|read| read.number == page) else { return Ok(()) };
        if let Some(answer) = read.published {
            return answer;
        }
        read.page.encode(&mut self.bytes);
        let answer = host::set_shared(&key(page), &self.bytes, read.cas).map_err(|error| match error {
            HostError::CAS_MISMATCH => StoreError::Conflict,
            _ => StoreError::Unavailable,
        });
        read.published = Some(answer);
        answer
    }
}

impl ReadPage {
    fn fetch(number: u32) -> Result<Self, StoreError> {
        let value = host::shared(&key(number)).map_err(|_| StoreError::Unavailable)?;
        let (page, cas) = match value {
            None => (Page::EMPTY, None),
            Some(value) => (Page::decode(&value.bytes).ok_or(StoreError::Corrupt)?, Some(value.cas)),
        };
        Ok(Self { number, page, cas, published: None })
    }
}

/// The key of a page in shared data. Shared data outlives the filter's code. The format version is part of the key, so
/// a new version starts with an empty table instead of unreadable pages.
fn key(page: u32) -> [u8; 8] {
    let [a, b, c, d] = page.to_le_bytes();
    [b't', b'g', b'p', VERSION, a, b, c, d]
}
