//! How many requests an upstream can work on at once, found out by how long its answers take.
//!
//! After Netflix's concurrency-limits (its `Gradient2Limit`, <https://github.com/Netflix/concurrency-limits>, Apache-2.0;
//! the idea, not the code): as long as nothing queues, more requests at once take no longer each; beyond the capacity
//! every further one lengthens them all. The quotient of the latency without a queue and the latency now, the gradient,
//! says by how much the limit is too high, and an allowance of a few queued requests lets it grow.
//!
//! What differs: a long-term average of latencies creeps up while an overload lasts, and the limit with it. Here the
//! latency without a queue is measured, in short probes under a lowered limit.
//!
//! Samples are gathered in windows of some hundred requests. A request counts only if it began after its window, so
//! that what was queued under an earlier limit says nothing about the present one.

use super::{State, UsedShare};
use crate::units::{Permits, Span, Timestamp};

/// The bounds of a limit that is found out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Adaptive {
    least: Permits,
    most: Permits,
}

/// What one request says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sample {
    /// When it was admitted.
    pub began: Timestamp,
    /// How long the upstream took to answer.
    pub latency: Span,
    /// The upstream failed, or was not to be had: it may be overloaded.
    pub dropped: bool,
    /// How many requests were in flight when it ended, itself included.
    pub in_flight: Permits,
}

/// What is known, as two states of the key table: the estimate, and the window of samples that is being filled.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Learned {
    /// The limit and the latency without a queue.
    pub estimate: Option<State>,
    /// The samples since the estimate was last changed.
    pub window: Option<State>,
}

impl Adaptive {
    /// A limit between `least` and `most` permits.
    #[must_use]
    pub fn new(least: Permits, most: Permits) -> Self {
        let most = most.min(Self::MAX);
        Self { least: least.max(Permits::ONE).min(most), most }
    }

    /// The limit now in force, given the estimate (`None` when nothing is known yet).
    #[must_use]
    pub fn permits(&self, estimate: Option<State>) -> Permits {
        let estimate = self.estimate(estimate);
        let limit = match estimate.phase {
            Phase::Probing => estimate.limit * PROBE_SHARE,
            _ => estimate.limit,
        };
        self.bounded(limit)
    }

    /// The limit found so far, also while a probe lowers it.
    #[must_use]
    pub fn found(&self, estimate: Option<State>) -> Permits {
        self.bounded(self.estimate(estimate).limit)
    }

    /// Takes a sample into account, at `now`.
    #[must_use]
    pub fn learn(&self, learned: Learned, sample: &Sample, now: Timestamp) -> Learned {
        let estimate = self.estimate(learned.estimate);
        let mut window = learned.window.map(Window::of).filter(|window| window.is_usable(now));
        if let Some(window) = &mut window
            && sample.began >= window.began
        {
            window.add(sample, self.permits(learned.estimate));
        }
        match window {
            Some(window) if window.count >= samples_for(estimate.limit) => {
                let state = self.updated(estimate, &window).state(now);
                Learned { estimate: Some(state), window: Some(Window::beginning(now).state()) }
            }
            Some(window) => Learned { window: Some(window.state()), ..learned },
            None => Learned { window: Some(Window::beginning(now).state()), ..learned },
        }
    }

    fn estimate(&self, state: Option<State>) -> Estimate {
        match state.map(Estimate::of) {
            Some(estimate) => Estimate { limit: self.clamped(estimate.limit), ..estimate },
            None => Estimate { limit: self.clamped(INITIAL), base_us: 0.0, phase: Phase::Starting },
        }
    }

    /// The estimate after a full window.
    fn updated(&self, old: Estimate, window: &Window) -> Estimate {
        let mean_us = window.mean_us();
        let mut new = old;
        if window.dropped.saturating_mul(DROPPED_SHARE) > window.count {
            // Its answers were not worked for: their latencies say nothing.
            new.limit = self.clamped(old.limit * DROPPED_FACTOR);
            new.phase = old.phase.after_window();
            return new;
        }
        if old.phase == Phase::Probing {
            let off = mean_us / old.base_us.max(1.0) - 1.0;
            // What is far off is no chance any more: the limit had grown into a queue, or the upstream has changed.
            let change = 1.0 + off * (off.abs() * 3.0).clamp(PROBE_WEIGHT, 1.0);
            new.base_us = old.base_us * change;
            new.phase = Phase::Steady(1);
            if off.abs() > FAR_OFF {
                // A limit that was found with a wrong latency is wrong by as much. Too low, it grows by itself. And it may
                // still be wrong, by less: look again soon.
                new.limit = self.clamped(old.limit * change.min(1.0));
                new.phase = Phase::Steady(PROBE_AFTER.saturating_sub(1));
            }
            return new;
        }
        if old.base_us == 0.0 {
            new.base_us = mean_us;
        }
        // A limit that was not made use of has not been tried.
        if !window.reached {
            return new;
        }
        // Not below a half, so that one bad window does not undo everything.
        let gradient = (new.base_us / mean_us.max(1.0)).clamp(0.5, 1.2);
        if old.phase == Phase::Starting && gradient > 0.9 && old.limit < f64::from(self.most.get()) {
            new.limit = self.clamped(old.limit * STARTING_FACTOR);
            return new;
        }
        let growth = if gradient > UNQUEUED { old.limit * GROWTH } else { 0.0 };
        let allowance = growth.max(old.limit.sqrt() * ALLOWANCE);
        let target = old.limit * gradient + allowance;
        new.limit = self.clamped(old.limit + (target - old.limit) * SMOOTHING);
        new.phase = old.phase.after_window();
        new
    }

    fn clamped(&self, limit: f64) -> f64 {
        // Not `clamp`: where it cannot tell that the bounds are in order, it brings 17 KB to print them.
        limit.max(f64::from(self.least.get())).min(f64::from(self.most.get()))
    }

    fn bounded(&self, limit: f64) -> Permits {
        // A cast from a float stops at the ends of the integer's range.
        Permits::new(self.clamped(limit) as u32)
    }

    /// The most that can be found out: what the estimate has bits for.
    pub const MAX: Permits = Permits::new(10_000);
}

/// How far the search has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// Nothing has ever queued: the limit grows by leaps.
    Starting,
    /// So many windows since the last probe.
    Steady(u64),
    /// The limit is lowered, to see how long answers take without a queue.
    Probing,
}

impl Phase {
    fn after_window(self) -> Self {
        match self {
            // What was thought to be the latency without a queue may have been with one.
            Self::Starting => Self::Probing,
            Self::Steady(windows) if windows >= PROBE_AFTER => Self::Probing,
            Self::Steady(windows) => Self::Steady(windows.saturating_add(1)),
            Self::Probing => Self::Steady(1),
        }
    }
}

/// The estimate: the limit in 256ths (24 bits), the latency without a queue in microseconds (28 bits), the phase (4).
#[derive(Clone, Copy, Debug, PartialEq)]
struct Estimate {
    limit: f64,
    base_us: f64,
    phase: Phase,
}

impl Estimate {
    fn of(state: State) -> Self {
        let payload = state.payload();
        let phase = match payload & 15 {
            0 => Phase::Starting,
            15 => Phase::Probing,
            windows => Phase::Steady(windows),
        };
        Self { limit: (payload >> 32) as f64 / 256.0, base_us: ((payload >> 4) & BASE_MASK) as f64, phase }
    }

    fn state(&self, now: Timestamp) -> State {
        let phase = match self.phase {
            Phase::Starting => 0,
            Phase::Steady(windows) => windows.clamp(1, 14),
            Phase::Probing => 15,
        };
        // Below 2^24, as the limit is at most 10,000. A latency of more than four minutes counts as that.
        let limit = ((self.limit * 256.0) as u64).min((1 << 24) - 1);
        let base_us = (self.base_us as u64).clamp(1, BASE_MASK);
        kept(now.after(KEPT), (limit << 32) | (base_us << 4) | phase)
    }
}

/// The samples of a window: the sum of their latencies in microseconds (35 bits), how many there are (10) and how many
/// of them were dropped (10), and whether the limit was made use of (1). `fresh_at` tells when the window began.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Window {
    began: Timestamp,
    sum_us: u64,
    count: u64,
    dropped: u64,
    reached: bool,
}

impl Window {
    fn beginning(now: Timestamp) -> Self {
        Self { began: now, sum_us: 0, count: 0, dropped: 0, reached: false }
    }

    fn of(state: State) -> Self {
        let payload = state.payload();
        Self {
            began: state.fresh_at().before(KEPT),
            sum_us: payload >> 21,
            count: (payload >> 11) & COUNT_MASK,
            dropped: (payload >> 1) & COUNT_MASK,
            reached: payload & 1 == 1,
        }
    }

    fn state(&self) -> State {
        let payload = (self.sum_us.min(SUM_MAX) << 21)
            | (self.count.min(COUNT_MASK) << 11)
            | (self.dropped.min(COUNT_MASK) << 1)
            | u64::from(self.reached);
        kept(self.began.after(KEPT), payload)
    }

    /// Not of yesterday, and not of a time that a clock has since stepped back from.
    fn is_usable(&self, now: Timestamp) -> bool {
        now.since(self.began) < OLDEST && self.began.since(now) < JITTER
    }

    fn add(&mut self, sample: &Sample, limit: Permits) {
        self.count = self.count.saturating_add(1);
        if sample.dropped {
            self.dropped = self.dropped.saturating_add(1);
        } else {
            self.sum_us = self.sum_us.saturating_add(sample.latency.as_nanos() / 1_000);
        }
        self.reached |= u64::from(sample.in_flight.get()).saturating_mul(2) >= u64::from(limit.get());
    }

    fn mean_us(&self) -> f64 {
        self.sum_us as f64 / (self.count.saturating_sub(self.dropped).max(1) as f64)
    }
}

/// What the table is to keep before all clients: a limit that is forgotten has to be found again.
fn kept(fresh_at: Timestamp, payload: u64) -> State {
    State::new(fresh_at, UsedShare::from_byte(u8::MAX), payload)
}

/// How many samples a window has: two for each request in flight, so that slow ones are among them as often as quick
/// ones; at least so many that chance evens out, and at most as many as can be counted.
fn samples_for(limit: f64) -> u64 {
    ((limit * 2.0) as u64).clamp(200, 1_000)
}

/// The limit before anything is known, as far as the bounds let it.
const INITIAL: f64 = 20.0;
/// How the limit grows until something first queues.
const STARTING_FACTOR: f64 = 1.5;
/// How many requests may queue, times the root of the limit: few, since the limit comes to lie above the capacity by so many.
const ALLOWANCE: f64 = 0.15;
/// The gradient from which on nothing queues, as far as chance lets one see, and by what share the limit is to grow then.
const UNQUEUED: f64 = 0.97;
const GROWTH: f64 = 0.05;
/// How much of the way to where a window points the limit goes.
const SMOOTHING: f64 = 0.25;
/// The limit during a probe.
const PROBE_SHARE: f64 = 0.7;
/// How many windows lie between two probes.
const PROBE_AFTER: u64 = 10;
/// How much of a probe goes into the latency without a queue: several together are more exact than each.
const PROBE_WEIGHT: f64 = 0.3;
/// By how much a probe that chance alone does not explain differs from what was known.
const FAR_OFF: f64 = 0.15;
/// More than one in so many dropped: the upstream is overloaded, whatever its latency.
const DROPPED_SHARE: u64 = 10;
/// What is left of the limit then.
const DROPPED_FACTOR: f64 = 0.9;
/// How long what is known is worth more than what the table knows of any client.
const KEPT: Span = Span::from_secs(86_400);
/// A window that is not full by then begins anew: its first samples are of another time.
const OLDEST: Span = Span::from_secs(600);
/// By how much a window's beginning may lie ahead: the resolution of `fresh_at`, and clocks of different threads.
const JITTER: Span = Span::from_millis(100);

const BASE_MASK: u64 = (1 << 28) - 1;
const COUNT_MASK: u64 = (1 << 10) - 1;
const SUM_MAX: u64 = (1 << 35) - 1;
