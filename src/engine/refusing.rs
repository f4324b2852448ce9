//! The consequences of a refusal: a penalty, and after many of them a ban.
//!
//! Both are kept beside the client's account, on the same page. So reading them costs no further read, and a refusal is
//! noted in one write.
//!
//! **A client is never locked out forever.** The penalties are limited by a quota of their own: `max` permits in the
//! same window, counted by the same algorithm. The permits used are then at most those of the admitted requests plus
//! those of this quota. So requests that would pass a quota of `permits - max` always pass, however often the client
//! was refused.

use super::charging::Charging;
use super::{Charge, Stage};
use crate::key::Companion;
use crate::limiter::ban::{Ban, KEPT_LONGEST, Rest};
use crate::limiter::{Meter, Outcome, State, Verdict};
use crate::metrics::Total;
use crate::mode::Mode;
use crate::policy::{Limit, Quota};
use crate::store::{MAX_ROUNDS, Store, StoreError};
use crate::table::{Displaces, Page};
use crate::units::{Permits, Span, Timestamp};

/// The consequences of refusals by one limit, prepared for deciding.
#[derive(Debug)]
pub(super) struct Refusals {
    ban: Option<Ban>,
    /// The penalty for each refused request, zero for none.
    cost: Permits,
    /// By tier, then by quota: the quota that limits the penalties.
    penalties: Vec<Vec<Option<Meter>>>,
}

/// Whether a limit has banned a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum BanStatus {
    /// It is not banned.
    NotBanned,
    /// It was banned before this request.
    Banned(Rest),
    /// The refusal of this request has banned it, for this long.
    Begun(Span),
}

impl BanStatus {
    /// What is left of the ban.
    pub(super) fn rest(self) -> Option<Span> {
        match self {
            Self::NotBanned => None,
            Self::Banned(rest) => Some(rest.span),
            Self::Begun(rest) => Some(rest),
        }
    }
}

impl Refusals {
    /// The consequences of refusals by this limit, whose quotas are those in force.
    pub(super) fn new(limit: &Limit, mode: &Mode) -> Self {
        let (cost, most) = limit.penalty.map_or_else(Default::default, |penalty| (penalty.cost, penalty.max));
        let penalty = |quota: &Quota| {
            // Lowered like the quota, and at least so far that the quota always has room for one request as well.
            let max = mode.in_force(Quota { permits: most, burst: most, ..*quota }).permits;
            let max = max.min(quota.permits.min(quota.burst).minus(limit.cost.least()));
            let meter = || Meter::new(limit.algorithm, &Quota { permits: max, burst: max, ..*quota });
            (most > Permits::ZERO && max > Permits::ZERO).then(meter)
        };
        Self {
            ban: limit.ban.as_ref().map(Ban::new),
            cost,
            penalties: limit.quotas.iter().map(|quotas| quotas.iter().map(penalty).collect()).collect(),
        }
    }

    /// Whether the client is banned. The ban is kept beside the account of the limit's first quota.
    pub(super) fn ban_status(&self, charge: &Charge, page: &Page, now: Timestamp) -> BanStatus {
        let Some(ban) = self.ban.filter(|_| charge.quota == 0) else { return BanStatus::NotBanned };
        let state = page.probe(charge.key.companion(Companion::Ban), now).state();
        ban.rest(state, now).map_or(BanStatus::NotBanned, BanStatus::Banned)
    }
}

impl<S: Store> Charging<'_, S> {
    /// Notes the refusals by these charges, including those by limits that only observe. While a client is banned,
    /// nothing else is noted.
    pub(super) fn note_refusals(&mut self, charges: &mut [Charge]) {
        let banned = charges.iter().any(|charge| charge.is_banned() && !self.engine.observes(charge));
        // A page that this round has published must be read again before it is written again.
        let published =
            |charge: &Charge| charge.stage == Stage::Charged || charge.outcome.is_some_and(|outcome| outcome.moved);
        let mut again = charges.iter().any(published);
        for charges in charges.chunk_by_mut(|one, other| one.limit == other.limit) {
            // A refusal for lack of room to wait is not the client's fault.
            let over = |charge: &Charge| charge.exceeds() && !charge.wait_offer.no_room;
            let exceeded = charges.iter().any(over);
            let served = charges.iter().any(Charge::is_banned);
            for charge in charges.iter_mut().filter(|charge| exceeded && charge.outcome.is_some()) {
                let note = match charge.ban_status {
                    BanStatus::Banned(Rest { moved, .. }) => self.note(charge, moved, false),
                    _ => self.note(charge, !served && !banned, !served && !banned && over(charge)),
                };
                if let Some(note) = note {
                    self.write_note(charge, &note, again);
                    again = true;
                }
            }
        }
    }

    /// What to note for this charge, if anything.
    fn note(&self, charge: &Charge, counts: bool, penalises: bool) -> Option<Note> {
        let refusals = self.refusals(charge)?;
        let penalty = refusals.penalties.get(self.tier.get()).and_then(|quotas| *quotas.get(charge.quota())?);
        let (ban, penalty) = (refusals.ban.filter(|_| counts && charge.quota == 0), penalty.filter(|_| penalises));
        let meter = self.engine.meter(charge, self.tier)?.into_owned();
        (ban.is_some() || penalty.is_some()).then_some(Note { meter, ban, penalty, cost: refusals.cost, now: self.now })
    }

    /// Publishes the note where the charge was counted, and retries when another worker publishes the page first, up to
    /// [`MAX_ROUNDS`] times. A note that cannot be published is lost, in the client's favour.
    fn write_note(&mut self, charge: &mut Charge, note: &Note, again: bool) {
        for round in 0..MAX_ROUNDS {
            let local = charge.stage == Stage::Local;
            if (again || round > 0) && !local {
                self.store.begin();
            }
            let page = if local { self.local.write(charge.page) } else { self.store.write(charge.page) };
            let Ok(page) = page else { return };
            let noted = note.write(page, charge);
            let published = match (noted.changed, local) {
                (true, false) => self.store.publish(charge.page),
                _ => Ok(()),
            };
            match published {
                Ok(()) => {
                    noted.displaced.into_iter().for_each(|displaced| self.counters.displaced(displaced));
                    self.counters.add(Total::Bans, u64::from(noted.began));
                    self.counters.add(Total::PenaltyPermits, u64::from(noted.penalty.get()));
                    charge.outcome = noted.outcome.or(charge.outcome);
                    charge.ban_status = noted.rest.map_or(charge.ban_status, BanStatus::Begun);
                    return;
                }
                Err(StoreError::Conflict) => self.conflict(),
                Err(_) => return,
            }
        }
    }

    fn refusals(&self, charge: &Charge) -> Option<&Refusals> {
        self.engine.limits.get(charge.limit()).map(|limit| &limit.refusals)
    }
}

/// What one refusal changes.
struct Note {
    meter: Meter,
    /// The ban, if it counts this refusal or has to be rewritten after a backward step of the clock.
    ban: Option<Ban>,
    /// The quota that limits the penalties.
    penalty: Option<Meter>,
    /// The penalty for this refusal.
    cost: Permits,
    now: Timestamp,
}

/// The result of a note.
struct Noted {
    /// Whether the page must be published.
    changed: bool,
    displaced: [Displaces; 3],
    penalty: Permits,
    /// The quota's verdict with the penalty charged: a longer wait.
    outcome: Option<Outcome>,
    /// Whether a ban began here.
    began: bool,
    /// How much of the client's ban is left, if it has one. The ban may have begun elsewhere in the meantime.
    rest: Option<Span>,
}

impl Noted {
    const NOTHING: Self = Self {
        changed: false,
        displaced: [Displaces::Nothing; 3],
        penalty: Permits::ZERO,
        outcome: None,
        began: false,
        rest: None,
    };
}

impl Note {
    fn write(&self, page: &mut Page, charge: &Charge) -> Noted {
        let mut noted = Noted::NOTHING;
        self.charge_penalty(page, charge, &mut noted);
        self.count(page, charge, &mut noted);
        noted
    }

    fn charge_penalty(&self, page: &mut Page, charge: &Charge, noted: &mut Noted) {
        let account = charge.key.companion(Companion::Penalty);
        let probe = page.probe(account, self.now);
        let Some(allowed) = self.penalty.map(|penalty| penalty.check(probe.state(), self.cost, self.now)) else {
            return;
        };
        // Penalties stay bounded only if they are remembered. So none is charged if its entry would evict a client that
        // has used up all of its quota.
        if allowed.verdict != Verdict::Admit || forgets_the_heaviest(probe.displaces()) {
            return;
        }
        let own = page.probe(charge.key, self.now);
        let state = self.meter.charge(own.state(), self.cost, self.now);
        page.write(&own, charge.key, state);
        // Writing the client's own entry may have taken the slot that the first probe found.
        let probe = page.probe(account, self.now);
        page.write(&probe, account, State::new(allowed.state.fresh_at(), KEPT_LONGEST, allowed.state.payload()));
        let [first, second, _] = &mut noted.displaced;
        (*first, *second) = (own.displaces(), probe.displaces());
        noted.changed = true;
        noted.penalty = self.cost;
        noted.outcome = Some(self.meter.check(Some(state), charge.cost, self.now));
    }

    fn count(&self, page: &mut Page, charge: &Charge, noted: &mut Noted) {
        let Some(ban) = self.ban else { return };
        let account = charge.key.companion(Companion::Ban);
        let probe = page.probe(account, self.now);
        let (state, begun) = match ban.rest(probe.state(), self.now) {
            Some(Rest { moved: true, .. }) => (ban.begun(self.now), None),
            Some(Rest { span, moved: false }) => {
                noted.rest = Some(span);
                return;
            }
            None => ban.refused(probe.state(), self.now),
        };
        if begun.is_none() && forgets_the_heaviest(probe.displaces()) {
            return;
        }
        page.write(&probe, account, state);
        let [.., third] = &mut noted.displaced;
        *third = probe.displaces();
        noted.changed = true;
        noted.began = begun.is_some();
        noted.rest = begun;
    }
}

fn forgets_the_heaviest(displaces: Displaces) -> bool {
    displaces == Displaces::Live(KEPT_LONGEST)
}
