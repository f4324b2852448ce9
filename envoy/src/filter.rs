//! One request through the core: what a stream knows of itself, how it begins, and how it ends.

mod answering;
mod deciding;
mod responding;

pub use answering::{call_answered, try_due};

use answering::Called;

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

/// Whether Envoy goes on with a stream. The numbers are the ABI's.
#[derive(Clone, Copy)]
pub enum Next {
    Continue = 0,
    Pause = 1,
}

/// One stream.
pub struct Filter {
    instance: Rc<Instance>,
    id: u32,
    /// The limit at which the request waits.
    waits_at: Option<u32>,
    /// The request waits for the store of shared limits.
    awaits_grant: bool,
    /// What a rate-limit service has said of the request, and to whom else it spoke; `None` where none was asked.
    said: Option<Box<(ServiceOutcome, Additions)>>,
    /// The request waits for the service.
    consults: bool,
    /// The request has no body, or none that is still to come.
    is_whole: bool,
    /// All of the request has passed.
    is_sent: bool,
    /// What the answer says about limits, until it is sent.
    fields: Option<Box<Fields>>,
    /// What the answer may still change.
    ticket: Option<Box<Ticket>>,
    /// When the request came, while an answer to it will tell of the service's health.
    began: Option<Timestamp>,
    /// What the route says of the answer.
    serving: Serving,
    /// The route, while the request waits.
    route: Option<usize>,
    chain: Chain,
    /// The last failure that came by a call, while another upstream may do better.
    called: Option<Box<Called>>,
    /// Whether the answer that Envoy has ends with its header.
    is_answer_whole: bool,
}

impl Filter {
    /// A stream under this policy.
    pub fn new(instance: Rc<Instance>, id: u32) -> Self {
        Self {
            instance,
            id,
            waits_at: None,
            awaits_grant: false,
            said: None,
            consults: false,
            is_whole: true,
            is_sent: true,
            fields: None,
            ticket: None,
            began: None,
            serving: Serving::default(),
            route: None,
            chain: Chain::default(),
            called: None,
            is_answer_whole: false,
        }
    }

    /// Decides on the request. `is_whole`: it has no body, or none that is still to come.
    pub fn request_headers(&mut self, is_whole: bool) -> Next {
        #[cfg(feature = "panic-on-header")]
        crate::trap::spring();
        #[cfg(feature = "test-clock")]
        if crate::clock::set() {
            return Next::Pause;
        }
        (self.is_whole, self.is_sent) = (is_whole, is_whole);
        let instance = Rc::clone(&self.instance);
        let work = &mut *instance.work.borrow_mut();
        if work.monitor.is_some() {
            self.press(work);
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

    /// Asks how the service is.
    #[inline(never)]
    fn press(&mut self, work: &mut Work) {
        if let Some(monitor) = &work.monitor {
            self.began = Some(now());
            work.plan.press(monitor.pressure(), work.random.draw());
        }
    }

    #[cold]
    #[inline(never)]
    fn reply_page(&mut self, instance: &Instance, work: &mut Work, page: Page, now: Timestamp) -> Next {
        self.began = None;
        self.reply(&instance.page(work, page, now));
        Next::Pause
    }

    /// Sees a piece of the request's body pass: how long a client takes to send it is not how long its upstream takes.
    pub fn request_body(&mut self, is_last: bool) -> Next {
        self.is_sent = is_last;
        if is_last && (self.began.is_some() || self.chain.awaits_answer()) {
            let now = now();
            self.began = self.began.map(|_| now);
            self.chain.sent(now);
        }
        Next::Continue
    }

    /// Keeps what the stream holds from expiring. Does nothing for a stream that holds nothing, or nothing old.
    pub fn renew(&mut self) {
        let instance = Rc::clone(&self.instance);
        self.renew_in(&mut instance.work.borrow_mut());
    }

    fn renew_in(&mut self, work: &mut Work) {
        let Some(ticket) = self.ticket.as_mut().filter(|ticket| ticket.holds()) else { return };
        let Work { store, local, leases, counters, .. } = work;
        self.instance.engine.renew(ticket, store, local, leases, counters, now());
    }

    /// Ends the stream, however it came to its end, and gives back what it holds. One that had no answer, since its
    /// client went away, is told to the limits and the breaker that await it.
    pub fn end(&mut self) {
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
        if self.awaits_grant {
            authority::leave(&mut instance.work.borrow_mut(), self.id);
        }
        if self.consults {
            rls::leave(&mut instance.work.borrow_mut(), self.id);
        }
        if let Some(limit) = self.waits_at {
            waiting::leave(&instance, limit, self.id);
        }
        if self.chain.awaits_answer() {
            self.chain.end(&mut instance.work.borrow_mut(), self.id, now());
        }
        self.serving.end(&instance);
    }

    /// Tells the limits that no answer will come, and gives back what the request has held.
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
