//! The instance's side: what it reports of its record, and how the authority's answer changes that record. These are
//! pure functions, as the transitions of [recovery](super::super::recovery) are. The worker that publishes the result
//! by compare-and-swap has made the step for all workers of the instance.

use super::super::shared::{Phase, Probes, Shared};
use super::{ReportKind, Standing, StandingState};
use crate::policy::Breaker;
use crate::units::{Span, Timestamp};
use core::cmp::Ordering;

/// The fields of a [`Report`](super::Report) that come from an instance's record.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct ReportFields {
    pub(crate) from: u64,
    pub(crate) kind: ReportKind,
    pub(crate) age_ms: u64,
    pub(crate) lasts_ms: u64,
    pub(crate) open_for_ms: u64,
    pub(crate) opened: u64,
}

impl Shared {
    /// What to report. `wants`: a call came when only an election could admit one, or shortly before.
    pub(in crate::breaker) fn report(&self, rules: &Breaker, wants: bool, now: Timestamp) -> ReportFields {
        let elects = (ReportKind::Elect, rules.half_open.max_wait);
        let (kind, lasts) = match self.phase {
            Phase::Closed if self.unreported => (ReportKind::Closed, Span::ZERO),
            Phase::Open { until } if self.unreported => (ReportKind::Open, until.since(now)),
            // These probes were handed out while no authority answered.
            Phase::HalfOpen(_) if self.unreported => elects,
            // The election must last as long as an outcome or a further probe is awaited.
            Phase::HalfOpen(probes) if probes.given > 0 && now < probes.deadline && probes.ends_too_early() => {
                (ReportKind::Hold, probes.deadline.since(now))
            }
            _ if wants && self.is_due(now) => elects,
            _ => (ReportKind::Nothing, Span::ZERO),
        };
        ReportFields {
            from: self.agreed,
            kind,
            age_ms: millis(now.since(self.since)),
            lasts_ms: millis(lasts),
            open_for_ms: millis(self.open_for),
            opened: self.opened,
        }
    }

    /// The record after the authority's answer to a round sent at `sent_at`; `None` if it changes nothing.
    pub(in crate::breaker) fn agree(
        &self,
        rules: &Breaker,
        standing: &Standing,
        sent_at: Timestamp,
        now: Timestamp,
    ) -> Option<Self> {
        match standing.generation.cmp(&self.agreed) {
            Ordering::Less => self.tell_again(standing),
            Ordering::Equal => self.stay(rules, standing, sent_at, now),
            Ordering::Greater if self.unreported && standing.mine => Some(self.confirm(standing, sent_at)),
            Ordering::Greater => Some(self.take_over(rules, standing, sent_at, now)),
        }
    }

    /// The authority knows less than this instance: it has lost data, so this instance reports again.
    fn tell_again(&self, standing: &Standing) -> Option<Self> {
        let knows = match self.phase {
            // The elected instance knows, and reports it.
            Phase::Elsewhere { .. } => false,
            // An authority without a record answers that the breaker is closed, which is right.
            Phase::Closed => standing.generation > 0,
            Phase::Open { .. } | Phase::HalfOpen(_) => true,
        };
        (knows && !self.unreported).then_some(Self { unreported: true, ..*self })
    }

    /// The generation is known: there is no transition, but a time may be extended.
    fn stay(&self, rules: &Breaker, standing: &Standing, sent_at: Timestamp, now: Timestamp) -> Option<Self> {
        let phase = match (self.phase, standing.state) {
            _ if self.unreported => return None,
            (Phase::HalfOpen(probes), StandingState::HalfOpen)
                if standing.mine && election_end(standing, sent_at) > probes.give_until =>
            {
                Phase::HalfOpen(Probes { give_until: election_end(standing, sent_at), ..probes })
            }
            (Phase::Elsewhere { until }, StandingState::HalfOpen) => {
                let later = now.after(rest(standing).min(rules.half_open.max_wait));
                // A difference as small as a message's delay is not worth a write.
                if later <= until.after(SLACK) {
                    return None;
                }
                Phase::Elsewhere { until: later }
            }
            // The time is not over by the authority's clock.
            (Phase::Open { until }, StandingState::Open) if now >= until && standing.rest_ms > 0 => {
                Phase::Open { until: now.after(rest(standing).min(rules.open.max)) }
            }
            _ => return None,
        };
        Some(Self { phase, ..*self })
    }

    /// The authority's state is what this instance has reported, or an earlier report whose answer was lost.
    fn confirm(&self, standing: &Standing, sent_at: Timestamp) -> Self {
        let (phase, is_this) = match (self.phase, standing.state) {
            (Phase::Closed, StandingState::Closed) | (Phase::Open { .. }, StandingState::Open) => (self.phase, true),
            (Phase::HalfOpen(probes), StandingState::HalfOpen) => {
                (Phase::HalfOpen(Probes { give_until: election_end(standing, sent_at), ..probes }), true)
            }
            _ => (self.phase, false),
        };
        let unreported = !is_this || standing.opened != self.opened;
        Self { phase: if unreported { self.phase } else { phase }, agreed: standing.generation, unreported, ..*self }
    }

    fn take_over(&self, rules: &Breaker, standing: &Standing, sent_at: Timestamp, now: Timestamp) -> Self {
        let longest = rules.half_open.max_wait;
        let phase = match standing.state {
            StandingState::Closed => Phase::Closed,
            StandingState::Open => Phase::Open { until: now.after(rest(standing).min(rules.open.max)) },
            StandingState::HalfOpen if standing.mine => {
                let give_until = election_end(standing, sent_at);
                Phase::HalfOpen(Probes { give_until, ..Probes::own(0, give_until) })
            }
            StandingState::HalfOpen => Phase::Elsewhere { until: now.after(rest(standing).min(longest)) },
        };
        Self {
            generation: self.generation.wrapping_add(1),
            phase,
            since: now.before(Span::from_millis(standing.age_ms)),
            open_for: Span::from_millis(standing.open_for_ms).clamp(rules.open.initial, rules.open.max),
            opened: standing.opened.max(1),
            agreed: standing.generation,
            unreported: false,
        }
    }
}

impl Probes {
    fn ends_too_early(&self) -> bool {
        self.give_until.after(SLACK) < self.deadline
    }
}

/// The end of this instance's election, measured from when it asked. One millisecond is taken off because the
/// authority's clock has whole milliseconds: the election must end here first.
fn election_end(standing: &Standing, sent_at: Timestamp) -> Timestamp {
    sent_at.after(rest(standing)).before(Span::from_millis(1))
}

fn rest(standing: &Standing) -> Span {
    Span::from_millis(standing.rest_ms)
}

fn millis(span: Span) -> u64 {
    span.as_nanos() / NANOS_PER_MILLI
}

/// Smaller differences are ignored: messages take as long.
const SLACK: Span = Span::from_millis(50);
const NANOS_PER_MILLI: u64 = 1_000_000;
