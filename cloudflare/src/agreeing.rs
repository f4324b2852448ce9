//! Breakers that many isolates share: a round of reports for Redis or the Durable Object that has them, and that object's answer, with the
//! records as it has stored them. Nothing is kept here between rounds.

use crate::gate::Gate;
use crate::redis::Store;
use crate::task::Task;
use crate::{now, timestamp};
use std::rc::Rc;
use tidegate::breaker::global::{Asked, Record, Standing, standings_from_bytes, standings_to_bytes};
use tidegate::fallback::Round;
use tidegate::units::Span;
use wasm_bindgen::prelude::*;

/// A round on its way to a Durable Object.
#[wasm_bindgen]
pub struct Conference {
    gate: Rc<Gate>,
    round: Round,
}

/// What came of a round.
#[wasm_bindgen]
pub struct Agreed {
    records: Vec<u8>,
    standings: Vec<u8>,
}

/// What is to be asked now, if anything: a [`Task`] that asks Redis, where the policy has one, or a [`Conference`].
pub fn conference(gate: &Rc<Gate>, now_ms: f64) -> Option<JsValue> {
    let round = gate.work().known.act(timestamp(now_ms), |upstreams, around| upstreams.confer(around))?;
    let mine = Rc::clone(gate);
    Some(match &gate.redis {
        Some(store) => Task::new(report(mine, Rc::clone(store), round)).into(),
        None => Conference { gate: mine, round }.into(),
    })
}

/// Sends a round to Redis, and a second time where that has to be sent the script.
async fn report(gate: Rc<Gate>, store: Rc<Store>, round: Round) {
    let until = now().after(PATIENCE);
    let (mut exchange, request) = store.redis.report(round);
    let mut next = Some(request);
    while let Some(request) = next {
        let answer = store.post(&request, until).await;
        next = exchange.receive(&store.redis, answer.as_ref().map(|(status, body)| (*status, &body[..])));
    }
    if let Err(error) = exchange.standings() {
        store.complain(error, now());
    }
    let standings = exchange.standings().ok();
    gate.work().known.act(now(), |upstreams, around| upstreams.heard(exchange.round(), standings, around));
}

#[wasm_bindgen]
impl Conference {
    /// What is to be sent.
    #[wasm_bindgen(getter)]
    pub fn message(&self) -> Box<[u8]> {
        self.round.asked.to_bytes().into()
    }

    /// Takes in the answer; `undefined` when there will be none.
    pub fn done(self, standings: Option<Box<[u8]>>, now_ms: f64) {
        let standings = standings.and_then(|bytes| standings_from_bytes(&bytes));
        let known = &mut self.gate.work().known;
        known.act(timestamp(now_ms), |upstreams, around| upstreams.heard(&self.round, standings.as_deref(), around));
    }
}

/// Answers a round by the records of its breakers, which stand one after the other, each of [`Record::BYTES`]; zeros where there
/// is none. `undefined` when the round is not to be understood, as when it was written by another version.
#[wasm_bindgen]
pub fn agree(message: &[u8], records: &[u8], now_ms: f64) -> Option<Agreed> {
    let asked = Asked::from_bytes(message)?;
    let (stored, _) = records.as_chunks::<{ Record::BYTES }>();
    if stored.len() != asked.reports.len() {
        return None;
    }
    let (mut records, mut standings): (Vec<u8>, Vec<Standing>) = Default::default();
    for (report, stored) in asked.reports.iter().zip(stored) {
        // One of another version is forgotten: whoever knows better tells it again.
        let mut record = Record::from_bytes(stored).unwrap_or_default();
        standings.push(record.answer(report, asked.instance, now_ms as u64));
        records.extend(record.to_bytes());
    }
    Some(Agreed { records, standings: standings_to_bytes(&standings) })
}

#[wasm_bindgen]
impl Agreed {
    /// The records, to be stored.
    #[wasm_bindgen(getter)]
    pub fn records(&self) -> Box<[u8]> {
        self.records.as_slice().into()
    }

    /// The answer, to be sent.
    #[wasm_bindgen(getter)]
    pub fn standings(&self) -> Box<[u8]> {
        self.standings.as_slice().into()
    }
}

/// No request waits for the answer, and what is later than this is asked anew.
const PATIENCE: Span = Span::from_secs(1);
