//! The instance's side: what its record has to tell, and what it makes of what stands with the authority. Pure functions, as the
//! transitions of [recovery](super::super::recovery) are; who publishes the outcome by compare-and-swap has made the step for all
//! workers of the instance.

use super::super::shared::{Phase, Probes, Shared};
use super::{Says, Standing, Stands};
use crate::policy::Breaker;
use crate::units::{Span, Timestamp};
use core::cmp::Ordering;

/// What an instance has to tell of a breaker: the fields of a [`Report`](super::Report) that its record says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Told {
    pub(crate) from: u64,
    pub(crate) says: Says,
    pub(crate) age_ms: u64,
    pub(crate) lasts_ms: u64,
    pub(crate) open_for_ms: u64,
    pub(crate) opened: u64,
}

impl Shared {
    /// What is to be told. `wants`: a call came that only an election could admit, or shortly before.
    pub(in crate::breaker) fn report(&self, rules: &Breaker, wants: bool, now: Timestamp) -> Told {
        let elects = (Says::Elect, rules.half_open.max_wait);
        let (says, lasts) = match self.phase {
            Phase::Closed if self.untold => (Says::Closed, Span::ZERO),
            Phase::Open { until } if self.untold => (Says::Open, until.since(now)),
            // Probes that were given while there was nobody to ask.
            Phase::HalfOpen(_) if self.untold => elects,
            // An election lasts as long as an outcome is awaited, or a further probe.
            Phase::HalfOpen(probes) if probes.given > 0 && now < probes.deadline && probes.ends_too_early() => {
                (Says::Hold, probes.deadline.since(now))
            }
            _ if wants && self.is_due(now) => elects,
            _ => (Says::Nothing, Span::ZERO),
        };
        Told {
            from: self.agreed,
            says,
            age_ms: millis(now.since(self.since)),
            lasts_ms: millis(lasts),
            open_for_ms: millis(self.open_for),
            opened: self.opened,
        }
    }

    /// The record after what stands with the authority, which was asked at `sent_at`; `None` when that is known.
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
            Ordering::Greater if self.untold && standing.mine => Some(self.confirm(standing, sent_at)),
            Ordering::Greater => Some(self.take_over(rules, standing, sent_at, now)),
        }
    }

    /// The authority knows less than this instance: it has forgotten.
    fn tell_again(&self, standing: &Standing) -> Option<Self> {
        let knows = match self.phase {
            // The one that is elected does.
            Phase::Elsewhere { .. } => false,
            // Of what is closed there need not stand anything.
            Phase::Closed => standing.generation > 0,
            Phase::Open { .. } | Phase::HalfOpen(_) => true,
        };
        (knows && !self.untold).then_some(Self { untold: true, ..*self })
    }

    /// No transition, but what is to end may end later.
    fn stay(&self, rules: &Breaker, standing: &Standing, sent_at: Timestamp, now: Timestamp) -> Option<Self> {
        let phase = match (self.phase, standing.state) {
            _ if self.untold => return None,
            (Phase::HalfOpen(probes), Stands::HalfOpen) if standing.mine && right(standing, sent_at) > probes.right => {
                Phase::HalfOpen(Probes { right: right(standing, sent_at), ..probes })
            }
            (Phase::Elsewhere { until }, Stands::HalfOpen) => {
                let later = now.after(rest(standing).min(rules.half_open.max_wait));
                // What a message takes is no news.
                if later <= until.after(SLACK) {
                    return None;
                }
                Phase::Elsewhere { until: later }
            }
            // By the authority's clock it is not over yet.
            (Phase::Open { until }, Stands::Open) if now >= until && standing.rest_ms > 0 => {
                Phase::Open { until: now.after(rest(standing).min(rules.open.max)) }
            }
            _ => return None,
        };
        Some(Self { phase, ..*self })
    }

    /// What stands is what this instance has told, or an earlier step of it whose answer was lost.
    fn confirm(&self, standing: &Standing, sent_at: Timestamp) -> Self {
        let (phase, is_this) = match (self.phase, standing.state) {
            (Phase::Closed, Stands::Closed) | (Phase::Open { .. }, Stands::Open) => (self.phase, true),
            (Phase::HalfOpen(probes), Stands::HalfOpen) => {
                (Phase::HalfOpen(Probes { right: right(standing, sent_at), ..probes }), true)
            }
            _ => (self.phase, false),
        };
        let untold = !is_this || standing.opened != self.opened;
        Self { phase: if untold { self.phase } else { phase }, agreed: standing.generation, untold, ..*self }
    }

    fn take_over(&self, rules: &Breaker, standing: &Standing, sent_at: Timestamp, now: Timestamp) -> Self {
        let longest = rules.half_open.max_wait;
        let phase = match standing.state {
            Stands::Closed => Phase::Closed,
            Stands::Open => Phase::Open { until: now.after(rest(standing).min(rules.open.max)) },
            Stands::HalfOpen if standing.mine => {
                let right = right(standing, sent_at);
                Phase::HalfOpen(Probes { right, ..Probes::own(0, right) })
            }
            Stands::HalfOpen => Phase::Elsewhere { until: now.after(rest(standing).min(longest)) },
        };
        Self {
            generation: self.generation.wrapping_add(1),
            phase,
            since: now.before(Span::from_millis(standing.age_ms)),
            open_for: Span::from_millis(standing.open_for_ms).clamp(rules.open.initial, rules.open.max),
            opened: standing.opened.max(1),
            agreed: standing.generation,
            untold: false,
        }
    }
}

impl Probes {
    fn ends_too_early(&self) -> bool {
        self.right.after(SLACK) < self.deadline
    }
}

/// Until when this instance is elected: less a millisecond, as the authority's clock has whole ones, and counted from when it
/// asked, so that it ends here first.
fn right(standing: &Standing, sent_at: Timestamp) -> Timestamp {
    sent_at.after(rest(standing)).before(Span::from_millis(1))
}

fn rest(standing: &Standing) -> Span {
    Span::from_millis(standing.rest_ms)
}

fn millis(span: Span) -> u64 {
    span.as_nanos() / NANOS_PER_MILLI
}

/// What makes no difference: messages take as long.
const SLACK: Span = Span::from_millis(50);
const NANOS_PER_MILLI: u64 = 1_000_000;
