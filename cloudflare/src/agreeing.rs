//! Breakers that many isolates share: a round of reports for Redis or the Durable Object that has them, and that object's answer, with the
//! records as it has stored them. Nothing is kept here between rounds.

use crate::gate::Gate;
use crate::now;
use crate::redis::Store;
use crate::task::Task;
use std::rc::Rc;
use tidegate::breaker::global::{Record, ReportMessage, Standing, standings_from_bytes, standings_to_bytes};
use tidegate::fallback::Round;
use tidegate::units::{Span, Timestamp};

/// What is to be asked of the authority.
pub enum Conference {
    /// A round for the Durable Object.
    Object(Reports),
    /// A call to Redis.
    Redis(Task),
}

/// A round on its way to the Durable Object.
pub struct Reports {
    gate: Rc<Gate>,
    round: Round,
}

/// What came of a round.
pub struct Agreed {
    records: Vec<u8>,
    standings: Vec<u8>,
}

/// What is to be asked now, if anything.
pub fn conference(gate: &Rc<Gate>, now: Timestamp) -> Option<Conference> {
    let round = gate.work().known.act(now, |upstreams, context| upstreams.next_round(context))?;
    let mine = Rc::clone(gate);
    Some(match &gate.redis {
        Some(store) => Conference::Redis(Task::new(report(mine, Rc::clone(store), round))),
        None => Conference::Object(Reports { gate: mine, round }),
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
    gate.work().known.act(now(), |upstreams, context| upstreams.apply_answer(exchange.round(), standings, context));
}

impl Reports {
    /// What is to be sent.
    pub fn message(&self) -> Box<[u8]> {
        self.round.message.to_bytes().into()
    }

    /// Takes in the answer; `None` when there will be none.
    pub fn done(self, standings: Option<&[u8]>, now: Timestamp) {
        let standings = standings.and_then(standings_from_bytes);
        let known = &mut self.gate.work().known;
        known.act(now, |upstreams, context| upstreams.apply_answer(&self.round, standings.as_deref(), context));
    }
}

/// Answers a round by the records of its breakers, which stand one after the other, each of [`RECORD_BYTES`]; zeros where there
/// is none. `None` when the round is not to be understood, as when it was written by another version.
pub fn agree(message: &[u8], records: &[u8], now_ms: u64) -> Option<Agreed> {
    let asked = ReportMessage::from_bytes(message)?;
    let (stored, _) = records.as_chunks::<RECORD_BYTES>();
    if stored.len() != asked.reports.len() {
        return None;
    }
    let (mut records, mut standings): (Vec<u8>, Vec<Standing>) = Default::default();
    for (report, stored) in asked.reports.iter().zip(stored) {
        // One of another version is forgotten: whoever knows better tells it again.
        let mut record = Record::from_bytes(stored).unwrap_or_default();
        standings.push(record.answer(report, asked.instance, now_ms));
        records.extend(record.to_bytes());
    }
    Some(Agreed { records, standings: standings_to_bytes(&standings) })
}

impl Agreed {
    /// The records, to be stored.
    pub fn records(&self) -> &[u8] {
        &self.records
    }

    /// The answer, to be sent.
    pub fn standings(&self) -> &[u8] {
        &self.standings
    }
}

/// How many bytes the record of a breaker has.
pub const RECORD_BYTES: usize = Record::BYTES;

/// No request waits for the answer, and what is later than this is asked anew.
const PATIENCE: Span = Span::from_secs(1);
