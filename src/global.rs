//! The instance's side of limits that many instances share: what a worker knows of each key, and what it asks the
//! authority.
//!
//! The [authority](crate::authority) counts. The permits that it grants are kept in the instance's own key table
//! ([`drawn`](crate::limiter::drawn)). Requests spend them there like any other quota: all or none, together with the
//! limits that are not shared. This module holds the rest of what one worker has to know, in a bounded table of keys:
//!
//! - **How much to draw.** The first request of a key draws only its cost. If a lease is used up soon, the next one is
//!   twice as large; if it lasts long, the next one is half as large. No lease is larger than what will be used before
//!   it expires. The next lease is drawn when half of the last is left, or when the last expires, so requests of a key
//!   in use do not wait. Permits that are left when a sliding window ends are lost to all instances. While permits are
//!   short, a lease therefore gets smaller the nearer that end is.
//! - **Which requests wait.** A request waits only if it finds too few permits here and nothing is known of what the
//!   authority has. It waits at most for the store's deadline. One ask is under way for all requests of the key.
//! - **What was refused.** Requests are refused at once while the authority has nothing left. The same holds while
//!   there are more requests than permits, even if a few permits keep coming ([`pressure`]). Asks in the background
//!   fetch those few. They are more frequent the greater this instance's share of the key is.
//! - **Whether the store works.** A breaker guards it. While the breaker is open, no request waits and nothing is sent;
//!   the limit's `on_store_failure` decides. Under `local` the instance then counts with its recent share of the quota.
//!
//! Permits of requests in flight are held and not spent; `flights` has what is known of those.
//!
//! An adapter takes these steps; [`Engine`](crate::engine::Engine) has those that need a policy:
//!
//! ```text
//! decide     if Decision::awaits says so, keep the request and call Engine::await_grant
//! asks       the asks to send now: after every decide, and after each of the steps below
//! granted    an answer has arrived, or there will be none
//! tend       when `Global::next_due` says so: gives up late asks, returns unused permits
//! ready      the requests to plan and decide again, each after `Plan::resume`
//! leave      the client of a waiting request has gone
//! ```

mod asking;
mod entry;
mod flight;
mod flights;
pub(crate) mod health;
mod pace;
mod pressure;
mod share;
mod table;
mod waiting;

pub use health::StoreCounts;
pub use waiting::Wake;

use crate::authority::{Ask, Grant, Instance, Terms};
use crate::breaker::State;
use crate::key::KeyHash;
use crate::lease::Account;
use crate::units::{BasisPoints, Permits, Span, Timestamp};
use flight::Flights;
use health::Health;
use table::Table;
use waiting::Waiting;

/// What one worker knows of shared limits.
#[derive(Debug)]
pub struct Global {
    instance: Instance,
    rules: Rules,
    last_seq: u64,
    table: Table,
    /// Keys whose ask is yet to be sent.
    unsent: Vec<KeyHash>,
    /// Keys whose ask was sent and not answered.
    sent: Vec<KeyHash>,
    flights: Flights,
    /// The same for requests in flight.
    unsent_flights: Vec<KeyHash>,
    sent_flights: Vec<KeyHash>,
    waiting: Waiting,
    health: Health,
    tended_at: Timestamp,
}

/// The policy's settings for the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rules {
    /// How long an answer of the store is awaited.
    pub deadline: Span,
    /// This instance's share of a quota while the store fails, as long as it has not seen what other instances use.
    pub local_share: BasisPoints,
}

/// A key of a shared limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shared {
    /// The account in the instance's own table.
    pub account: Account,
    /// The key by which all instances know it.
    pub key: KeyHash,
    /// The quota.
    pub terms: Terms,
    /// Whether every request asks the authority: no permits are drawn ahead.
    pub exact: bool,
}

/// Why a request that finds too few permits here is not admitted now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Missing {
    /// The authority has said that there are too few permits.
    Refused {
        /// The wait until there may be enough; `None` if the request costs more than the whole quota.
        retry_after: Option<Span>,
    },
    /// The authority has to be asked.
    Unknown,
    /// The authority cannot be asked, or did not answer.
    Failed,
}

/// Permits that an answer brought.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Arrived {
    pub(crate) account: Account,
    pub(crate) permits: Permits,
    /// When they expire: from this time on they may not be used.
    pub(crate) until: Timestamp,
}

/// The state of the store, as this worker sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Report {
    /// Whether the breaker around the store lets asks pass.
    pub answers: bool,
    /// Asks sent since the last report.
    pub asks: u64,
    /// Asks since the last report that failed, or were not answered in time.
    pub failures: u64,
    /// Requests that began to wait since the last report.
    pub waited: u64,
}

impl Global {
    /// A worker that knows nothing yet. `instance` has to be a random number, drawn for each worker whenever it starts.
    #[must_use]
    pub fn new(instance: Instance, rules: Rules) -> Self {
        Self {
            instance,
            rules,
            last_seq: 0,
            table: Table::default(),
            unsent: Vec::new(),
            sent: Vec::new(),
            flights: Flights::default(),
            unsent_flights: Vec::new(),
            sent_flights: Vec::new(),
            waiting: Waiting::default(),
            health: Health::new(instance.get()),
            tended_at: Timestamp::EPOCH,
        }
    }

    /// The policy's settings for the store.
    #[must_use]
    pub fn rules(&self) -> &Rules {
        &self.rules
    }

    /// Why a request of `cost` that finds too few permits here is not admitted now. `since` is when it began to wait;
    /// `None` if it has not waited.
    pub(crate) fn missing(&mut self, of: &Shared, cost: Permits, since: Option<Timestamp>, now: Timestamp) -> Missing {
        if cost > of.terms.most() {
            return Missing::Refused { retry_after: None };
        }
        let fails = self.health.fails(now) || since.is_some_and(|since| since.after(self.rules.deadline) <= now);
        let Some(entry) = self.table.find(of.key) else {
            return if fails { Missing::Failed } else { Missing::Unknown };
        };
        entry.follow_clock(now);
        let is_new = since.is_none();
        let hot = entry.pace.last().after(HOT_GAP) > now;
        if is_new {
            entry.pace.note(now);
        }
        let answered = |at: Timestamp| since.is_some_and(|since| at >= since);
        if fails || entry.failed_at.is_some_and(answered) {
            return Missing::Failed;
        }
        let is_pressed = is_new && entry.is_pressed(now);
        // A request that costs less than the refused one may still be served.
        let refusal = entry.refusal.filter(|refusal| refusal.least <= cost);
        let refusal = refusal.filter(|refusal| {
            let goes_on = hot && refusal.is_brief() && !of.exact;
            refusal.holds(now) || answered(refusal.at) || goes_on
        });
        if refusal.is_none() && !is_pressed {
            return Missing::Unknown;
        }
        entry.refused = entry.refused.plus(cost);
        let is_due = entry.pending.is_none() && !of.exact && entry.is_to_ask_again(now);
        let left = refusal.map_or(Span::ZERO, |refusal| refusal.until.since(now));
        if is_due {
            self.ask_again(of, cost, now);
        }
        let at_least = if is_pressed { SHORTEST_RETRY } else { ASK_AGAIN };
        Missing::Refused { retry_after: Some(left.max(at_least)) }
    }

    /// Counts a decision that `on_store_failure` made because a charge was [`Missing::Failed`].
    pub(crate) fn count_decided_without(&mut self) {
        self.health.count_decided_without();
    }

    /// What the authority is last known to have left of a key, and the time until the quota is renewed.
    pub(crate) fn standing(&self, key: KeyHash, now: Timestamp) -> Option<(Permits, Span)> {
        let entry = self.table.get(key)?;
        Some((entry.left, entry.reset_at.since(now)))
    }

    /// This instance's share of a quota while the store fails; see [`share`].
    pub(crate) fn share(&self, key: KeyHash) -> BasisPoints {
        self.table.get(key).and_then(|entry| entry.share.known()).unwrap_or(self.rules.local_share)
    }

    /// Records permits used without the authority. They are paid off from permits that are drawn ahead later.
    pub(crate) fn owe(&mut self, of: &Shared, cost: Permits, now: Timestamp) {
        if let Some(entry) = self.table.find_or_make(of, now) {
            entry.owe(cost, Span::from_millis(of.terms.window_ms), now);
        }
    }

    /// Whether there is nothing to wait for: no request waits, no ask is unsent or unanswered, no permits are
    /// held, and nothing is known of requests in flight.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        let is_silent = self.sent.is_empty() && self.unsent.is_empty() && self.waiting.is_empty();
        is_silent && !self.table.holds_permits() && self.flights.is_empty()
    }

    /// How long until [`Engine::tend`](crate::engine::Engine::tend) is due: zero while requests are
    /// [`ready`](Self::ready), and `None` while there is nothing to do.
    #[must_use]
    pub fn next_due(&self, now: Timestamp) -> Option<Span> {
        let asked = self.sent.iter().filter_map(|key| self.table.get(*key)?.pending.as_ref());
        let deadlines = asked.map(|asked| asked.sent_at.after(self.rules.deadline));
        let waits = self.waiting.since().map(|since| since.after(self.rules.deadline));
        let idle = self.table.holds_permits().then(|| self.tended_at.after(IDLE));
        let ready = self.waiting.has_ready().then_some(now);
        let renewal = self.table.next_renewal();
        let all = deadlines.chain(waits).chain(idle).chain(renewal).chain(ready).chain(self.flights_due());
        all.min().map(|due| due.since(now))
    }

    /// The state of the store. The counts of asks, failures and waits start again from zero.
    pub fn take_report(&mut self, now: Timestamp) -> Report {
        let answers = !self.health.fails(now);
        let (asks, failures) = self.health.take_counts();
        Report { answers, asks, failures, waited: self.waiting.take_count() }
    }

    /// The state of the breaker around the store, and the counts since the worker began.
    #[must_use]
    pub fn state_and_counts(&self, now: Timestamp) -> (State, StoreCounts) {
        self.health.state_and_counts(now)
    }

    /// Whether the breaker lets asks pass.
    #[must_use]
    pub fn answers(&self, now: Timestamp) -> bool {
        !self.health.fails(now)
    }
}

/// Permits are given back after this time without a request.
pub const IDLE: Span = Span::from_millis(200);
/// A key that has nothing left is asked for at most this often.
pub const ASK_AGAIN: Span = Span::from_millis(10);
/// A key is hot while its requests are closer together than this.
const HOT_GAP: Span = Span::from_millis(20);
/// A client is told whole seconds, so no wait that it is told can be shorter.
const SHORTEST_RETRY: Span = Span::from_secs(1);
