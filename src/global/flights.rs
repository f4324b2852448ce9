//! Requests in flight whose permits many instances share: how a worker asks for them, and how it goes on holding them.
//!
//! A worker holds permits of its own and lends them to its requests, one after the other. They are not in the key table
//! that the workers of an instance share: requests end with their worker, and so must the permits that they hold. How
//! many permits a worker keeps follows from how many requests it had at once in the last one or two periods of
//! [`IDLE`](super::IDLE). With `exact` it holds only what its requests need: it asks before each request, and again
//! after it.
//!
//! What a request holds expires with the lease unless it is renewed, as for limits that are not shared
//! ([`Slots`](crate::limiter::concurrency::Slots)). A request that vanished is therefore not kept alive by its worker's
//! lease. See [`crate::authority::in_flight`] for the authority's side.

use super::flight::PendingAsk;
use super::{ASK_AGAIN, Ask, Global, Grant, Missing, Shared};
use crate::key::KeyHash;
use crate::limiter::Standing;
use crate::limiter::concurrency::RETRY_AFTER;
use crate::units::{Permits, Timestamp};

impl Global {
    /// Whether a request of `cost` may be in flight on the permits held here. `since` is when it began to wait; `None`
    /// if it has not waited.
    ///
    /// # Errors
    /// Why the request is not admitted now.
    pub(crate) fn room(
        &mut self,
        of: &Shared,
        cost: Permits,
        since: Option<Timestamp>,
        now: Timestamp,
    ) -> Result<(), Missing> {
        if cost > of.terms.most() {
            return Err(Missing::Refused { retry_after: None });
        }
        self.flights.note_time(now);
        let fails = self.health.fails(now) || since.is_some_and(|since| since.after(self.rules.deadline) <= now);
        let Some(flight) = self.flights.find(of.key) else {
            return Err(if fails { Missing::Failed } else { Missing::Unknown });
        };
        flight.seen_at = now;
        if flight.has_room(cost, now) {
            return Ok(());
        }
        let answered = |at: Timestamp| since.is_some_and(|since| at >= since);
        if fails || flight.failed_at.is_some_and(answered) {
            return Err(Missing::Failed);
        }
        let is_lacking = |at: Timestamp| answered(at) || !of.exact && now < at.after(ASK_AGAIN);
        Err(match flight.shortage {
            // A request that costs less than the refused one may still be served.
            Some(shortage) if shortage.least <= cost && is_lacking(shortage.at) => {
                Missing::Refused { retry_after: Some(RETRY_AFTER) }
            }
            _ => Missing::Unknown,
        })
    }

    /// Whether a request of `cost` has room in this instance's share of the permits while the store fails.
    pub(crate) fn room_alone(&mut self, of: &Shared, cost: Permits, now: Timestamp) -> bool {
        let unknown = self.rules.local_share;
        let flight = self.flights.find_or_make(of, now);
        flight.is_some_and(|flight| flight.has_room_alone(cost, unknown, now))
    }

    /// Asks the authority for the `cost` of a request, together with other requests that wait for the same key. If
    /// nothing can be asked, the store counts as failed, as for [`Global::ask`].
    pub(crate) fn ask_to_hold(&mut self, of: &Shared, cost: Permits, now: Timestamp) {
        let has_room = self.waiting.has_room();
        let Some(flight) = self.flights.find_or_make(of, now).filter(|_| has_room) else { return };
        flight.of = *of;
        match &mut flight.pending {
            // Requests that this ask does not serve will make the next one.
            Some(asked) if asked.is_sent() => {}
            Some(asked) => {
                asked.least = if asked.need == Permits::ZERO { cost } else { asked.least.min(cost) };
                asked.need = asked.need.plus(cost);
            }
            None => self.queue_flight_ask(of.key, PendingAsk { need: cost, least: cost, ..PendingAsk::default() }, now),
        }
    }

    /// An admitted request holds `cost` permits from now on.
    pub(crate) fn hold(&mut self, of: &Shared, cost: Permits, now: Timestamp) {
        let fails = self.health.fails(now);
        let Some(flight) = self.flights.find_or_make(of, now) else { return };
        flight.take(cost, now);
        if flight.pending.is_none() && !fails && flight.runs_short(now) {
            self.queue_flight_ask(of.key, PendingAsk::default(), now);
        }
    }

    /// A request that took these permits at `taken_at` has ended.
    pub(crate) fn release(&mut self, key: KeyHash, permits: Permits, taken_at: Timestamp, now: Timestamp) {
        self.flights.note_time(now);
        let Some(flight) = self.flights.find(key) else { return };
        flight.give_back(permits, taken_at);
        self.give_spare(key, now);
    }

    /// Keeps what a request holds from expiring. Returns whether it was charged again.
    pub(crate) fn keep_held(&mut self, key: KeyHash, permits: Permits, taken_at: Timestamp, now: Timestamp) -> bool {
        self.flights.find(key).is_some_and(|flight| flight.renew(permits, taken_at, now))
    }

    /// How many permits the requests of this key hold here.
    pub(crate) fn in_flight(&self, key: KeyHash, now: Timestamp) -> Permits {
        self.flights.get(key).map_or(Permits::ZERO, |flight| flight.in_flight(now))
    }

    /// What is known to be left of a key, here and with the authority.
    pub(crate) fn standing_in_flight(&self, key: KeyHash, now: Timestamp) -> Option<Standing> {
        let flight = self.flights.get(key)?;
        let here = flight.held(now).minus(flight.in_flight(now));
        Some(Standing { remaining: flight.left.plus(here), reset_after: RETRY_AFTER })
    }

    /// Queues an ask to be sent, if the breaker lets it pass.
    fn queue_flight_ask(&mut self, key: KeyHash, asked: PendingAsk, now: Timestamp) {
        let Some(flight) = self.flights.find(key) else { return };
        let ticket = self.health.admit(now);
        if ticket.is_none() {
            flight.failed_at = Some(now);
            return;
        }
        self.last_seq = self.last_seq.saturating_add(1);
        flight.pending = Some(PendingAsk { seq: self.last_seq, ticket, ..asked });
        flight.asked_at = now;
        self.unsent_flights.push(key);
    }

    /// Gives back at once what others have called back, or all spare permits if every request asks.
    fn give_spare(&mut self, key: KeyHash, now: Timestamp) {
        let Some(flight) = self.flights.find(key) else { return };
        if flight.pending.is_none() && flight.has_to_give(now) && !self.health.fails(now) {
            self.queue_flight_ask(key, PendingAsk::default(), now);
        }
    }

    /// Moves the asks that are to be sent now to `asks`. Their deadline counts from here.
    pub(super) fn flight_asks(&mut self, now: Timestamp, asks: &mut Vec<Ask>) {
        self.flights.note_time(now);
        for key in self.unsent_flights.drain(..) {
            let Some(flight) = self.flights.find(key) else { continue };
            let next = flight.next_ask(now);
            let (of, Some(asked)) = (flight.of, flight.pending) else { continue };
            let Some(next) = next else {
                // The ask is no longer needed.
                flight.pending = None;
                if let Some(ticket) = asked.ticket {
                    self.health.forget(ticket, now.since(flight.asked_at), now);
                }
                continue;
            };
            asks.push(Ask {
                key,
                terms: of.terms,
                instance: self.instance,
                seq: asked.seq,
                need: next.need,
                least: next.least,
                want: next.want,
                back: next.keeps,
                back_of: 0,
            });
            self.sent_flights.push(key);
        }
    }

    /// Handles the answer to the ask with this sequence number; `None` if there will be none. Returns whether the key
    /// is one of requests in flight.
    pub(super) fn flight_answered(&mut self, key: KeyHash, seq: u64, grant: Option<Grant>, now: Timestamp) -> bool {
        let Some(flight) = self.flights.find(key) else { return false };
        let in_time = flight.pending.is_some_and(|asked| asked.seq == seq && asked.is_sent());
        let asked = if in_time { flight.pending.take() } else { flight.late.take_if(|late| late.seq == seq) };
        let Some(asked) = asked else { return true };
        if in_time {
            self.sent_flights.retain(|of| *of != key);
            if let Some(ticket) = asked.ticket {
                self.health.observe(ticket, grant.is_some(), now.since(asked.sent_at), now);
            }
        }
        match grant {
            Some(grant) => flight.apply_grant(&asked, &grant, in_time, now),
            None => flight.failed_at = Some(now),
        }
        self.waiting.answered(key);
        self.give_spare(key, now);
        true
    }

    /// Gives up asks that were not answered in time, and makes those that are due.
    pub(super) fn tend_flights(&mut self, now: Timestamp) {
        self.flights.note_time(now);
        let deadline = self.rules.deadline;
        let mut expired = Vec::new();
        for key in &self.sent_flights {
            let Some(flight) = self.flights.find(*key) else { continue };
            if let Some(asked) = flight.pending.take_if(|asked| asked.sent_at.after(deadline) <= now) {
                if let Some(ticket) = asked.ticket {
                    self.health.observe(ticket, false, deadline, now);
                }
                (flight.late, flight.failed_at) = (Some(asked), Some(now));
                expired.push(*key);
            }
        }
        if !expired.is_empty() {
            self.sent_flights.retain(|key| !expired.contains(key));
            expired.into_iter().for_each(|key| self.waiting.answered(key));
        }
        for key in self.flights.end_period(now) {
            if self.health.fails(now) {
                break;
            }
            self.queue_flight_ask(key, PendingAsk::default(), now);
        }
    }

    /// Whether an ask for this key is under way.
    pub(super) fn is_flight_asked(&self, key: KeyHash) -> bool {
        self.flights.get(key).is_some_and(|flight| flight.pending.is_some())
    }

    /// When [`tend_flights`](Self::tend_flights) is due.
    pub(super) fn flights_due(&self) -> impl Iterator<Item = Timestamp> {
        let asked = self.sent_flights.iter().filter_map(|key| self.flights.get(*key)?.pending.as_ref());
        let deadline = self.rules.deadline;
        asked.map(move |asked| asked.sent_at.after(deadline)).chain(self.flights.next_period())
    }
}
