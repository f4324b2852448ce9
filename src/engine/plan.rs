//! The plan of one request: which quotas it charges, and how far each charge has come.

use super::delaying::WaitOffer;
use super::holding::AdaptiveLimit;
use super::refusing::BanStatus;
use crate::decision::Cause;
use crate::key::KeyHash;
use crate::limiter::{Outcome, Standing, State, Verdict};
use crate::policy::{Priority, TierIndex};
use crate::rls::ServiceOutcome;
use crate::shed::Pressure;
use crate::status::Page;
use crate::table::Probe;
use crate::units::{BasisPoints, Draw, Permits, Span, Timestamp};

/// What one request charges, and with which result. Reused for the next request.
#[derive(Debug, Default)]
pub struct Plan {
    pub(super) found: Vec<u32>,
    pub(super) tier: TierIndex,
    pub(super) priority: Priority,
    pub(super) charges: Vec<Charge>,
    pub(super) precheck: Precheck,
    pub(super) route: Option<usize>,
    pub(super) may_wait: bool,
    pub(super) refused: bool,
    pub(super) now: Timestamp,
    pub(super) pressure: Pressure,
    pub(super) draw: Draw,
    /// When the request began to wait for the authority of shared limits, if it has waited.
    pub(super) since: Option<Timestamp>,
    /// What the rate-limit service has answered about the request.
    pub(super) service_outcome: ServiceOutcome,
}

/// What the stages before the limits have decided.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Precheck {
    /// The limits decide.
    #[default]
    Limited,
    /// The client is on the allow list: no limits apply.
    Allowed,
    /// The request is refused, whatever the limits say.
    TurnedAway(Cause),
    /// The request is shed. Its priority is this.
    Shed(Priority),
    /// A status page answers the request.
    Answered(Page),
}

/// One quota's charge for a request. The charges of one limit are adjacent.
#[derive(Clone, Copy, Debug)]
pub struct Charge {
    pub(super) limit: u32,
    /// The quota's index among those of the limit.
    pub(super) quota: u8,
    pub(super) key: KeyHash,
    pub(super) page: u32,
    pub(super) cost: Permits,
    /// The limit charges when the response arrives, if at all: see [`Ticket`](super::Ticket).
    pub(super) awaits_answer: bool,
    /// The request holds its permits until it ends: see [`Ticket`](super::Ticket).
    pub(super) holds: bool,
    /// For an adaptive limit: how many permits it has now.
    pub(super) adaptive: Option<AdaptiveLimit>,
    /// The request goes on although the limit would have refused it, and is counted separately.
    pub(super) beyond: bool,
    /// Another quota of the limit is exceeded, so this one is not charged, even if the limit only observes.
    pub(super) sibling_exceeded: bool,
    pub(super) ban_status: BanStatus,
    pub(super) stage: Stage,
    pub(super) outcome: Option<Outcome>,
    /// When the charge was made, or when the permits held were last renewed. For a request that has waited, this is
    /// before the plan's `now`.
    pub(super) charged_at: Timestamp,
    pub(super) probe: Option<Probe>,
    pub(super) wait_offer: WaitOffer,
    /// The key's state that was checked, without what is left of a lease.
    pub(super) before: Option<State>,
    /// Permits charged for a lease, in addition to the cost.
    pub(super) ahead: Permits,
    /// What counts the charge.
    pub(super) counted: Counted,
    /// For a shared limit: the key that all instances use for the client.
    pub(super) shared_key: Option<KeyHash>,
    /// For a shared limit: the client's standing, including the permits left with the authority.
    pub(super) shared_standing: Option<Standing>,
}

/// What counts a charge.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Counted {
    /// This instance counts the quota.
    Here,
    /// Permits that this instance has drawn from the authority.
    Drawn,
    /// Permits that this worker holds from the authority while requests are in flight.
    Held,
    /// This instance counts its own share of the quota, because the authority cannot be asked.
    Share(BasisPoints),
    /// A rate-limit service.
    ByService,
}

/// How far a charge has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// Not yet settled with the store.
    Open,
    /// Published to the store.
    Charged,
    /// Not charged: there was no room, or there is nothing to charge now.
    Settled,
    /// Decided without the store, by what this instance knows: see [`crate::lease`].
    Known,
    /// The authority of the shared limit must be asked first.
    Awaiting,
    /// The rate-limit service must be asked first.
    Consulting,
    /// The rate-limit service has answered that the client is over the limit.
    Over {
        /// How long until there are permits again; `None` if the service did not say.
        retry_after: Option<Span>,
    },
    /// The store failed, and this instance's own memory counts the charge.
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

    /// How many permits the request needs. One if the response determines its cost.
    #[must_use]
    pub fn cost(&self) -> Permits {
        self.cost
    }

    /// The key that is charged.
    #[must_use]
    pub fn key(&self) -> KeyHash {
        self.key
    }

    /// The limit's verdict; `None` if its state was not available.
    #[must_use]
    pub fn outcome(&self) -> Option<&Outcome> {
        self.outcome.as_ref()
    }

    /// How much of the limit's ban on the client is left; `None` if the client is not banned.
    #[must_use]
    pub fn ban(&self) -> Option<Span> {
        self.ban_status.rest()
    }

    pub(super) fn admits(&self) -> bool {
        let refuses = |outcome: Outcome| matches!(outcome.verdict, Verdict::Refuse { .. });
        self.ban_status == BanStatus::NotBanned && self.outcome.is_some_and(|outcome| !refuses(outcome))
    }

    /// Whether the limit admits the request and charges it now. A request that costs nothing changes no state.
    pub(super) fn pays(&self) -> bool {
        self.admits()
            && !self.awaits_answer
            && !self.sibling_exceeded
            && !self.wait_offer.taken_over
            && self.cost > Permits::ZERO
    }

    pub(super) fn exceeds(&self) -> bool {
        matches!(self.stage, Stage::Over { .. }) || (self.outcome.is_some() && !self.admits())
    }

    /// Whether the charge was admitted and published, and concerns this instance alone.
    pub(super) fn is_charged_here(&self) -> bool {
        self.stage == Stage::Charged && self.counted == Counted::Here && self.admits() && !self.sibling_exceeded
    }

    /// Whether the client was banned before this request.
    pub(super) fn is_banned(&self) -> bool {
        matches!(self.ban_status, BanStatus::Banned(_))
    }
}

impl Plan {
    /// An empty plan.
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

    /// Sets the pressure on the service for the next request to be planned, and that request's draw.
    pub fn set_pressure(&mut self, pressure: Pressure, draw: Draw) {
        (self.pressure, self.draw) = (pressure, draw);
    }

    /// Records that this plan's request has waited for the authority since `since`. It then neither waits again for an
    /// authority that is known to have failed, nor longer than the deadline. Call it between `plan` and `decide`.
    pub fn resume(&mut self, since: Timestamp) {
        self.since = Some(since);
    }

    /// Records the rate-limit service's answer about this plan's request, so that the service is not asked again. Call
    /// it between `plan` and `decide`.
    pub fn set_service_outcome(&mut self, service_outcome: ServiceOutcome) {
        self.service_outcome = service_outcome;
    }

    /// The status page that answers the request; there is then nothing to decide.
    #[must_use]
    pub fn page(&self) -> Option<Page> {
        match self.precheck {
            Precheck::Answered(page) => Some(page),
            _ => None,
        }
    }

    /// Whether the request goes on without a decision.
    #[must_use]
    pub fn is_clear(&self) -> bool {
        self.charges.is_empty() && self.precheck == Precheck::Limited && self.route.is_none()
    }

    /// The route that the request takes if it is admitted, as an index into the policy's; `None` where the host chooses.
    #[must_use]
    pub fn route(&self) -> Option<usize> {
        self.route
    }

    /// The charges: one for each quota of the limits that apply, in the policy's order.
    #[must_use]
    pub fn charges(&self) -> &[Charge] {
        &self.charges
    }
}
