//! How the service is told to be, and what is shed then: the document's `health` and `shedding`.

use super::absent::{Fields, NO_FIELDS};
use super::document::{Document, HOUR_MS};
use super::error::{Path, Problems};
use super::gathered::Gathered;
use super::schema::document;
use super::shapes::{Decimal, Int, SpanIn};
use super::value::Of;
use crate::health::orca::Load;
use crate::health::{Rules, Signal, Thresholds};
use crate::number::Number;
use crate::shed::{self, Share};
use crate::units::{BasisPoints, Span};

document! {
    /// What tells how the service is: healthy, degraded or critical. It is degraded or critical from when any reading
    /// reaches the threshold for that.
    Health {
        /// Over how much time readings are taken, all workers of an Envoy together.
        window: SpanIn<2_000, MINUTES_MS> = "10s",
        /// How many answers there must be within it for readings to count.
        min_calls: Int<1, 1_000_000> = 20,
        /// The share of answers, in percent, that are errors: 5xx but 501, and the gRPC statuses that mean the same.
        error_rate_percent: ErrorRate = NO_FIELDS,
        /// How long it takes until an answer begins. It does not count when absent.
        latency: Option<Latency>,
        /// The load that upstreams report in the header `endpoint-load-metrics` of their answers (ORCA), on average. It
        /// does not count when absent.
        orca: Option<Orca>,
        /// When the service has recovered.
        recovery: Recovery = NO_FIELDS,
    }
}

document! {
    /// Thresholds for the share of answers that are errors, in percent.
    ErrorRate {
        /// From here on the service is degraded.
        degraded: Decimal<1, 10_000> = 10,
        /// From here on it is critical.
        critical: Decimal<1, 10_000> = 50,
    }
}

document! {
    /// Thresholds for how long it takes until an answer begins.
    Latency {
        /// The share of answers, in percent, that must be at least so fast: 95 for the 95th percentile.
        quantile_percent: Decimal<1, 10_000> = 95,
        /// From here on the service is degraded.
        degraded: SpanIn<1, MINUTES_MS>,
        /// From here on it is critical.
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
        /// For `eps`, the errors that an upstream makes in a second.
        eps: Option<LoadThresholds>,
    }
}

document! {
    /// Thresholds for a load.
    LoadThresholds {
        /// From here on the service is degraded.
        degraded: Decimal<1, 10_000_000>,
        /// From here on it is critical.
        critical: Decimal<1, 10_000_000>,
    }
}

document! {
    /// When the service has recovered, by one step, from critical to degraded or from degraded to healthy.
    Recovery {
        /// What share of its threshold every reading must be below, in percent.
        below_percent: Int<1, 100> = 80,
        /// For how long they must be.
        calm: SpanIn<1_000, MINUTES_MS> = "5s",
    }
}

document! {
    /// Which requests are refused with 503 while the service is degraded or critical, by their priority. Those of the
    /// priority `critical` never are.
    Shedding {
        /// What is shed at most while it is degraded.
        degraded: Shares = Fields([("low_percent", 100)]),
        /// What is shed at most while it is critical.
        critical: Shares = Fields([("low_percent", 100), ("medium_percent", 100)]),
        /// How long it takes until all requests of a priority are shed, and then of the next one.
        rise: SpanIn<100, HOUR_MS> = "5s",
        /// How long it takes, once the service is better, until all requests of a priority are let through again.
        fall: SpanIn<100, HOUR_MS> = "60s",
        /// When clients are told to come back: from half of this to half as much again, by chance.
        retry_after: SpanIn<1_000, HOUR_MS> = "10s",
    }
}

document! {
    /// What share of requests is shed, by priority: nothing of one while less than all is of the one below it.
    Shares {
        /// Of those with the priority `low`, in percent.
        low_percent: Decimal<0, 10_000> = 0,
        /// Of those with the priority `medium`, in percent.
        medium_percent: Decimal<0, 10_000> = 0,
        /// Of those with the priority `high`, in percent.
        high_percent: Decimal<0, 10_000> = 0,
    }
}

/// What tells how the service is.
pub(super) fn health(document: Of<'_, Document>, problems: &mut Problems) -> Option<Option<Rules>> {
    let Some(health) = document.health()? else { return Some(None) };
    let at = Path::Root;
    let at = at.field("health");
    let errors = health.error_rate_percent();
    let errors =
        errors.and_then(|it| decimals(it.degraded()?, it.critical()?, &at.field("error_rate_percent"), problems));
    let mut thresholds = Gathered::new();
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

fn spans(latency: Of<'_, Latency>, at: &Path<'_>, problems: &mut Problems) -> Option<Range> {
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

/// What is shed.
pub(super) fn shedding(document: Of<'_, Document>, problems: &mut Problems) -> Option<Option<shed::Rules>> {
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

/// The shares of the priorities on top of each other.
fn share(shares: Of<'_, Shares>, at: &Path<'_>, problems: &mut Problems) -> Option<Share> {
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

/// Five minutes: a window or a wait that is longer tells of another time than this.
const MINUTES_MS: u64 = 300_000;
