//! What becomes of a request when its upstream has failed: others are asked, or the client gets what is left.

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

/// What becomes of the answer that Envoy has.
#[derive(PartialEq, Eq)]
pub(super) enum Fate {
    /// The client gets it.
    Delivered,
    /// It is held until more is known.
    Held,
    /// The client got another in its place.
    Replaced,
}

/// An answer that came by a call.
pub(super) struct Called {
    status: u16,
    lines: Vec<u8>,
    body: Vec<u8>,
}

impl ResponseFacts for Called {
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
    /// Takes in that Envoy has an answer, be it its own.
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
        self.take_end(instance, ended, None, now)
    }

    /// Takes in the answer to a call.
    fn call_answered(&mut self, lines: u32, size: usize) {
        let instance = Rc::clone(&self.instance);
        let is_real = ends::is_real(&CallAnswer);
        // 101 in an answer's place, which nobody has asked for, would end all that a client has on one connection of HTTP/2.
        let called = CallAnswer.status().filter(|status| lines > 0 && *status >= 200).and_then(|status| {
            let lines =
                host::header_lines(Map::CallResponse).ok().filter(|lines| host::can_answer_with(host::lines(lines)))?;
            let body = host::call_body(size).ok()?;
            Some(Called { status, lines, body })
        });
        let ended = called.as_ref().and_then(|called| ends::of_call(&CallAnswer, is_real, &called.body));
        // Without a header, the call broke in its body, or that was too large; or the header is.
        let ended = ended.unwrap_or(CallEnd::Lost.into());
        let fate = self.take_end(&instance, ended, called.filter(|_| is_real), now());
        self.release(&instance, &fate);
    }

    /// Asks the upstream that was to be asked after a wait.
    fn try_again(&mut self) {
        let Some(call) = self.chain.waited() else { return };
        let instance = Rc::clone(&self.instance);
        let asked = self.chain.ask(instance.engine.policy(), &mut instance.work.borrow_mut(), call, self.id);
        if let Err(end) = asked {
            let fate = self.take_end(&instance, end.into(), None, now());
            self.release(&instance, &fate);
        }
    }

    /// Lets the answer go on that Envoy holds, if it is to be delivered.
    fn release(&mut self, instance: &Instance, fate: &Fate) {
        if *fate != Fate::Delivered {
            return;
        }
        self.finish_answer(instance);
        if let Err(error) = host::resume_response() {
            host::log(Level::Error, format_args!("cannot resume an answer: {error}"));
        }
    }

    /// Takes in how a call ended, and asks the next upstream if there is one. `called` is the upstream's answer, if the
    /// filter has it and not Envoy.
    fn take_end(&mut self, instance: &Instance, ended: Ended, called: Option<Called>, now: Timestamp) -> Fate {
        let policy = instance.engine.policy();
        let mut ended = ended;
        // The last failure that there was says more than one before.
        self.called = called.map(Box::new).or_else(|| self.called.take());
        // Each upstream of the route is asked once at most.
        loop {
            let work = &mut *instance.work.borrow_mut();
            match self.chain.ended(policy, work, ended, now) {
                Step::Send { upstream, timeout, wait } => {
                    let call = Call { upstream, timeout };
                    self.called = self.called.take().filter(|called| called.body.len() <= LARGEST_FAILURE);
                    if wait >= SHORTEST_WAIT {
                        self.chain.wait(call);
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
        match self.called.take() {
            Some(called) => self.deliver(instance, &called),
            None => Fate::Delivered,
        }
    }

    /// Answers with what a way ends in. `false` when that is the answer at hand.
    pub(super) fn conclude(&mut self, instance: &Instance, work: &mut Work, step: Step<'_>) -> bool {
        let policy = instance.engine.policy();
        let step = match step {
            Step::Stale(_) if self.serve_kept(instance, work) => return true,
            Step::Stale(_) => match self.chain.way() {
                Some(way) => work.upstreams.last(policy, way),
                None => Step::Deliver,
            },
            step => step,
        };
        self.sign(instance, work);
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

    /// Answers with what was kept of an earlier answer, if anything was.
    fn serve_kept(&mut self, instance: &Instance, work: &mut Work) -> bool {
        let (Some(key), Some(saved)) = (self.serving.key(), self.chain.saved()) else { return false };
        let Ok(Some(bytes)) = shelf::find(&mut SharedShelf, key) else { return false };
        let Some(record) = Record::decode(&bytes, instance.engine.seed(), key) else { return false };
        let Some(why) = self.chain.why() else { return false };
        let Some(served) = serve(&record, saved, why, now()) else { return false };
        if !host::can_answer_with(served.lines.iter().map(|(name, value)| (*name, value.as_ref()))) {
            return false;
        }
        if let Some(way) = self.chain.way() {
            work.upstreams.kept(way);
        }
        self.sign(instance, work);
        let lines = served.lines.iter().map(|(name, value)| (*name, value.as_ref())).collect();
        self.answer(work, instance, (served.status, &Status(served.status)), "tidegate_stale", lines, served.body);
        true
    }

    /// Delivers an answer that came by a call.
    fn deliver(&mut self, instance: &Instance, called: &Called) -> Fate {
        let all: Vec<(&[u8], &[u8])> = host::lines(&called.lines).collect();
        let sent = forwarding::answer(&all);
        let edits = self.serving.called(instance, called.status, &sent, &called.body);
        let replaced = |name: &[u8]| edits.iter().any(|edit| edit.replaces && edit.name.as_bytes() == name);
        let mut lines: Vec<(&[u8], &[u8])> = sent.into_iter().filter(|(name, _)| !replaced(name)).collect();
        lines.extend(edits.iter().map(|edit| (edit.name.as_bytes(), edit.value.as_ref())));
        if self.chain.saved().is_none_or(|saved| *saved.method() != *b"HEAD") {
            let work = &mut *instance.work.borrow_mut();
            self.answer(work, instance, (called.status, called), "tidegate_fallback", lines, &called.body);
            return Fate::Replaced;
        }
        // There is no body, so that the header can take the place of that which Envoy holds: an answer of the filter's
        // own would lose the length.
        self.learn(instance, &mut instance.work.borrow_mut(), called);
        let status = called.status.to_string();
        lines.insert(0, (b":status", status.as_bytes()));
        lines.extend(all.iter().filter(|(name, _)| *name == b"content-length"));
        let told = host::set_header_lines(Map::Response, &lines);
        self.add_headers();
        if let Err(error) = told.and_then(|()| host::resume_response()) {
            host::log(Level::Error, format_args!("cannot answer a request: {error}"));
        }
        Fate::Replaced
    }

    /// Answers in the place of the upstream that was asked, with a status and what limits and health learn from it.
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
        let replaces = |name: &[u8]| own.iter().any(|(other, _)| other.starts_with("x-") && other.as_bytes() == name);
        let mut all: Vec<(&[u8], &[u8])> = lines.into_iter().filter(|(name, _)| !replaces(name)).collect();
        all.extend(own.iter().map(|(name, value)| (name.as_bytes(), value.as_bytes())));
        let facts: &dyn RequestFacts = self.chain.saved().map_or(&Facts, |saved| saved);
        let body = forwarding::keep_from_caches(&mut all, body, facts);
        if let Err(error) = host::respond(status, UNAVAILABLE, details, &all, body) {
            host::log(Level::Error, format_args!("cannot answer a request: {error}"));
        }
    }

    /// Notes for the client how it was served, where the policy says so.
    pub(super) fn sign(&mut self, instance: &Instance, work: &mut Work) {
        let policy = instance.engine.policy();
        if policy.tells_upstreams()
            && let Some(way) = self.chain.way()
        {
            let told = work.upstreams.describe(policy, way, now());
            if !told.is_empty() {
                self.fields.get_or_insert_default().push("x-tidegate", &told);
            }
        }
    }
}

/// Hands the answer to a call to its stream. There may come answers to calls that had failed at once: nobody awaits them.
pub fn call_answered(instance: &Instance, streams: &mut Streams, token: u32, lines: u32, size: usize) {
    let stream = {
        let calls = &mut instance.work.borrow_mut().calls;
        let Some(at) = calls.iter().position(|(other, _)| *other == token) else { return };
        calls.swap_remove(at).1
    };
    if let Some(filter) = streams.get_mut(stream)
        && host::work_on(stream).is_ok()
    {
        filter.call_answered(lines, size);
    }
}

/// Makes the calls whose wait is over, some of them if there are many.
pub fn try_due(instance: &Instance, streams: &mut Streams, now: Timestamp) {
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
            && host::work_on(stream).is_ok()
        {
            filter.try_again();
        }
    }
}

/// What a clock of milliseconds cannot tell is not waited for.
const SHORTEST_WAIT: Span = Span::from_millis(1);

/// Answers that a tick lets go are encoded one inside the other.
const MOST_AT_ONCE: usize = 64;

/// The largest body of a failure, in bytes, that is kept while another upstream is asked: all streams share the memory.
const LARGEST_FAILURE: usize = 65_536;

/// The gRPC status.
const UNAVAILABLE: u8 = 14;
