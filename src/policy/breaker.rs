//! The settings of a circuit breaker.

use super::Name;
use super::document;
use super::error::{Path, Problems};
use super::failures::Failures;
use super::value::View;
use crate::units::{BasisPoints, Span};

/// The settings of a circuit breaker. Each upstream that names them gets a breaker of its own.
#[derive(Clone, Debug, PartialEq)]
pub struct Breaker {
    pub(crate) name: Name,
    /// The calls over which the rates are computed.
    pub(crate) window: CallWindow,
    /// How many calls a window must have before its rates count, `1..=1_000_000`, and at most as many as it can hold.
    pub(crate) min_calls: u32,
    /// The share of failed calls at which the breaker opens; never zero.
    pub(crate) failure_rate: BasisPoints,
    /// Which calls are slow, and how many of them open the breaker; `None` if no call counts as slow.
    pub(crate) slow: Option<SlowCalls>,
    /// How many failures without a success in between open the breaker, `1..=1_000_000`.
    pub(crate) consecutive_failures: Option<u32>,
    pub(crate) failures: Failures,
    pub(crate) open: OpenFor,
    pub(crate) half_open: HalfOpen,
    /// `None` admits all calls as soon as the breaker closes.
    pub(crate) ramp: Option<Ramp>,
    /// Whether an upstream has one such breaker for each route that leads to it.
    pub(crate) per_route: bool,
    /// Whether its scope is `global`; see [`Breaker::is_shared`].
    pub(crate) global: bool,
    pub(crate) mode: BreakerMode,
}

/// The calls over which a breaker's rates are computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CallWindow {
    /// The calls of the last `1s..=1h`.
    Time(Span),
    /// The latest calls, `1..=10_000` of them.
    Count(u32),
}

/// Which calls are slow, and how many of them open a breaker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SlowCalls {
    /// The duration from which a call is slow.
    pub(crate) from: Span,
    /// The share of slow calls at which the breaker opens; never zero.
    pub(crate) rate: BasisPoints,
}

/// How long a breaker stays open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OpenFor {
    /// The first open time.
    pub(crate) initial: Span,
    /// The factor by which each further open time grows, in hundredths, `100..=1_000`.
    pub(crate) factor_hundredths: u32,
    /// The longest open time, not less than `initial`.
    pub(crate) max: Span,
    /// The largest random part that is taken off the open time.
    pub(crate) jitter: BasisPoints,
}

/// What a half-open breaker admits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HalfOpen {
    /// How many calls it admits, `1..=1_000`.
    pub(crate) probes: u32,
    /// How long to wait for one of them to succeed.
    pub(crate) max_wait: Span,
}

/// How a breaker that has just closed returns to admitting everything: linearly.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ramp {
    /// The share admitted at first.
    pub(crate) from: BasisPoints,
    /// After how long all calls are admitted, at least a second.
    pub(crate) over: Span,
}

/// Whether a breaker acts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BreakerMode {
    /// It refuses.
    Enforce,
    /// It reports what it would refuse, and refuses nothing.
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
    /// The breaker that guards the store of shared limits: see [`crate::global`].
    #[must_use]
    pub(crate) fn for_store() -> Self {
        Self {
            name: Name("store".to_owned()),
            window: CallWindow::Time(Span::from_secs(10)),
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

    /// The name of these settings.
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

    /// Whether an upstream has one such breaker for each route that leads to it.
    #[must_use]
    pub fn per_route(&self) -> bool {
        self.per_route
    }

    /// Whether instances share the breaker: its scope is `global` and its mode is `enforce`. In the other modes each
    /// instance has its own.
    #[must_use]
    pub fn is_shared(&self) -> bool {
        self.global && self.mode == BreakerMode::Enforce
    }

    /// Whether a call of this duration was slow.
    pub(crate) fn is_slow(&self, took: Span) -> bool {
        self.slow.is_some_and(|slow| took >= slow.from)
    }
}

/// Reads the settings of a breaker.
pub(super) fn breaker(
    name: &Name,
    document: View<'_, document::Breaker>,
    at: &Path<'_>,
    problems: &mut Problems,
) -> Option<Breaker> {
    let slow = slow(document, at, problems);
    let open = document.open().and_then(|it| open(it, &at.field("open"), problems));
    let window = document.window().and_then(window);
    let min_calls = document.min_calls().zip(window);
    let min_calls = min_calls.map(|(given, window)| min_calls_of(given, window, &at.field("min_calls"), problems));
    let half_open = document.half_open()?;
    let global = document.scope()? == document::Scope::Global;
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

fn slow(document: View<'_, document::Breaker>, at: &Path<'_>, problems: &mut Problems) -> Option<Option<SlowCalls>> {
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

fn open(document: View<'_, document::Open>, at: &Path<'_>, problems: &mut Problems) -> Option<OpenFor> {
    let (initial, max) = (document.initial()?, document.max()?);
    if initial > max {
        let (initial, max) = (initial.to_string(), max.to_string());
        let problem = &[&max, " is less than the initial ", &initial];
        problems.report(&at.field("max"), problem, &["write at least \"", &initial, "\""]);
    }
    let jitter = share(document.jitter_percent()?);
    Some(OpenFor { initial, factor_hundredths: document.factor()?, max, jitter })
}

fn window(document: View<'_, document::Window>) -> Option<CallWindow> {
    match (document.time()?, document.count()?) {
        (Some(time), None) => Some(CallWindow::Time(time)),
        (None, Some(count)) => Some(CallWindow::Count(count)),
        // The reader has reported that neither or both are there.
        _ => None,
    }
}

fn min_calls_of(given: Option<u32>, window: CallWindow, at: &Path<'_>, problems: &mut Problems) -> u32 {
    let most = match window {
        CallWindow::Time(_) => u32::MAX,
        CallWindow::Count(count) => count,
    };
    if let Some(given) = given.filter(|given| *given > most) {
        let (given, most) = (given.to_string(), most.to_string());
        let problem = &["a window of ", &most, " calls never has ", &given];
        problems.report(at, problem, &["write at most ", &most, ", or a larger window"]);
    }
    given.unwrap_or(MIN_CALLS).min(most)
}

/// A share that was read in hundredths of a percent.
fn share(hundredths: u32) -> BasisPoints {
    BasisPoints::new(u16::try_from(hundredths).unwrap_or(u16::MAX))
}

/// The default of `min_calls`. Fewer calls say little about a rate.
const MIN_CALLS: u32 = 20;
