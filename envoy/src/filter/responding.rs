//! What the client gets: fields on the upstream's response, or a response in its place. The limits that charge by the
//! response learn from it.

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
    /// Calls another upstream if the response is a failure; otherwise the client gets it.
    pub fn response_headers(&mut self, is_whole: bool) -> Next {
        let instance = Rc::clone(&self.instance);
        if self.chain.awaits_answer() && self.upstream_answered(&instance, is_whole) != Fate::Delivered {
            return Next::Pause;
        }
        self.is_answer_whole = is_whole;
        self.finish_answer(&instance);
        Next::Continue
    }

    /// Passes the response to the limits and to health, applies the route's rules, and adds the fields about limits.
    pub(super) fn finish_answer(&mut self, instance: &Instance) {
        if self.ticket.is_some() || self.began.is_some() {
            self.learn(instance, &mut instance.work.borrow_mut(), &Answer);
        }
        // Before the fields that are for this client alone are added.
        self.serving.answer(instance, self.is_answer_whole);
        self.add_headers();
    }

    pub(super) fn add_headers(&mut self) {
        // The filter's own refusals pass here too; their fields have been taken already.
        if let Some(fields) = self.fields.take() {
            fields.lines().for_each(|(name, value)| add_field(name, value));
            self.instance.work.borrow_mut().spare(fields);
        }
        if let Some(answer) = &mut self.service_answer {
            pass_on(Map::Response, &mut answer.1.response_headers);
        }
    }

    /// Passes on a chunk of the response's body.
    pub fn response_body(&mut self, size: usize, is_last: bool) -> Next {
        self.serving.body(&self.instance, size, is_last);
        if is_last {
            self.response_ended();
        }
        Next::Continue
    }

    /// Returns the permits once the whole response has come. Its upstream is done with it, and a client that does not
    /// read would keep the stream open for as long as Envoy lets it.
    pub fn response_ended(&mut self) {
        if self.ticket.is_some() || self.serving.is_collecting() {
            self.end_answer();
        }
    }

    #[inline(never)]
    fn end_answer(&mut self) {
        let instance = Rc::clone(&self.instance);
        self.serving.end(&instance);
        if self.ticket.is_some() {
            self.end_ticket(&instance, &mut instance.work.borrow_mut());
        }
    }

    /// Passes the response to the limits that charge by it, and to the service's health.
    #[inline(never)]
    pub(super) fn learn(&mut self, instance: &Instance, work: &mut Work, answer: &dyn ResponseFacts) {
        if let Some(mut ticket) = self.ticket.take() {
            let Work { store, local, counters, .. } = work;
            instance.engine.observe(&mut ticket, answer, store, local, counters, now());
            // A request in flight keeps its permits until the response has ended, not only begun.
            self.ticket = Some(ticket).filter(|ticket| ticket.holds());
        }
        if let (Some(began), Some(monitor)) = (self.began.take(), &mut work.monitor) {
            monitor.answered(answer, Some(began).filter(|_| self.is_sent), now());
        }
    }

    /// Responds in place of the upstream.
    pub(super) fn reply(&mut self, reply: &Reply) {
        let retry_after = reply.retry_after_secs.map(|secs| secs.to_string());
        let fields = self.fields.take().unwrap_or_default();
        let mut headers: Vec<(&[u8], &[u8])> =
            vec![(b"content-type", reply.content_type.as_bytes()), (b"cache-control", b"no-store")];
        headers.extend(retry_after.iter().map(|secs| (b"retry-after".as_slice(), secs.as_bytes())));
        let service_headers = self
            .service_answer
            .as_mut()
            .map(|answer| core::mem::take(&mut answer.1.response_headers))
            .unwrap_or_default();
        let service_headers = || service_headers.iter().map(|header| (header.name.as_bytes(), header.value.as_slice()));
        // Headers of the rate-limit service override the filter's own.
        headers.retain(|(name, _)| !service_headers().any(|(other, _)| other == *name));
        headers.extend(service_headers());
        headers.extend(fields.lines().map(|(name, value)| (name.as_bytes(), value)));
        if let Err(error) =
            host::respond(reply.status, reply.grpc_status, &reply.details, &headers, reply.body.as_bytes())
        {
            host::log(host::Level::Error, format_args!("cannot answer a request: {error}"));
        }
    }
}

fn add_field(name: &str, value: &[u8]) {
    // Structured fields are lists: an upstream with limits of its own may have added members.
    let sent = if name.starts_with("x-") {
        host::replace_header(Map::Response, name, value)
    } else {
        host::add_header(Map::Response, name, value)
    };
    if let Err(error) = sent {
        host::log(host::Level::Warn, format_args!("cannot send {name}: {error}"));
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
