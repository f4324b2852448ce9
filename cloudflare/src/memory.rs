//! What limits have counted and breakers published, which outlives the policy under which that was.
//!
//! A new policy takes it over, and requests that came under the one before go on counting in it: they give back there what they
//! hold. A policy's own [`Work`] has it only while a call works with it.

use crate::gate::Work;
use std::cell::{RefCell, RefMut};
use std::ops::{Deref, DerefMut};
use std::rc::Rc;
use tidegate::authority::Instance;
use tidegate::fallback::{Broadcast, MemoryLedgers};
use tidegate::key::Seed;
use tidegate::store::memory::MemoryStore;

/// What this isolate keeps.
pub struct Memory {
    pub seed: Seed,
    pub max_keys: u32,
    /// The number of this isolate, for as long as what it publishes of breakers.
    pub instance: Instance,
    /// What breakers publish.
    pub ledgers: Rc<RefCell<MemoryLedgers>>,
    /// What other locations know of it.
    pub broadcast: RefCell<Broadcast>,
    tables: RefCell<Tables>,
}

struct Tables {
    store: MemoryStore,
    local: MemoryStore,
}

impl Memory {
    /// Nothing is counted yet.
    ///
    /// # Errors
    /// There is no random source, as at global scope: the entry configures within the first request.
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

/// A policy's work together with the tables, for the length of a call.
pub struct Working<'g> {
    work: RefMut<'g, Work>,
    memory: &'g Memory,
}

impl<'g> Working<'g> {
    /// Brings them together.
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
