//! A request under way: it is sent along its route, or its answer matters to the policy.

use crate::chain::Chain;
use crate::ends;
use crate::facts::{Answer, Facts, Status};
use crate::gate::{Gate, Work};
use crate::host::{self, Body, Request, Response};
use crate::now;
use crate::origin;
use crate::reply;
use crate::serving::{Kept, Serving};
use crate::task::{beating, listed, respond, settled};
use js_sys::Promise;
use std::rc::Rc;
use tidegate::decision::{Cause, Refusal};
use tidegate::engine::{Engine, Ticket};
use tidegate::fallback::{Ended, Step};
use tidegate::request::ResponseFacts;
use tidegate::units::{Span, Timestamp};
use wasm_bindgen::{JsCast, JsValue};

/// A request under way. Dropped before its end, as when the client goes away, it gives back what it holds.
pub struct Flight {
    pub gate: Rc<Gate>,
    pub request: Request,
    /// Whether its client may still have to send of it, which is not seen here.
    pub has_body: bool,
    /// The route that it takes; without one it goes where it was going.
    pub route: Option<usize>,
    /// What the answer may still change.
    pub ticket: Option<Ticket>,
    /// When it went on, while an answer to it will tell of the service's health.
    pub began: Option<Timestamp>,
    /// Whether a call has ended without an answer that may be its client's doing.
    pub lost: bool,
    /// What the client is told of limits: name and value by turns, a line each.
    pub fields: String,
}

/// What a way ends in.
enum End {
    /// An upstream's answer, and what its route says of it.
    Answer(Response, Option<Serving>),
    /// An answer in its place, and its status, which is not the response's own where its client speaks gRPC.
    Own(Response, u16),
}

impl Flight {
    /// Goes all the way.
    pub async fn fly(mut self) {
        let end = match self.route {
            Some(route) => self.along(route).await,
            None => self.straight().await,
        };
        match end {
            End::Answer(answer, serving) => {
                self.learn(&Answer(&answer));
                self.deliver(answer, serving).await;
            }
            End::Own(answer, status) => {
                self.learn(&Status((!self.lost).then_some(status)));
                // Nothing of it is the upstream's: it ends here.
                let told = reply::told(answer, &[], &core::mem::take(&mut self.fields));
                drop(self);
                respond(told).await;
            }
        }
    }

    /// Goes where the request was going.
    async fn straight(&mut self) -> End {
        match self.hold(origin::ask(&self.request)).await {
            Ok(answer) => End::Answer(answer.unchecked_into(), None),
            Err(_) => {
                self.lost = self.has_body;
                self.unavailable(None)
            }
        }
    }

    /// Goes along the route.
    async fn along(&mut self, route: usize) -> End {
        let gate = Rc::clone(&self.gate);
        let policy = gate.engine.policy();
        let serving = Serving::new(&gate, &self.request);
        let (mut chain, mut step) = Chain::begin(&gate, policy, route, &self.request);
        if !matches!(step, Step::Send { .. }) {
            // No upstream is asked: this tells nothing of how it is.
            self.began = None;
        }
        let mut last: Option<Response> = None;
        // Each upstream of the route is asked once at most.
        let end = loop {
            step = match step {
                Step::Send { upstream, timeout, wait } => {
                    let ended = match chain.ask(&self.request, &serving, (upstream, timeout, wait)).await {
                        Ok(answer) => {
                            let ended = ends::of_answer(&answer);
                            if let Some(body) = last.replace(answer).and_then(|earlier| earlier.answer_body()) {
                                body.discard();
                            }
                            ended
                        }
                        Err(end) => {
                            self.lost = self.has_body;
                            Ended::from(end)
                        }
                    };
                    chain.ended(policy, ended)
                }
                Step::Stale(_) => match serving.find(&self.request, chain.why()).await {
                    Some(kept) => {
                        chain.kept();
                        let status = kept.status();
                        break End::Own(kept, status);
                    }
                    None => chain.last(policy),
                },
                Step::Static(fixed) => break End::Own(reply::fixed(fixed), fixed.status),
                Step::Unavailable { retry_after } => break self.unavailable(retry_after),
                Step::Deliver => match last.take() {
                    Some(answer) => break End::Answer(answer, Some(serving)),
                    None => break self.unavailable(None),
                },
            };
        };
        if policy.tells_upstreams() {
            for part in ["x-tidegate\n", &chain.describe(policy), "\n"] {
                self.fields.push_str(part);
            }
        }
        if let Some(body) = last.and_then(|answer| answer.answer_body()) {
            body.discard();
        }
        end
    }

    fn unavailable(&self, retry_after: Option<Span>) -> End {
        let refusal = Refusal { limit: None, window: None, cause: Cause::Unavailable, retry_after };
        let reply = refusal.reply(&self.gate.engine, &Facts::new(&self.request));
        End::Own(reply::response(&reply, ""), reply.status)
    }

    /// Answers the client with an upstream's answer, keeps it if it may be, and holds what it holds until the last byte has gone.
    async fn deliver(mut self, answer: Response, serving: Option<Serving>) {
        let fields = core::mem::take(&mut self.fields);
        let (edits, kept) = serving.map(|serving| serving.answered(&answer)).unwrap_or_default();
        if (kept.is_some() || self.holds()) && Response::like(&JsValue::NULL, &answer).is_err() {
            // Before its body is with another: it goes as it came.
            drop(self);
            return respond(answer).await;
        }
        let whole = answer.answer_body();
        let twice = kept.as_ref().and(whole.as_ref()).and_then(Body::twice);
        let (body, copy) = match twice {
            Some((body, copy)) => (Some(body), Some(copy)),
            None => (whole, None),
        };
        let watched = body.as_ref().filter(|_| self.holds());
        let watched = watched.and_then(|body| body.watched(answer_length(&answer), &self.request.signal()));
        let (body, gone) = watched.map_or((body, None), |(body, gone)| (Some(body), Some(gone)));
        let told = if copy.is_some() || gone.is_some() {
            Response::new(&body.map_or(JsValue::NULL, JsValue::from), &answer)
        } else {
            answer
        };
        let told = reply::told(told, &edits, &fields);
        if gone.is_none() {
            self.give_back();
        }
        respond(told).await;
        if let Some(kept) = kept {
            self.collect(kept, copy).await;
        }
        if let Some(gone) = gone {
            let _ = self.hold(listed(&gone)).await;
        }
    }

    /// Collects an answer, and keeps it if all of it comes.
    async fn collect(&mut self, mut kept: Kept, copy: Option<Body>) {
        if let Some(reader) = copy.map(|copy| copy.reader()) {
            loop {
                let Ok(read) = self.hold(reader.read()).await else { return };
                let Some(piece) = host::piece(&read) else { break };
                if !kept.push(&piece) {
                    let _ = reader.cancel();
                    return;
                }
            }
        }
        kept.keep(&self.request).await;
    }

    fn holds(&self) -> bool {
        self.ticket.as_ref().is_some_and(Ticket::holds)
    }

    /// Awaits a promise, and keeps what the request holds from expiring meanwhile.
    async fn hold(&mut self, promise: Promise) -> Result<JsValue, JsValue> {
        if !self.holds() {
            return settled(promise).await;
        }
        beating(&promise, Span::from_millis(u64::from(Engine::RENEWED_WITHIN_MS / 2)), || self.renew()).await
    }

    fn renew(&mut self) {
        let Some(ticket) = &mut self.ticket else { return };
        let Work { store, local, leases, counters, .. } = &mut *self.gate.work();
        self.gate.engine.renew(ticket, store, local, leases, counters, now());
    }

    fn give_back(&mut self) {
        let Some(ticket) = self.ticket.take() else { return };
        let Work { store, local, leases, counters, .. } = &mut *self.gate.work();
        self.gate.engine.release(ticket, store, local, leases, counters, now());
    }

    /// Lets the limits that await the answer learn from it, and whoever asks how the service is.
    fn learn(&mut self, answer: &dyn ResponseFacts) {
        let (now, work) = (now(), &mut *self.gate.work());
        if let Some(mut ticket) = self.ticket.take() {
            let (store, local) = (&mut work.store, &mut work.local);
            self.gate.engine.observe(&mut ticket, answer, store, local, &mut work.counters, now);
            // What a request in flight holds is given back when all of the answer has gone, and not when it begins.
            self.ticket = Some(ticket).filter(Ticket::holds);
        }
        if let (Some(began), Some(health)) = (self.began.take(), &mut work.health) {
            health.monitor.answered(answer, Some(began).filter(|_| !self.has_body), now);
        }
    }
}

impl Drop for Flight {
    fn drop(&mut self) {
        let (gate, now) = (Rc::clone(&self.gate), now());
        if let (Some(began), Some(health), false) = (self.began.take(), &mut gate.work().health, self.has_body) {
            health.monitor.abandoned(began, now);
        }
        if self.ticket.is_some() {
            self.learn(&Status(None));
        }
        self.give_back();
    }
}

/// How long the body is, as it goes through here: what was encoded is decoded on the way.
fn answer_length(answer: &Response) -> Option<f64> {
    let headers = answer.answer_headers();
    if headers.get("content-encoding").is_some() {
        return None;
    }
    headers.get("content-length")?.parse::<u32>().ok().map(f64::from)
}
