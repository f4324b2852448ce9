//! Whether the store answers: a circuit breaker around it, of this worker's own.
//!
//! It opens when three asks in a row fail, or half of those in the last ten seconds, if these are at least ten. It
//! tries again with one ask after a quarter of a second, then after twice as long each time, up to ten seconds. While it
//! is half-open, one ask is under way and no other request waits. So a dead store costs a request its deadline only now
//! and then, and a store that recovers gets few asks at first.

use crate::breaker::{Admission, Ledger, Local, Outcome, Part, State, Ticket};
use crate::policy::Breaker;
use crate::store::StoreError;
use crate::units::{Draw, Span, Timestamp};

/// The breaker and the counts.
#[derive(Debug)]
pub(crate) struct Health {
    breaker: Local,
    ledger: PrivateLedger,
    draws: u64,
    asks: u64,
    failures: u64,
    counts: StoreCounts,
}

/// What one worker has counted of a store.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StoreCounts {
    /// Asks sent since the worker began.
    pub asks: u64,
    /// Asks that failed, or were not answered in time.
    pub failures: u64,
    /// Decisions that `on_store_failure` made instead of the store.
    pub decided_without: u64,
}

impl Health {
    /// `seed` makes the waits of workers differ, so that they do not all try again at the same time.
    pub(crate) fn new(seed: u64) -> Self {
        let breaker = Local::new(&Breaker::for_store());
        Self {
            breaker,
            ledger: PrivateLedger::default(),
            draws: seed,
            asks: 0,
            failures: 0,
            counts: StoreCounts::default(),
        }
    }

    /// Whether the breaker refuses asks.
    pub(crate) fn fails(&self, now: Timestamp) -> bool {
        // The breaker has no ramp, the only thing that needs a draw.
        self.breaker.refuses(Draw::default(), now)
    }

    /// The ticket of an ask that the breaker lets pass.
    pub(crate) fn admit(&mut self, now: Timestamp) -> Option<Ticket> {
        let draw = self.draw();
        match self.breaker.admit(&mut self.ledger, draw, now) {
            Admission::Pass(ticket) => {
                self.asks = self.asks.saturating_add(1);
                self.counts.asks = self.counts.asks.saturating_add(1);
                Some(ticket)
            }
            Admission::Refuse { .. } | Admission::Observe { .. } => None,
        }
    }

    /// Records how an ask ended.
    pub(crate) fn observe(&mut self, ticket: Ticket, answered: bool, took: Span, now: Timestamp) {
        self.failures = self.failures.saturating_add(u64::from(!answered));
        self.counts.failures = self.counts.failures.saturating_add(u64::from(!answered));
        let outcome = if answered { Outcome::Success } else { Outcome::Failure };
        let draw = self.draw();
        self.breaker.observe(&mut self.ledger, ticket, outcome, took, draw, now);
    }

    /// Records that an ask ended without an outcome, because no request awaits its answer any more.
    pub(crate) fn forget(&mut self, ticket: Ticket, took: Span, now: Timestamp) {
        let draw = self.draw();
        self.breaker.observe(&mut self.ledger, ticket, Outcome::Ignored, took, draw, now);
    }

    pub(crate) fn tick(&mut self, now: Timestamp) {
        let draw = self.draw();
        self.breaker.tick(&mut self.ledger, draw, now);
    }

    /// Counts a decision made without an answer.
    pub(crate) fn count_decided_without(&mut self) {
        self.counts.decided_without = self.counts.decided_without.saturating_add(1);
    }

    /// The breaker's state, and the counts since the worker began.
    pub(crate) fn state_and_counts(&self, now: Timestamp) -> (State, StoreCounts) {
        (self.breaker.state(now), self.counts)
    }

    pub(crate) fn take_counts(&mut self) -> (u64, u64) {
        (core::mem::take(&mut self.asks), core::mem::take(&mut self.failures))
    }

    /// The next of a sequence that looks random (splitmix64, Steele, Lea and Flood 2014). It only has to differ between
    /// workers.
    fn draw(&mut self) -> Draw {
        self.draws = self.draws.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.draws ^ (self.draws >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        Draw(mixed ^ (mixed >> 31))
    }
}

/// The state of a breaker that is not shared.
#[derive(Debug, Default)]
struct PrivateLedger {
    transitions: Option<Vec<u8>>,
    calls: Option<Vec<u8>>,
}

impl Ledger for PrivateLedger {
    fn read(&mut self, part: Part) -> Result<Option<&[u8]>, StoreError> {
        Ok(match part {
            Part::Transitions => self.transitions.as_deref(),
            Part::Calls => self.calls.as_deref(),
        })
    }

    fn publish(&mut self, part: Part, bytes: &[u8]) -> Result<(), StoreError> {
        let place = match part {
            Part::Transitions => &mut self.transitions,
            Part::Calls => &mut self.calls,
        };
        *place = Some(bytes.to_vec());
        Ok(())
    }
}
