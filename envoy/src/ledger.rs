//! The state of breakers that all workers share, in Envoy's shared data: two values per breaker. Their keys come from
//! the policy alone. A breaker's identity is short, and there are at most some thousands of breakers.

use crate::host::{self, HostError};
use tidegate::breaker::{Ledger, Part};
use tidegate::fallback::Ledgers;
use tidegate::store::StoreError;

/// Shared data as ledgers, one ledger at a time.
#[derive(Default)]
pub struct SharedLedgers(SharedLedger);

/// The ledger of one breaker.
#[derive(Default)]
pub struct SharedLedger {
    name: Vec<u8>,
    value: Vec<u8>,
    /// The token that each part was last read with; `None` if it was absent.
    tokens: [Option<u32>; 2],
}

impl Ledgers for SharedLedgers {
    fn of(&mut self, identity: &str) -> &mut impl Ledger {
        let ledger = &mut self.0;
        ledger.name.clear();
        ledger.name.extend_from_slice(b"tg/b_");
        ledger.name.extend_from_slice(identity.as_bytes());
        ledger.tokens = [None; 2];
        ledger
    }
}

impl SharedLedger {
    fn turn_to(&mut self, part: Part) -> usize {
        let (word, place) = match part {
            Part::Transitions => (b't', 0),
            Part::Calls => (b'c', 1),
        };
        if let Some(byte) = self.name.get_mut(PART_AT) {
            *byte = word;
        }
        place
    }
}

impl Ledger for SharedLedger {
    fn read(&mut self, part: Part) -> Result<Option<&[u8]>, StoreError> {
        let place = self.turn_to(part);
        let read = host::shared(&self.name);
        let token = self.tokens.get_mut(place).ok_or(StoreError::Unavailable)?;
        // If reading fails, publishing succeeds only where nothing is stored.
        *token = None;
        let Some(value) = read.map_err(|_| StoreError::Unavailable)? else { return Ok(None) };
        *token = Some(value.cas);
        self.value = value.bytes;
        Ok(Some(&self.value))
    }

    fn publish(&mut self, part: Part, bytes: &[u8]) -> Result<(), StoreError> {
        let place = self.turn_to(part);
        let token = self.tokens.get(place).copied().flatten();
        host::set_shared(&self.name, bytes, token).map_err(|error| match error {
            HostError::CAS_MISMATCH => StoreError::Conflict,
            _ => StoreError::Unavailable,
        })
    }
}

const PART_AT: usize = 4;
