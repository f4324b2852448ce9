//! How the service behind is: healthy, degraded or critical, by what its answers show.
//!
//! ```text
//! an answer         status, how long it took, perhaps a report of load    counted in the worker's memory (`Monitor`)
//! a tick            every worker adds its counts to what all share        `Shared`: the window, the standing, the shedding
//! a threshold       the window's sum is judged with hysteresis            `Standing`
//! ```
//!
//! A request costs an addition. The state is decided where the counts meet, so all workers have the same one, a tick late.

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

/// How a service is. In order: the worse is the greater.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Health {
    /// As it should be, for all that is known.
    #[default]
    Healthy = 0,
    /// Worse than it should be.
    Degraded = 1,
    /// About to fail, or failing.
    Critical = 2,
}

impl Health {
    /// The word for it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Healthy => "healthy",
            Self::Degraded => "degraded",
            Self::Critical => "critical",
        }
    }

    /// The state of this number.
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

/// What tells how the service is.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Rules {
    /// Over how much time, to a tenth of it.
    pub(crate) window: Span,
    /// How many calls there must be within it for anything to be told.
    pub(crate) min_calls: u32,
    /// Which latency is compared with its thresholds: that which this share of the calls does not exceed.
    pub(crate) quantile: BasisPoints,
    /// What is compared, each once.
    pub(crate) thresholds: Vec<Thresholds>,
    /// What share of a threshold a reading must be below for the service to get better, `1..=100`.
    pub(crate) recovers_at_percent: u8,
    /// For how long it must be.
    pub(crate) calm: Span,
}

/// From where on a reading makes the service degraded or critical, in the signal's own unit; `degraded` is the smaller.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Thresholds {
    pub(crate) signal: Signal,
    pub(crate) degraded: u64,
    pub(crate) critical: u64,
}

/// Something that tells of a service's health.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Signal {
    /// The share of calls that failed, in basis points.
    ErrorRate,
    /// The quantile of latencies, in nanoseconds.
    Latency,
    /// The mean of what upstreams report of their load, in millionths.
    Load(Load),
}

impl Rules {
    /// Whether upstreams' reports of their load are looked at.
    #[must_use]
    pub fn reads_reports(&self) -> bool {
        self.thresholds.iter().any(|thresholds| matches!(thresholds.signal, Signal::Load(_)))
    }

    /// The latency from which on the service is degraded.
    fn slow(&self) -> Option<Span> {
        let slow = self.thresholds.iter().find(|thresholds| thresholds.signal == Signal::Latency);
        slow.map(|thresholds| Span::from_nanos(thresholds.degraded))
    }

    /// What a signal shows; `None` when there is nothing to tell it from.
    #[must_use]
    pub fn reading(&self, signal: Signal, recent: &Tally) -> Option<u64> {
        match signal {
            Signal::ErrorRate => Some(recent.error_rate().get().into()),
            Signal::Latency => recent.latencies().quantile(self.quantile).map(Span::as_nanos),
            Signal::Load(load) => recent.load(load),
        }
    }

    /// Where the pressure is to move after what the last fifth of the window came to: a tenth and what there is of the next.
    /// The whole of it still tells of the overload for some time after that is over.
    fn trend(&self, latest: &Tally) -> Trend {
        match self.judge(latest, self.min_calls.div_ceil(5)) {
            (Health::Healthy, Health::Healthy) => Trend::Fall,
            (Health::Healthy, _) => Trend::Hold,
            _ => Trend::Rise,
        }
    }

    /// The worst state whose threshold a reading reaches, and the worst from which a reading keeps it from getting better.
    /// Of fewer than `min_calls` nothing is told.
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
    /// The state of a reading, were the thresholds this share of what they are.
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
