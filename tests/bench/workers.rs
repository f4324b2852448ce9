//! Workers that share the key table by compare-and-swap.

use super::random::mix;
use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use tidegate::engine::{Engine, Plan};
use tidegate::key::Seed;
use tidegate::lease::Leases;
use tidegate::metrics::{Counters, Total};
use tidegate::policy::Policy;
use tidegate::request::RequestFacts;
use tidegate::store::memory::MemoryStore;
use tidegate::store::{Store, StoreError};
use tidegate::table::{Page, pages_for};
use tidegate::units::Timestamp;

/// Runs this many workers at once, with requests of this many clients. Returns per decision the conflicts, and the
/// decisions that ran out of rounds and were left to `on_store_failure`.
pub fn conflicts(workers: usize, clients: u64, decisions: u64) -> (f64, f64) {
    let shared = Shared::default();
    let decide = |worker: usize| {
        let policy = Policy::parse(POLICY).expect("a good policy");
        let mut counters = Counters::new(1, 1);
        let engine = Engine::new(policy, Seed::new([1, 2]));
        let mut plan = Plan::new();
        let mut store = Worker { shared: Arc::clone(&shared), read: Vec::new() };
        let (mut local, mut leases) = (MemoryStore::new(1_000), Leases::new());
        for n in 0..decisions {
            let client = mix(n.wrapping_mul(workers as u64) + worker as u64) % clients;
            engine.plan(&Client(format!("10.1.{}.{}:1", client / 256, client % 256)), &mut plan);
            let now = Timestamp::from_millis(1_800_000_000_000);
            assert!(
                engine.decide(&mut plan, &mut store, &mut local, &mut leases, &mut counters, now).refusal.is_none()
            );
        }
        (counters.take_total(Total::Conflicts), counters.take_total(Total::StoreFailures))
    };
    let told: Vec<(u64, u64)> = std::thread::scope(|scope| {
        let decide = &decide;
        let running: Vec<_> = (0..workers).map(|worker| scope.spawn(move || decide(worker))).collect();
        running.into_iter().map(|worker| worker.join().expect("no worker panics")).collect()
    });
    let per_decision = |sum: u64| sum as f64 / (decisions * workers as u64) as f64;
    (per_decision(told.iter().map(|told| told.0).sum()), per_decision(told.iter().map(|told| told.1).sum()))
}

/// Like Envoy's shared data: values under one mutex, each with a version that changes when it is set.
type Shared = Arc<Mutex<HashMap<u32, (Vec<u8>, u32)>>>;

struct Worker {
    shared: Shared,
    read: Vec<(u32, Page, Option<u32>)>,
}

impl Worker {
    fn page(&mut self, number: u32) -> Result<&mut Page, StoreError> {
        if !self.read.iter().any(|(known, _, _)| *known == number) {
            let value = self.shared.lock().expect("no worker panics").get(&number).cloned();
            let (page, version) = match value {
                Some((bytes, version)) => (Page::decode(&bytes).ok_or(StoreError::Corrupt)?, Some(version)),
                None => (Page::EMPTY, None),
            };
            self.read.push((number, page, version));
            // Lets the other workers run between reading and publishing.
            std::thread::yield_now();
        }
        let read = self.read.iter_mut().find(|(known, _, _)| *known == number);
        read.map(|(_, page, _)| page).ok_or(StoreError::Unavailable)
    }
}

impl Store for Worker {
    fn pages(&self) -> u32 {
        pages_for(100_000)
    }

    fn begin(&mut self) {
        self.read.clear();
    }

    fn read(&mut self, page: u32) -> Result<&Page, StoreError> {
        self.page(page).map(|page| &*page)
    }

    fn write(&mut self, page: u32) -> Result<&mut Page, StoreError> {
        self.page(page)
    }

    fn publish(&mut self, number: u32) -> Result<(), StoreError> {
        let Some((_, page, version)) = self.read.iter().find(|(known, _, _)| *known == number) else { return Ok(()) };
        let mut bytes = Vec::new();
        page.encode(&mut bytes);
        let mut shared = self.shared.lock().expect("no worker panics");
        let current = shared.get(&number).map(|(_, version)| *version);
        if current != *version {
            return Err(StoreError::Conflict);
        }
        shared.insert(number, (bytes, current.map_or(1, |version| version + 1)));
        Ok(())
    }
}

struct Client(String);

impl RequestFacts for Client {
    fn method(&self) -> Cow<'_, [u8]> {
        Cow::Borrowed(b"GET")
    }

    fn path(&self) -> Cow<'_, [u8]> {
        Cow::Borrowed(b"/")
    }

    fn authority(&self) -> Cow<'_, [u8]> {
        Cow::Borrowed(b"example.com")
    }

    fn peer(&self) -> Option<Cow<'_, [u8]>> {
        Some(Cow::Borrowed(self.0.as_bytes()))
    }

    fn header(&self, _name: &str) -> Option<Cow<'_, [u8]>> {
        None
    }
}

const POLICY: &str = r#"{"version":1,"limits":[{"name":"a","quota":{"permits":100000000,"window":"60s"}}]}"#;
