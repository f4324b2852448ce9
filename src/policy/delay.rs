//! Delayed requests: a limit's `on_exceed: "delay"` and `slow_down`, and the priority of requests.

use super::document;
use super::error::{Path, Problems};
use super::value::View;
use super::{Algorithm, OnExceed, Quota};
use crate::units::{Permits, Span};

/// How a limit delays requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Delays {
    /// The longest time that a request waits, `1ms..=60s`.
    pub(crate) max_delay: Span,
    /// How many requests wait at one time in each worker, `1..=1_000`.
    pub(crate) max_waiting: u16,
    /// `Some` for `slow_down`: requests within the quota wait, and those over it are refused. `None` for `on_exceed:
    /// "delay"`: requests over the quota wait for their turn.
    pub(crate) slow_down: Option<SlowDown>,
}

/// A delay that grows with what a client has used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SlowDown {
    /// How many permits of a quota are free of delay, at least one.
    pub(crate) slow_after: Permits,
    /// How much longer each further permit waits than the one before.
    pub(crate) step: Span,
}

impl Delays {
    /// How far ahead of its rate a token bucket promises turns.
    pub(crate) fn ahead(&self) -> Span {
        if self.slow_down.is_some() { Span::ZERO } else { self.max_delay }
    }
}

/// How important a request is. Among waiting requests the most important goes first; the least important are shed
/// first. The most important is the smallest in order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Priority {
    /// Never shed.
    Critical,
    /// Shed last, and only if the policy says so.
    High,
    /// The priority of requests whose tier and limits name none.
    #[default]
    Medium,
    /// Shed first.
    Low,
}

impl Priority {
    /// The priority's word in the policy.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Critical => "critical",
            Self::High => "high",
            Self::Medium => "medium",
            Self::Low => "low",
        }
    }
}

/// Reads how a limit delays requests; `Some(None)` if it does not.
pub(super) fn delays(
    document: View<'_, document::Limit>,
    quotas: &[Option<Vec<Quota>>],
    at: &Path<'_>,
    problems: &mut Problems,
) -> Option<Option<Delays>> {
    let slow_down = document.slow_down();
    let slows = matches!(slow_down, Some(Some(_)));
    let delays = document.on_exceed().map(|on_exceed| on_exceed == OnExceed::Delay);
    if delays == Some(true) {
        can_delay(document, &at.field("on_exceed"), problems);
    }
    if delays == Some(false) {
        unused(document, slows, at, problems);
    }
    if slows && document.on_exceed().is_some_and(|on_exceed| on_exceed != OnExceed::Reject) {
        let problem = "a limit slows down before it refuses, and this one does not";
        problems.report(&at.field("slow_down"), &[problem], &["write \"on_exceed\": \"reject\", or remove this"]);
    }
    let max_waiting = document.max_waiting()?.map_or(MAX_WAITING, |most| u16::try_from(most).unwrap_or(u16::MAX));
    if let Some(slow_down) = slow_down? {
        return self::slow_down(slow_down, max_waiting, quotas, &at.field("slow_down"), problems).map(Some);
    }
    match (delays?, document.max_delay()?) {
        (true, Some(max_delay)) => Some(Some(Delays { max_delay, max_waiting, slow_down: None })),
        // A missing or superfluous `max_delay` has been reported.
        _ => Some(None),
    }
}

/// Reports why a limit with `on_exceed: "delay"` cannot delay.
fn can_delay(document: View<'_, document::Limit>, at: &Path<'_>, problems: &mut Problems) {
    if matches!(document.max_delay(), Some(None)) {
        let hint = "add \"max_delay\": \"2s\", or whatever your clients bear";
        problems.report(at, &["nothing says how long a request may wait"], &[hint]);
    }
    if document.algorithm().is_some_and(|algorithm| algorithm != Algorithm::TokenBucket) {
        let hint = "use the algorithm \"token-bucket\", or \"slow_down\" in place of this";
        problems.report(at, &["only a token bucket can let waiting requests go evenly"], &[hint]);
    }
    if matches!(document.penalty(), Some(Some(_))) {
        let hint = "remove the penalty, or use \"ban\"";
        problems.report(at, &["a client that is refused here owes more already than a penalty could add"], &[hint]);
    }
    let awaits_answer = matches!(document.only_on(), Some(Some(_)))
        || matches!(document.cost(), Some(super::shapes::OneOf::Second(header)) if matches!(header.response_header(), Some(Some(_))));
    if awaits_answer {
        let hint = "use \"slow_down\" in place of this";
        problems.report(at, &["what is charged when its answer comes cannot wait for its turn"], &[hint]);
    }
}

/// Reports settings that only a limit that delays can have.
fn unused(document: View<'_, document::Limit>, slows: bool, at: &Path<'_>, problems: &mut Problems) {
    if matches!(document.max_delay(), Some(Some(_))) {
        let (problem, hint) = if slows {
            ("a limit that slows down has this in \"slow_down\"", "remove this")
        } else {
            ("only a limit that delays has this", "write \"on_exceed\": \"delay\", or remove this")
        };
        problems.report(&at.field("max_delay"), &[problem], &[hint]);
    }
    if matches!(document.max_waiting(), Some(Some(_))) && !slows {
        let hint = "write \"on_exceed\": \"delay\", or add \"slow_down\", or remove this";
        problems.report(&at.field("max_waiting"), &["nobody waits at this limit"], &[hint]);
    }
}

fn slow_down(
    document: View<'_, document::SlowDown>,
    max_waiting: u16,
    quotas: &[Option<Vec<Quota>>],
    at: &Path<'_>,
    problems: &mut Problems,
) -> Option<Delays> {
    let slow_after = document.slow_after()?;
    let least = quotas.iter().flatten().flatten().map(|quota| quota.burst.get()).min();
    if let Some(least) = least.filter(|least| *least <= slow_after) {
        let problem = &["a quota has only ", &least.to_string(), ", so that nobody would be slowed down before"];
        problems.report(
            &at.field("slow_after"),
            problem,
            &["write less than ", &least.to_string(), ", or a larger quota"],
        );
    }
    let (max_delay, step) = (document.max_delay()?, document.step()?);
    Some(Delays { max_delay, max_waiting, slow_down: Some(SlowDown { slow_after: Permits::new(slow_after), step }) })
}

/// The default of `max_waiting`: enough for a spike, and few enough for short waits.
const MAX_WAITING: u16 = 100;
