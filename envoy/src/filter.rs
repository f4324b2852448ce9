//! One request through the core.

use crate::facts::{Answer, Facts, NoAnswer};
use crate::host::{self, Map};
use crate::instance::{Instance, Work};
use crate::serving::Serving;
use std::rc::Rc;
use tidegate::decision::{Reply, quota_headers};
use tidegate::engine::Ticket;
use tidegate::request::ResponseFacts;
use tidegate::status::Sources;
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
    headers: Vec<(&'static str, String)>,
    /// What the answer may still change.
    ticket: Option<Ticket>,
    /// When the request came, while an answer to it will tell of the service's health.
    began: Option<Timestamp>,
    /// What the route says of the answer.
    serving: Serving,
}

impl Filter {
    /// A stream under this policy.
    pub fn new(instance: Rc<Instance>) -> Self {
        Self { instance, headers: Vec::new(), ticket: None, began: None, serving: Serving::default() }
    }

    /// Decides on the request.
    pub fn request_headers(&mut self) -> Next {
        let instance = Rc::clone(&self.instance);
        // Whatever the routes read: a client does not choose the upstream.
        let _ = host::remove_header(Map::Request, UPSTREAM_HEADER);
        let work = &mut *instance.work.borrow_mut();
        if let Some(monitor) = &work.monitor {
            self.began = Some(now());
            work.plan.press(monitor.pressure(), work.random.draw());
        }
        instance.engine.plan(&Facts, &mut work.plan);
        if work.plan.is_clear() {
            self.serving.request(&instance);
            return Next::Continue;
        }
        let now = self.began.unwrap_or_else(now);
        if let Some(page) = work.plan.page() {
            self.began = None;
            let Work { monitor, live_keys, .. } = work;
            let (engine, fingerprint) = (&instance.engine, instance.fingerprint);
            let sources = Sources { engine, fingerprint, monitor: monitor.as_ref(), live_keys: *live_keys, now };
            self.reply(&sources.reply(page));
            return Next::Pause;
        }
        let decision =
            instance.engine.decide(&mut work.plan, &mut work.store, &mut work.local, &mut work.counters, now);
        quota_headers(&instance.engine, &work.plan, &mut work.text, &mut |name, value| {
            self.headers.push((name, value.to_owned()));
        });
        if let Some(refusal) = decision.observed {
            // Not at a level that is on by default: there is one for each request that would be refused.
            host::log(host::Level::Debug, format_args!("observed: {}", refusal.details(&instance.engine)));
        }
        match decision.refusal {
            None => {
                self.ticket = work.plan.ticket();
                self.serving.request(&instance);
                Next::Continue
            }
            Some(refusal) => {
                self.began = None;
                self.reply(&refusal.reply(&instance.engine, &Facts));
                Next::Pause
            }
        }
    }

    /// Lets the limits learn from the answer, and tells the client how it stands with them.
    pub fn response_headers(&mut self, is_whole: bool) -> Next {
        if let Some(ticket) = self.ticket.take() {
            self.observe(&ticket, &Answer);
        }
        if let (Some(began), Some(monitor)) = (self.began.take(), &mut self.instance.work.borrow_mut().monitor) {
            monitor.answered(&Answer, began, now());
        }
        // Before what is said to this client alone.
        self.serving.answer(&self.instance, is_whole);
        // Nothing is left here for the filter's own refusals, which come by here too.
        for (name, value) in self.headers.drain(..) {
            // The structured fields are lists, to which an upstream with limits of its own may have contributed.
            let sent = if name.starts_with("x-") {
                host::replace_header(Map::Response, name, &value)
            } else {
                host::add_header(Map::Response, name, &value)
            };
            if let Err(error) = sent {
                host::log(host::Level::Warn, format_args!("cannot send {name}: {error}"));
            }
        }
        Next::Continue
    }

    /// Sees a piece of the answer's body pass.
    pub fn response_body(&mut self, size: usize, is_last: bool) -> Next {
        self.serving.body(&self.instance, size, is_last);
        Next::Continue
    }

    /// Ends the stream. One that had no answer, since its client went away, is told to the limits that await it.
    pub fn end(self) {
        if let Some(ticket) = &self.ticket {
            self.observe(ticket, &NoAnswer);
        }
        if let (Some(began), Some(monitor)) = (self.began, &mut self.instance.work.borrow_mut().monitor) {
            monitor.abandoned(began, now());
        }
        self.serving.end(&self.instance);
    }

    fn observe(&self, ticket: &Ticket, answer: &dyn ResponseFacts) {
        let work = &mut *self.instance.work.borrow_mut();
        let now = now();
        let engine = &self.instance.engine;
        engine.observe(ticket, answer, &mut work.store, &mut work.local, &mut work.counters, now);
    }

    /// Answers in the upstream's place.
    fn reply(&mut self, reply: &Reply) {
        let retry_after = reply.retry_after_secs.map(|secs| secs.to_string());
        let quota = core::mem::take(&mut self.headers);
        let mut headers: Vec<(&str, &str)> = vec![("content-type", &reply.content_type), ("cache-control", "no-store")];
        headers.extend(retry_after.as_deref().map(|secs| ("retry-after", secs)));
        headers.extend(quota.iter().map(|(name, value)| (*name, value.as_str())));
        if let Err(error) =
            host::respond(reply.status, reply.grpc_status, &reply.details, &headers, reply.body.as_bytes())
        {
            host::log(host::Level::Error, format_args!("cannot answer a request: {error}"));
        }
    }
}

fn now() -> Timestamp {
    Timestamp::from_nanos(host::now_ns())
}

/// The header by which the filter tells Envoy's routes the upstream.
const UPSTREAM_HEADER: &str = "x-tidegate-upstream";
