//! The transitions of a breaker, from one published record to the next. Each is a pure function. The worker that
//! publishes the result by compare-and-swap has made the transition; all others find it made.
//!
//! ```text
//!            evidence                    time, and a call            every probe succeeds
//!   closed ------------> open --------------------------> half-open ----------------------> closed, with a ramp
//!                          ^                                  |
//!                          +----------------------------------+
//!                         a probe fails, or has no outcome in time
//! ```
//!
//! If many instances share the breaker and their authority answers, the step to half-open needs an
//! [election](super::global).

use super::shared::{Phase, Probes, Shared, State};
use super::{Outcome, SKEW, ramp};
use crate::policy::{Breaker, OpenFor};
use crate::units::{BasisPoints, Draw, Span, Timestamp};

/// What a worker publishes for a call that its own copy of the record neither admits nor refuses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Election {
    /// The call is a probe as soon as this is published.
    Probe(Shared),
    /// Time alone has changed the breaker. The call is judged again after this is published.
    Change(Shared),
}

impl Shared {
    /// What the breaker does at `now`.
    #[must_use]
    pub fn state(&self, rules: &Breaker, now: Timestamp) -> State {
        match self.phase {
            Phase::Closed if self.ramps(rules, now) => State::Ramping,
            Phase::Closed => State::Closed,
            Phase::Open { .. } => State::Open,
            Phase::HalfOpen(_) | Phase::Elsewhere { .. } => State::HalfOpen,
        }
    }

    fn ramps(&self, rules: &Breaker, now: Timestamp) -> bool {
        self.opened > 0 && rules.ramp.is_some_and(|ramp| now.since(self.since) < ramp.over)
    }

    /// How long a call with this draw has to wait; `None` if it is admitted, or may be admitted as a probe. `governed`:
    /// an authority decides who probes.
    pub(super) fn wait(&self, rules: &Breaker, governed: bool, draw: Draw, now: Timestamp) -> Option<Span> {
        match self.phase {
            Phase::Closed if self.opened == 0 => None,
            Phase::Closed => rules.ramp.and_then(|it| ramp::wait(it, now.since(self.since), draw)),
            Phase::Open { until } | Phase::Elsewhere { until } if now < until => Some(until.since(now)),
            Phase::Open { .. } | Phase::Elsewhere { .. } => governed.then_some(ELECTED_WITHIN),
            Phase::HalfOpen(probes) => {
                let is_over = now >= probes.give_until;
                // Once its authority stops answering, the instance admits no further probes while those of its election
                // are awaited.
                let is_full = probes.given >= rules.half_open.probes || (is_over && !governed && probes.awaited());
                if is_full && now < probes.deadline {
                    return Some(probes.deadline.since(now));
                }
                (governed && !is_full && (is_over || self.unreported)).then_some(ELECTED_WITHIN)
            }
        }
    }

    /// Whether a call can be admitted only if an authority elects this instance.
    pub(super) fn is_due(&self, now: Timestamp) -> bool {
        match self.phase {
            Phase::Closed => false,
            Phase::Open { until } | Phase::Elsewhere { until } => now >= until,
            Phase::HalfOpen(probes) => now >= probes.give_until,
        }
    }

    /// Opens, because of calls of this generation. `None` if that generation is over.
    pub(super) fn opens(&self, rules: &Breaker, generation: u64, draw: Draw, now: Timestamp) -> Option<Self> {
        if self.generation != generation || self.phase != Phase::Closed {
            return None;
        }
        let next = self.next_open_for(&rules.open);
        // A good run: the breaker stayed closed after its ramp for at least as long as it would next be open.
        let ramp = rules.ramp.map_or(Span::ZERO, |ramp| ramp.over);
        let good = now >= self.since.after(ramp).after(next);
        Some(self.open(rules, if good { rules.open.initial } else { next }, draw, now))
    }

    /// Makes a call a probe, if the breaker admits one.
    pub(super) fn elect(&self, rules: &Breaker, governed: bool, draw: Draw, now: Timestamp) -> Option<Election> {
        if let Some(next) = self.expire(rules, draw, now) {
            return Some(Election::Change(next));
        }
        let deadline = now.after(rules.half_open.max_wait);
        let begins = || Some(Election::Probe(self.enter(rules, Phase::HalfOpen(Probes::own(1, deadline)), now)));
        match self.phase {
            Phase::Open { until } | Phase::Elsewhere { until } if now >= until && !governed => begins(),
            Phase::HalfOpen(probes) if now >= probes.give_until && !probes.awaited() && !governed => begins(),
            Phase::HalfOpen(probes) if now >= probes.give_until || (governed && self.unreported) => None,
            Phase::HalfOpen(probes) if probes.given < rules.half_open.probes => {
                // Only the first awaited probe sets the deadline. If later ones moved it, a probe without an outcome
                // could be awaited for as long as further probes follow.
                let deadline = if probes.awaited() { probes.deadline } else { deadline };
                let probes = Probes { given: probes.given.saturating_add(1), deadline, ..probes };
                Some(Election::Probe(Self { phase: Phase::HalfOpen(probes), ..*self }))
            }
            _ => None,
        }
    }

    /// The record after a probe of this generation ended with this outcome. `None` if that generation is over, or no
    /// probe is awaited.
    pub(super) fn settle(
        &self,
        rules: &Breaker,
        generation: u64,
        outcome: Outcome,
        draw: Draw,
        now: Timestamp,
    ) -> Option<Self> {
        let Phase::HalfOpen(probes) = self.phase else { return None };
        if self.generation != generation || !probes.awaited() {
            return None;
        }
        Some(match outcome {
            Outcome::Failure => self.open(rules, self.next_open_for(&rules.open), draw, now),
            Outcome::Success if probes.succeeded.saturating_add(1) >= rules.half_open.probes => {
                self.enter(rules, Phase::Closed, now)
            }
            Outcome::Success => {
                let succeeded = probes.succeeded.saturating_add(1);
                let deadline = now.after(rules.half_open.max_wait);
                Self { phase: Phase::HalfOpen(Probes { succeeded, deadline, ..probes }), ..*self }
            }
            // The probe proved nothing: another call may take its place.
            Outcome::Ignored => {
                let given = probes.given.saturating_sub(1);
                Self { phase: Phase::HalfOpen(Probes { given, ..probes }), ..*self }
            }
        })
    }

    /// The record after changes that time alone brings: overdue probes have failed, or the clock was set back. `None`
    /// if nothing changes.
    pub(super) fn expire(&self, rules: &Breaker, draw: Draw, now: Timestamp) -> Option<Self> {
        if let Phase::HalfOpen(probes) = self.phase {
            // A new policy may require fewer probes than have already succeeded.
            if probes.succeeded >= rules.half_open.probes {
                return Some(self.enter(rules, Phase::Closed, now));
            }
            if probes.awaited() && now >= probes.deadline {
                return Some(self.open(rules, self.next_open_for(&rules.open), draw, now));
            }
        }
        self.adjust_to_clock(rules, now)
    }

    /// The record adjusted to a clock that was set back; `None` if its times are plausible at `now`. Without this, a
    /// phase would last until the clock reaches its old time again.
    fn adjust_to_clock(&self, rules: &Breaker, now: Timestamp) -> Option<Self> {
        let ahead = now.after(SKEW);
        let phase = match self.phase {
            // The election's end was computed before the clock was set back: it cannot be trusted any more.
            Phase::HalfOpen(probes) if self.since > ahead && self.elected().is_some() => {
                let deadline = probes.deadline.min(now.after(rules.half_open.max_wait));
                Phase::HalfOpen(Probes { deadline, give_until: now, ..probes })
            }
            Phase::HalfOpen(probes) if probes.deadline > ahead.after(rules.half_open.max_wait) => {
                Phase::HalfOpen(Probes { deadline: now.after(rules.half_open.max_wait), ..probes })
            }
            Phase::Elsewhere { until } if until > ahead.after(rules.half_open.max_wait) => {
                Phase::Elsewhere { until: now.after(rules.half_open.max_wait) }
            }
            Phase::Open { until } if self.since > ahead => {
                Phase::Open { until: now.after(until.since(self.since).min(rules.open.max)) }
            }
            // This also applies if a new policy has a shorter maximum.
            Phase::Open { until } if until > ahead.after(rules.open.max) => {
                Phase::Open { until: now.after(rules.open.max) }
            }
            phase if self.since > ahead => phase,
            _ => return None,
        };
        Some(Self { phase, since: self.since.min(now), ..*self })
    }

    /// How long the breaker is open if it opens again without a good run in between.
    fn next_open_for(&self, open: &OpenFor) -> Span {
        if self.open_for == Span::ZERO {
            return open.initial;
        }
        let factor = u128::from(open.factor_hundredths);
        let ns = u128::from(self.open_for.as_nanos()).saturating_mul(factor) / 100;
        Span::from_nanos(u64::try_from(ns).unwrap_or(u64::MAX)).clamp(open.initial, open.max)
    }

    fn open(&self, rules: &Breaker, open_for: Span, draw: Draw, now: Timestamp) -> Self {
        let until = now.after(jittered(open_for, rules.open.jitter, draw));
        let opened = self.opened.saturating_add(1);
        Self { open_for, opened, ..self.enter(rules, Phase::Open { until }, now) }
    }

    fn enter(&self, rules: &Breaker, phase: Phase, now: Timestamp) -> Self {
        let generation = self.generation.wrapping_add(1);
        Self { generation, phase, since: now, unreported: rules.is_shared(), ..*self }
    }
}

/// `span`, shortened at random by up to this share. It never gets longer, so an upper bound of `span` also holds for
/// the result.
pub(crate) fn jittered(span: Span, share: BasisPoints, draw: Draw) -> Span {
    let chance = u128::from(span.as_nanos()).saturating_mul(share.get().into()) / ALL;
    let taken = chance.saturating_mul(draw.0.into()) >> u64::BITS;
    Span::from_nanos(span.as_nanos().saturating_sub(u64::try_from(taken).unwrap_or(0)))
}

const ALL: u128 = BasisPoints::ALL.get() as u128;

/// The retry delay of a call that makes this instance ask for its election, which takes a tick and an answer.
const ELECTED_WITHIN: Span = Span::from_secs(1);
