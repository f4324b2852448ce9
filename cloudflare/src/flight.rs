//! A request under way: it takes a route, or its response matters to the policy.

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

/// A request under way. If dropped early, for example because the client goes away, it returns what it holds.
pub struct Flight {
    pub gate: Rc<Gate>,
    pub request: Request,
    /// Whether the client may still be sending the body, which a Worker cannot see.
    pub has_body: bool,
    /// The route that it takes; without one it goes to the origin.
    pub route: Option<usize>,
    /// What the response may still charge or return.
    pub ticket: Option<Ticket>,
    /// When it was forwarded, if its response is to count for the service's health.
    pub began: Option<Timestamp>,
    /// Whether a call ended without a response, possibly because of the client.
    pub lost: bool,
    /// The response fields about limits: names and values alternating, one per line.
    pub fields: String,
}

/// How forwarding ends.
enum End {
    /// An upstream's response, and the response rules of its route.
    Answer(Response, Option<Serving>),
    /// A response in its place, and its status, which for a gRPC client is not that of the HTTP response.
    Own(Response, u16),
}

impl Flight {
    /// Forwards the request and responds to the client.
    pub async fn run(mut self) {
        let end = match self.route {
            Some(route) => self.follow_route(route).await,
            None => self.ask_origin().await,
        };
        match end {
            End::Answer(answer, serving) => {
                self.learn(&Answer(&answer));
                self.deliver(answer, serving).await;
            }
            End::Own(answer, status) => {
                self.learn(&Status((!self.lost).then_some(status)));
                // Nothing of this response comes from the upstream, so the request ends here.
                let answer = reply::with_fields(answer, &[], &core::mem::take(&mut self.fields));
                drop(self);
                respond(answer).await;
            }
        }
    }

    /// Forwards the request to the origin.
    async fn ask_origin(&mut self) -> End {
        match self.hold(origin::ask(&self.request)).await {
            Ok(answer) => End::Answer(answer.unchecked_into(), None),
            Err(_) => {
                self.lost = self.has_body;
                self.unavailable(None)
            }
        }
    }

    /// Forwards the request along its route.
    async fn follow_route(&mut self, route: usize) -> End {
        let gate = Rc::clone(&self.gate);
        let policy = gate.engine.policy();
        let serving = Serving::new(&gate, &self.request);
        let (mut chain, mut step) = Chain::begin(&gate, policy, route, &self.request);
        if !matches!(step, Step::Send { .. }) {
            // No upstream is called, so this says nothing about the service's health.
            self.began = None;
        }
        let mut last: Option<Response> = None;
        // Bounded: each upstream of the route is called at most once.
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
        if policy.sends_x_tidegate() {
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

    /// Sends an upstream's response to the client, stores it if the route keeps it, and holds the request's permits
    /// until the last byte is sent.
    async fn deliver(mut self, answer: Response, serving: Option<Serving>) {
        let fields = core::mem::take(&mut self.fields);
        let (edits, kept) = serving.map(|serving| serving.answered(&answer)).unwrap_or_default();
        if (kept.is_some() || self.holds()) && Response::like(&JsValue::NULL, &answer).is_err() {
            // Checked before the body is moved to a copy, which would fail: the response passes unchanged.
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
        let answer = if copy.is_some() || gone.is_some() {
            Response::new(&body.map_or(JsValue::NULL, JsValue::from), &answer)
        } else {
            answer
        };
        let answer = reply::with_fields(answer, &edits, &fields);
        if gone.is_none() {
            self.give_back();
        }
        respond(answer).await;
        if let Some(kept) = kept {
            self.collect(kept, copy).await;
        }
        if let Some(gone) = gone {
            let _ = self.hold(listed(&gone)).await;
        }
    }

    /// Collects a response, and stores it if it arrives completely.
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

    /// Awaits a promise, and meanwhile renews what the request holds.
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

    /// Passes the response to the limits that charge by it, and to the service's health.
    fn learn(&mut self, answer: &dyn ResponseFacts) {
        let (now, work) = (now(), &mut *self.gate.work());
        if let Some(mut ticket) = self.ticket.take() {
            let (store, local) = (&mut work.store, &mut work.local);
            self.gate.engine.observe(&mut ticket, answer, store, local, &mut work.counters, now);
            // A request in flight keeps its permits until the response has ended, not only begun.
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

/// The length of the body as it is sent on; `None` if unknown. An encoded body is decoded on the way, so its length
/// changes.
fn answer_length(answer: &Response) -> Option<f64> {
    let headers = answer.answer_headers();
    if headers.get("content-encoding").is_some() {
        return None;
    }
    headers.get("content-length")?.parse::<u32>().ok().map(f64::from)
}
