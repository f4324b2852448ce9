//! The health of the service: healthy, degraded or critical, judged by its responses.
//!
//! ```text
//! a response        status, duration, perhaps a load report               counted in the worker's memory (`Monitor`)
//! a tick            every worker adds its counts to the shared state      `Shared`: window, standing, shedding
//! a threshold       the window's sum is judged with hysteresis            `Standing`
//! ```
//!
//! A request costs one addition. The state is computed from the merged counts, so all workers have the same one, a tick
//! late.

pub mod latency;
pub mod monitor;
pub mod orca;
mod standing;
pub mod window;

pub use standing::Standing;

use crate::shed::Trend;
use crate::units::{BasisPoints, Span};
use orca::Load;
use window::Tally;

/// The health of a service, ordered: the worse state is the greater one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Health {
    /// As it should be, as far as is known.
    #[default]
    Healthy = 0,
    /// Worse than it should be.
    Degraded = 1,
    /// About to fail, or failing.
    Critical = 2,
}

impl Health {
    /// The word for this state.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Healthy => "healthy",
            Self::Degraded => "degraded",
            Self::Critical => "critical",
        }
    }

    /// The state with this number.
    pub(crate) const fn numbered(number: u64) -> Option<Self> {
        match number {
            0 => Some(Self::Healthy),
            1 => Some(Self::Degraded),
            2 => Some(Self::Critical),
            _ => None,
        }
    }

    const fn better(self) -> Self {
        match self {
            Self::Critical => Self::Degraded,
            Self::Degraded | Self::Healthy => Self::Healthy,
        }
    }
}

/// The rules by which the health of the service is judged.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Rules {
    /// The length of the window, which moves on in steps of a tenth.
    pub(crate) window: Span,
    /// The number of calls in the window below which nothing is judged.
    pub(crate) min_calls: u32,
    /// The quantile of the latencies that is compared with its thresholds.
    pub(crate) quantile: BasisPoints,
    /// The thresholds, at most one entry for each signal.
    pub(crate) thresholds: Vec<Thresholds>,
    /// The percentage of a threshold, `1..=100`, below which a reading must stay for the service to get better.
    pub(crate) recovers_at_percent: u8,
    /// How long the readings must stay there.
    pub(crate) calm: Span,
}

/// The values from which on a signal makes the service degraded or critical, in the signal's own unit; `degraded` is
/// the smaller.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Thresholds {
    pub(crate) signal: Signal,
    pub(crate) degraded: u64,
    pub(crate) critical: u64,
}

/// A measurement by which the service is judged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Signal {
    /// The share of calls that failed, in basis points.
    ErrorRate,
    /// The configured quantile of latencies, in nanoseconds.
    Latency,
    /// The mean of a load that upstreams report, in millionths.
    Load(Load),
}

impl Rules {
    /// Whether any threshold needs the upstreams' load reports.
    #[must_use]
    pub fn reads_reports(&self) -> bool {
        self.thresholds.iter().any(|thresholds| matches!(thresholds.signal, Signal::Load(_)))
    }

    /// The latency at which the service becomes degraded.
    fn slow(&self) -> Option<Span> {
        let slow = self.thresholds.iter().find(|thresholds| thresholds.signal == Signal::Latency);
        slow.map(|thresholds| Span::from_nanos(thresholds.degraded))
    }

    /// The value of a signal; `None` without data.
    #[must_use]
    pub fn reading(&self, signal: Signal, recent: &Tally) -> Option<u64> {
        match signal {
            Signal::ErrorRate => Some(recent.error_rate().get().into()),
            Signal::Latency => recent.latencies().quantile(self.quantile).map(Span::as_nanos),
            Signal::Load(load) => recent.load(load),
        }
    }

    /// How the pressure should move, by the last fifth of the window: one full slot of a tenth and the current one. The
    /// whole window would still show an overload for some time after it is over.
    fn trend(&self, latest: &Tally) -> Trend {
        match self.judge(latest, self.min_calls.div_ceil(5)) {
            (Health::Healthy, Health::Healthy) => Trend::Fall,
            (Health::Healthy, _) => Trend::Hold,
            _ => Trend::Rise,
        }
    }

    /// The worst state whose threshold a reading reaches, and the worst state that a reading is still too high to
    /// leave. Both are healthy with fewer than `min_calls` calls.
    fn judge(&self, recent: &Tally, min_calls: u32) -> (Health, Health) {
        let mut worst = (Health::Healthy, Health::Healthy);
        if recent.calls() < min_calls {
            return worst;
        }
        for thresholds in &self.thresholds {
            let Some(reading) = self.reading(thresholds.signal, recent) else { continue };
            worst.0 = worst.0.max(thresholds.state(reading, 100));
            worst.1 = worst.1.max(thresholds.state(reading, self.recovers_at_percent));
        }
        worst
    }
}

impl Thresholds {
    /// The state of a reading, with the thresholds reduced to this percentage.
    fn state(&self, reading: u64, percent: u8) -> Health {
        let reaches = |threshold: u64| {
            u128::from(reading).saturating_mul(100) >= u128::from(threshold).saturating_mul(percent.into())
        };
        if reaches(self.critical) {
            Health::Critical
        } else if reaches(self.degraded) {
            Health::Degraded
        } else {
            Health::Healthy
        }
    }
}
