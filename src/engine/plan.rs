//! What one request is about to be charged, quota by quota, and how far that has come.

use super::delaying::Chance;
use super::holding::Found;
use super::refusing::Sentence;
use crate::decision::Cause;
use crate::key::KeyHash;
use crate::limiter::{Outcome, Standing, State, Verdict};
use crate::policy::{Priority, TierIndex};
use crate::rls::ServiceOutcome;
use crate::shed::Pressure;
use crate::status::Page;
use crate::table::Probe;
use crate::units::{BasisPoints, Draw, Permits, Span, Timestamp};

/// What one request is about to be charged, and what came of it. Kept and used again for the next request.
#[derive(Debug, Default)]
pub struct Plan {
    pub(super) found: Vec<u32>,
    pub(super) tier: TierIndex,
    pub(super) priority: Priority,
    pub(super) charges: Vec<Charge>,
    pub(super) entry: Entry,
    pub(super) route: Option<usize>,
    pub(super) may_wait: bool,
    pub(super) refused: bool,
    pub(super) now: Timestamp,
    pub(super) pressure: Pressure,
    pub(super) draw: Draw,
    /// Since when the request has waited for the authority of shared limits, if it has.
    pub(super) since: Option<Timestamp>,
    /// What a rate-limit service has said of the request.
    pub(super) heard: ServiceOutcome,
}

/// What the stages before the limits say.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Entry {
    /// The limits decide.
    #[default]
    Limited,
    /// The request meets no limits.
    Allowed,
    /// The request is refused, whatever the limits say.
    TurnedAway(Cause),
    /// The request is shed, being of this priority.
    Shed(Priority),
    /// The request is answered with a page of status.
    Answered(Page),
}

/// One quota's part in a request. Those of one limit stand side by side.
#[derive(Clone, Copy, Debug)]
pub struct Charge {
    pub(super) limit: u32,
    /// The quota's place among those of the limit.
    pub(super) quota: u8,
    pub(super) key: KeyHash,
    pub(super) page: u32,
    pub(super) cost: Permits,
    /// The limit charges when the answer comes, if at all: see [`Ticket`].
    pub(super) awaits_answer: bool,
    /// The request holds what it is charged until it has ended: see [`Ticket`].
    pub(super) holds: bool,
    /// How many permits there are, where that is found out.
    pub(super) found: Option<Found>,
    /// The request goes on though the limit would have refused it, and is counted apart.
    pub(super) beyond: bool,
    /// Another quota of the limit is exceeded: this one is not charged, also when the limit only observes.
    pub(super) held: bool,
    pub(super) sentence: Sentence,
    pub(super) stage: Stage,
    pub(super) outcome: Option<Outcome>,
    /// When it was charged, or what it holds was last taken anew: for a request that has waited before the plan's `now`.
    pub(super) charged_at: Timestamp,
    pub(super) probe: Option<Probe>,
    pub(super) chance: Chance,
    /// The state that was asked: the key's own, without what is left of a lease.
    pub(super) before: Option<State>,
    /// Permits charged beside the cost, for a lease.
    pub(super) ahead: Permits,
    /// By what the charge is counted.
    pub(super) counted: Counted,
    /// For a shared limit: the key by which all instances know the client.
    pub(super) shared_key: Option<KeyHash>,
    /// For a shared limit: how the client stands with the authority.
    pub(super) told: Option<Standing>,
}

/// By what a charge is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Counted {
    /// The quota, by this instance.
    Here,
    /// Permits that were drawn from the authority.
    Drawn,
    /// Permits that are held of the authority while the request is in flight.
    Held,
    /// This instance's share of the quota, by itself, since the authority cannot be asked.
    Share(BasisPoints),
    /// A rate-limit service.
    Elsewhere,
}

/// How far a charge has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// Still to be settled with the store.
    Open,
    /// Published.
    Charged,
    /// Left as it was: there was no room, or nothing to be charged now.
    Settled,
    /// Decided by what this instance knows without asking the store: see [`crate::lease`].
    Known,
    /// The authority of the shared limit is to be asked first.
    Awaiting,
    /// The rate-limit service is to be asked first.
    Consulting,
    /// The rate-limit service has said that the client is over the limit.
    Over {
        /// After so long there are permits again; `None` when it did not say.
        retry_after: Option<Span>,
    },
    /// The store failed, and this instance's own memory counts.
    Local,
    /// The store failed, and the policy lets the request pass uncounted.
    Waived,
    /// The store failed, and the policy refuses the request.
    Denied,
}

impl Charge {
    /// The limit, as an index into the policy's limits.
    #[must_use]
    pub fn limit(&self) -> usize {
        self.limit as usize
    }

    /// The quota, as an index into those that the limit has for the client's tier.
    #[must_use]
    pub fn quota(&self) -> usize {
        usize::from(self.quota)
    }

    /// How many permits the request needs. One when its answer is yet to say what it costs.
    #[must_use]
    pub fn cost(&self) -> Permits {
        self.cost
    }

    /// The key that is charged.
    #[must_use]
    pub fn key(&self) -> KeyHash {
        self.key
    }

    /// What the limit said; `None` when no state could be had.
    #[must_use]
    pub fn outcome(&self) -> Option<&Outcome> {
        self.outcome.as_ref()
    }

    /// What is left of the ban that the limit has put on the client, if it has.
    #[must_use]
    pub fn ban(&self) -> Option<Span> {
        self.sentence.rest()
    }

    pub(super) fn admits(&self) -> bool {
        let refuses = |outcome: Outcome| matches!(outcome.verdict, Verdict::Refuse { .. });
        self.sentence == Sentence::Free && self.outcome.is_some_and(|outcome| !refuses(outcome))
    }

    /// Whether the limit lets the request pass and charges it for that. What is free touches no state.
    pub(super) fn pays(&self) -> bool {
        self.admits() && !self.awaits_answer && !self.held && !self.chance.taken_over && self.cost > Permits::ZERO
    }

    pub(super) fn exceeds(&self) -> bool {
        matches!(self.stage, Stage::Over { .. }) || (self.outcome.is_some() && !self.admits())
    }

    /// Whether the client was banned before this request.
    pub(super) fn is_banned(&self) -> bool {
        matches!(self.sentence, Sentence::Serving(_))
    }
}

impl Plan {
    /// A plan that has not served yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The client's tier.
    #[must_use]
    pub fn tier(&self) -> TierIndex {
        self.tier
    }

    /// How important the request is.
    #[must_use]
    pub fn priority(&self) -> Priority {
        self.priority
    }

    /// Says how hard the service is pressed when the next request is planned, and what that request drew.
    pub fn press(&mut self, pressure: Pressure, draw: Draw) {
        (self.pressure, self.draw) = (pressure, draw);
    }

    /// Says that the request of this plan has waited for the authority since then, so that it does not wait again for what
    /// is known to have failed, nor for longer than the deadline. To be called between plan and decide.
    pub fn resume(&mut self, since: Timestamp) {
        self.since = Some(since);
    }

    /// Says what the rate-limit service has said of the request of this plan, so that it is not asked again. To be called between
    /// plan and decide.
    pub fn hear(&mut self, heard: ServiceOutcome) {
        self.heard = heard;
    }

    /// The page of status that the request is answered with; there is nothing to decide then.
    #[must_use]
    pub fn page(&self) -> Option<Page> {
        match self.entry {
            Entry::Answered(page) => Some(page),
            _ => None,
        }
    }

    /// Whether the request goes on, and nothing has to be decided.
    #[must_use]
    pub fn is_clear(&self) -> bool {
        self.charges.is_empty() && self.entry == Entry::Limited && self.route.is_none()
    }

    /// The route that the request takes if it is admitted, as an index into the policy's; `None` where the host chooses.
    #[must_use]
    pub fn route(&self) -> Option<usize> {
        self.route
    }

    /// What is charged: the quotas of the limits that apply, in the policy's order.
    #[must_use]
    pub fn charges(&self) -> &[Charge] {
        &self.charges
    }
}
