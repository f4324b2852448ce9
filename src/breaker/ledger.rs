//! A worker's steps, driven by a store that answers at once.

use super::Outcome;
use super::global::Standing;
use super::local::{Admission, Local, Ticket};
use super::recovery::Election;
use super::shared::Shared;
use crate::store::{MAX_ROUNDS, StoreError};
use crate::units::{Draw, Span, Timestamp};

/// Where workers publish one breaker's state.
///
/// When it fails, each worker goes on alone with what it knows: it opens by its own calls and admits its own probes, and
/// takes over what is published as soon as it can be read again.
pub trait Ledger {
    /// What is published of this part; `None` when nothing ever was.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`].
    fn read(&mut self, part: Part) -> Result<Option<&[u8]>, StoreError>;

    /// Publishes this part, if nobody else has since it was last read.
    ///
    /// # Errors
    /// [`StoreError::Conflict`] if somebody has, and nothing is published. [`StoreError::Unavailable`].
    fn publish(&mut self, part: Part, bytes: &[u8]) -> Result<(), StoreError>;
}

/// A part of a breaker's state, published on its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Part {
    /// The [`Shared`] record.
    Transitions,
    /// The calls of all workers. A store that several hosts share needs none: each counts its own.
    Calls,
}

impl Local {
    /// What the call may do.
    pub fn admit<L: Ledger>(&mut self, ledger: &mut L, draw: Draw, now: Timestamp) -> Admission {
        self.admit_call(ledger, true, draw, now)
    }

    /// The same. `sent`: its client has sent all of the call. Otherwise it is no probe before its outcome is there.
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
            // The copy may be old: it only says that this call might be a probe.
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
                Ok(()) => self.made(next),
                Err(StoreError::Conflict) => continue,
                Err(_) => self.keep(next),
            }
            if matches!(election, Election::Probe(_)) {
                return self.probe();
            }
        }
        // Others got through each time: they are the probes.
        self.refuse(Some(OVERTAKEN_RETRY))
    }

    /// Takes in the outcome of a call that ended at `now` and took so long, not counting what the client took to send it.
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
            // The calls of others may have come to say otherwise.
            self.share(ledger, now);
            self.open_if_due(ledger, draw, now);
        }
    }

    /// Learns what others have published and publishes what this worker has counted. To be called every 100 ms or so.
    pub fn tick<L: Ledger>(&mut self, ledger: &mut L, draw: Draw, now: Timestamp) {
        // What cannot be read now is read at the next tick.
        let _ = self.learn(ledger);
        if let Some(next) = self.rejoin()
            && ledger.publish(Part::Transitions, &next.encode()).is_ok()
        {
            self.made(next);
        }
        if self.expire(draw, now).is_some() {
            self.transit(ledger, &|local| local.expire(draw, now));
        }
        if self.has_pending() {
            self.share(ledger, now);
            self.open_if_due(ledger, draw, now);
        }
    }

    /// Takes in the calls of all as they are published, and drops what is too old, for whoever wants to see them: by itself a
    /// worker does so only when it has counted something.
    pub(crate) fn look<L: Ledger>(&mut self, ledger: &mut L, now: Timestamp) {
        if let (false, Ok(published)) = (self.is_alone(), ledger.read(Part::Calls)) {
            // What comes of it is not published.
            self.merge(published, &mut Vec::new(), now);
        }
    }

    /// Takes in what stands with the authority that many instances share, as it was asked at `sent_at`. Answers whether that
    /// was new.
    pub(crate) fn heard<L: Ledger>(
        &mut self,
        ledger: &mut L,
        standing: &Standing,
        sent_at: Timestamp,
        now: Timestamp,
    ) -> bool {
        self.answered(sent_at);
        for _ in 0..MAX_ROUNDS {
            // Who cannot publish goes on alone, and hears it again later.
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

    /// Publishes a transition, if there is still one to be made from the record as it is now.
    fn transit<L: Ledger>(&mut self, ledger: &mut L, next: &dyn Fn(&Self) -> Option<Shared>) {
        for _ in 0..MAX_ROUNDS {
            let read = self.learn(ledger);
            let Some(next) = next(self) else { return };
            match read.and_then(|()| ledger.publish(Part::Transitions, &next.encode())) {
                Ok(()) => return self.made(next),
                Err(StoreError::Conflict) => {}
                Err(_) => return self.keep(next),
            }
        }
    }

    /// Takes over the record as it is published. An error when this worker has to go on alone.
    pub(crate) fn learn<L: Ledger>(&mut self, ledger: &mut L) -> Result<(), StoreError> {
        // An empty value stands for none where a host cannot delete.
        let shared = match ledger.read(Part::Transitions)? {
            None | Some([]) => Shared::default(),
            Some(bytes) => Shared::decode(bytes)?,
        };
        if self.take_over(shared) { Ok(()) } else { Err(StoreError::Unavailable) }
    }

    /// Merges what this worker has counted with what others have.
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
                // It stays pending, and is merged at a later tick.
                Err(_) => return,
            }
        }
    }

    /// Takes over what this worker has published.
    fn made(&mut self, next: Shared) {
        let opened = next.opened().saturating_sub(self.shared().opened());
        self.adopt(next);
        let statistics = self.statistics();
        statistics.opened = statistics.opened.saturating_add(opened);
    }
}

/// How soon a call that lost every election may come again.
const OVERTAKEN_RETRY: Span = Span::from_secs(1);
