//! What workers share, in this process's memory, for a host that is none.

use std::collections::HashMap;

use tidegate::breaker::{Ledger, Part};
use tidegate::fallback::Ledgers;
use tidegate::stale::Shelf;
use tidegate::stale::shelf::{Place, Read};
use tidegate::store::StoreError;

/// The records of breakers.
#[derive(Debug, Default)]
pub struct BreakerRecords {
    parts: HashMap<(String, Part), Vec<u8>>,
    at: String,
}

impl Ledgers for BreakerRecords {
    fn of(&mut self, identity: &str) -> &mut impl Ledger {
        identity.clone_into(&mut self.at);
        self
    }
}

impl Ledger for BreakerRecords {
    fn read(&mut self, part: Part) -> Result<Option<&[u8]>, StoreError> {
        Ok(self.parts.get(&(self.at.clone(), part)).map(Vec::as_slice))
    }

    fn publish(&mut self, part: Part, bytes: &[u8]) -> Result<(), StoreError> {
        self.parts.insert((self.at.clone(), part), bytes.to_vec());
        Ok(())
    }
}

/// Kept answers.
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
