//! What the client is told: by fields on the upstream's answer, or in its place. The limits learn from it what it has cost.

use super::answering::Fate;
use super::{Filter, Next, now};
use crate::facts::Answer;
use crate::host::{self, Map};
use crate::instance::{Instance, Work};
use std::rc::Rc;
use tidegate::decision::Reply;
use tidegate::request::ResponseFacts;
use tidegate::store::rls::Header;

impl Filter {
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
    pub(super) fn finish_answer(&mut self, instance: &Instance) {
        if self.ticket.is_some() || self.began.is_some() {
            self.learn(instance, &mut instance.work.borrow_mut(), &Answer);
        }
        // Before what is said to this client alone.
        self.serving.answer(instance, self.is_answer_whole);
        self.add_headers();
    }

    pub(super) fn add_headers(&mut self) {
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
        if is_last {
            self.answer_passed();
        }
        Next::Continue
    }

    /// Gives back what the request holds once all of its answer has come: its upstream has done its part, and a client that does
    /// not read keeps the stream open for as long as Envoy lets it.
    pub fn answer_passed(&mut self) {
        let instance = Rc::clone(&self.instance);
        self.serving.end(&instance);
        if self.ticket.is_some() {
            self.end_ticket(&instance, &mut instance.work.borrow_mut());
        }
    }

    /// Lets the limits that await the answer learn from it, and whoever asks how the service is.
    #[inline(never)]
    pub(super) fn learn(&mut self, instance: &Instance, work: &mut Work, answer: &dyn ResponseFacts) {
        if let Some(mut ticket) = self.ticket.take() {
            let Work { store, local, counters, .. } = work;
            instance.engine.observe(&mut ticket, answer, store, local, counters, now());
            // What a request in flight holds is given back when all of the answer has come, and not when it begins.
            self.ticket = Some(ticket).filter(|ticket| ticket.holds());
        }
        if let (Some(began), Some(monitor)) = (self.began.take(), &mut work.monitor) {
            monitor.answered(answer, Some(began).filter(|_| self.is_sent), now());
        }
    }

    /// Answers in the upstream's place.
    pub(super) fn reply(&mut self, reply: &Reply) {
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
pub(super) fn pass_on(map: Map, headers: &mut Vec<Header>) {
    for header in core::mem::take(headers) {
        if let Err(error) = host::add_header(map, &header.name, &header.value) {
            host::log(host::Level::Warn, format_args!("cannot pass on {}: {error}", header.name));
        }
    }
}
