//! The streams of a VM, by the numbers that Envoy gives them.

use crate::filter::Filter;
use crate::waiting::EXPORT_PERIOD;
use tidegate::engine::Engine;

/// Every open stream.
///
/// Envoy counts its numbers up, so that streams spread evenly over chains by the low bits: with ten thousand open at
/// once a chain has ten. Chains keep their memory, and a request allocates nothing here once the VM has warmed up.
pub struct Streams {
    chains: Vec<Vec<(u32, Filter)>>,
    /// The chain at which [`Streams::renew`] goes on.
    next: usize,
}

impl Streams {
    /// No streams.
    pub const fn new() -> Self {
        Self { chains: Vec::new(), next: 0 }
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

    /// Renews what a share of the streams hold, so that all have had their turn well within what the core asks for. To be
    /// called once in an export period.
    pub fn renew(&mut self) {
        let end = self.next.saturating_add(CHAINS / TICKS).min(self.chains.len());
        let chains = self.chains.get_mut(self.next..end).unwrap_or_default();
        chains.iter_mut().flatten().for_each(|(_, filter)| filter.renew());
        self.next = if end < self.chains.len() { end } else { 0 };
    }

    fn chain(&mut self, id: u32) -> Option<&mut Vec<(u32, Filter)>> {
        self.chains.get_mut(id as usize % CHAINS)
    }
}

/// A power of two. Empty chains take 12 KB.
const CHAINS: usize = 1_024;

/// In how many ticks every stream has its turn to renew what it holds. A tick more in the same time leaves room for one
/// that comes late.
const TICKS: usize = 3;
const _: () = assert!((TICKS as u64 + 1) * EXPORT_PERIOD.as_nanos() <= Engine::RENEWED_WITHIN_MS as u64 * 1_000_000);
