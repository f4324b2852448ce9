//! Waiting requests: Envoy holds their streams, and a tick of the root resumes them.
//!
//! A root ticks to export metrics, and as soon as a waiting request is due. Envoy acts on what a tick does to a stream
//! only after the tick has returned, so nothing calls back in here meanwhile.

use crate::host;
use crate::instance::{Instance, Work};
use crate::streams::Streams;
use tidegate::engine::delaying::Books;
use tidegate::units::{Span, Timestamp};

/// When the root ticks next.
#[derive(Default)]
pub struct Alarm {
    /// The tick period that Envoy has.
    period_ms: u32,
    next: Timestamp,
    exported: Timestamp,
}

impl Alarm {
    /// Starts the ticks.
    pub fn start(&mut self, now: Timestamp) {
        self.exported = now;
        self.set(None, false, now);
    }

    /// Whether an export is due.
    pub fn exports(&mut self, now: Timestamp) -> bool {
        // If the clock has stepped back, export now instead of waiting for it to catch up.
        let due = now < self.exported || now >= self.exported.after(EXPORT_PERIOD);
        if due {
            self.exported = now;
        }
        due
    }

    /// Sets the next tick: for waiting requests, or for the export. `called`: the root has just ticked, and Envoy's
    /// period starts again.
    pub fn set(&mut self, due: Option<Span>, called: bool, now: Timestamp) {
        let export = self.exported.after(EXPORT_PERIOD).since(now).min(EXPORT_PERIOD);
        let wait = due.map_or(export, |due| due.min(export));
        // Rounded up: an earlier tick would find nothing to do. At least one, because zero means never.
        let period_ms = u32::try_from(wait.as_nanos().div_ceil(NANOS_PER_MILLI)).unwrap_or(u32::MAX).max(1);
        let next = now.after(Span::from_millis(period_ms.into()));
        if !called && self.next <= next && now <= self.next {
            return;
        }
        self.next = next;
        if self.period_ms != period_ms || !called {
            self.period_ms = period_ms;
            if let Err(error) = host::set_tick_period(Span::from_millis(period_ms.into())) {
                host::log(host::Level::Warn, format_args!("no ticks: {error}"));
            }
        }
    }
}

/// Lets the request of the decided plan wait. Returns the limit that it waits at; `None` if it cannot wait.
pub fn enter(instance: &Instance, work: &mut Work, stream: u32, now: Timestamp) -> Option<u32> {
    let Work { store, local, leases, counters, .. } = work;
    let mut books = Books { store, local, leases, counters };
    let limit = instance.engine.enter(&work.plan, stream, &mut work.room, &mut books);
    work.alarm.set(work.next_due(now), false, now);
    limit
}

/// Ends the wait of a stream that has ended.
pub fn leave(instance: &Instance, limit: u32, stream: u32) {
    let work = &mut *instance.work.borrow_mut();
    let now = Timestamp::from_nanos(host::now_ns());
    let Work { store, local, leases, counters, .. } = work;
    let mut books = Books { store, local, leases, counters };
    instance.engine.leave(limit, stream, &mut work.room, &mut books, now);
}

/// Ends the wait of the streams that are due, up to a bound.
pub fn finish_due(instance: &Instance, streams: &mut Streams, now: Timestamp) {
    let work = &mut *instance.work.borrow_mut();
    if work.room.is_empty() {
        return;
    }
    let Work { store, local, leases, counters, room, .. } = work;
    instance.engine.renew_waiting(room, &mut Books { store, local, leases, counters }, now);
    let mut left = core::mem::take(&mut work.left);
    work.room.due(now, MOST_AT_ONCE, &mut left);
    for left in left.drain(..) {
        let stream = left.id;
        let Work { store, local, leases, counters, .. } = work;
        let mut books = Books { store, local, leases, counters };
        let decision = instance.engine.finish(left, &mut work.plan, &mut books, now);
        // A stream that has ended has left the room. If one is still listed here, its charges stay.
        if let Some(filter) = streams.get_mut(stream)
            && host::set_stream(stream).is_ok()
        {
            filter.finish_wait(instance, work, decision.refusal.as_ref());
        }
    }
    work.left = left;
}

/// Envoy acts on streams after the tick. Streams that are answered at once, by a refusal or without an upstream, are
/// handled one inside the other: some hundreds overflow the stack.
const MOST_AT_ONCE: usize = 64;

/// How often counts are exported to Envoy's statistics.
pub const EXPORT_PERIOD: Span = Span::from_secs(1);

const NANOS_PER_MILLI: u64 = 1_000_000;
