//! The instance's side of limits that many instances share: what it knows of each key, and what it asks.
//!
//! The [authority](crate::authority) counts. What it has granted lies in the instance's own key table
//! ([`drawn`](crate::limiter::drawn)), where requests spend it like any other quota, all or none with the limits that are not
//! shared. Here is what else one worker of the instance has to know, a bounded table of keys:
//!
//! - **How much to draw.** The first request of a key draws what it costs. While a lease is used up soon, the next is twice
//!   as large; one that lasts long is followed by one of half its size. None is larger than what will be used before it
//!   expires. The next is drawn when half of the last is left, or when the last expires, so that a key in use is not waited for.
//!   What is left of it when a sliding window ends is lost to all: where there is too little, the less is drawn the nearer that is.
//! - **Who waits.** Only requests of a key that is not known do, at most as long as the store's deadline, and one ask
//!   is under way for all of them.
//! - **What was refused.** While the authority says that nothing is left, requests are refused at once, and so they are while
//!   there are more of them than permits, although a few come all the time ([`pressure`]). Asks in the background bring those,
//!   the more often the greater this instance's share of the key is.
//! - **Whether the store works.** Behind a breaker: while it is open nobody waits, and nothing is sent. What then happens is
//!   the limit's `on_store_failure`. Under `local` the instance counts with the share of the quota that it has
//!   had of late.
//!
//! Permits of requests in flight are held and not spent; what there is to know of those stands apart, in `flights`.
//!
//! An adapter takes these steps; [`Engine`](crate::engine::Engine) has those that need a policy:
//!
//! ```text
//! decide     answers with Decision::awaits: keep the request, and say so with Engine::await_grant
//! asks       what is to be sent now: after every decide, and after each of the steps below
//! granted    an answer has come, or is known not to come; then
//! tend       deadlines and returns: when `Global::next_due` says so
//! ready      which requests are to be planned and decided again, each after `Plan::resume`
//! leave      a client has gone
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

pub use health::Told;
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
    /// Keys with an ask to be sent.
    unsent: Vec<KeyHash>,
    /// Keys with an ask under way.
    sent: Vec<KeyHash>,
    flights: Flights,
    /// The same for requests in flight.
    unsent_flights: Vec<KeyHash>,
    sent_flights: Vec<KeyHash>,
    waiting: Waiting,
    health: Health,
    tended_at: Timestamp,
}

/// What the policy says of the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rules {
    /// How long an answer of the store is awaited.
    pub deadline: Span,
    /// Which share of a quota this instance has while the store fails, where it has not yet seen what others use.
    pub local_share: BasisPoints,
}

/// A key whose permits are shared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shared {
    /// The account in the instance's own table.
    pub account: Account,
    /// The key by which all instances know it.
    pub key: KeyHash,
    /// The quota.
    pub terms: Terms,
    /// Nothing is drawn ahead.
    pub exact: bool,
}

/// Why a request that finds too few permits here is not admitted now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Missing {
    /// The authority has said that there are none.
    Refused {
        /// For so long; `None` for ever.
        retry_after: Option<Span>,
    },
    /// The authority has to be asked.
    Unknown,
    /// The authority cannot be asked, or did not answer.
    Failed,
}

/// Permits that have come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Arrived {
    pub(crate) account: Account,
    pub(crate) permits: Permits,
    /// Until when, exclusive, they may be used.
    pub(crate) until: Timestamp,
}

/// How the store is, as this worker sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Report {
    /// Whether the breaker lets asks pass.
    pub answers: bool,
    /// Asks sent, since this was last taken.
    pub asks: u64,
    /// Those that were not answered in time, or with an error.
    pub failures: u64,
    /// Requests that waited.
    pub waited: u64,
}

impl Global {
    /// A worker that knows nothing yet. `instance` has to be a random number, drawn anew for each worker whenever it starts.
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

    /// What the policy says of the store.
    #[must_use]
    pub fn rules(&self) -> &Rules {
        &self.rules
    }

    /// What is known of a request of `cost` that finds too few permits here, and that has waited since `since`, if it has.
    pub(crate) fn missing(&mut self, of: &Shared, cost: Permits, since: Option<Timestamp>, now: Timestamp) -> Missing {
        if cost > of.terms.most() {
            return Missing::Refused { retry_after: None };
        }
        let fails = self.health.fails(now) || since.is_some_and(|since| since.after(self.rules.deadline) <= now);
        let Some(entry) = self.table.find(of.key) else {
            return if fails { Missing::Failed } else { Missing::Unknown };
        };
        entry.follow(now);
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
        // A cheaper one may be served.
        let refusal = entry.refusal.filter(|refusal| refusal.least <= cost);
        let refusal = refusal.filter(|refusal| {
            let goes_on = hot && refusal.is_brief() && !of.exact;
            refusal.holds(now) || answered(refusal.at) || goes_on
        });
        if refusal.is_none() && !is_pressed {
            return Missing::Unknown;
        }
        entry.refused = entry.refused.plus(cost);
        let is_due = entry.asked.is_none() && !of.exact && entry.is_to_ask_again(now);
        let left = refusal.map_or(Span::ZERO, |refusal| refusal.until.since(now));
        if is_due {
            self.ask_again(of, cost, now);
        }
        let at_least = if is_pressed { SHORTEST_RETRY } else { ASK_AGAIN };
        Missing::Refused { retry_after: Some(left.max(at_least)) }
    }

    /// Takes note that `on_store_failure` decided, since a charge was [`Missing::Failed`].
    pub(crate) fn go_without(&mut self) {
        self.health.go_without();
    }

    /// How a key stands with the authority, as far as is known: what is left there, and when the quota is renewed.
    pub(crate) fn standing(&self, key: KeyHash, now: Timestamp) -> Option<(Permits, Span)> {
        let entry = self.table.get(key)?;
        Some((entry.left, entry.reset_at.since(now)))
    }

    /// Which share of a quota this instance has while the store fails; see [`share`].
    pub(crate) fn share(&self, key: KeyHash) -> BasisPoints {
        self.table.get(key).and_then(|entry| entry.share.known()).unwrap_or(self.rules.local_share)
    }

    /// Takes note of permits used without the authority: they are paid with what is drawn ahead later.
    pub(crate) fn owe(&mut self, of: &Shared, cost: Permits, now: Timestamp) {
        if let Some(entry) = self.table.find_or_make(of, now) {
            entry.owe(cost, Span::from_millis(of.terms.window_ms), now);
        }
    }

    /// Whether requests wait or asks are under way.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        let is_silent = self.sent.is_empty() && self.unsent.is_empty() && self.waiting.is_empty();
        is_silent && !self.table.holds_permits() && self.flights.is_empty()
    }

    /// After how long [`Engine::tend`](crate::engine::Engine::tend) is due; `None` while there is nothing to be done. At once
    /// while there are requests [`ready`](Self::ready).
    #[must_use]
    pub fn next_due(&self, now: Timestamp) -> Option<Span> {
        let asked = self.sent.iter().filter_map(|key| self.table.get(*key)?.asked.as_ref());
        let deadlines = asked.map(|asked| asked.sent_at.after(self.rules.deadline));
        let waits = self.waiting.since().map(|since| since.after(self.rules.deadline));
        let idle = self.table.holds_permits().then(|| self.tended_at.after(IDLE));
        let ready = self.waiting.has_ready().then_some(now);
        let renewal = self.table.next_renewal();
        let all = deadlines.chain(waits).chain(idle).chain(renewal).chain(ready).chain(self.flights_due());
        all.min().map(|due| due.since(now))
    }

    /// How the store is. What it counts begins anew.
    pub fn take_report(&mut self, now: Timestamp) -> Report {
        let answers = !self.health.fails(now);
        let (asks, failures) = self.health.take_counts();
        Report { answers, asks, failures, waited: self.waiting.take_count() }
    }

    /// How the breaker around the store stands, and what was counted since the worker began.
    #[must_use]
    pub fn tell(&self, now: Timestamp) -> (State, Told) {
        self.health.tell(now)
    }

    /// Whether the breaker lets asks pass.
    #[must_use]
    pub fn answers(&self, now: Timestamp) -> bool {
        !self.health.fails(now)
    }
}

/// After so long without a request, permits are given back.
pub const IDLE: Span = Span::from_millis(200);
/// At most so often one key that has nothing left is asked for.
pub const ASK_AGAIN: Span = Span::from_millis(10);
/// Requests so close to each other make a key hot.
const HOT_GAP: Span = Span::from_millis(20);
/// A client is told whole seconds, so that no shorter wait is told to any.
const SHORTEST_RETRY: Span = Span::from_secs(1);
