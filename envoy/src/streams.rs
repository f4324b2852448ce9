//! The streams of a VM, by the numbers that Envoy gives them.

use crate::filter::Filter;

/// Every open stream.
///
/// Envoy counts its numbers up, so that streams spread evenly over chains by the low bits: with ten thousand open at
/// once a chain has ten. Chains keep their memory, and a request allocates nothing here once the VM has warmed up.
pub struct Streams {
    chains: Vec<Vec<(u32, Filter)>>,
}

impl Streams {
    /// No streams.
    pub const fn new() -> Self {
        Self { chains: Vec::new() }
    }

    /// Adds a stream.
    pub fn insert(&mut self, id: u32, filter: Filter) {
        if self.chains.is_empty() {
            self.chains.resize_with(CHAINS, Vec::new);
        }
        if let Some(chain) = self.chain(id) {
            chain.push((id, filter));
        }
    }

    /// The stream of this number.
    pub fn get_mut(&mut self, id: u32) -> Option<&mut Filter> {
        self.chain(id)?.iter_mut().find(|(other, _)| *other == id).map(|(_, filter)| filter)
    }

    /// Takes a stream out.
    pub fn remove(&mut self, id: u32) -> Option<Filter> {
        let chain = self.chain(id)?;
        let at = chain.iter().position(|(other, _)| *other == id)?;
        Some(chain.swap_remove(at).1)
    }

    fn chain(&mut self, id: u32) -> Option<&mut Vec<(u32, Filter)>> {
        self.chains.get_mut(id as usize % CHAINS)
    }
}

/// A power of two. Empty chains take 12 KB.
const CHAINS: usize = 1_024;
