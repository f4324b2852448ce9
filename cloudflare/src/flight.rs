//! A request under way to its upstream whose answer matters.

use crate::facts::{Answer, NoAnswer};
use crate::gate::{Gate, Work};
use crate::host::Response;
use crate::timestamp;
use std::rc::Rc;
use tidegate::engine::Ticket;
use tidegate::request::ResponseFacts;
use tidegate::units::Timestamp;
use wasm_bindgen::prelude::*;

/// A request under way. JavaScript frees it when all of the answer has gone, or the client has; workerd's garbage collector does if
/// it never comes to that.
#[wasm_bindgen]
pub struct Flight {
    gate: Rc<Gate>,
    /// What the answer may still change.
    ticket: Option<Ticket>,
    /// When it went on, while an answer to it will tell of the service's health.
    began: Option<Timestamp>,
    target: Option<String>,
    fields: String,
}

impl Flight {
    /// A request that goes on to `target`, or to where it was going, and whose answer is to have these fields.
    pub fn new(
        gate: Rc<Gate>,
        ticket: Option<Ticket>,
        began: Option<Timestamp>,
        target: Option<String>,
        fields: String,
    ) -> Self {
        Self { gate, ticket, began, target, fields }
    }

    fn observe(&self, work: &mut Work, ticket: &mut Ticket, answer: &dyn ResponseFacts, now: Timestamp) {
        self.gate.engine.observe(ticket, answer, &mut work.store, &mut work.local, &mut work.counters, now);
    }
}

#[wasm_bindgen]
impl Flight {
    /// The URL to fetch, if it is not the request's own.
    #[wasm_bindgen(getter)]
    pub fn target(&self) -> Option<String> {
        self.target.clone()
    }

    /// Whether it holds permits that it gives back when it ends, and that have to be renewed while it lasts.
    #[wasm_bindgen(getter)]
    pub fn holds(&self) -> bool {
        self.ticket.as_ref().is_some_and(Ticket::holds)
    }

    /// Lets the limits learn from the answer. Answers with the fields to add to it.
    pub fn answered(&mut self, answer: &Response, now_ms: f64) -> String {
        let (gate, now) = (Rc::clone(&self.gate), timestamp(now_ms));
        let work = &mut *gate.work();
        if let Some(mut ticket) = self.ticket.take() {
            self.observe(work, &mut ticket, &Answer(answer), now);
            self.ticket = Some(ticket).filter(Ticket::holds);
        }
        if let (Some(began), Some(health)) = (self.began.take(), &mut work.health) {
            health.monitor.answered(&Answer(answer), began, now);
        }
        core::mem::take(&mut self.fields)
    }

    /// Keeps what it holds from expiring.
    pub fn renew(&mut self, now_ms: f64) {
        let Some(ticket) = &mut self.ticket else { return };
        let work = &mut *self.gate.work();
        self.gate.engine.renew(ticket, &mut work.store, &mut work.local, &mut work.counters, timestamp(now_ms));
    }
}

/// How often [`Flight::renew`] is to be called, in milliseconds.
#[wasm_bindgen]
pub fn renewed_within_ms() -> u32 {
    tidegate::engine::Engine::RENEWED_WITHIN_MS
}

impl Drop for Flight {
    fn drop(&mut self) {
        let (gate, now) = (Rc::clone(&self.gate), timestamp(js_sys::Date::now()));
        let work = &mut *gate.work();
        if let Some(mut ticket) = self.ticket.take() {
            self.observe(work, &mut ticket, &NoAnswer, now);
            gate.engine.release(ticket, &mut work.store, &mut work.local, &mut work.counters, now);
        }
        if let (Some(began), Some(health)) = (self.began, &mut work.health) {
            health.monitor.abandoned(began, now);
        }
    }
}
