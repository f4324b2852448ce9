//! The document's `health` and `shedding`: how the service is rated, and which requests are shed.

use super::all_or_none::AllOrNone;
use super::defaults::{Fields, NO_FIELDS};
use super::document::{Document, HOUR_MS};
use super::error::{Path, Problems};
use super::schema::document;
use super::shapes::{Decimal, Int, SpanIn};
use super::value::View;
use crate::health::orca::Load;
use crate::health::{Rules, Signal, Thresholds};
use crate::number::Number;
use crate::shed::{self, Share};
use crate::units::{BasisPoints, Span};

document! {
    /// How to rate the service as healthy, degraded or critical. It is degraded or critical when any signal reaches the
    /// threshold for that.
    Health {
        /// The time over which signals are measured, over all workers of an Envoy.
        window: SpanIn<2_000, MINUTES_MS> = "10s",
        /// How many responses there must be in the window for signals to count.
        min_calls: Int<1, 1_000_000> = 20,
        /// The share of responses, in percent, that are errors: 5xx except 501, and the equivalent gRPC statuses.
        error_rate_percent: ErrorRate = NO_FIELDS,
        /// The time until a response begins. When absent, it does not count.
        latency: Option<Latency>,
        /// The average load that upstreams report in the header `endpoint-load-metrics` of their responses (ORCA). When
        /// absent, it does not count.
        orca: Option<Orca>,
        /// When the service has recovered.
        recovery: Recovery = NO_FIELDS,
    }
}

document! {
    /// Thresholds for the share of responses that are errors, in percent.
    ErrorRate {
        /// The share at which the service is degraded.
        degraded: Decimal<1, 10_000> = 10,
        /// The share at which it is critical.
        critical: Decimal<1, 10_000> = 50,
    }
}

document! {
    /// Thresholds for the time until a response begins.
    Latency {
        /// The percentile that is compared with the thresholds: 95 for the 95th.
        quantile_percent: Decimal<1, 10_000> = 95,
        /// The time at which the service is degraded.
        degraded: SpanIn<1, MINUTES_MS>,
        /// The time at which it is critical.
        critical: SpanIn<1, MINUTES_MS>,
    }
}

document! {
    /// Thresholds for the load that upstreams report (xds.data.orca.v3.OrcaLoadReport).
    Orca {
        /// For `cpu_utilization`, in percent.
        cpu_percent: Option<LoadThresholds>,
        /// For `mem_utilization`, in percent.
        memory_percent: Option<LoadThresholds>,
        /// For `application_utilization`, in percent.
        application_percent: Option<LoadThresholds>,
        /// For `eps`, the errors of an upstream per second.
        eps: Option<LoadThresholds>,
    }
}

document! {
    /// Thresholds for a load.
    LoadThresholds {
        /// The load at which the service is degraded.
        degraded: Decimal<1, 10_000_000>,
        /// The load at which it is critical.
        critical: Decimal<1, 10_000_000>,
    }
}

document! {
    /// When the service has recovered by one step: from critical to degraded, or from degraded to healthy.
    Recovery {
        /// The share of its threshold, in percent, that every signal must stay below.
        below_percent: Int<1, 100> = 80,
        /// For how long every signal must stay below it.
        calm: SpanIn<1_000, MINUTES_MS> = "5s",
    }
}

document! {
    /// Which requests are refused with 503 while the service is degraded or critical, by their priority. Requests of
    /// the priority `critical` never are.
    Shedding {
        /// The largest shares that are shed while the service is degraded.
        degraded: Shares = Fields([("low_percent", 100)]),
        /// The largest shares that are shed while it is critical.
        critical: Shares = Fields([("low_percent", 100), ("medium_percent", 100)]),
        /// How long it takes until all requests of one priority are shed, and again for the next priority.
        rise: SpanIn<100, HOUR_MS> = "5s",
        /// How long it takes, once the service is better, until all requests of one priority are let through again.
        fall: SpanIn<100, HOUR_MS> = "60s",
        /// About when clients are told to come back: at random, from half of this time to one and a half times it.
        retry_after: SpanIn<1_000, HOUR_MS> = "10s",
    }
}

document! {
    /// The share of requests that is shed, by priority. A priority can have a share only if all requests of the
    /// priority below it are shed.
    Shares {
        /// Of requests with the priority `low`, in percent.
        low_percent: Decimal<0, 10_000> = 0,
        /// Of requests with the priority `medium`, in percent.
        medium_percent: Decimal<0, 10_000> = 0,
        /// Of requests with the priority `high`, in percent.
        high_percent: Decimal<0, 10_000> = 0,
    }
}

/// Reads how the service is rated.
pub(super) fn health(document: View<'_, Document>, problems: &mut Problems) -> Option<Option<Rules>> {
    let Some(health) = document.health()? else { return Some(None) };
    let at = Path::Root;
    let at = at.field("health");
    let errors = health.error_rate_percent();
    let errors =
        errors.and_then(|it| decimals(it.degraded()?, it.critical()?, &at.field("error_rate_percent"), problems));
    let mut thresholds = AllOrNone::new();
    let mut take = |signal, range: Option<Range>, unit: u64| {
        thresholds.add(range.map(|(degraded, critical)| Thresholds {
            signal,
            degraded: degraded.saturating_mul(unit),
            critical: critical.saturating_mul(unit),
        }));
    };
    take(Signal::ErrorRate, errors, 1);
    let mut quantile = BasisPoints::ALL;
    if let Some(latency) = health.latency()? {
        quantile = BasisPoints::new(u16::try_from(latency.quantile_percent()?).ok()?);
        take(Signal::Latency, spans(latency, &at.field("latency"), problems), 1);
    }
    if let Some(orca) = health.orca()? {
        let at = at.field("orca");
        let loads = [
            ("cpu_percent", Load::Cpu, orca.cpu_percent(), 100),
            ("memory_percent", Load::Memory, orca.memory_percent(), 100),
            ("application_percent", Load::Application, orca.application_percent(), 100),
            ("eps", Load::ErrorsPerSecond, orca.eps(), 10_000),
        ];
        for (name, load, found, unit) in loads {
            let Some(Some(found)) = found else { continue };
            let range = found.degraded().zip(found.critical());
            let range = range.and_then(|(degraded, critical)| decimals(degraded, critical, &at.field(name), problems));
            take(Signal::Load(load), range, unit);
        }
    }
    Some(Some(Rules {
        window: health.window()?,
        min_calls: health.min_calls()?,
        quantile,
        thresholds: thresholds.all()?,
        recovers_at_percent: u8::try_from(health.recovery()?.below_percent()?).ok()?,
        calm: health.recovery()?.calm()?,
    }))
}

/// The thresholds for degraded and critical.
type Range = (u64, u64);

fn decimals(degraded: u32, critical: u32, at: &Path<'_>, problems: &mut Problems) -> Option<Range> {
    let words = |hundredths| Number::hundredths(hundredths).to_string();
    in_order(degraded <= critical, || (words(degraded), words(critical)), at, problems)?;
    Some((degraded.into(), critical.into()))
}

fn spans(latency: View<'_, Latency>, at: &Path<'_>, problems: &mut Problems) -> Option<Range> {
    let (degraded, critical) = (latency.degraded()?, latency.critical()?);
    let words = |span: Span| ["\"", &span.to_string(), "\""].concat();
    in_order(degraded <= critical, || (words(degraded), words(critical)), at, problems)?;
    Some((degraded.as_nanos(), critical.as_nanos()))
}

fn in_order(
    right: bool,
    words: impl FnOnce() -> (String, String),
    at: &Path<'_>,
    problems: &mut Problems,
) -> Option<()> {
    if right {
        return Some(());
    }
    let (degraded, critical) = words();
    let problem = &[critical.as_str(), " is less than ", &degraded, ", from which on the service is degraded"];
    problems.report(&at.field("critical"), problem, &["write at least ", &degraded]);
    None
}

/// Reads which requests are shed.
pub(super) fn shedding(document: View<'_, Document>, problems: &mut Problems) -> Option<Option<shed::Rules>> {
    let Some(shedding) = document.shedding()? else { return Some(None) };
    let at = Path::Root;
    let at = at.field("shedding");
    if matches!(document.health(), Some(None)) {
        let hint = "write \"health\" as well, {} for its defaults";
        problems.report(&at, &["the policy does not say what tells how the service is"], &[hint]);
    }
    let degraded = shedding.degraded().and_then(|it| share(it, &at.field("degraded"), problems));
    let critical = shedding.critical().and_then(|it| share(it, &at.field("critical"), problems));
    let (degraded, critical) = (degraded?, critical?);
    if critical < degraded {
        let problem = "less is shed while the service is critical than while it is degraded";
        problems.report(&at.field("critical"), &[problem], &["write at least the shares of \"degraded\""]);
    }
    Some(Some(shed::Rules {
        degraded,
        critical,
        rise: shedding.rise()?,
        fall: shedding.fall()?,
        retry_after: shedding.retry_after()?,
    }))
}

/// The sum of the priorities' shares.
fn share(shares: View<'_, Shares>, at: &Path<'_>, problems: &mut Problems) -> Option<Share> {
    let (low, medium, high) = (shares.low_percent()?, shares.medium_percent()?, shares.high_percent()?);
    for (name, share, below, all_of) in
        [("medium_percent", medium, low, "low_percent"), ("high_percent", high, medium, "medium_percent")]
    {
        if share > 0 && below < 10_000 {
            let problem = "these are shed only when all requests of the priority below are";
            problems.report(&at.field(name), &[problem], &["write \"", all_of, "\": 100, or remove this"]);
        }
    }
    Some(Share::from_basis_points(low.saturating_add(medium).saturating_add(high)))
}

/// Five minutes: a longer window or wait says nothing about the present.
const MINUTES_MS: u64 = 300_000;
