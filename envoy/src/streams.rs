//! The streams of a VM, by the ids that Envoy assigns.

use crate::filter::Filter;
use crate::instance::Instance;
use crate::waiting::EXPORT_PERIOD;
use std::rc::Rc;
use tidegate::engine::Engine;

/// Every open stream.
///
/// Places are reused in last-in, first-out order, so the few streams that are open at once stay in a few places, which
/// are in the processor's caches. Envoy assigns increasing ids, so the low bits spread streams evenly over chains: with
/// ten thousand open at once, a chain has ten. A request allocates nothing here once the VM has warmed up.
pub struct Streams {
    /// The first place of each chain.
    chains: Vec<Option<u32>>,
    places: Vec<Place>,
    /// The free places.
    free: Vec<u32>,
    /// The place where [`Streams::renew`] continues.
    next: usize,
}

struct Place {
    id: u32,
    /// The next place of the same chain.
    next: Option<u32>,
    filter: Option<Filter>,
}

impl Streams {
    /// No streams.
    pub const fn new() -> Self {
        Self { chains: Vec::new(), places: Vec::new(), free: Vec::new(), next: 0 }
    }

    /// Adds a stream under this policy.
    pub fn begin(&mut self, id: u32, instance: Rc<Instance>) {
        if self.chains.is_empty() {
            self.chains.resize(CHAINS, None);
        }
        let Some(first) = self.chains.get_mut(id as usize % CHAINS) else { return };
        // A free place, or a new one.
        if let Some((at, free)) = self.free.pop().and_then(|at| Some((at, self.places.get_mut(at as usize)?))) {
            (free.id, free.next) = (id, first.replace(at));
            // Not assigned: nothing has to be dropped first.
            free.filter.get_or_insert_with(|| Filter::new(instance, id));
        } else if let Ok(at) = u32::try_from(self.places.len()) {
            self.places.push(Place { id, next: first.replace(at), filter: Some(Filter::new(instance, id)) });
        }
    }

    /// The stream of this id.
    pub fn get_mut(&mut self, id: u32) -> Option<&mut Filter> {
        let mut at = *self.chains.get(id as usize % CHAINS)?;
        while let Some(place) = at {
            let place = self.places.get(place as usize)?;
            if place.id == id {
                break;
            }
            at = place.next;
        }
        self.places.get_mut(at? as usize)?.filter.as_mut()
    }

    /// Ends a stream and frees its place. Returns `false` if there is none of this id.
    pub fn end(&mut self, id: u32) -> bool {
        let Some(place) = self.unlink(id) else { return false };
        if let Some(filter) = &mut place.filter {
            filter.end();
        }
        place.filter = None;
        true
    }

    /// Takes a stream out of its chain.
    fn unlink(&mut self, id: u32) -> Option<&mut Place> {
        let first = self.chains.get_mut(id as usize % CHAINS)?;
        let (mut before, mut at) = (None, (*first)?);
        loop {
            let place = self.places.get_mut(at as usize)?;
            if place.id == id {
                break;
            }
            (before, at) = (Some(at), place.next?);
        }
        let next = self.places.get_mut(at as usize)?.next.take();
        match before {
            None => *first = next,
            Some(before) => self.places.get_mut(before as usize)?.next = next,
        }
        self.free.push(at);
        self.places.get_mut(at as usize)
    }

    /// Renews what a part of the streams hold, so that all are renewed well within the time that the core requires. To
    /// be called once per export period.
    pub fn renew(&mut self) {
        // Rounded up, so that `TICKS` ticks cover all places, and one more if they began in the middle.
        let end = self.next.saturating_add(self.places.len().div_ceil(TICKS)).min(self.places.len());
        let places = self.places.get_mut(self.next..end).unwrap_or_default();
        places.iter_mut().filter_map(|place| place.filter.as_mut()).for_each(Filter::renew);
        self.next = if end < self.places.len() { end } else { 0 };
    }
}

/// A power of two. Empty chains take 8 KB.
const CHAINS: usize = 1_024;

/// The ticks within which every stream is renewed. The core's time has room for one more tick, which may come late.
const TICKS: usize = 3;
const _: () = assert!((TICKS as u64 + 1) * EXPORT_PERIOD.as_nanos() <= Engine::RENEWED_WITHIN_MS as u64 * 1_000_000);
