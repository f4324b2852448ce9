//! One request through the core.

use crate::facts::{Answer, Facts, NoAnswer};
use crate::fields::Fields;
use crate::host::{self, Map};
use crate::instance::Instance;
use crate::serving::Serving;
use std::rc::Rc;
use tidegate::decision::{Refusal, quota_headers};
use tidegate::engine::Ticket;
use tidegate::request::ResponseFacts;
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
    /// What the answer says about limits, until it is sent.
    fields: Fields,
    /// What the answer may still change.
    ticket: Option<Ticket>,
    /// What the route says of the answer.
    serving: Serving,
}

impl Filter {
    /// A stream under this policy.
    pub fn new(instance: Rc<Instance>) -> Self {
        Self { instance, fields: Fields::default(), ticket: None, serving: Serving::default() }
    }

    /// Decides on the request.
    ///
    /// `whole` is whether the request has no body, or none that is still to come.
    pub fn request_headers(&mut self, whole: bool) -> Next {
        #[cfg(feature = "panic-on-header")]
        crate::trap::spring();
        let instance = Rc::clone(&self.instance);
        // Whatever the routes read: a client does not choose the upstream. To look costs less than to remove, for which
        // Envoy would choose the route anew.
        if host::may_have_header(Map::Request, UPSTREAM_HEADER) {
            let _ = host::remove_header(Map::Request, UPSTREAM_HEADER);
        }
        let work = &mut *instance.work.borrow_mut();
        instance.engine.plan(&Facts, &mut work.plan);
        if work.plan.is_clear() {
            self.serving.request(&instance);
            return Next::Continue;
        }
        let now = Timestamp::from_nanos(host::now_ns());
        let decision = instance.engine.decide(
            &mut work.plan,
            &mut work.store,
            &mut work.local,
            &mut work.leases,
            &mut work.counters,
            now,
        );
        self.fields = work.spare.pop().unwrap_or_default();
        quota_headers(&instance.engine, &work.plan, &mut work.text, &mut |name, value| self.fields.push(name, value));
        if let Some(refusal) = decision.observed {
            // Not at a level that is on by default: there is one for each request that would be refused.
            host::log(host::Level::Debug, format_args!("observed: {}", refusal.details(&instance.engine)));
        }
        match decision.refusal {
            None => {
                self.ticket = work.plan.ticket();
                if let (Some(ticket), false) = (&mut self.ticket, whole) {
                    ticket.leave_untimed();
                }
                self.serving.request(&instance);
                Next::Continue
            }
            Some(refusal) => {
                self.refuse(&instance, &refusal);
                Next::Pause
            }
        }
    }

    /// Lets the limits learn from the answer, and tells the client how it stands with them.
    pub fn response_headers(&mut self, is_whole: bool) -> Next {
        if let Some(mut ticket) = self.ticket.take() {
            self.observe(&mut ticket, &Answer);
            // What a request in flight holds is given back when all of the answer has gone, and not when it begins.
            self.ticket = Some(ticket).filter(Ticket::holds);
        }
        // Before what is said to this client alone.
        self.serving.answer(&self.instance, is_whole);
        // Nothing is left here for the filter's own refusals, which come by here too.
        for (name, value) in self.fields.iter() {
            // The structured fields are lists, to which an upstream with limits of its own may have contributed.
            let sent = if name.starts_with("x-") {
                host::replace_header(Map::Response, name, value)
            } else {
                host::add_header(Map::Response, name, value)
            };
            if let Err(error) = sent {
                host::log(host::Level::Warn, format_args!("cannot send {name}: {error}"));
            }
        }
        self.instance.work.borrow_mut().spare(core::mem::take(&mut self.fields));
        Next::Continue
    }

    /// Sees a piece of the answer's body pass.
    pub fn response_body(&mut self, size: usize, is_last: bool) -> Next {
        self.serving.body(&self.instance, size, is_last);
        Next::Continue
    }

    /// Keeps what the stream holds from expiring. Does nothing for a stream that holds nothing, or nothing old.
    pub fn renew(&mut self) {
        let Some(ticket) = self.ticket.as_mut().filter(|ticket| ticket.holds()) else { return };
        let work = &mut *self.instance.work.borrow_mut();
        let now = Timestamp::from_nanos(host::now_ns());
        self.instance.engine.renew(ticket, &mut work.store, &mut work.local, &mut work.counters, now);
    }

    /// Ends the stream, however it came to its end, and gives back what it holds. One that had no answer, since its
    /// client went away, is told to the limits that await it.
    pub fn end(mut self) {
        if let Some(mut ticket) = self.ticket.take() {
            self.observe(&mut ticket, &NoAnswer);
            if ticket.holds() {
                let work = &mut *self.instance.work.borrow_mut();
                let now = Timestamp::from_nanos(host::now_ns());
                self.instance.engine.release(ticket, &mut work.store, &mut work.local, &mut work.counters, now);
            }
        }
        self.serving.end(&self.instance);
    }

    fn observe(&self, ticket: &mut Ticket, answer: &dyn ResponseFacts) {
        let work = &mut *self.instance.work.borrow_mut();
        let now = Timestamp::from_nanos(host::now_ns());
        let engine = &self.instance.engine;
        engine.observe(ticket, answer, &mut work.store, &mut work.local, &mut work.counters, now);
    }

    fn refuse(&mut self, instance: &Instance, refusal: &Refusal) {
        let reply = refusal.reply(&instance.engine, &Facts);
        let retry_after = reply.retry_after_secs.map(|secs| secs.to_string());
        let fields = core::mem::take(&mut self.fields);
        let mut headers: Vec<(&str, &str)> = vec![("content-type", &reply.content_type), ("cache-control", "no-store")];
        headers.extend(retry_after.as_deref().map(|secs| ("retry-after", secs)));
        headers.extend(fields.iter());
        if let Err(error) =
            host::respond(reply.status, reply.grpc_status, &reply.details, &headers, reply.body.as_bytes())
        {
            host::log(host::Level::Error, format_args!("cannot refuse a request: {error}"));
        }
    }
}

/// The header by which the filter tells Envoy's routes the upstream.
const UPSTREAM_HEADER: &str = "x-tidegate-upstream";
