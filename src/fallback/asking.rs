//! Choosing upstreams of a route, and telling their breakers how the calls ended.

use super::{Call, Context, Ledgers, Progress, ServedBy, Step, Upstreams};
use crate::breaker::Admission;
use crate::policy::{CallEnd, Policy};
use crate::units::{Span, Timestamp};

impl Upstreams {
    /// The next upstream, if the budget has room for one more try.
    pub(super) fn retry<'p, L: Ledgers>(
        &mut self,
        policy: &'p Policy,
        progress: &mut Progress,
        wait: Span,
        context: &mut Context<'_, L>,
    ) -> Option<Step<'p>> {
        if !self.budgets.get_mut(progress.route)?.allows(context.now) {
            return None;
        }
        let step = self.next(policy, progress, wait, context)?;
        self.budgets.get_mut(progress.route)?.retry(context.now);
        Some(step)
    }

    /// The next of the route's upstreams that was not asked and whose breaker admits the call.
    pub(super) fn next<'p, L: Ledgers>(
        &mut self,
        policy: &'p Policy,
        progress: &mut Progress,
        wait: Span,
        context: &mut Context<'_, L>,
    ) -> Option<Step<'p>> {
        let route = policy.routes().get(progress.route)?;
        for (place, upstream) in route.upstreams.iter().enumerate() {
            let bit = 1_u16.checked_shl(u32::try_from(place).unwrap_or(u32::MAX)).unwrap_or(0);
            if progress.tried & bit != 0 {
                continue;
            }
            let rest = self.resting.get(*upstream).map_or(Span::ZERO, |pause| pause.left(context.now));
            if progress.attempts > 0 && rest > Span::ZERO {
                let soonest = progress.retry_after.into_iter().chain([rest]).min();
                progress.retry_after = soonest;
                continue;
            }
            progress.tried |= bit;
            let breaker = self.breakers.place(progress.route, place);
            let breaker = match breaker.map(|at| (at, self.admit(at, !progress.untimed, context))) {
                None => None,
                Some((at, Admission::Pass(ticket))) => Some((at, ticket)),
                Some((_, Admission::Observe { .. })) => None,
                Some((_, Admission::Refuse { retry_after })) => {
                    let soonest = progress.retry_after.into_iter().chain(retry_after).min();
                    progress.retry_after = soonest;
                    continue;
                }
            };
            progress.attempts = progress.attempts.saturating_add(1);
            progress.call = Some(Call { place, upstream: *upstream, breaker, began: context.now.after(wait) });
            let timeout = policy.upstreams().get(*upstream)?.timeout;
            return Some(Step::Send { upstream: *upstream, timeout, wait });
        }
        None
    }

    fn admit<L: Ledgers>(&mut self, at: usize, sent: bool, context: &mut Context<'_, L>) -> Admission {
        let (Some((identity, breaker)), Some(asked)) = (self.breakers.named(at), self.asked.get_mut(at)) else {
            return Admission::Refuse { retry_after: None };
        };
        let ledger = context.ledgers.of(identity);
        if context.now.since(*asked) > IDLE {
            // First learn what others have published in the meantime.
            breaker.tick(ledger, context.draw, context.now);
            self.woken = true;
        }
        *asked = context.now;
        breaker.admit_call(ledger, sent, context.draw, context.now)
    }

    /// Tells the breaker how the call under way ended.
    pub(super) fn observe<L: Ledgers>(
        &mut self,
        progress: &mut Progress,
        end: CallEnd,
        took: Option<Span>,
        context: &mut Context<'_, L>,
    ) -> Option<Call> {
        let call = progress.call.take()?;
        if let Some((at, ticket)) = call.breaker
            && let Some((identity, breaker)) = self.breakers.named(at)
        {
            let passed = context.now.since(call.began);
            // Otherwise a client that does not send its body, or sends it slowly, could open the breaker for all.
            let end = match end {
                CallEnd::TimedOut | CallEnd::Reset | CallEnd::Unanswered if progress.untimed => CallEnd::Abandoned,
                end => end,
            };
            // The start of a lost response is unknown, and a call that was not made has no duration: neither counts as
            // slow.
            let unknown = matches!(end, CallEnd::Lost | CallEnd::NotMade) || progress.untimed;
            let told = if unknown { Some(Span::ZERO) } else { took };
            let (outcome, took) = (breaker.outcome(end), told.map_or(passed, |took| took.min(passed)));
            breaker.observe(context.ledgers.of(identity), ticket, outcome, took, context.draw, context.now);
        }
        Some(call)
    }

    /// Lets each breaker in use read what other workers have published, and publish what it has counted. To be called
    /// every [`TICK`] while [`Upstreams::ticks`].
    pub fn tick<L: Ledgers>(&mut self, context: &mut Context<'_, L>) {
        let used = self.asked.iter().enumerate().filter(|(_, asked)| is_used(**asked, context.now));
        for (at, _) in used {
            if let Some((identity, breaker)) = self.breakers.named(at) {
                breaker.tick(context.ledgers.of(identity), context.draw, context.now);
            }
        }
    }

    /// Lets every breaker read what other workers have published, also those that this worker does not use, for status
    /// pages.
    pub fn refresh<L: Ledgers>(&mut self, context: &mut Context<'_, L>) {
        for at in 0..self.breakers.len() {
            if let Some((identity, breaker)) = self.breakers.named(at) {
                let ledger = context.ledgers.of(identity);
                breaker.tick(ledger, context.draw, context.now);
                breaker.read_calls(ledger, context.now);
            }
        }
    }

    /// Whether the breaker at this index is in use.
    #[must_use]
    pub fn is_used(&self, at: usize, now: Timestamp) -> bool {
        self.asked.get(at).is_some_and(|asked| is_used(*asked, now))
    }

    /// Whether any breaker is in use.
    #[must_use]
    pub fn ticks(&self, now: Timestamp) -> bool {
        self.asked.iter().any(|asked| is_used(*asked, now))
    }

    /// Whether a breaker has come into use since this was last called.
    pub fn woken(&mut self) -> bool {
        core::mem::take(&mut self.woken)
    }

    /// How the request was served, as text: `upstream=origin; step=fallback; breakers=cdn:open, origin:closed`. Empty
    /// if something else, such as another filter, has answered it.
    #[must_use]
    pub fn describe(&mut self, policy: &Policy, progress: &Progress, now: Timestamp) -> String {
        let mut text = String::new();
        let Some(route) = policy.routes().get(progress.route) else { return text };
        let upstream = |place: usize| Some(policy.upstreams().get(*route.upstreams.get(place)?)?.name.as_str());
        let asked = match progress.served_by {
            Some(ServedBy::Upstream(place)) => Some(place),
            _ => progress.call.map(|call| call.place),
        };
        if progress.served_by.is_none() && asked.is_none() {
            return text;
        }
        if let Some(name) = asked.and_then(upstream) {
            text.extend(["upstream=", name, "; "]);
        }
        let step = match progress.served_by {
            Some(ServedBy::Upstream(_)) if progress.attempts > 1 || asked != Some(0) => "fallback",
            Some(ServedBy::Upstream(_)) => "first",
            Some(ServedBy::Stale) => "stale",
            Some(ServedBy::Static) => "static",
            Some(ServedBy::Unavailable) => "unavailable",
            Some(ServedBy::Failure) | None => "failure",
        };
        text.extend(["step=", step]);
        let mut before = "; breakers=";
        for place in 0..route.upstreams.len() {
            let breaker = self.breakers.place(progress.route, place).and_then(|at| self.breakers.get(at));
            if let (Some(name), Some(breaker)) = (upstream(place), breaker) {
                text.extend([before, name, ":", breaker.state(now).as_str()]);
                before = ", ";
            }
        }
        text
    }
}

fn is_used(asked: Timestamp, now: Timestamp) -> bool {
    asked > Timestamp::EPOCH && now.since(asked) <= IDLE
}

/// How often breakers should be ticked.
pub const TICK: Span = Span::from_millis(100);

/// A breaker without calls for this long is out of use until the next call.
const IDLE: Span = Span::from_secs(60);
