//! A policy in force in an isolate, and one request's way through it.

use crate::facts::Facts;
use crate::host::Request;
use crate::reply;
use tidegate::decision::quota_headers;
use tidegate::engine::{Engine, Plan};
use tidegate::key::Seed;
use tidegate::lease::Leases;
use tidegate::metrics::Counters;
use tidegate::policy::Policy;
use tidegate::store::memory::MemoryStore;
use tidegate::units::Timestamp;
use wasm_bindgen::JsValue;

/// A policy in force, and the memory that its decisions work in.
pub struct Gate {
    engine: Engine,
    /// What limits of the scope `instance` count: this isolate is the instance.
    store: MemoryStore,
    local: MemoryStore,
    /// There is nobody to draw from: the state is here.
    leases: Leases,
    counters: Counters,
    plan: Plan,
    text: String,
}

impl Gate {
    /// Puts a policy in force.
    ///
    /// # Errors
    /// Everything that is wrong with the document, a line each.
    pub fn new(policy: &str) -> Result<Self, String> {
        let policy = Policy::parse(policy).map_err(|problems| {
            problems.iter().map(|problem| format!("tidegate: policy error: {problem}")).collect::<Vec<_>>().join("\n")
        })?;
        let mut seed = [0; 16];
        // At global scope there is no random source: the entry configures within the first request.
        getrandom::fill(&mut seed).map_err(|error| format!("tidegate: no random source: {error}"))?;
        let max_keys = policy.max_keys();
        let counters = Counters::new(policy.limits().len(), policy.tiers().len());
        Ok(Self {
            engine: Engine::new(policy, Seed::from_bytes(seed)),
            store: MemoryStore::new(max_keys),
            local: MemoryStore::new(max_keys),
            leases: Leases::none(),
            counters,
            plan: Plan::new(),
            text: String::new(),
        })
    }

    /// Decides on a request; see [`crate::decide`].
    pub fn decide(&mut self, request: &Request, now_ms: f64) -> JsValue {
        let facts = Facts::new(request);
        self.engine.plan(&facts, &mut self.plan);
        if self.plan.is_clear() {
            return JsValue::UNDEFINED;
        }
        // The clock is a whole number of milliseconds, and moves when the isolate waits for something.
        let now = Timestamp::from_millis(now_ms as u64);
        let Self { engine, store, local, leases, counters, plan, .. } = self;
        let decision = engine.decide(plan, store, local, leases, counters, now);
        let mut headers = String::new();
        quota_headers(&self.engine, &self.plan, &mut self.text, &mut |name, value| {
            for part in [name, "\n", value, "\n"] {
                headers.push_str(part);
            }
        });
        match decision.refusal {
            Some(refusal) => reply::response(&refusal.reply(&self.engine, &facts), &headers),
            None if headers.is_empty() => JsValue::UNDEFINED,
            None => JsValue::from_str(&headers),
        }
    }
}
