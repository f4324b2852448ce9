//! Breakers shared by many isolates: the rounds of reports sent to Redis or to the Durable Object, and that object's
//! answer from its stored records. Nothing is kept here between rounds.

use crate::gate::Gate;
use crate::now;
use crate::redis::Store;
use crate::task::Task;
use std::rc::Rc;
use tidegate::breaker::global::{Record, ReportMessage, Standing, standings_from_bytes, standings_to_bytes};
use tidegate::fallback::Round;
use tidegate::units::{Span, Timestamp};

/// A round to send to the authority.
pub enum ReportRound {
    /// For the Durable Object.
    Object(Reports),
    /// A call to Redis.
    Redis(Task),
}

/// A round to send to the Durable Object.
pub struct Reports {
    gate: Rc<Gate>,
    round: Round,
}

/// The result of a round.
pub struct Answered {
    records: Vec<u8>,
    standings: Vec<u8>,
}

/// The round to send now, if one is due.
pub fn due_round(gate: &Rc<Gate>, now: Timestamp) -> Option<ReportRound> {
    let round = gate.work().known.act(now, |upstreams, context| upstreams.next_round(context))?;
    let mine = Rc::clone(gate);
    Some(match &gate.redis {
        Some(store) => ReportRound::Redis(Task::new(report(mine, Rc::clone(store), round))),
        None => ReportRound::Object(Reports { gate: mine, round }),
    })
}

/// Sends a round to Redis. Sends it again if Redis first needs the script.
async fn report(gate: Rc<Gate>, store: Rc<Store>, round: Round) {
    let until = now().after(PATIENCE);
    let (mut exchange, request) = store.redis.report(round);
    let mut next = Some(request);
    while let Some(request) = next {
        let answer = store.post(&request, until).await;
        next = exchange.receive(&store.redis, answer.as_ref().map(|(status, body)| (*status, &body[..])));
    }
    if let Err(error) = exchange.standings() {
        store.log_error(error, now());
    }
    let standings = exchange.standings().ok();
    gate.work().known.act(now(), |upstreams, context| upstreams.apply_answer(exchange.round(), standings, context));
}

impl Reports {
    /// The message to send.
    pub fn message(&self) -> Box<[u8]> {
        self.round.message.to_bytes().into()
    }

    /// Handles the answer; `None` if there will be none.
    pub fn done(self, standings: Option<&[u8]>, now: Timestamp) {
        let standings = standings.and_then(standings_from_bytes);
        let known = &mut self.gate.work().known;
        known.act(now, |upstreams, context| upstreams.apply_answer(&self.round, standings.as_deref(), context));
    }
}

/// Answers a round of reports. `records` are the stored records of its breakers, concatenated, [`RECORD_BYTES`] each;
/// zeros for a breaker without one. Returns `None` if the message cannot be read, for example because another version
/// wrote it.
pub fn answer_reports(message: &[u8], records: &[u8], now_ms: u64) -> Option<Answered> {
    let asked = ReportMessage::from_bytes(message)?;
    let (stored, _) = records.as_chunks::<RECORD_BYTES>();
    if stored.len() != asked.reports.len() {
        return None;
    }
    let (mut records, mut standings): (Vec<u8>, Vec<Standing>) = Default::default();
    for (report, stored) in asked.reports.iter().zip(stored) {
        // A record of another version is dropped; the reports of the isolates rebuild it.
        let mut record = Record::from_bytes(stored).unwrap_or_default();
        standings.push(record.answer(report, asked.instance, now_ms));
        records.extend(record.to_bytes());
    }
    Some(Answered { records, standings: standings_to_bytes(&standings) })
}

impl Answered {
    /// The records to store.
    pub fn records(&self) -> &[u8] {
        &self.records
    }

    /// The answer to send.
    pub fn standings(&self) -> &[u8] {
        &self.standings
    }
}

/// The size of a breaker's record, in bytes.
pub const RECORD_BYTES: usize = Record::BYTES;

/// No request waits for the answer. A round without an answer by then is repeated by the next one.
const PATIENCE: Span = Span::from_secs(1);
