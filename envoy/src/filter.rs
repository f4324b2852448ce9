//! One request through the core.

mod answering;

pub use answering::{call_answered, try_due};

use answering::{Called, Fate};

use crate::authority;
use crate::chain::{Chain, UPSTREAM_HEADER};
use crate::facts::{Answer, Facts, NoAnswer};
use crate::host::{self, Map};
use crate::instance::{Instance, Work};
use crate::rls;
use crate::serving::Serving;
use crate::waiting;
use std::rc::Rc;
use tidegate::decision::{Decision, Fields, Refusal, Reply};
use tidegate::engine::Ticket;
use tidegate::fallback::Step;
use tidegate::request::ResponseFacts;
use tidegate::rls::{Heard, Words};
use tidegate::shed::Pressure;
use tidegate::status::Page;
use tidegate::store::rls::Header;
use tidegate::units::{Draw, Timestamp};

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
    said: Option<Box<(Heard, Words)>>,
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

    /// Decides again, now that more is known of the limits that the request waits for, and acts on it. What is to be asked then
    /// is not sent yet: others who wait may need as much.
    pub fn decide_again(&mut self, since: Timestamp) {
        self.awaits_grant = false;
        let instance = Rc::clone(&self.instance);
        let work = &mut *instance.work.borrow_mut();
        self.plan_again(&instance, work);
        work.plan.resume(since);
        self.go_on_as_decided(&instance, work);
    }

    /// Takes in what the rate-limit service says of the request that waits for it, and acts on it.
    pub fn heard(&mut self, heard: Heard, words: Words) {
        (self.said, self.consults) = (Some(Box::new((heard, words))), false);
        let instance = Rc::clone(&self.instance);
        let work = &mut *instance.work.borrow_mut();
        self.plan_again(&instance, work);
        self.go_on_as_decided(&instance, work);
        authority::send(&instance, work, now());
    }

    /// Decides on a request that has waited, and lets it go if it is admitted.
    fn go_on_as_decided(&mut self, instance: &Rc<Instance>, work: &mut Work) {
        let now = now();
        self.began = work.monitor.as_ref().map(|_| now);
        if let Next::Continue = self.decide(instance, work, now)
            && let Err(error) = host::resume_request()
        {
            host::log(host::Level::Error, format_args!("cannot resume a request: {error}"));
        }
    }

    /// Plans again for a request that has been heard of since.
    fn plan_again(&mut self, instance: &Instance, work: &mut Work) {
        // It was let in when it came.
        work.plan.press(Pressure::default(), Draw::default());
        instance.engine.plan(&Facts, &mut work.plan);
        if let Some(said) = &self.said {
            work.plan.hear(said.0.clone());
        }
    }

    /// Decides on the request of the plan.
    fn decide(&mut self, instance: &Rc<Instance>, work: &mut Work, now: Timestamp) -> Next {
        if work.plan.may_wait() {
            instance.engine.offer(&mut work.plan, &work.room, now);
        }
        let decision = instance.engine.decide(
            &mut work.plan,
            &mut work.store,
            &mut work.local,
            &mut work.leases,
            &mut work.counters,
            now,
        );
        if decision.is_plain() {
            self.tell(instance, work);
            let goes_on = self.admit(instance, work, now);
            return if goes_on { Next::Continue } else { Next::Pause };
        }
        self.act(instance, work, decision, now)
    }

    /// Does what a decision says that is not just to go on. Apart, since requests seldom come here: what all of them run through
    /// stands together in the machine's code, too.
    #[inline(never)]
    fn act(&mut self, instance: &Rc<Instance>, work: &mut Work, decision: Decision, now: Timestamp) -> Next {
        if let Some(refusal) = decision.observed {
            // Not at a level that is on by default: there is one for each request that would be refused.
            host::log(host::Level::Debug, format_args!("observed: {}", refusal.details(&instance.engine)));
        }
        if decision.awaits.is_some() {
            // What it waits here is not the service's doing.
            self.began = None;
            self.awaits_grant = true;
            instance.engine.await_grant(&work.plan, self.id, &mut work.leases);
            work.alarm.set(work.next_due(now), false, now);
            return Next::Pause;
        }
        if decision.consults {
            return self.consult(instance, work, now);
        }
        if decision.delay.is_some() {
            // What it waits here is not the service's doing.
            self.began = None;
            self.waits_at = waiting::enter(instance, work, self.id, now);
            let goes_on = self.waits_at.is_none() && self.forward(instance, work, now);
            return if goes_on { Next::Continue } else { Next::Pause };
        }
        self.tell(instance, work);
        match decision.refusal {
            None => {
                if self.admit(instance, work, now) {
                    Next::Continue
                } else {
                    Next::Pause
                }
            }
            Some(refusal) => {
                self.began = None;
                let mut reply = refusal.reply(&instance.engine, &Facts);
                if let Some(said) = &self.said {
                    said.1.speak(&refusal, &instance.engine, &mut reply);
                }
                self.reply(&reply);
                Next::Pause
            }
        }
    }

    /// Asks the rate-limit service about the request of the plan; where that cannot be, decides without it.
    fn consult(&mut self, instance: &Rc<Instance>, work: &mut Work, now: Timestamp) -> Next {
        self.consults = rls::ask(&instance.engine, work, &Facts, self.id, now);
        if self.consults {
            // What it waits here is not the service's doing.
            self.began = None;
            return Next::Pause;
        }
        // Heard of now, it is not asked about again.
        self.said = Some(Box::new((Heard::Failure, Words::default())));
        self.plan_again(instance, work);
        self.decide(instance, work, now)
    }

    /// Sends an admitted request on its way. `false` when it was answered instead.
    fn admit(&mut self, instance: &Instance, work: &mut Work, now: Timestamp) -> bool {
        self.ticket = work.plan.ticket().map(Box::new);
        if let (Some(ticket), false) = (&mut self.ticket, self.is_whole) {
            ticket.leave_untimed();
        }
        self.forward(instance, work, now)
    }

    /// Goes on after a wait, or is refused.
    pub fn go_on(&mut self, instance: &Instance, work: &mut Work, refusal: Option<&Refusal>) {
        self.waits_at = None;
        self.tell(instance, work);
        if let Some(refusal) = refusal {
            self.reply(&refusal.reply(&instance.engine, &Facts));
            return;
        }
        let goes_on = self.admit(instance, work, now());
        // What it holds may have expired while it waited.
        self.renew_in(work);
        if goes_on {
            self.began = work.monitor.as_ref().map(|_| now());
        }
        if goes_on && let Err(error) = host::resume_request() {
            host::log(host::Level::Error, format_args!("cannot resume a request: {error}"));
        }
    }

    /// Chooses the upstream, where the policy does. `false` when the request was answered instead.
    fn forward(&mut self, instance: &Instance, work: &mut Work, now: Timestamp) -> bool {
        if let Some(said) = &mut self.said {
            pass_on(Map::Request, &mut said.1.request_headers);
        }
        if !instance.assets.is_empty() {
            self.serving.request(instance, self.is_whole);
        }
        let Some(route) = self.route else {
            // Whatever Envoy's routes read: a client does not choose the upstream. To look costs less than to remove, for
            // which Envoy would choose the route anew.
            if host::may_have_header(Map::Request, UPSTREAM_HEADER) {
                let _ = host::remove_header(Map::Request, UPSTREAM_HEADER);
            }
            return true;
        };
        self.forward_along(route, instance, work, now)
    }

    /// Goes along a route, see [`Self::forward`].
    #[inline(never)]
    fn forward_along(&mut self, route: usize, instance: &Instance, work: &mut Work, now: Timestamp) -> bool {
        let step = self.chain.begin(instance.engine.policy(), work, (route, self.is_whole), now);
        if !matches!(step, Step::Send { .. }) {
            // No upstream was asked: this tells nothing of how it is.
            self.began = None;
            return !self.conclude(instance, work, step);
        }
        if !self.chain.awaits_answer() {
            self.sign(instance, work);
        }
        true
    }

    /// Keeps what the answer says of the plan's limits.
    fn tell(&mut self, instance: &Instance, work: &mut Work) {
        let mut fields = work.spare.pop().unwrap_or_default();
        fields.tell(&instance.engine, &work.plan);
        self.fields = Some(fields);
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

    /// Asks another upstream if the answer is a failure; otherwise the client gets it.
    pub fn response_headers(&mut self, is_whole: bool) -> Next {
        let instance = Rc::clone(&self.instance);
        if self.chain.awaits_answer() && self.upstream_answered(&instance, is_whole) != Fate::Delivered {
            return Next::Pause;
        }
        self.is_answer_whole = is_whole;
        self.finish_answer(&instance);
        Next::Continue
    }

    /// Lets the limits learn from the answer, and tells the client how it stands with them.
    fn finish_answer(&mut self, instance: &Instance) {
        if self.ticket.is_some() || self.began.is_some() {
            self.learn(instance, &mut instance.work.borrow_mut(), &Answer);
        }
        // Before what is said to this client alone.
        self.serving.answer(instance, self.is_answer_whole);
        self.add_headers();
    }

    fn add_headers(&mut self) {
        // Nothing is left here for the filter's own refusals, which come by here too.
        let fields = self.fields.take();
        for (name, value) in fields.iter().flat_map(|fields| fields.iter()) {
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
        if let Some(said) = &mut self.said {
            pass_on(Map::Response, &mut said.1.response_headers);
        }
        if let Some(fields) = fields {
            self.instance.work.borrow_mut().spare(fields);
        }
    }

    /// Sees a piece of the answer's body pass.
    pub fn response_body(&mut self, size: usize, is_last: bool) -> Next {
        self.serving.body(&self.instance, size, is_last);
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

    /// Lets the limits that await the answer learn from it, and whoever asks how the service is.
    #[inline(never)]
    fn learn(&mut self, instance: &Instance, work: &mut Work, answer: &dyn ResponseFacts) {
        if let Some(mut ticket) = self.ticket.take() {
            let Work { store, local, counters, .. } = work;
            instance.engine.observe(&mut ticket, answer, store, local, counters, now());
            // What a request in flight holds is given back when all of the answer has gone, and not when it begins.
            self.ticket = Some(ticket).filter(|ticket| ticket.holds());
        }
        if let (Some(began), Some(monitor)) = (self.began.take(), &mut work.monitor) {
            monitor.answered(answer, Some(began).filter(|_| self.is_sent), now());
        }
    }

    /// Answers in the upstream's place.
    fn reply(&mut self, reply: &Reply) {
        let retry_after = reply.retry_after_secs.map(|secs| secs.to_string());
        let fields = self.fields.take().unwrap_or_default();
        let mut headers: Vec<(&[u8], &[u8])> =
            vec![(b"content-type", reply.content_type.as_bytes()), (b"cache-control", b"no-store")];
        headers.extend(retry_after.iter().map(|secs| (b"retry-after".as_slice(), secs.as_bytes())));
        let said = self.said.as_mut().map(|said| core::mem::take(&mut said.1.response_headers)).unwrap_or_default();
        let said = || said.iter().map(|header| (header.name.as_bytes(), header.value.as_slice()));
        // What a service says of the same counts.
        headers.retain(|(name, _)| !said().any(|(other, _)| other == *name));
        headers.extend(said());
        headers.extend(fields.iter().map(|(name, value)| (name.as_bytes(), value.as_bytes())));
        if let Err(error) =
            host::respond(reply.status, reply.grpc_status, &reply.details, &headers, reply.body.as_bytes())
        {
            host::log(host::Level::Error, format_args!("cannot answer a request: {error}"));
        }
    }
}

#[cold]
#[inline(never)]
fn pass_on(map: Map, headers: &mut Vec<Header>) {
    for header in core::mem::take(headers) {
        if let Err(error) = host::add_header(map, &header.name, &header.value) {
            host::log(host::Level::Warn, format_args!("cannot pass on {}: {error}", header.name));
        }
    }
}

fn now() -> Timestamp {
    Timestamp::from_nanos(host::now_ns())
}
