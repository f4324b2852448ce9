//! A request that waits for its turn, or because its client is slowed down.
//!
//! A timer of workerd belongs to one request and ends with it, so no request can wake another. Each request polls: when
//! its own time should have come, and at intervals before. Whichever request polls also ends the waits of others that
//! are due.

use crate::facts::Facts;
use crate::gate::{Gate, Work};
use crate::host::Request;
use crate::verdict::Verdict;
use crate::{now, reply};
use std::rc::Rc;
use tidegate::decision::Refusal;
use tidegate::engine::delaying::Books;
use tidegate::engine::{Engine, Ticket};
use tidegate::units::{Span, Timestamp};

/// A waiting request. Dropped if its client goes away.
pub struct Wait {
    gate: Rc<Gate>,
    id: u32,
    limit: u32,
    route: Option<usize>,
    pause: Span,
    /// For tests: the wait never ends.
    hangs: bool,
    #[cfg(feature = "test-clock")]
    _under_way: crate::clock::UnderWay,
}

/// The outcome of a wait.
pub struct Ended {
    refusal: Option<Refusal>,
    ticket: Option<Ticket>,
    fields: String,
}

impl Wait {
    /// Lets the request of the decided plan wait; `None` if it cannot.
    pub fn enter(gate: &Rc<Gate>, work: &mut Work, request: &Request, delay: Span) -> Option<Self> {
        let id = work.next_id();
        let Work { store, local, leases, counters, room, plan, .. } = work;
        let limit = gate.engine.enter(plan, id, room, &mut Books { store, local, leases, counters })?;
        #[cfg(feature = "panic-on-header")]
        let hangs = crate::trap::hangs(request);
        #[cfg(not(feature = "panic-on-header"))]
        let (hangs, _) = (false, request);
        let route = work.plan.route();
        Some(Self {
            gate: Rc::clone(gate),
            id,
            limit,
            route,
            pause: delay.min(LONGEST_PAUSE),
            hangs,
            #[cfg(feature = "test-clock")]
            _under_way: crate::clock::UnderWay::new(),
        })
    }

    /// In how many ms to ask for the verdict.
    pub fn pause_ms(&self) -> u32 {
        // Rounded up, and at least one: earlier there would be nothing to do.
        u32::try_from(self.pause.as_nanos().div_ceil(NANOS_PER_MILLI)).unwrap_or(u32::MAX).max(1)
    }

    /// The verdict, [`Verdict::Pending`] while the request has to wait.
    pub fn verdict(&mut self, request: &Request, now: Timestamp) -> Verdict {
        let gate = Rc::clone(&self.gate);
        let work = &mut *gate.work();
        finish_due(&gate.engine, work, now);
        let ended = if self.hangs { None } else { work.ended.remove(&self.id) };
        let Some(Ended { refusal, mut ticket, fields }) = ended else {
            self.pause = work.room.next_due(now).unwrap_or(LONGEST_PAUSE).min(LONGEST_PAUSE);
            return Verdict::Pending;
        };
        let facts = Facts::new(request);
        if let Some(refusal) = refusal {
            return Verdict::Responds(reply::response(&refusal.reply(&gate.engine, &facts), &fields));
        }
        if let Some(ticket) = &mut ticket {
            // What the request holds may have expired while it waited.
            let Work { store, local, leases, counters, .. } = work;
            gate.engine.renew(ticket, store, local, leases, counters, now);
        }
        gate.admit(work, request, self.route, ticket, Some(fields))
    }
}

impl Drop for Wait {
    fn drop(&mut self) {
        let now = now();
        let work = &mut *self.gate.work();
        let Work { store, local, leases, counters, room, ended, .. } = work;
        self.gate.engine.leave(self.limit, self.id, room, &mut Books { store, local, leases, counters }, now);
        if let Some(ticket) = ended.remove(&self.id).and_then(|ended| ended.ticket) {
            self.gate.engine.release(ticket, store, local, leases, counters, now);
        }
    }
}

/// Ends the wait of every request that is due.
pub fn finish_due(engine: &Engine, work: &mut Work, now: Timestamp) {
    if work.room.is_empty() {
        return;
    }
    let Work { store, local, leases, counters, room, .. } = work;
    engine.renew_waiting(room, &mut Books { store, local, leases, counters }, now);
    let mut left = core::mem::take(&mut work.left);
    work.room.due(now, usize::MAX, &mut left);
    for left in left.drain(..) {
        let id = left.id;
        let Work { store, local, leases, counters, plan, .. } = work;
        let decision = engine.finish(left, plan, &mut Books { store, local, leases, counters }, now);
        let ticket = if decision.refusal.is_none() { work.plan.ticket() } else { None };
        let fields = work.fields(engine);
        work.ended.insert(id, Ended { refusal: decision.refusal, ticket, fields });
    }
    work.left = left;
}

/// The longest delay until a request learns that its turn has changed because others came or left.
const LONGEST_PAUSE: Span = Span::from_millis(100);

const NANOS_PER_MILLI: u64 = 1_000_000;
