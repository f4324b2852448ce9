//! Counts and latencies of a group's requests, as its clients see them.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use hdrhistogram::Histogram;

/// How one request ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// A success, with the time since it was scheduled to be sent.
    Served(Duration),
    /// 429.
    Refused,
    /// Any other status, or no response in time.
    Failed,
}

/// Counts of one group in one act. Many tasks add to them.
#[derive(Debug)]
pub struct Tally {
    offered: AtomicU64,
    refused: AtomicU64,
    failed: AtomicU64,
    latencies_us: Mutex<Histogram<u64>>,
}

/// The counts at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Requests that were due to be sent.
    pub offered: u64,
    /// Requests that succeeded.
    pub served: u64,
    /// Requests refused with 429.
    pub refused: u64,
    /// Requests that were admitted and did not succeed.
    pub failed: u64,
    /// The median latency of the successes.
    pub p50: Option<Duration>,
    /// The 99th percentile of the successes' latencies.
    pub p99: Option<Duration>,
}

impl Tally {
    /// An empty tally; `None` if the histogram cannot be made.
    pub fn new() -> Option<Self> {
        Some(Self {
            offered: AtomicU64::new(0),
            refused: AtomicU64::new(0),
            failed: AtomicU64::new(0),
            latencies_us: Mutex::new(Histogram::new_with_bounds(1, MAX_LATENCY_US, SIGNIFICANT_DIGITS).ok()?),
        })
    }

    /// Counts a request that is due to be sent.
    pub fn offer(&self) {
        self.offered.fetch_add(1, Relaxed);
    }

    /// Counts a request that has ended.
    pub fn end(&self, ending: Ending) {
        match ending {
            Ending::Served(latency) => {
                let us = u64::try_from(latency.as_micros()).unwrap_or(MAX_LATENCY_US);
                self.latencies_us.lock().unwrap_or_else(PoisonError::into_inner).saturating_record(us);
            }
            Ending::Refused => drop(self.refused.fetch_add(1, Relaxed)),
            Ending::Failed => drop(self.failed.fetch_add(1, Relaxed)),
        }
    }

    /// The counts now.
    pub fn counts(&self) -> Counts {
        let latencies = self.latencies_us.lock().unwrap_or_else(PoisonError::into_inner);
        let quantile =
            |share| (!latencies.is_empty()).then(|| Duration::from_micros(latencies.value_at_quantile(share)));
        Counts {
            offered: self.offered.load(Relaxed),
            served: latencies.len(),
            refused: self.refused.load(Relaxed),
            failed: self.failed.load(Relaxed),
            p50: quantile(0.5),
            p99: quantile(0.99),
        }
    }
}

impl Counts {
    /// Requests that were not refused.
    pub fn admitted(&self) -> u64 {
        self.served + self.failed
    }

    /// The share of offered requests that succeeded, in percent; `None` if none were offered.
    #[allow(clippy::cast_precision_loss, reason = "a share for the eye, of far fewer than 2^52 requests")]
    pub fn served_percent(&self) -> Option<f64> {
        (self.offered > 0).then(|| 100.0 * self.served as f64 / self.offered as f64)
    }
}

/// Longer than any client waits.
const MAX_LATENCY_US: u64 = 60_000_000;
const SIGNIFICANT_DIGITS: u8 = 3;
