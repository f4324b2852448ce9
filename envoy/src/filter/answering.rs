//! What happens after an upstream's failure: further upstreams are called, or the client gets a fallback.

use super::{Filter, now};
use crate::chain::Call;
use crate::ends::{self, CallAnswer};
use crate::facts::{Answer, Facts, Status, upstream_time};
use crate::host::{self, Level, Map};
use crate::instance::{Instance, Work};
use crate::shelf::SharedShelf;
use crate::streams::Streams;
use std::borrow::Cow;
use std::rc::Rc;
use tidegate::decision::{Cause, Refusal};
use tidegate::fallback::{Ended, Pause, Step, forwarding};
use tidegate::policy::CallEnd;
use tidegate::request::{RequestFacts, ResponseFacts};
use tidegate::stale::record::Record;
use tidegate::stale::serve::serve;
use tidegate::stale::shelf;
use tidegate::units::{Span, Timestamp};

/// What happens to the response that Envoy has.
#[derive(PartialEq, Eq)]
pub(super) enum Fate {
    /// The client gets it.
    Delivered,
    /// Envoy holds it until more is known.
    Held,
    /// The client got another response in its place.
    Replaced,
}

/// The response to a call by the filter.
pub(super) struct CallResponse {
    status: u16,
    lines: Vec<u8>,
    body: Vec<u8>,
}

impl ResponseFacts for CallResponse {
    fn status(&self) -> Option<u16> {
        Some(self.status)
    }

    fn header(&self, name: &str) -> Option<Cow<'_, [u8]>> {
        let values = host::lines(&self.lines).filter(|(other, _)| *other == name.as_bytes()).map(|(_, value)| value);
        let values: Vec<&[u8]> = values.collect();
        (!values.is_empty()).then(|| Cow::Owned(values.join(b",".as_slice())))
    }

    fn upstream_time(&self) -> Option<Span> {
        upstream_time(self)
    }
}

impl Filter {
    /// Handles a response that Envoy has, whether an upstream's or its own.
    pub(super) fn upstream_answered(&mut self, instance: &Instance, is_whole: bool) -> Fate {
        self.is_answer_whole = is_whole;
        let now = now();
        let ended = ends::of_stream(&Answer, is_whole, now);
        if let Some(upstream) = self.chain.upstream() {
            let (policy, clusters) = (instance.engine.policy(), &mut instance.work.borrow_mut().clusters);
            if ended.end == CallEnd::NotConnected && ends::had_no_cluster() {
                clusters.missing(policy, upstream);
            } else if ended.end != CallEnd::NotMade {
                clusters.look_at(policy, upstream);
            }
        }
        self.call_ended(instance, ended, None, now)
    }

    /// Handles the response to a call of the filter.
    fn call_answered(&mut self, lines: u32, size: usize) {
        let instance = Rc::clone(&self.instance);
        let is_from_upstream = ends::is_from_upstream(&CallAnswer);
        // A status below 200 is not accepted: an unrequested 101 would end all of a client's streams on one HTTP/2
        // connection.
        let response = CallAnswer.status().filter(|status| lines > 0 && *status >= 200).and_then(|status| {
            let lines =
                host::header_lines(Map::CallResponse).ok().filter(|lines| host::fits_response(host::lines(lines)))?;
            let body = host::call_body(size).ok()?;
            Some(CallResponse { status, lines, body })
        });
        let ended = response.as_ref().and_then(|response| ends::of_call(&CallAnswer, is_from_upstream, &response.body));
        // Without headers, the call broke in its body, or the body or the headers were too large.
        let ended = ended.unwrap_or(CallEnd::Lost.into());
        let fate = self.call_ended(&instance, ended, response.filter(|_| is_from_upstream), now());
        self.release(&instance, &fate);
    }

    /// Makes the call that was delayed.
    fn make_delayed_call(&mut self) {
        let Some(call) = self.chain.take_delayed() else { return };
        let instance = Rc::clone(&self.instance);
        let asked = self.chain.ask(instance.engine.policy(), &mut instance.work.borrow_mut(), call, self.id);
        if let Err(end) = asked {
            let fate = self.call_ended(&instance, end.into(), None, now());
            self.release(&instance, &fate);
        }
    }

    /// Resumes the response that Envoy holds, if it is to be delivered.
    fn release(&mut self, instance: &Instance, fate: &Fate) {
        if *fate != Fate::Delivered {
            return;
        }
        self.finish_answer(instance);
        if let Err(error) = host::resume_response() {
            host::log(Level::Error, format_args!("cannot resume an answer: {error}"));
        }
    }

    /// Handles the end of a call, and calls the next upstream if there is one. `response` is the upstream's response, if
    /// the filter has it and not Envoy.
    fn call_ended(
        &mut self,
        instance: &Instance,
        ended: Ended,
        response: Option<CallResponse>,
        now: Timestamp,
    ) -> Fate {
        let policy = instance.engine.policy();
        let mut ended = ended;
        // The latest failure says more than an earlier one.
        self.last_failure = response.map(Box::new).or_else(|| self.last_failure.take());
        // Bounded: each upstream of the route is called at most once.
        loop {
            let work = &mut *instance.work.borrow_mut();
            match self.chain.ended(policy, work, ended, now) {
                Step::Send { upstream, timeout, wait } => {
                    let call = Call { upstream, timeout };
                    self.last_failure =
                        self.last_failure.take().filter(|response| response.body.len() <= LARGEST_FAILURE);
                    if wait >= SHORTEST_WAIT {
                        self.chain.delay(call);
                        work.retries.push((Pause::new(wait, now), self.id));
                        work.alarm.set(Some(wait), false, now);
                        return Fate::Held;
                    }
                    match self.chain.ask(policy, work, call, self.id) {
                        Ok(()) => return Fate::Held,
                        Err(end) => ended = end.into(),
                    }
                }
                step => {
                    if self.conclude(instance, work, step) {
                        return Fate::Replaced;
                    }
                    break;
                }
            }
        }
        match self.last_failure.take() {
            Some(response) => self.deliver(instance, &response),
            None => Fate::Delivered,
        }
    }

    /// Responds as the last step says. Returns `false` if the client is to get the response at hand.
    pub(super) fn conclude(&mut self, instance: &Instance, work: &mut Work, step: Step<'_>) -> bool {
        let policy = instance.engine.policy();
        let step = match step {
            Step::Stale(_) if self.serve_kept(instance, work) => return true,
            Step::Stale(_) => match self.chain.progress() {
                Some(progress) => work.upstreams.last(policy, progress),
                None => Step::Deliver,
            },
            step => step,
        };
        self.add_served_by(instance, work);
        match step {
            Step::Static(fixed) => {
                let lines = fixed.lines.iter().map(|(name, value)| (name.as_bytes(), value.as_bytes()));
                let lines: Vec<(&[u8], &[u8])> = lines.collect();
                let learnt = &Status(fixed.status);
                self.answer(work, instance, (fixed.status, learnt), "tidegate_static", lines, fixed.body.as_bytes());
                true
            }
            Step::Unavailable { retry_after } => {
                let refusal = Refusal { limit: None, window: None, cause: Cause::Unavailable, retry_after };
                let facts: &dyn RequestFacts = self.chain.saved().map_or(&Facts, |saved| saved);
                let reply = refusal.reply(&instance.engine, facts);
                self.learn(instance, work, &Status(reply.status));
                self.serving.forget();
                self.reply(&reply);
                true
            }
            _ => false,
        }
    }

    /// Responds with the kept response, if there is one.
    fn serve_kept(&mut self, instance: &Instance, work: &mut Work) -> bool {
        let (Some(key), Some(saved)) = (self.serving.key(), self.chain.saved()) else { return false };
        let Ok(Some(bytes)) = shelf::find(&mut SharedShelf, key) else { return false };
        let Some(record) = Record::decode(&bytes, instance.engine.seed(), key) else { return false };
        let Some(why) = self.chain.why() else { return false };
        let Some(served) = serve(&record, saved, why, now()) else { return false };
        if !host::fits_response(served.lines.iter().map(|(name, value)| (*name, value.as_ref()))) {
            return false;
        }
        if let Some(progress) = self.chain.progress() {
            work.upstreams.kept(progress);
        }
        self.add_served_by(instance, work);
        let lines = served.lines.iter().map(|(name, value)| (*name, value.as_ref())).collect();
        self.answer(work, instance, (served.status, &Status(served.status)), "tidegate_stale", lines, served.body);
        true
    }

    /// Delivers the response to a call of the filter.
    fn deliver(&mut self, instance: &Instance, response: &CallResponse) -> Fate {
        let all: Vec<(&[u8], &[u8])> = host::lines(&response.lines).collect();
        let sent = forwarding::answer(&all);
        let edits = self.serving.call_response(instance, response.status, &sent, &response.body);
        let replaced = |name: &[u8]| edits.iter().any(|edit| edit.replaces && edit.name.as_bytes() == name);
        let mut lines: Vec<(&[u8], &[u8])> = sent.into_iter().filter(|(name, _)| !replaced(name)).collect();
        lines.extend(edits.iter().map(|edit| (edit.name.as_bytes(), edit.value.as_ref())));
        if self.chain.saved().is_none_or(|saved| *saved.method() != *b"HEAD") {
            let work = &mut *instance.work.borrow_mut();
            self.answer(work, instance, (response.status, response), "tidegate_fallback", lines, &response.body);
            return Fate::Replaced;
        }
        // A response to HEAD has no body, so its headers can replace those that Envoy holds. A response by the filter
        // itself would lose the content length.
        self.learn(instance, &mut instance.work.borrow_mut(), response);
        let status = response.status.to_string();
        lines.insert(0, (b":status", status.as_bytes()));
        lines.extend(all.iter().filter(|(name, _)| *name == b"content-length"));
        let told = host::set_header_lines(Map::Response, &lines);
        self.add_headers();
        if let Err(error) = told.and_then(|()| host::resume_response()) {
            host::log(Level::Error, format_args!("cannot answer a request: {error}"));
        }
        Fate::Replaced
    }

    /// Responds in place of the upstream. `learnt` is what limits and health learn from the response.
    fn answer(
        &mut self,
        work: &mut Work,
        instance: &Instance,
        (status, learnt): (u16, &dyn ResponseFacts),
        details: &str,
        lines: Vec<(&[u8], &[u8])>,
        body: &[u8],
    ) {
        self.learn(instance, work, learnt);
        self.serving.forget();
        let own = self.fields.take().unwrap_or_default();
        let replaces = |name: &[u8]| own.lines().any(|(other, _)| other.starts_with("x-") && other.as_bytes() == name);
        let mut all: Vec<(&[u8], &[u8])> = lines.into_iter().filter(|(name, _)| !replaces(name)).collect();
        all.extend(own.lines().map(|(name, value)| (name.as_bytes(), value)));
        let facts: &dyn RequestFacts = self.chain.saved().map_or(&Facts, |saved| saved);
        let body = forwarding::keep_from_caches(&mut all, body, facts);
        if let Err(error) = host::respond(status, UNAVAILABLE, details, &all, body) {
            host::log(Level::Error, format_args!("cannot answer a request: {error}"));
        }
    }

    /// Adds the field that tells the client how it was served, if the policy asks for it.
    pub(super) fn add_served_by(&mut self, instance: &Instance, work: &mut Work) {
        let policy = instance.engine.policy();
        if policy.sends_x_tidegate()
            && let Some(progress) = self.chain.progress()
        {
            let told = work.upstreams.describe(policy, progress, now());
            if !told.is_empty() {
                self.fields.get_or_insert_default().push("x-tidegate", &told);
            }
        }
    }
}

/// Passes the response to a call to its stream. There may be responses to calls that failed at once; no stream awaits
/// them.
pub fn call_answered(instance: &Instance, streams: &mut Streams, token: u32, lines: u32, size: usize) {
    let stream = {
        let calls = &mut instance.work.borrow_mut().calls;
        let Some(at) = calls.iter().position(|(other, _)| *other == token) else { return };
        calls.swap_remove(at).1
    };
    if let Some(filter) = streams.get_mut(stream)
        && host::set_stream(stream).is_ok()
    {
        filter.call_answered(lines, size);
    }
}

/// Makes the delayed calls that are due, up to a bound.
pub fn make_due_calls(instance: &Instance, streams: &mut Streams, now: Timestamp) {
    let mut due = Vec::new();
    instance.work.borrow_mut().retries.retain(|(pause, stream)| {
        let is_due = pause.left(now) == Span::ZERO && due.len() < MOST_AT_ONCE;
        if is_due {
            due.push(*stream);
        }
        !is_due
    });
    for stream in due {
        if let Some(filter) = streams.get_mut(stream)
            && host::set_stream(stream).is_ok()
        {
            filter.make_delayed_call();
        }
    }
}

/// A clock of milliseconds cannot measure less.
const SHORTEST_WAIT: Span = Span::from_millis(1);

/// Envoy encodes the responses that a tick releases one inside the other.
const MOST_AT_ONCE: usize = 64;

/// The largest body of a failure, in bytes, that is held while another upstream is called: all streams share the
/// memory.
const LARGEST_FAILURE: usize = 65_536;

/// The gRPC status UNAVAILABLE.
const UNAVAILABLE: u8 = 14;
