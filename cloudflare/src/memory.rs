//! The counts of limits and the published state of breakers. They outlive the policy under which they were made.
//!
//! A new policy takes this memory over. Requests admitted under the previous policy continue to use it, and return
//! there what they hold. A policy's own [`Work`] has the tables only during a call.

use crate::gate::Work;
use std::cell::{RefCell, RefMut};
use std::ops::{Deref, DerefMut};
use std::rc::Rc;
use tidegate::authority::Instance;
use tidegate::fallback::{Broadcast, MemoryLedgers};
use tidegate::key::Seed;
use tidegate::store::memory::MemoryStore;

/// The memory of this isolate.
pub struct Memory {
    pub seed: Seed,
    pub max_keys: u32,
    /// The number of this isolate. It lives as long as the breaker state published under it.
    pub instance: Instance,
    /// The published state of breakers.
    pub ledgers: Rc<RefCell<MemoryLedgers>>,
    /// What other locations know of that state.
    pub broadcast: RefCell<Broadcast>,
    tables: RefCell<Tables>,
}

struct Tables {
    store: MemoryStore,
    local: MemoryStore,
}

impl Memory {
    /// Empty memory.
    ///
    /// # Errors
    /// There is no random source, as at global scope. The entry therefore configures within the first request.
    pub fn new(max_keys: u32) -> Result<Rc<Self>, String> {
        let mut seed = [0; 16];
        getrandom::fill(&mut seed).map_err(|error| format!("tidegate: no random source: {error}"))?;
        let seed = Seed::from_bytes(seed);
        let mut bits = [0; 8];
        getrandom::fill(&mut bits).map_err(|error| format!("tidegate: no random source: {error}"))?;
        let instance = Instance::new(u64::from_le_bytes(bits));
        #[cfg(feature = "test-clock")]
        let seed = crate::clock::instead_of_seed(seed);
        let tables = Tables { store: MemoryStore::new(max_keys), local: MemoryStore::new(max_keys) };
        Ok(Rc::new(Self {
            seed,
            max_keys,
            instance,
            ledgers: Rc::default(),
            broadcast: RefCell::default(),
            tables: RefCell::new(tables),
        }))
    }
}

/// A policy's work with the tables swapped in, for the duration of a call.
pub struct Working<'g> {
    work: RefMut<'g, Work>,
    memory: &'g Memory,
}

impl<'g> Working<'g> {
    /// Swaps the tables in.
    pub fn new(work: RefMut<'g, Work>, memory: &'g Memory) -> Self {
        let mut working = Self { work, memory };
        working.exchange();
        working
    }

    fn exchange(&mut self) {
        let tables = &mut *self.memory.tables.borrow_mut();
        core::mem::swap(&mut self.work.store, &mut tables.store);
        core::mem::swap(&mut self.work.local, &mut tables.local);
    }
}

impl Drop for Working<'_> {
    fn drop(&mut self) {
        self.exchange();
    }
}

impl Deref for Working<'_> {
    type Target = Work;

    fn deref(&self) -> &Work {
        &self.work
    }
}

impl DerefMut for Working<'_> {
    fn deref_mut(&mut self) -> &mut Work {
        &mut self.work
    }
}
