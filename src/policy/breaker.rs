//! The pattern to which an upstream's breaker is made.

use super::Name;
use super::document;
use super::error::{Path, Problems};
use super::failures::Failures;
use super::value::Of;
use crate::units::{BasisPoints, Span};

/// The pattern to which an upstream's breaker is made.
#[derive(Clone, Debug, PartialEq)]
pub struct Breaker {
    pub(crate) name: Name,
    /// Over which calls the rates are taken.
    pub(crate) window: WindowOf,
    /// How many calls a window must have before its rates count, `1..=1_000_000`, and no more than it can have.
    pub(crate) min_calls: u32,
    /// The share of failed calls at which the breaker opens, not zero.
    pub(crate) failure_rate: BasisPoints,
    /// When calls are slow, and how many of them open the breaker; `None` when no call is slow.
    pub(crate) slow: Option<SlowCalls>,
    /// How many failures without a success between them open the breaker, `1..=1_000_000`.
    pub(crate) consecutive_failures: Option<u32>,
    pub(crate) failures: Failures,
    pub(crate) open: OpenFor,
    pub(crate) half_open: HalfOpen,
    /// `None` admits everything as soon as the breaker closes.
    pub(crate) ramp: Option<Ramp>,
    /// Whether an upstream has one for each route that leads to it.
    pub(crate) per_route: bool,
    /// Whether all instances with the same store have it together.
    pub(crate) global: bool,
    pub(crate) mode: BreakerMode,
}

/// Over which calls the rates of a breaker are taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WindowOf {
    /// Those of the last so much time, `1s..=1h`.
    Time(Span),
    /// So many last ones, `1..=10_000`.
    Count(u32),
}

/// When calls are slow, and how many of them open a breaker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SlowCalls {
    /// From which duration on.
    pub(crate) from: Span,
    /// The share of slow calls at which the breaker opens, not zero.
    pub(crate) rate: BasisPoints,
}

/// How long a breaker stays open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OpenFor {
    /// The first time.
    pub(crate) initial: Span,
    /// By how much each further time is longer, in hundredths, `100..=1_000`.
    pub(crate) factor_hundredths: u32,
    /// At most, not less than `initial`.
    pub(crate) max: Span,
    /// How much of the time is left to chance.
    pub(crate) jitter: BasisPoints,
}

/// What a half-open breaker admits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HalfOpen {
    /// How many calls, `1..=1_000`.
    pub(crate) probes: u32,
    /// How long the outcome of each is awaited.
    pub(crate) max_wait: Span,
}

/// How a breaker that has just closed returns to admitting everything: in a straight line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ramp {
    /// The share admitted at first.
    pub(crate) from: BasisPoints,
    /// After how long all are admitted, at least a second.
    pub(crate) over: Span,
}

/// Whether a breaker acts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BreakerMode {
    /// It refuses.
    Enforce,
    /// It says what it would refuse, and refuses nothing.
    Observe,
    /// It refuses every call, whatever the upstream does.
    ForcedOpen,
    /// It admits every call, and counts none.
    Disabled,
}

impl BreakerMode {
    /// The word for it in the policy.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Enforce => "enforce",
            Self::Observe => "observe",
            Self::ForcedOpen => "forced-open",
            Self::Disabled => "disabled",
        }
    }
}

impl Breaker {
    /// The pattern for a store that shared limits ask: see [`crate::global`].
    #[must_use]
    pub(crate) fn around_a_store() -> Self {
        Self {
            name: Name("store".to_owned()),
            window: WindowOf::Time(Span::from_secs(10)),
            min_calls: 10,
            failure_rate: BasisPoints::new(5_000),
            slow: None,
            consecutive_failures: Some(3),
            failures: Failures::default(),
            open: OpenFor {
                initial: Span::from_millis(250),
                factor_hundredths: 200,
                max: Span::from_secs(10),
                jitter: BasisPoints::new(2_000),
            },
            half_open: HalfOpen { probes: 1, max_wait: Span::from_secs(1) },
            ramp: None,
            per_route: false,
            global: false,
            mode: BreakerMode::Enforce,
        }
    }

    /// The pattern's name.
    #[must_use]
    pub fn name(&self) -> &Name {
        &self.name
    }

    /// Which ends of a call are failures.
    #[must_use]
    pub fn failures(&self) -> &Failures {
        &self.failures
    }

    /// Whether the breaker acts.
    #[must_use]
    pub fn mode(&self) -> BreakerMode {
        self.mode
    }

    /// Whether an upstream has one for each route that leads to it.
    #[must_use]
    pub fn per_route(&self) -> bool {
        self.per_route
    }

    /// Whether many instances share it: its scope is `global`, and it acts by what it sees. One that only observes, or does what
    /// the policy says, is each instance's own.
    #[must_use]
    pub fn is_shared(&self) -> bool {
        self.global && self.mode == BreakerMode::Enforce
    }

    /// Whether a call that took so long was slow.
    pub(crate) fn is_slow(&self, took: Span) -> bool {
        self.slow.is_some_and(|slow| took >= slow.from)
    }
}

/// The breaker that the document tells.
pub(super) fn breaker(
    name: &Name,
    document: Of<'_, document::Breaker>,
    at: &Path<'_>,
    problems: &mut Problems,
) -> Option<Breaker> {
    let slow = slow(document, at, problems);
    let open = document.open().and_then(|it| open(it, &at.field("open"), problems));
    let window = document.window().and_then(window);
    let min_calls = document.min_calls().zip(window);
    let min_calls = min_calls.map(|(given, window)| min_calls_of(given, window, &at.field("min_calls"), problems));
    let half_open = document.half_open()?;
    let global = document.scope()? == document::LimitScope::Global;
    Some(Breaker {
        name: name.clone(),
        window: window?,
        min_calls: min_calls?,
        failure_rate: share(document.failure_rate_percent()?),
        slow: slow?,
        consecutive_failures: document.consecutive_failures()?,
        failures: Failures::of(&document.failures()?),
        open: open?,
        half_open: HalfOpen { probes: half_open.probes()?, max_wait: half_open.max_wait()? },
        ramp: match document.ramp()? {
            Some(ramp) => Some(Ramp { from: share(ramp.from_percent()?), over: ramp.over()? }),
            None => None,
        },
        per_route: document.per_route()?,
        global,
        mode: document.mode()?,
    })
}

fn slow(document: Of<'_, document::Breaker>, at: &Path<'_>, problems: &mut Problems) -> Option<Option<SlowCalls>> {
    if matches!((document.slow_call(), document.slow_rate_percent()), (Some(None), Some(Some(_)))) {
        problems.report(
            &at.field("slow_rate_percent"),
            &["the breaker does not say when a call is slow"],
            &["write \"slow_call\" as well, as in \"2s\""],
        );
    }
    let rate = document.slow_rate_percent()?.map_or(BasisPoints::ALL, share);
    Some(document.slow_call()?.map(|from| SlowCalls { from, rate }))
}

fn open(document: Of<'_, document::Open>, at: &Path<'_>, problems: &mut Problems) -> Option<OpenFor> {
    let (initial, max) = (document.initial()?, document.max()?);
    if initial > max {
        let (initial, max) = (initial.to_string(), max.to_string());
        let problem = &[&max, " is less than the initial ", &initial];
        problems.report(&at.field("max"), problem, &["write at least \"", &initial, "\""]);
    }
    let jitter = share(document.jitter_percent()?);
    Some(OpenFor { initial, factor_hundredths: document.factor()?, max, jitter })
}

fn window(document: Of<'_, document::Window>) -> Option<WindowOf> {
    match (document.time()?, document.count()?) {
        (Some(time), None) => Some(WindowOf::Time(time)),
        (None, Some(count)) => Some(WindowOf::Count(count)),
        // Neither or both, which has been reported.
        _ => None,
    }
}

fn min_calls_of(given: Option<u32>, window: WindowOf, at: &Path<'_>, problems: &mut Problems) -> u32 {
    let most = match window {
        WindowOf::Time(_) => u32::MAX,
        WindowOf::Count(count) => count,
    };
    if let Some(given) = given.filter(|given| *given > most) {
        let (given, most) = (given.to_string(), most.to_string());
        let problem = &["a window of ", &most, " calls never has ", &given];
        problems.report(at, problem, &["write at most ", &most, ", or a larger window"]);
    }
    given.unwrap_or(MIN_CALLS).min(most)
}

/// A share that the document has in hundredths of a percent.
fn share(hundredths: u32) -> BasisPoints {
    BasisPoints::new(u16::try_from(hundredths).unwrap_or(u16::MAX))
}

/// Fewer calls than these say little about a rate.
const MIN_CALLS: u32 = 20;
