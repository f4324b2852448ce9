//! One stream: its state, how it begins, and how it ends.

mod answering;
mod deciding;
mod responding;

pub use answering::{call_answered, make_due_calls};

use answering::CallResponse;

use crate::authority;
use crate::chain::Chain;
use crate::facts::{Facts, NoAnswer};
use crate::host;
use crate::instance::{Instance, Work};
use crate::rls;
use crate::serving::Serving;
use crate::waiting;
use std::rc::Rc;
use tidegate::decision::Fields;
use tidegate::engine::Ticket;
use tidegate::rls::{Additions, ServiceOutcome};
use tidegate::status::Page;
use tidegate::units::Timestamp;

/// Whether Envoy continues with a stream. The numbers are the ABI's.
#[derive(Clone, Copy)]
pub enum Next {
    Continue = 0,
    Pause = 1,
}

/// One stream.
pub struct Filter {
    instance: Rc<Instance>,
    id: u32,
    waits_for: WaitsFor,
    /// The rate-limit service's answer, and the headers and texts that came with it; `None` if the service was not
    /// asked.
    service_answer: Option<Box<(ServiceOutcome, Additions)>>,
    /// Whether the request has no body, or none still to come.
    is_whole: bool,
    /// Whether the whole request has been sent on.
    is_sent: bool,
    /// The response fields about limits, until they are sent.
    fields: Option<Box<Fields>>,
    /// What the response may still charge or return.
    ticket: Option<Box<Ticket>>,
    /// When the request came, if its response is to count for the service's health.
    began: Option<Timestamp>,
    /// The route's response rules.
    serving: Serving,
    /// The route of the request.
    route: Option<usize>,
    chain: Chain,
    /// The last failure that a call of the filter returned, while another upstream may do better.
    last_failure: Option<Box<CallResponse>>,
    /// Whether the response that Envoy has is without a body.
    is_answer_whole: bool,
}

/// What a request waits for before it is sent on.
#[derive(Clone, Copy, PartialEq, Eq)]
enum WaitsFor {
    Nothing,
    /// Its turn in the room of this limit.
    Turn(u32),
    /// The store of shared limits.
    Grant,
    /// The rate-limit service.
    Service,
}

impl Filter {
    /// A new stream under this policy.
    pub fn new(instance: Rc<Instance>, id: u32) -> Self {
        Self {
            instance,
            id,
            waits_for: WaitsFor::Nothing,
            service_answer: None,
            is_whole: true,
            is_sent: true,
            fields: None,
            ticket: None,
            began: None,
            serving: Serving::default(),
            route: None,
            chain: Chain::default(),
            last_failure: None,
            is_answer_whole: false,
        }
    }

    /// Decides on the request. `is_whole`: it has no body, or none still to come.
    pub fn request_headers(&mut self, is_whole: bool) -> Next {
        #[cfg(feature = "panic-on-header")]
        crate::trap::panic_if_asked();
        #[cfg(feature = "test-clock")]
        if crate::clock::set() {
            return Next::Pause;
        }
        (self.is_whole, self.is_sent) = (is_whole, is_whole);
        let instance = Rc::clone(&self.instance);
        let work = &mut *instance.work.borrow_mut();
        if work.monitor.is_some() {
            self.apply_pressure(work);
        }
        instance.engine.plan(&Facts, &mut work.plan);
        self.route = work.plan.route();
        if work.plan.is_clear() {
            self.forward(&instance, work, Timestamp::EPOCH);
            return Next::Continue;
        }
        let now = self.began.unwrap_or_else(now);
        if let Some(page) = work.plan.page() {
            return self.reply_page(&instance, work, page, now);
        }
        let next = self.decide(&instance, work, now);
        if work.authority.is_some() {
            authority::send(&instance, work, now);
        }
        next
    }

    /// Applies load shedding, by the service's health.
    #[inline(never)]
    fn apply_pressure(&mut self, work: &mut Work) {
        if let Some(monitor) = &work.monitor {
            self.began = Some(now());
            work.plan.set_pressure(monitor.pressure(), work.random.draw());
        }
    }

    #[cold]
    #[inline(never)]
    fn reply_page(&mut self, instance: &Instance, work: &mut Work, page: Page, now: Timestamp) -> Next {
        self.began = None;
        self.reply(&instance.page(work, page, now));
        Next::Pause
    }

    /// Notes a chunk of the request's body. The time that a client takes to send it is not its upstream's.
    pub fn request_body(&mut self, is_last: bool) -> Next {
        self.is_sent = is_last;
        if is_last && (self.began.is_some() || self.chain.awaits_answer()) {
            let now = now();
            self.began = self.began.map(|_| now);
            self.chain.sent(now);
        }
        Next::Continue
    }

    /// Renews what the stream holds, if that is old enough to need it.
    pub fn renew(&mut self) {
        let instance = Rc::clone(&self.instance);
        self.renew_in(&mut instance.work.borrow_mut());
    }

    fn renew_in(&mut self, work: &mut Work) {
        let Some(ticket) = self.ticket.as_mut().filter(|ticket| ticket.holds()) else { return };
        let Work { store, local, leases, counters, .. } = work;
        self.instance.engine.renew(ticket, store, local, leases, counters, now());
    }

    /// Ends the stream, for whatever reason, and returns what it holds.
    pub fn end(&mut self) {
        let is_unanswered = self.began.is_some() || self.ticket.is_some() || self.chain.awaits_answer();
        if is_unanswered || self.waits_for != WaitsFor::Nothing || self.serving.is_collecting() {
            self.end_early();
        }
    }

    /// Ends a stream that was not answered in full. If there was no response because the client went away, the limits
    /// and the breaker that await it are told.
    #[inline(never)]
    fn end_early(&mut self) {
        let instance = Rc::clone(&self.instance);
        {
            let work = &mut *instance.work.borrow_mut();
            if let (Some(began), Some(monitor)) = (self.began.take().filter(|_| self.is_sent), &mut work.monitor) {
                monitor.abandoned(began, now());
            }
            if self.ticket.is_some() {
                self.end_ticket(&instance, work);
            }
        }
        match self.waits_for {
            WaitsFor::Nothing => {}
            WaitsFor::Turn(limit) => waiting::leave(&instance, limit, self.id),
            WaitsFor::Grant => authority::leave(&mut instance.work.borrow_mut(), self.id),
            WaitsFor::Service => rls::leave(&mut instance.work.borrow_mut(), self.id),
        }
        if self.chain.awaits_answer() {
            self.chain.end(&mut instance.work.borrow_mut(), self.id, now());
        }
        self.serving.end(&instance);
    }

    /// Tells the limits that no response will come, and returns what the request has held.
    #[inline(never)]
    fn end_ticket(&mut self, instance: &Instance, work: &mut Work) {
        self.learn(instance, work, &NoAnswer);
        if let Some(ticket) = self.ticket.take() {
            let Work { store, local, leases, counters, .. } = work;
            instance.engine.release(*ticket, store, local, leases, counters, now());
            authority::send(instance, work, now());
        }
    }
}

fn now() -> Timestamp {
    Timestamp::from_nanos(host::now_ns())
}
