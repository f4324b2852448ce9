//! How asks are made, sent and answered.

use super::entry::{AIM, PendingAsk};
use super::{ASK_AGAIN, Arrived, Ask, Global, Grant, IDLE, Shared, Wake};
use crate::key::KeyHash;
use crate::limiter::drawn::Drawn;
use crate::units::{Permits, Span, Timestamp};

impl Global {
    /// Asks the authority for the `cost` of a request, together with other requests that wait for the same key.
    ///
    /// Nothing is asked if too many requests wait, if the table has no place for the key, or if the breaker does not let
    /// the ask pass. [`wait`](Self::wait) then makes the request ready at once, and the store counts as failed for it.
    pub(crate) fn ask(&mut self, of: &Shared, cost: Permits, now: Timestamp) {
        let has_room = self.waiting.has_room();
        let Some(entry) = self.table.find_or_make(of, now).filter(|_| has_room) else { return };
        match &mut entry.pending {
            // Requests that this ask does not serve will make the next one.
            Some(asked) if asked.is_sent() => {}
            Some(asked) => {
                asked.need = asked.need.plus(cost);
                asked.least = if asked.least == Permits::ZERO { cost } else { asked.least.min(cost) };
            }
            None => {
                entry.resize(now.since(entry.granted_at), cost, now);
                let ahead = entry.ahead;
                self.queue_ask(of.key, PendingAsk { need: cost, least: cost, ahead, ..PendingAsk::default() }, now);
            }
        }
    }

    /// Asks in the background for a key that had nothing left: for as much as was refused since the last ask.
    pub(super) fn ask_again(&mut self, of: &Shared, least: Permits, now: Timestamp) {
        let Some(entry) = self.table.find(of.key) else { return };
        entry.resize(now.since(entry.granted_at), least, now);
        let demand = entry.demand(least, now);
        let ahead = entry.ahead_of(demand, least, now);
        self.queue_ask(of.key, PendingAsk { need: demand, least, ahead, ..PendingAsk::default() }, now);
    }

    /// A request was served from permits that are held here, and `left` remain: draws the next lease once half of the
    /// last is used. A request that `has_waited` was already counted when it arrived.
    pub(crate) fn used(&mut self, of: &Shared, cost: Permits, left: Permits, has_waited: bool, now: Timestamp) {
        let fails = self.health.fails(now);
        let Some(entry) = self.table.find(of.key) else { return };
        if !has_waited {
            entry.pace.note(now);
        }
        let is_enough = left.get() >= entry.granted.get().div_ceil(2);
        // An ask that has just brought nothing is not repeated with every request.
        let in_vain = entry.granted_at < entry.asked_at && entry.asked_at.after(ASK_AGAIN) > now;
        // Nothing is drawn ahead for a client that may not come again.
        let is_known = entry.ahead > 0;
        if fails || is_enough || in_vain || !is_known || entry.of.exact || entry.pending.is_some() {
            return;
        }
        // While the authority has nothing left, `ask_again` asks, at its own interval.
        if !entry.is_to_ask_again(now) {
            return;
        }
        let lasted = now.since(entry.granted_at);
        entry.resize(Span::from_nanos(lasted.as_nanos().saturating_mul(2)), cost, now);
        let ahead = entry.ahead_of(left, cost, now);
        if ahead > 0 {
            self.queue_ask(of.key, PendingAsk { least: cost, ahead, ..PendingAsk::default() }, now);
        }
    }

    /// Queues an ask to be sent, if the breaker lets it pass.
    fn queue_ask(&mut self, key: KeyHash, asked: PendingAsk, now: Timestamp) {
        let Some(entry) = self.table.find(key) else { return };
        let ticket = self.health.admit(now);
        if ticket.is_none() {
            entry.failed_at = Some(now);
            return;
        }
        self.last_seq = self.last_seq.saturating_add(1);
        entry.pending = Some(PendingAsk { seq: self.last_seq, ticket, ..asked });
        (entry.asked_at, entry.refused) = (now, Permits::ZERO);
        self.unsent.push(key);
    }

    /// Moves the asks that are to be sent now to `asks`. Their deadline counts from here.
    pub fn asks(&mut self, now: Timestamp, asks: &mut Vec<Ask>) {
        for key in self.unsent.drain(..) {
            let Some(entry) = self.table.find(key) else { continue };
            let (of, Some(asked)) = (entry.of, &mut entry.pending) else { continue };
            asked.sent_at = now.max(Timestamp::from_nanos(1));
            let want = asked.need.plus(Permits::new(asked.ahead)).min(Drawn::MOST);
            let need = asked.need.min(Drawn::MOST);
            asks.push(Ask {
                key,
                terms: of.terms,
                instance: self.instance,
                seq: asked.seq,
                need,
                least: asked.least,
                want,
                back: asked.back,
                back_of: asked.back_of,
            });
            self.sent.push(key);
        }
        self.flight_asks(now, asks);
    }

    /// Makes a request wait for these keys. Its `id` must differ from that of every other waiting request. The request
    /// is [ready](Self::ready) at once if no ask is under way for any of the keys, or if too many requests wait.
    pub(crate) fn wait(&mut self, id: u32, since: Option<Timestamp>, keys: &[KeyHash], now: Timestamp) {
        let is_asked = |key: &&KeyHash| {
            self.table.get(**key).is_some_and(|entry| entry.pending.is_some()) || self.is_flight_asked(**key)
        };
        let pending: Vec<_> = keys.iter().filter(is_asked).copied().collect();
        let wake = Wake { id, since: since.unwrap_or(now) };
        self.waiting.enter(wake, pending, since.is_none());
    }

    /// The next request that is to be planned and decided again.
    pub fn ready(&mut self) -> Option<Wake> {
        self.waiting.ready()
    }

    /// The client of a waiting request has gone.
    pub fn leave(&mut self, id: u32) {
        self.waiting.leave(id);
    }

    /// Handles the answer to the ask with this sequence number; `None` if there will be none. Returns the permits that
    /// the answer brought.
    pub(crate) fn answered(&mut self, key: KeyHash, seq: u64, grant: Option<Grant>, now: Timestamp) -> Option<Arrived> {
        if self.flight_answered(key, seq, grant, now) {
            return None;
        }
        let entry = self.table.find(key)?;
        let in_time = entry.pending.is_some_and(|asked| asked.seq == seq && asked.is_sent());
        // A grant that is too late for the requests that waited can still be used, once.
        let asked = if in_time { entry.pending.take() } else { entry.late.take_if(|late| late.seq == seq) }?;
        if in_time {
            self.sent.retain(|of| *of != key);
            if let Some(ticket) = asked.ticket {
                self.health.observe(ticket, grant.is_some(), now.since(asked.sent_at), now);
            }
        }
        let arrived = match grant {
            Some(grant) => entry.apply_grant(&asked, &grant, in_time, now),
            None => {
                entry.failed_at = Some(now);
                None
            }
        };
        if arrived.is_some() {
            self.table.note_held();
        }
        self.table.note_renewal(key);
        self.waiting.answered(key);
        arrived
    }

    /// Gives up asks that were not answered in time, and releases the requests that have waited too long.
    pub(crate) fn expire(&mut self, now: Timestamp) {
        let deadline = self.rules.deadline;
        let mut expired = Vec::new();
        for key in &self.sent {
            let Some(entry) = self.table.find(*key) else { continue };
            if let Some(asked) = entry.pending.take_if(|asked| asked.sent_at.after(deadline) <= now) {
                if let Some(ticket) = asked.ticket {
                    self.health.observe(ticket, false, deadline, now);
                }
                (entry.late, entry.failed_at) = (Some(asked), Some(now));
                expired.push(*key);
            }
        }
        if !expired.is_empty() {
            self.sent.retain(|key| !expired.contains(key));
            expired.into_iter().for_each(|key| self.waiting.answered(key));
        }
        self.tend_flights(now);
        self.waiting.expire(deadline, now);
        self.health.tick(now);
    }

    /// Draws permits for keys in use whose permits have expired, before the next request finds none.
    pub(crate) fn renew(&mut self, now: Timestamp) {
        let keys = self.table.renewals(now);
        if self.health.fails(now) {
            return;
        }
        for key in keys {
            let Some(entry) = self.table.find(key) else { continue };
            entry.resize(AIM, Permits::ONE, now);
            let ahead = entry.ahead;
            if ahead > 0 {
                self.queue_ask(key, PendingAsk { least: Permits::ONE, ahead, ..PendingAsk::default() }, now);
            }
        }
    }

    /// The keys without recent requests, and how many permits of each this worker may give back.
    pub(crate) fn idle(&mut self, now: Timestamp) -> Vec<(Shared, Permits)> {
        if self.tended_at.after(IDLE) > now && now >= self.tended_at {
            return Vec::new();
        }
        self.tended_at = now;
        if self.health.fails(now) {
            return Vec::new();
        }
        let keys = self.table.idle(now);
        keys.iter().filter_map(|key| self.table.get(*key)).map(|entry| (entry.of, entry.returnable.permits)).collect()
    }

    /// Gives permits back to the authority that were taken out of the instance's own table.
    pub(crate) fn give_back(&mut self, of: &Shared, permits: Permits, now: Timestamp) {
        let Some(entry) = self.table.find(of.key).filter(|entry| entry.pending.is_none()) else { return };
        let back_of = entry.returnable.window;
        (entry.returnable.permits, entry.ahead, entry.granted) = (Permits::ZERO, 0, Permits::ZERO);
        if permits > Permits::ZERO {
            self.queue_ask(of.key, PendingAsk { back: permits, back_of, ..PendingAsk::default() }, now);
        }
    }
}
