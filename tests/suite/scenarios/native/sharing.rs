//! The authority over shared limits: the one that a Durable Object runs, in memory, with the scenario's clock.

use tidegate::authority::{Authority, Instance};
use tidegate::engine::{Answer, Engine};
use tidegate::global::Wake;
use tidegate::lease::Leases;
use tidegate::units::Span;

use super::Host;

/// The leases of an engine. Without a shared limit in the policy, nothing is shared.
pub fn leases(engine: &Engine) -> Leases {
    let mut leases = Leases::new();
    if let Some(global) = engine.sharing(Instance::new(1), Span::from_millis(20)) {
        leases.share(global);
    }
    leases
}

/// With room for the accounts of any scenario.
pub fn authority() -> Authority {
    Authority::new(100)
}

impl Host<'_> {
    /// Sends the pending asks, and decides again on the requests whose answer has come.
    pub(super) fn settle(&mut self) {
        let Self { engine, leases, store, counters, now, .. } = self;
        engine.tend(leases, store, counters, *now);
        // Three rounds suffice: return permits, ask, act on the answer. The rest is margin.
        for _ in 0..10 {
            while let Some(wake) = self.leases.global().and_then(|global| global.ready()) {
                self.wake(wake);
            }
            let Some(global) = self.leases.global() else { return };
            let mut asks = Vec::new();
            global.asks(self.now, &mut asks);
            if asks.is_empty() {
                return;
            }
            self.has_asked = true;
            for ask in asks {
                let grant = self.authority.answer(&ask, self.now.as_nanos() / 1_000_000);
                let answer = Answer::to(&ask, Some(grant));
                let Self { engine, leases, store, counters, now, .. } = self;
                engine.granted(&answer, leases, store, counters, *now);
            }
        }
        panic!("it asks on and on");
    }

    fn wake(&mut self, wake: Wake) {
        let at = self.flights.iter().position(|flight| flight.id == wake.id).expect("who waits is known");
        let flight = self.flights.remove(at);
        self.plan_again(&flight);
        self.plan.resume(wake.since);
        self.decide(flight);
    }
}
