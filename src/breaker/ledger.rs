//! The steps of a worker, for a store that answers at once.

use super::Outcome;
use super::global::Standing;
use super::local::{Admission, Local, Ticket};
use super::recovery::Election;
use super::shared::Shared;
use crate::store::{MAX_ROUNDS, StoreError};
use crate::units::{Draw, Span, Timestamp};

/// Where workers publish one breaker's state.
///
/// If the store fails, each worker continues alone: it opens because of its own calls and admits its own probes. It
/// takes over the published state as soon as that can be read again.
pub trait Ledger {
    /// The published value of this part; `None` if there never was one.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`].
    fn read(&mut self, part: Part) -> Result<Option<&[u8]>, StoreError>;

    /// Publishes this part, unless another worker has published it since it was last read.
    ///
    /// # Errors
    /// [`StoreError::Conflict`] if another worker has; nothing is published then. [`StoreError::Unavailable`].
    fn publish(&mut self, part: Part, bytes: &[u8]) -> Result<(), StoreError>;
}

/// A part of a breaker's state that is published on its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Part {
    /// The [`Shared`] record.
    Transitions,
    /// The calls of all workers of one host. A store that several hosts share does not need it: each host counts its
    /// own.
    Calls,
}

impl Local {
    /// Admits or refuses a call.
    pub fn admit<L: Ledger>(&mut self, ledger: &mut L, draw: Draw, now: Timestamp) -> Admission {
        self.admit_call(ledger, true, draw, now)
    }

    /// Like [`Local::admit`]. `sent`: the client has sent its whole request. If it has not, the call becomes a probe
    /// only when its outcome arrives.
    pub(crate) fn admit_call<L: Ledger>(
        &mut self,
        ledger: &mut L,
        sent: bool,
        draw: Draw,
        now: Timestamp,
    ) -> Admission {
        if let Some(admission) = self.judge(draw, now) {
            return admission;
        }
        for _ in 0..MAX_ROUNDS {
            // The local copy may be old, so only the published record can say whether this call is a probe.
            let read = self.learn(ledger);
            if let Some(admission) = self.judge(draw, now) {
                return admission;
            }
            if !sent {
                return self.candidate(now);
            }
            let Some(election) = self.elect(draw, now) else { break };
            let (Election::Probe(next) | Election::Change(next)) = election;
            match read.and_then(|()| ledger.publish(Part::Transitions, &next.encode())) {
                Ok(()) => self.adopt_published(next),
                Err(StoreError::Conflict) => continue,
                Err(_) => self.adopt_unpublished(next),
            }
            if matches!(election, Election::Probe(_)) {
                return self.probe();
            }
        }
        // Other calls won every round: they are the probes.
        self.refuse(Some(OVERTAKEN_RETRY))
    }

    /// Counts the outcome of a call that ended at `now` and took this long, without the time in which the client sent
    /// it.
    pub fn observe<L: Ledger>(
        &mut self,
        ledger: &mut L,
        ticket: Ticket,
        outcome: Outcome,
        took: Span,
        draw: Draw,
        now: Timestamp,
    ) {
        let seems_due = self.record(ticket, outcome, took, now);
        if ticket.is_probe() || ticket.is_candidate() {
            self.transit(ledger, &|local| local.settle(ticket, outcome, took, draw, now));
        } else if seems_due {
            // The other workers' calls may show that the breaker should not open.
            self.share(ledger, now);
            self.open_if_due(ledger, draw, now);
        }
    }

    /// Reads what other workers have published and publishes what this worker has counted. To be called about every 100
    /// ms.
    pub fn tick<L: Ledger>(&mut self, ledger: &mut L, draw: Draw, now: Timestamp) {
        // If the read fails, the next tick tries again.
        let _ = self.learn(ledger);
        if let Some(next) = self.rejoin()
            && ledger.publish(Part::Transitions, &next.encode()).is_ok()
        {
            self.adopt_published(next);
        }
        if self.expire(draw, now).is_some() {
            self.transit(ledger, &|local| local.expire(draw, now));
        }
        if self.has_pending() {
            self.share(ledger, now);
            self.open_if_due(ledger, draw, now);
        }
    }

    /// Reads the published calls of all workers and drops those that are too old, for status pages. In normal operation
    /// a worker does this only after it has counted a call.
    pub(crate) fn read_calls<L: Ledger>(&mut self, ledger: &mut L, now: Timestamp) {
        if let (false, Ok(published)) = (self.is_alone(), ledger.read(Part::Calls)) {
            // The merged result is not published.
            self.merge(published, &mut Vec::new(), now);
        }
    }

    /// Applies the authority's answer to a round that was sent at `sent_at`. Returns whether it brought a new
    /// generation.
    pub(crate) fn apply_standing<L: Ledger>(
        &mut self,
        ledger: &mut L,
        standing: &Standing,
        sent_at: Timestamp,
        now: Timestamp,
    ) -> bool {
        self.note_answer(sent_at);
        for _ in 0..MAX_ROUNDS {
            // A worker without access to the record continues alone, and gets this answer again later.
            if self.learn(ledger).is_err() {
                return false;
            }
            let before = self.generation();
            let Some(next) = self.agree(standing, sent_at, now) else { return false };
            match ledger.publish(Part::Transitions, &next.encode()) {
                Ok(()) => {
                    self.adopt(next);
                    return next.generation() != before;
                }
                Err(StoreError::Conflict) => {}
                Err(_) => return false,
            }
        }
        false
    }

    fn open_if_due<L: Ledger>(&mut self, ledger: &mut L, draw: Draw, now: Timestamp) {
        if self.opens() {
            let generation = self.generation();
            self.transit(ledger, &|local| local.open(generation, draw, now));
        }
    }

    /// Publishes a transition, if the current record still calls for one.
    fn transit<L: Ledger>(&mut self, ledger: &mut L, next: &dyn Fn(&Self) -> Option<Shared>) {
        for _ in 0..MAX_ROUNDS {
            let read = self.learn(ledger);
            let Some(next) = next(self) else { return };
            match read.and_then(|()| ledger.publish(Part::Transitions, &next.encode())) {
                Ok(()) => return self.adopt_published(next),
                Err(StoreError::Conflict) => {}
                Err(_) => return self.adopt_unpublished(next),
            }
        }
    }

    /// Reads and takes over the published record. An error if this worker has to continue alone.
    pub(crate) fn learn<L: Ledger>(&mut self, ledger: &mut L) -> Result<(), StoreError> {
        // Hosts that cannot delete a value write an empty one.
        let shared = match ledger.read(Part::Transitions)? {
            None | Some([]) => Shared::default(),
            Some(bytes) => Shared::decode(bytes)?,
        };
        if self.take_over(shared) { Ok(()) } else { Err(StoreError::Unavailable) }
    }

    /// Merges what this worker has counted with the published calls of the others.
    fn share<L: Ledger>(&mut self, ledger: &mut L, now: Timestamp) {
        if self.is_alone() {
            return;
        }
        let mut bytes = Vec::new();
        for _ in 0..MAX_ROUNDS {
            let Ok(published) = ledger.read(Part::Calls) else { return };
            if !self.merge(published, &mut bytes, now) {
                return;
            }
            match ledger.publish(Part::Calls, &bytes) {
                Ok(()) => return self.merged(),
                Err(StoreError::Conflict) => {}
                // The calls stay pending and are merged at a later tick.
                Err(_) => return,
            }
        }
    }

    /// Takes over a record that this worker has published.
    fn adopt_published(&mut self, next: Shared) {
        let opened = next.opened().saturating_sub(self.shared().opened());
        self.adopt(next);
        let statistics = self.statistics();
        statistics.opened = statistics.opened.saturating_add(opened);
    }
}

/// The retry delay of a call that lost every round.
const OVERTAKEN_RETRY: Span = Span::from_secs(1);
