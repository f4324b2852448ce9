//! Kept responses in Envoy's shared data, which all workers share and which outlives a VM.

use crate::host::{self, HostError};
use tidegate::stale::Shelf;
use tidegate::stale::shelf::{Place, Read, VERSION};
use tidegate::store::StoreError;

/// Shared data as a shelf. Envoy never frees a key, so the number of places is fixed.
pub struct SharedShelf;

impl Shelf for SharedShelf {
    fn read(&mut self, place: Place) -> Result<Read, StoreError> {
        match host::shared(&key(place)) {
            Ok(Some(value)) => Ok(Read { bytes: value.bytes, token: Some(value.cas) }),
            Ok(None) => Ok(Read::default()),
            Err(_) => Err(StoreError::Unavailable),
        }
    }

    fn write(&mut self, place: Place, bytes: &[u8], token: Option<u32>) -> Result<(), StoreError> {
        host::set_shared(&key(place), bytes, token).map_err(|error| match error {
            HostError::CAS_MISMATCH => StoreError::Conflict,
            _ => StoreError::Unavailable,
        })
    }
}

/// The key of a place in shared data. As for the pages of the key table, it contains the version of the format: after a
/// change of the format, keeping begins anew instead of finding only corrupt pages.
fn key(place: Place) -> [u8; 12] {
    let (kind, page, slot) = match place {
        Place::Page(page) => (b'i', page, 0),
        Place::Slot(page, slot) => (b'k', page, slot),
    };
    let ([a, b, c, d], [e, f, g, h]) = (page.to_le_bytes(), slot.to_le_bytes());
    [b't', b'g', MARK, kind, a, b, c, d, e, f, g, h]
}

/// A slash in version 1.
const MARK: u8 = b'.'.wrapping_add(VERSION as u8);
