//! Keeps an instance's breakers in agreement with those of other instances: when the authority is asked, what it is
//! asked, and what happens to its answers. [`breaker::global`](crate::breaker::global) describes the protocol.
//!
//! An adapter takes these steps outside of requests:
//!
//! ```text
//! next_round      on every tick: returns a round to be sent now, if one is due and this worker has the turn
//! apply_answer    when the answer has come, or is known not to come
//! ```
//!
//! One worker of the instance asks for all of them. The workers take [turns](turn) through a ledger of their own. The
//! worker asks once a second; every 100 ms while there is something to report; and every 250 ms while a breaker is
//! about to be probed, so that all instances soon know the result. A late round only delays this. If the authority has
//! not answered for 3 s, the instance's breakers decide by what the instance sees itself, until an answer comes.

mod turn;

use super::{Context, Ledgers, Upstreams};
use crate::authority::Instance;
use crate::breaker::global::{Report, ReportKind, ReportMessage, Standing};
use crate::breaker::jittered;
use crate::key::{KeyHash, Seed};
use crate::metrics::{Counters, Total};
use crate::units::{BasisPoints, Span, Timestamp};
use turn::Turn;

/// What one worker knows of the authority over shared breakers.
#[derive(Debug)]
pub(super) struct Agreement {
    instance: Instance,
    authority: KeyHash,
    /// The ledger in which the workers of an instance find whose turn it is.
    turns: String,
    /// The index of each shared breaker, and the key by which all instances know it.
    breakers: Vec<(usize, KeyHash)>,
    rounds: u64,
    failures: u64,
    learnt: u64,
}

/// One message to the authority.
#[derive(Debug)]
pub struct Round {
    /// The reports to be sent.
    pub message: ReportMessage,
    /// The key under which the authority stores all breakers. The same in all instances.
    pub authority: KeyHash,
    places: Vec<usize>,
    sent_at: Timestamp,
}

impl Agreement {
    /// `None` if no breaker is shared.
    fn new(upstreams: &Upstreams, seed: Seed, instance: Instance) -> Option<Self> {
        let known = &upstreams.breakers;
        let is_shared = |place: &usize| known.local(*place).is_some_and(|local| local.rules().is_shared());
        let key = |place: usize| Some((place, seed.breaker(known.identity(place)?)));
        let breakers: Vec<_> = (0..known.len()).filter(is_shared).filter_map(key).collect();
        let all = breakers.iter().fold(0_u64, |all, (_, key)| all.rotate_left(1) ^ key.get());
        // No breaker has such a name. Workers with other shared breakers, under another policy, take turns of their
        // own.
        let turns = format!("*{all:016x}");
        let authority = seed.breaker("");
        let known = (!breakers.is_empty()).then_some(breakers)?;
        Some(Self { instance, authority, turns, breakers: known, rounds: 0, failures: 0, learnt: 0 })
    }

    /// The interval of rounds if there is no news: all breakers are asked about once a second, if the minimum interval
    /// allows that.
    fn interval(&self) -> Span {
        let rounds = self.breakers.len().div_ceil(ReportMessage::MAX_REPORTS).max(1);
        let each = QUIET_INTERVAL.as_nanos().checked_div(u64::try_from(rounds).unwrap_or(u64::MAX)).unwrap_or(0);
        Span::from_nanos(each).max(NEWS_INTERVAL)
    }
}

impl Upstreams {
    /// Lets the shared breakers ask their authority. `instance` is a random number, the same for all workers that
    /// publish their breakers in one store, and drawn again whenever that store starts empty.
    pub(crate) fn agree_by(&mut self, seed: Seed, instance: Instance) {
        self.agreement = Agreement::new(self, seed, instance);
    }

    /// The breakers that an authority governs, by their [identity](crate::breaker::Breakers::identity).
    pub fn agreed(&self) -> impl Iterator<Item = &str> {
        let places = self.agreement.iter().flat_map(|agreement| &agreement.breakers);
        places.filter_map(|(place, _)| self.breakers.identity(*place))
    }

    /// How many of those breakers decide by what this instance sees itself, because their authority does not answer;
    /// `None` if no breaker is shared.
    #[must_use]
    pub fn alone(&self) -> Option<usize> {
        let places = &self.agreement.as_ref()?.breakers;
        let is_alone = |place: usize| self.breakers.local(place).is_some_and(|local| !local.is_governed());
        Some(places.iter().filter(|(place, _)| is_alone(*place)).count())
    }

    /// Whether there is something to report to the authority.
    #[must_use]
    pub fn tells(&self, now: Timestamp) -> bool {
        let mut places = self.agreement.iter().flat_map(|agreement| &agreement.breakers);
        places
            .any(|(place, _)| self.breakers.local(*place).is_some_and(|it| it.report(now).kind != ReportKind::Nothing))
    }

    /// What to ask the authority now, if anything. To be called on every tick of every worker.
    pub fn next_round<L: Ledgers>(&mut self, context: &mut Context<'_, L>) -> Option<Round> {
        let now = context.now;
        let agreement = self.agreement.as_ref()?;
        let turn = Turn::read(context.ledgers.of(&agreement.turns));
        let governed = turn.is_ok_and(|turn| !turn.is_authority_silent(now));
        let mut is_near_probes = false;
        for (place, _) in &agreement.breakers {
            let Some(local) = self.breakers.get(*place) else { continue };
            local.govern(governed);
            is_near_probes |= local.shared().is_near_probes(PROBE_INTERVAL, now);
        }
        let turn = turn.ok()?;
        let every = match agreement.interval() {
            every if turn.is_unanswered() => every.max(QUIET_INTERVAL),
            every if self.tells(now) => every.min(NEWS_INTERVAL),
            every if is_near_probes => every.min(PROBE_INTERVAL),
            every => every,
        };
        if !turn.is_due(jittered(every, JITTER, context.draw), now) {
            return None;
        }
        let next = turn.asked(agreement.breakers.len(), ReportMessage::MAX_REPORTS, now);
        // Fails if another worker has taken the turn in the meantime.
        turn.replace(next, context.ledgers.of(&agreement.turns)).ok()?;
        Some(self.round(turn.cursor(), context))
    }

    /// A round of all breakers with news; the remaining room goes to the others in rotation, beginning at `cursor`.
    fn round<L: Ledgers>(&mut self, cursor: usize, context: &mut Context<'_, L>) -> Round {
        let now = context.now;
        let (mut telling, mut others) = (Vec::new(), Vec::new());
        let breakers = self.agreement.as_ref().map_or(&[][..], |agreement| &agreement.breakers);
        let (before, after) = breakers.split_at_checked(cursor).unwrap_or((&[], breakers));
        for (place, key) in after.iter().chain(before) {
            let Some((identity, local)) = self.breakers.named(*place) else { continue };
            // A worker that does not use the breaker may have an old record. If the current one cannot be read, it
            // reports the old one.
            let _ = local.learn(context.ledgers.of(identity));
            let told = local.report(now);
            let (from, kind, opened) = (told.from, told.kind, told.opened);
            let (age_ms, lasts_ms, open_for_ms) = (told.age_ms, told.lasts_ms, told.open_for_ms);
            let report = Report { breaker: *key, from, kind, age_ms, lasts_ms, open_for_ms, opened };
            let list = if kind == ReportKind::Nothing { &mut others } else { &mut telling };
            list.push((*place, report));
        }
        let (places, reports) = telling.into_iter().chain(others).take(ReportMessage::MAX_REPORTS).unzip();
        let agreement = self.agreement.as_mut();
        let (instance, authority) = agreement.map_or_else(Default::default, |agreement| {
            agreement.rounds = agreement.rounds.saturating_add(1);
            (agreement.instance, agreement.authority)
        });
        Round { message: ReportMessage { instance, reports }, authority, places, sent_at: now }
    }

    /// Applies the authority's answer, with a standing for each report; `None` if it did not answer.
    pub fn apply_answer<L: Ledgers>(
        &mut self,
        round: &Round,
        standings: Option<&[Standing]>,
        context: &mut Context<'_, L>,
    ) {
        let Some(agreement) = &mut self.agreement else { return };
        let whole = standings.filter(|standings| standings.len() == round.places.len());
        let Some(standings) = whole else {
            agreement.failures = agreement.failures.saturating_add(1);
            return;
        };
        Turn::answered(context.ledgers.of(&agreement.turns), round.sent_at);
        for (place, standing) in round.places.iter().zip(standings) {
            let Some((identity, local)) = self.breakers.named(*place) else { continue };
            let is_new = local.apply_standing(context.ledgers.of(identity), standing, round.sent_at, context.now);
            agreement.learnt = agreement.learnt.saturating_add(u64::from(is_new && !standing.mine));
        }
        for (place, _) in &agreement.breakers {
            if let Some(local) = self.breakers.get(*place) {
                local.govern(true);
            }
        }
    }

    /// Adds the counts of rounds to the totals and resets them.
    pub fn count_rounds(&mut self, counters: &mut Counters) {
        let Some(agreement) = &mut self.agreement else { return };
        for (total, count) in [
            (Total::BreakerRounds, &mut agreement.rounds),
            (Total::BreakerRoundFailures, &mut agreement.failures),
            (Total::BreakersLearnt, &mut agreement.learnt),
        ] {
            counters.add(total, core::mem::take(count));
        }
    }
}

/// The interval of rounds if there is no news.
pub const QUIET_INTERVAL: Span = Span::from_secs(1);
/// The interval while there is something to report, and the minimum interval.
const NEWS_INTERVAL: Span = Span::from_millis(100);
/// The interval while a breaker is half-open, or soon will be.
const PROBE_INTERVAL: Span = Span::from_millis(250);
/// The share by which an interval is shortened at random, so that instances do not ask in step.
const JITTER: BasisPoints = BasisPoints::new(2_000);
