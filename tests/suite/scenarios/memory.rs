//! The kept responses in this process's memory, in place of a host's shared store.

use std::collections::HashMap;

use tidegate::stale::Shelf;
use tidegate::stale::shelf::{Place, Read};
use tidegate::store::StoreError;

/// Kept responses.
#[derive(Debug, Default)]
pub struct KeptAnswers(HashMap<Place, Read>);

impl Shelf for KeptAnswers {
    fn read(&mut self, place: Place) -> Result<Read, StoreError> {
        Ok(self.0.get(&place).cloned().unwrap_or_default())
    }

    fn write(&mut self, place: Place, bytes: &[u8], token: Option<u32>) -> Result<(), StoreError> {
        let value = self.0.entry(place).or_default();
        if value.token != token {
            return Err(StoreError::Conflict);
        }
        *value = Read { bytes: bytes.to_vec(), token: Some(token.map_or(0, |token| token + 1)) };
        Ok(())
    }
}
