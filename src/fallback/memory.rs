//! Breakers published in the memory of an instance that has a single worker.

use super::Ledgers;
use crate::breaker::{Ledger, Part};
use crate::store::StoreError;

/// The published state of breakers, in memory that nothing else changes: publishing always succeeds. There is a ledger
/// for each breaker that was used; a policy has at most 4,096.
#[derive(Debug, Default)]
pub struct MemoryLedgers {
    ledgers: Vec<(String, Published)>,
    /// The index of the ledger that was last selected.
    at: usize,
    /// How many transitions were published.
    changes: u64,
}

/// The published state of one breaker.
#[derive(Debug, Default)]
struct Published {
    transitions: Option<Vec<u8>>,
    calls: Option<Vec<u8>>,
}

impl MemoryLedgers {
    /// Ledgers without any published state.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// How many transitions and probes the breakers have published.
    #[must_use]
    pub fn changes(&self) -> u64 {
        self.changes
    }

    /// The breakers that were used.
    pub fn identities(&self) -> impl Iterator<Item = &str> {
        self.ledgers.iter().map(|(identity, _)| identity.as_str())
    }

    fn part(&mut self, part: Part) -> Result<&mut Option<Vec<u8>>, StoreError> {
        let (_, published) = self.ledgers.get_mut(self.at).ok_or(StoreError::Unavailable)?;
        Ok(match part {
            Part::Transitions => &mut published.transitions,
            Part::Calls => &mut published.calls,
        })
    }
}

impl Ledgers for MemoryLedgers {
    fn of(&mut self, identity: &str) -> &mut impl Ledger {
        self.at = self.ledgers.partition_point(|(other, _)| other.as_str() < identity);
        if self.ledgers.get(self.at).is_none_or(|(other, _)| other != identity) {
            self.ledgers.insert(self.at, (identity.to_owned(), Published::default()));
        }
        self
    }
}

impl Ledger for MemoryLedgers {
    fn read(&mut self, part: Part) -> Result<Option<&[u8]>, StoreError> {
        self.part(part).map(|bytes| bytes.as_deref())
    }

    fn publish(&mut self, part: Part, bytes: &[u8]) -> Result<(), StoreError> {
        if part == Part::Transitions {
            self.changes = self.changes.wrapping_add(1);
        }
        let place = self.part(part)?.get_or_insert_default();
        place.clear();
        place.extend_from_slice(bytes);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_breaker_reads_what_it_has_published_and_nothing_of_others() {
        let mut ledgers = MemoryLedgers::new();
        for name in ["origin", "cdn", "cdn/assets"] {
            let ledger = ledgers.of(name);
            assert_eq!(ledger.read(Part::Transitions), Ok(None), "{name}");
            ledger.publish(Part::Transitions, b"old").unwrap();
            ledger.publish(Part::Transitions, name.as_bytes()).unwrap();
            assert_eq!(ledger.read(Part::Calls), Ok(None), "{name}");
        }
        for name in ["cdn/assets", "origin", "cdn"] {
            assert_eq!(ledgers.of(name).read(Part::Transitions), Ok(Some(name.as_bytes())));
        }
    }
}
