//! How many requests an upstream can work on at once, estimated from the latency of its responses.
//!
//! After Netflix's concurrency-limits (its `Gradient2Limit`, <https://github.com/Netflix/concurrency-limits>,
//! Apache-2.0; the idea, not the code): as long as nothing queues, more requests at once do not take longer each;
//! beyond the capacity, each further request lengthens all of them. The gradient, which is the latency without a queue
//! divided by the latency now, shows how far the limit is too high. An allowance of a few queued requests lets the
//! limit grow.
//!
//! One thing differs: a long-term average of latencies rises while an overload lasts, and the limit with it. Here the
//! latency without a queue is measured, in short probes under a lowered limit.
//!
//! Samples are collected in windows of a few hundred requests. A request counts only if it began after its window, so
//! that requests queued under an earlier limit do not distort the present one.
//!
//! A limit that only observes cannot probe, and cannot wait for the queue to shrink. If a request began among more
//! requests than the limit admits, its latency under the limit is estimated by proportion: in a queue that is served in
//! order, the time spent is proportional to the length. The latency without a queue is then that of requests that began
//! while few were in flight.

mod window;

use super::{State, UsedShare};
use crate::units::{Permits, Span, Timestamp};
use window::Window;

/// The bounds of an adaptive limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Adaptive {
    least: Permits,
    most: Permits,
    observes: bool,
}

/// The measurements of one request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sample {
    /// When it was admitted.
    pub began: Timestamp,
    /// How long the upstream took to answer.
    pub latency: Span,
    /// The upstream failed or could not be reached: it may be overloaded.
    pub dropped: bool,
    /// How many requests were in flight when it was admitted, including itself.
    pub in_flight: Permits,
}

/// What is known, as states of the key table: the estimate, and the windows that are being filled with samples.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Learned {
    /// The limit and the latency without a queue.
    pub estimate: Option<State>,
    /// The samples since the estimate was last changed.
    pub window: Option<State>,
    /// Samples of requests that began while few were in flight, if the limit only observes.
    pub quiet: Option<State>,
}

impl Adaptive {
    /// A limit between `least` and `most` permits.
    #[must_use]
    pub fn new(least: Permits, most: Permits) -> Self {
        let most = most.min(Self::MAX);
        Self { least: least.max(Permits::ONE).min(most), most, observes: false }
    }

    /// The same; `observes`: it only observes, so that more requests than it says may be in flight.
    #[must_use]
    pub fn observing(self, observes: bool) -> Self {
        Self { observes, ..self }
    }

    /// Whether the limit only observes.
    #[must_use]
    pub fn observes(&self) -> bool {
        self.observes
    }

    /// The limit now in force, given the estimate (`None` if nothing is known yet).
    #[must_use]
    pub fn permits(&self, estimate: Option<State>) -> Permits {
        let estimate = self.estimate(estimate);
        let limit = match estimate.phase {
            Phase::Probing if !self.observes => estimate.limit * PROBE_SHARE,
            _ => estimate.limit,
        };
        self.bounded(limit)
    }

    /// The limit found so far, even while a probe lowers it.
    #[must_use]
    pub fn found(&self, estimate: Option<State>) -> Permits {
        self.bounded(self.estimate(estimate).limit)
    }

    /// Takes a sample into account, at `now`.
    #[must_use]
    pub fn learn(&self, learned: Learned, sample: &Sample, now: Timestamp) -> Learned {
        if self.observes {
            return self.learn_observing(learned, sample, now);
        }
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
                Learned { estimate: Some(state), window: Some(Window::beginning(now).state()), ..learned }
            }
            Some(window) => Learned { window: Some(window.state()), ..learned },
            None => Learned { window: Some(Window::beginning(now).state()), ..learned },
        }
    }

    /// The same for a limit that only observes.
    fn learn_observing(&self, learned: Learned, sample: &Sample, now: Timestamp) -> Learned {
        let mut estimate = self.estimate(learned.estimate);
        let limit = self.permits(learned.estimate);
        let usable = |state: Option<State>| state.map(Window::of).filter(|window| window.is_usable(now));
        let fresh = || Window::beginning(now);
        let (mut window, mut quiet) = (usable(learned.window).unwrap_or_else(fresh), usable(learned.quiet));
        if sample.in_flight <= limit {
            window.add(sample, limit);
        } else if !sample.dropped {
            // An enforced limit would not have sent a request that failed beyond it.
            let share = f64::from(limit.get()) / f64::from(sample.in_flight.get());
            let latency = Span::from_nanos((sample.latency.as_nanos() as f64 * share) as u64);
            window.add(&Sample { latency, ..*sample }, limit);
        }
        let full = samples_for(estimate.limit);
        let mut changed = false;
        if f64::from(sample.in_flight.get()) <= estimate.limit * PROBE_SHARE && !sample.dropped {
            let quiet = quiet.get_or_insert_with(fresh);
            quiet.add(sample, limit);
            if quiet.count >= full {
                estimate = self.seen_quiet(estimate, quiet.mean_us());
                (*quiet, changed) = (fresh(), true);
            }
        }
        if window.count >= full {
            if let (Phase::Starting, Some(quiet)) = (estimate.phase, quiet) {
                // Few samples are better than none. Two standard errors are added, because a latency that is too short
                // makes the limit too low, and then few requests in flight are never seen again.
                estimate.base_us = quiet.mean_us() * (1.0 + 2.0 * (quiet.count as f64).sqrt().recip());
            }
            if estimate.base_us > 0.0 {
                estimate = self.updated(estimate, &window);
                changed = true;
            }
            window = fresh();
        }
        Learned {
            estimate: if changed { Some(estimate.state(now)) } else { learned.estimate },
            window: Some(window.state()),
            quiet: quiet.map(|quiet| quiet.state()),
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
            // Many responses are failures, so the latencies say little about the capacity.
            new.limit = self.clamped(old.limit * DROPPED_FACTOR);
            new.phase = self.after_window(old.phase);
            return new;
        }
        if old.phase == Phase::Probing && !self.observes {
            return self.probed(old, mean_us);
        }
        if old.base_us == 0.0 {
            new.base_us = mean_us;
        }
        // A limit of which less than half was used has not been tested.
        if !window.reached {
            return new;
        }
        // At least a half, so that one bad window does not undo everything.
        let most = if self.observes { MAX_GRADIENT_OBSERVING } else { 1.2 };
        let gradient = (new.base_us / mean_us.max(1.0)).clamp(0.5, most);
        if old.phase == Phase::Starting && !self.observes && gradient > 0.9 && old.limit < f64::from(self.most.get()) {
            new.limit = self.clamped(old.limit * STARTING_FACTOR);
            return new;
        }
        let unqueued = if self.observes { UNQUEUED_OBSERVING } else { UNQUEUED };
        let growth = if gradient > unqueued { old.limit * GROWTH } else { 0.0 };
        let allowance = growth.max(old.limit.sqrt() * ALLOWANCE);
        let target = old.limit * gradient + allowance;
        new.limit = self.clamped(old.limit + (target - old.limit) * SMOOTHING);
        new.phase = self.after_window(old.phase);
        if self.observes && gradient <= unqueued && old.phase == UNTRIED {
            new.phase = TRIED;
        }
        new
    }

    fn after_window(&self, phase: Phase) -> Phase {
        // A limit that only observes cannot be lowered for a probe.
        if self.observes { phase } else { phase.after_window() }
    }

    /// The estimate after a full window of requests that began while few were in flight.
    fn seen_quiet(&self, old: Estimate, mean_us: f64) -> Estimate {
        match old.phase {
            Phase::Starting => Estimate { base_us: mean_us, phase: UNTRIED, ..old },
            UNTRIED if mean_us > old.base_us * (1.0 + FAR_OFF) => {
                // Nothing has ever queued at this limit. So the upstream has probably not become slower; rather, even
                // these few requests were too many.
                let limit = self.clamped(old.limit * PROBE_SHARE * old.base_us / mean_us);
                Estimate { limit, phase: TRIED, ..old }
            }
            phase => Estimate { phase, ..self.probed(old, mean_us) },
        }
    }

    /// The estimate after a measurement of the latency without a queue.
    fn probed(&self, old: Estimate, mean_us: f64) -> Estimate {
        let mut new = old;
        let off = mean_us / old.base_us.max(1.0) - 1.0;
        // Chance does not explain a large difference: the limit had grown into a queue, or the upstream has changed.
        let change = 1.0 + off * (off.abs() * 3.0).clamp(PROBE_WEIGHT, 1.0);
        new.base_us = old.base_us * change;
        new.phase = Phase::Steady(1);
        if off.abs() > FAR_OFF {
            // A limit that was found with a wrong latency is wrong by the same factor. If it is too low, it grows by
            // itself. It may still be slightly wrong, so the next probe comes soon.
            new.limit = self.clamped(old.limit * change.min(1.0));
            new.phase = Phase::Steady(PROBE_AFTER.saturating_sub(1));
        }
        new
    }

    fn clamped(&self, limit: f64) -> f64 {
        // Not `clamp`: if the compiler cannot prove that the bounds are in order, `clamp` adds 17 KB of code to print
        // them.
        limit.max(f64::from(self.least.get())).min(f64::from(self.most.get()))
    }

    fn bounded(&self, limit: f64) -> Permits {
        // A cast from a float saturates at the integer's bounds.
        Permits::new(self.clamped(limit) as u32)
    }

    /// The highest limit that can be found.
    pub const MAX: Permits = Permits::new(10_000);
}

/// The phases of the search.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// Nothing has ever queued: the limit grows quickly.
    Starting,
    /// This many windows since the last probe.
    Steady(u64),
    /// The limit is lowered, to measure the latency without a queue.
    Probing,
}

impl Phase {
    fn after_window(self) -> Self {
        match self {
            // The latency that was taken to be without a queue may have included one.
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
        // Below 2^24, because the limit is at most 10,000. A latency of more than four minutes counts as four minutes.
        let limit = ((self.limit * 256.0) as u64).min((1 << 24) - 1);
        let base_us = (self.base_us as u64).clamp(1, BASE_MASK);
        pinned(now.after(KEPT), (limit << 32) | (base_us << 4) | phase)
    }
}

/// A state that the table keeps longer than those of clients, because a forgotten limit has to be found again.
fn pinned(fresh_at: Timestamp, payload: u64) -> State {
    State::new(fresh_at, UsedShare::from_byte(u8::MAX), payload)
}

/// How many samples a window has: two for each request in flight, so that slow requests are as well represented as fast
/// ones; at least 200, so that chance evens out, and at most 1,000, which the window can count.
fn samples_for(limit: f64) -> u64 {
    ((limit * 2.0) as u64).clamp(200, 1_000)
}

/// The limit before anything is known, within the bounds.
const INITIAL: f64 = 20.0;
/// How the limit grows until something first queues.
const STARTING_FACTOR: f64 = 1.5;
/// How many requests may queue, as a multiple of the limit's square root. Small, because the limit settles above the
/// capacity by this much.
const ALLOWANCE: f64 = 0.15;
/// The gradient above which nothing queues, as far as noise allows to see, and the share by which the limit then grows.
const UNQUEUED: f64 = 0.97;
/// The same if the latency without a queue cannot be measured on demand, and is less exact.
const UNQUEUED_OBSERVING: f64 = 0.92;
const GROWTH: f64 = 0.05;
/// How much of the way to a window's target the limit moves.
const SMOOTHING: f64 = 0.25;
/// The share of the limit that a probe leaves.
const PROBE_SHARE: f64 = 0.7;
/// How many windows lie between two probes.
const PROBE_AFTER: u64 = 10;
/// The weight of one probe in the latency without a queue: several probes together are more exact than each.
const PROBE_WEIGHT: f64 = 0.3;
/// The relative difference between a probe and the known latency that chance alone does not explain.
const FAR_OFF: f64 = 0.15;
/// The phases of a limit that only observes, once the latency without a queue is known: before and after a queue was
/// first seen at the limit.
const UNTRIED: Phase = Phase::Steady(1);
const TRIED: Phase = Phase::Steady(2);
/// The bound of the gradient for a limit that only observes. More may be in flight than the limit says, so the gradient
/// also shows how far the limit is too low.
const MAX_GRADIENT_OBSERVING: f64 = 4.0;
/// More than one in this many dropped: the upstream is overloaded, whatever its latency.
const DROPPED_SHARE: u64 = 10;
/// The share of the limit that is then left.
const DROPPED_FACTOR: f64 = 0.9;
/// How long the estimate takes precedence over the table's entries of clients.
const KEPT: Span = Span::from_secs(86_400);

const BASE_MASK: u64 = (1 << 28) - 1;
