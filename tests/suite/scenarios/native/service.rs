//! The rate-limit service of scenarios, in memory. It counts in the same way as the one that Envoy asks.

use envoy_types::pb::envoy::service::ratelimit::v3::RateLimitRequest;
use prost::Message;
use tidegate::engine::Engine;
use tidegate::rls::{Service as Knowledge, ServiceOutcome};
use tidegate::units::Span;

use super::Host;
use super::facts::Request;
use crate::rls::service::Hits;

/// The service, and what the core knows of it.
pub struct Service {
    knowledge: Knowledge,
    hits: Hits,
}

impl Service {
    /// `None` if the policy has no limits that it counts.
    pub fn of(engine: &Engine) -> Option<Self> {
        let knowledge = engine.service(1, Span::from_secs(1))?;
        Some(Self { knowledge, hits: Hits::default() })
    }
}

impl Host<'_> {
    /// The answer of the service for the planned request; a failure if the host cannot call it.
    pub(super) fn consult(&mut self, request: &Request<'_>) -> ServiceOutcome {
        let Some(Service { knowledge, hits }) = &mut self.service else { return ServiceOutcome::Failed };
        let asked = knowledge.ask(&mut self.counters, self.now).expect("a service that answers is asked");
        let question = self.engine.question(&self.plan, request);
        let question = RateLimitRequest::decode(&*question).expect("the message is of the published type");
        let answer = hits.count(&question, PERMITS).encode_to_vec();
        let answered = knowledge.complete(asked, Ok(&answer), &mut self.counters, self.now);
        ServiceOutcome::Decided(answered.expect("the answer is of the published type").0)
    }
}

/// The hits of each descriptor that the service admits.
pub const PERMITS: u64 = 3;
