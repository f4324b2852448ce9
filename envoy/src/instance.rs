//! One policy in force in one VM: what its streams share.

use crate::health;
use crate::host;
use crate::metrics::Metrics;
use crate::random::Random;
use crate::shelf::SharedShelf;
use crate::store::SharedStore;
use core::cell::RefCell;
use tidegate::assets::Assets;
use tidegate::engine::{Engine, Plan};
use tidegate::health::monitor::Monitor;
use tidegate::key::Seed;
use tidegate::metrics::Counters;
use tidegate::policy::{KeptBytes, Policy};
use tidegate::stale::{AnswerKey, shelf};
use tidegate::status::Fingerprint;
use tidegate::store::memory::MemoryStore;
use tidegate::table::Survey;
use tidegate::units::Timestamp;

/// A policy in force, and the memory that its decisions work in.
pub struct Instance {
    pub engine: Engine,
    pub fingerprint: Fingerprint,
    pub assets: Assets,
    pub kept: KeptBytes,
    pub work: RefCell<Work>,
}

/// What a decision works with. Envoy calls a VM from one thread, one call at a time, and no borrow outlives a call.
pub struct Work {
    pub store: SharedStore,
    pub local: MemoryStore,
    pub counters: Counters,
    pub metrics: Metrics,
    pub survey: Survey,
    pub plan: Plan,
    pub text: String,
    /// Where the policy asks how the service is.
    pub monitor: Option<Monitor>,
    pub bytes: Vec<u8>,
    pub random: Random,
    /// How many keys the table held when it was last counted.
    pub live_keys: u64,
    /// The answers that streams of this VM are collecting.
    pub collected: Vec<AnswerKey>,
}

impl Instance {
    /// Puts a policy in force.
    pub fn new(policy: Policy, fingerprint: Fingerprint) -> Self {
        let max_keys = policy.max_keys();
        let (limits, tiers) = (policy.limits().len(), policy.tiers().len());
        let (mut monitor, mut bytes) = (Monitor::new(&policy), Vec::new());
        if let Some(monitor) = &mut monitor {
            // A policy that is put in force in the middle of an outage knows of it from the first request.
            health::share(monitor, &mut bytes);
        }
        let (kept, seed) = (policy.kept(), shared_seed());
        let assets = Assets::new(&policy, seed);
        if assets.keeps() {
            // Should it fail, the next answer that is kept makes its page fit.
            let _ = shelf::trim(&mut SharedShelf, kept.max_bytes, Timestamp::from_nanos(host::now_ns()));
        }
        Self {
            engine: Engine::new(policy, seed),
            fingerprint,
            assets,
            kept,
            work: RefCell::new(Work {
                store: SharedStore::new(max_keys),
                local: MemoryStore::new(max_keys),
                counters: Counters::new(limits, tiers),
                metrics: Metrics::default(),
                survey: Survey::default(),
                plan: Plan::new(),
                text: String::new(),
                monitor,
                bytes,
                random: Random::new(),
                live_keys: 0,
                collected: Vec::new(),
            }),
        }
    }
}

/// The seed of every key's hash: drawn by the first VM, shared by all, since they must find the same pages.
fn shared_seed() -> Seed {
    const KEY: &[u8] = b"tg/seed";
    let stored =
        || host::shared(KEY).ok().flatten().and_then(|value| value.bytes.try_into().ok().map(Seed::from_bytes));
    if let Some(seed) = stored() {
        return seed;
    }
    let mut bytes = [0; 16];
    if getrandom::fill(&mut bytes).is_err() {
        // The clock is a poor secret, but still none that a client knows to the nanosecond.
        bytes = (u128::from(host::now_ns()).wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835)).to_le_bytes();
        host::log(host::Level::Warn, format_args!("no random source: keys are hashed with a seed from the clock"));
    }
    match host::set_shared(KEY, &bytes, None) {
        Ok(()) => Seed::from_bytes(bytes),
        // Another VM was first.
        Err(_) => stored().unwrap_or(Seed::from_bytes(bytes)),
    }
}
