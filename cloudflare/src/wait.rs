//! A request that waits for its turn, or because its client is slowed down.
//!
//! A timer of workerd belongs to one request and ends with it, so that none can wake the others. Each request looks for itself,
//! when its time should have come and now and then before, and does for the others what is due by then.

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

/// A request that waits. It is dropped if its client goes away.
pub struct Wait {
    gate: Rc<Gate>,
    id: u32,
    limit: u32,
    route: Option<usize>,
    pause: Span,
    /// For the tests: it never ends.
    hangs: bool,
    #[cfg(feature = "test-clock")]
    _under_way: crate::clock::UnderWay,
}

/// What became of a request that waits no more.
pub struct Ended {
    refusal: Option<Refusal>,
    ticket: Option<Ticket>,
    fields: String,
}

impl Wait {
    /// Lets the request of the decided plan wait; `None` when it cannot.
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

    /// After how many milliseconds to ask for the verdict.
    pub fn pause_ms(&self) -> u32 {
        // Up, and at least one: before the time there would be nothing to do.
        u32::try_from(self.pause.as_nanos().div_ceil(NANOS_PER_MILLI)).unwrap_or(u32::MAX).max(1)
    }

    /// What becomes of the request.
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
            // What it holds may have expired while it waited.
            let Work { store, local, leases, counters, .. } = work;
            gate.engine.renew(ticket, store, local, leases, counters, now);
        }
        gate.admit(work, request, self.route, ticket, fields)
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

/// Ends the wait of every request whose time has come.
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

/// How late a request may learn that it has got an earlier turn, or none, since others came and went.
const LONGEST_PAUSE: Span = Span::from_millis(100);

const NANOS_PER_MILLI: u64 = 1_000_000;
