//! What JavaScript calls: the functions and classes of the Worker that `entry.mjs` deploys.

use crate::host::{self, Request, Response};
use crate::shared_limits::Asks;
use crate::verdict::Verdict;
use crate::{authority, cache, isolate, order, origin, shared_breakers, shared_limits, task, timestamp, wait};
use js_sys::{Array, Function, Promise, Uint8Array};
use std::rc::Rc;
use tidegate::policy::OnFailure;
use wasm_bindgen::prelude::*;

/// 3 KB less, compressed, than what the standard library brings, and as fast: a policy with claims costs the same by either.
/// Both of its calls take constant time.
#[global_allocator]
static ALLOCATOR: rlsf::SmallGlobalTlsf = rlsf::SmallGlobalTlsf::new();

/// A request on its way. JavaScript frees it if its client goes away.
#[wasm_bindgen]
pub struct Task(task::Task);

/// A request that waits. JavaScript frees it if its client goes away.
#[wasm_bindgen]
pub struct Wait(wait::Wait);

/// A request that waits for the authority. JavaScript frees it when it has its verdict, or its client has gone.
#[wasm_bindgen]
pub struct GrantWait(shared_limits::GrantWait);

/// An ask on its way to a Durable Object.
#[wasm_bindgen]
pub struct ObjectAsk(shared_limits::ObjectAsk);

/// A round of reports on its way to a Durable Object.
#[wasm_bindgen]
pub struct Reports(shared_breakers::Reports);

/// A value to be set in KV.
#[wasm_bindgen]
pub struct Change(order::Change);

/// Called once when an instance begins.
#[wasm_bindgen(start)]
pub fn start() {
    // Otherwise a panic says nothing but that there was one.
    std::panic::set_hook(Box::new(|info| host::log_error(&format!("tidegate: {info}"))));
}

/// Puts a policy in force, in the mode of this word or, where that is empty, in its own; and answers what is to be done with requests
/// that cannot be decided: `pass` or `refuse`. What was counted before goes on counting. `env` are the Worker's bindings.
///
/// # Errors
/// Everything that is wrong with the document or the word, a line each, as text. What was in force stays.
#[wasm_bindgen]
pub fn configure(policy: &str, mode: &str, env: &JsValue) -> Result<String, JsValue> {
    let on_failure = match isolate::configure(policy, mode, env)? {
        OnFailure::Pass => "pass",
        OnFailure::Refuse => "refuse",
    };
    Ok(on_failure.to_owned())
}

/// What is wrong with the word for a mode, if anything is. An empty one is good: the policy's own mode.
#[wasm_bindgen]
pub fn mode_problem(word: &str) -> Option<String> {
    isolate::mode_of(word).err()
}

/// Within how many milliseconds a request that waits must have its verdict.
#[wasm_bindgen]
pub fn deadline_ms() -> u32 {
    isolate::deadline_ms()
}

/// Has a function of a request answer, with a response or a promise of one, what the zone's origin would answer otherwise.
#[wasm_bindgen]
pub fn set_handler(handler: Function) {
    origin::set_handler(Some(Rc::new(move |request: &Request| match handler.call1(&JsValue::UNDEFINED, request) {
        Ok(answer) => Promise::resolve(&answer),
        Err(error) => Promise::reject(&error),
    })));
}

/// Decides on a request. Answers with `undefined` when it passes as it is; with the header fields to add to its answer, name and
/// value by turns, a line each; with a response that takes the answer's place; with a `Task`, a `Wait`, an `Asking` or a `Change`.
#[wasm_bindgen]
pub fn decide(request: &Request, now_ms: f64) -> JsValue {
    isolate::decide(request, timestamp(now_ms)).into()
}

impl From<Verdict> for JsValue {
    fn from(verdict: Verdict) -> Self {
        match verdict {
            Verdict::Passes => JsValue::UNDEFINED,
            Verdict::PassesWithFields(fields) => JsValue::from_str(&fields),
            Verdict::Responds(answer) => answer.into(),
            Verdict::Runs(task) => Task(task).into(),
            Verdict::Waits(wait) => Wait(wait).into(),
            Verdict::AwaitsGrant(wait) => GrantWait(wait).into(),
            Verdict::Changes(change) => Change(change).into(),
            Verdict::Pending => JsValue::NULL,
        }
    }
}

#[wasm_bindgen]
impl Task {
    /// Goes on with what came of that which was handed out last: a value, or the error if it has `failed`. Answers with the
    /// next promise to await, alone or in a list with one that says by when to come back anyhow; with the response that the
    /// client gets; or with `undefined` when it is over.
    pub fn resume(&mut self, outcome: JsValue, failed: bool) -> JsValue {
        self.0.resume(if failed { Err(outcome) } else { Ok(outcome) }).unwrap_or(JsValue::UNDEFINED)
    }
}

#[wasm_bindgen]
impl Wait {
    /// After how many milliseconds to ask for the verdict.
    #[wasm_bindgen(getter)]
    pub fn pause_ms(&self) -> u32 {
        self.0.pause_ms()
    }

    /// What becomes of the request, as `decide` says it; `null` while it has to wait.
    pub fn verdict(&mut self, request: &Request, now_ms: f64) -> JsValue {
        self.0.verdict(request, timestamp(now_ms)).into()
    }
}

#[wasm_bindgen]
impl GrantWait {
    /// How long an answer of the authority is awaited, in milliseconds.
    #[wasm_bindgen(getter)]
    pub fn deadline_ms(&self) -> u32 {
        self.0.deadline_ms()
    }

    /// What becomes of the request, as `decide` says it; `null` while it has to wait.
    pub fn verdict(&mut self, request: &Request, now_ms: f64) -> JsValue {
        self.0.verdict(request, timestamp(now_ms)).into()
    }
}

/// Whether there are limits to be shared, and an authority over them.
#[wasm_bindgen]
pub fn has_shared_limits() -> bool {
    isolate::has_shared_limits()
}

/// What is to be sent to the authority over shared limits: to be asked after each step that may have come to that. Answers with an
/// `Errand` for each ask of a Durable Object, or with a `Task` for each call to Redis.
#[wasm_bindgen]
pub fn asks_to_send(now_ms: f64) -> Vec<JsValue> {
    match isolate::asks_to_send(timestamp(now_ms)) {
        Asks::Objects(asks) => asks.into_iter().map(|ask| ObjectAsk(ask).into()).collect(),
        Asks::Redis(calls) => calls.into_iter().map(|call| Task(call).into()).collect(),
    }
}

#[wasm_bindgen]
impl ObjectAsk {
    /// What is to be sent.
    #[wasm_bindgen(getter)]
    pub fn message(&self) -> Box<[u8]> {
        self.0.message()
    }

    /// Which of so many objects counts the key.
    pub fn shard(&self, shards: u32) -> u32 {
        self.0.shard(shards)
    }

    /// Takes in the answer; `undefined` when there will be none.
    pub fn done(self, grant: Option<Box<[u8]>>, now_ms: f64) {
        self.0.done(grant.as_deref(), timestamp(now_ms));
    }
}

/// Does what is due for limits that are shared, as giving back what is idle. Answers with after how many milliseconds to call
/// again; `undefined` while there is nothing to be done.
#[wasm_bindgen]
pub fn tend(now_ms: f64) -> Option<u32> {
    isolate::tend(timestamp(now_ms))
}

/// Whether there are breakers to be shared, and an authority over them.
#[wasm_bindgen]
pub fn has_shared_breakers() -> bool {
    isolate::has_shared_breakers()
}

/// What is to be asked of the authority over shared breakers, if it is time for it: `Reports` for the Durable Object, or a `Task`
/// that calls Redis; else `undefined`.
#[wasm_bindgen]
pub fn due_round(now_ms: f64) -> JsValue {
    match isolate::due_round(timestamp(now_ms)) {
        Some(shared_breakers::ReportRound::Object(reports)) => Reports(reports).into(),
        Some(shared_breakers::ReportRound::Redis(call)) => Task(call).into(),
        None => JsValue::UNDEFINED,
    }
}

/// Whether something is to be told to that authority.
#[wasm_bindgen]
pub fn has_reports(now_ms: f64) -> bool {
    isolate::has_reports(timestamp(now_ms))
}

#[wasm_bindgen]
impl Reports {
    /// What is to be sent.
    #[wasm_bindgen(getter)]
    pub fn message(&self) -> Box<[u8]> {
        self.0.message()
    }

    /// Takes in the answer; `undefined` when there will be none.
    pub fn done(self, standings: Option<Box<[u8]>>, now_ms: f64) {
        self.0.done(standings.as_deref(), timestamp(now_ms));
    }
}

/// Answers a round by the records of its breakers, which stand one after the other, 64 bytes each; zeros where there is none.
/// Answers with a list: the records, to be stored; and the answer, to be sent. With `undefined` when the round is not to be understood,
/// as when it was written by another version.
#[wasm_bindgen]
pub fn answer_reports(message: &[u8], records: &[u8], now_ms: f64) -> Option<Array> {
    let answered = shared_breakers::answer_reports(message, records, now_ms as u64)?;
    Some(Array::of2(&bytes(answered.records()), &bytes(answered.standings())))
}

/// Whether breakers may have something to tell other locations.
#[wasm_bindgen]
pub fn has_breaker_changes() -> bool {
    isolate::has_breaker_changes()
}

/// Lets breakers learn what other locations have told of theirs.
#[wasm_bindgen]
pub fn receive_breakers(text: &str, now_ms: f64) {
    isolate::receive_breakers(text, timestamp(now_ms));
}

/// What other locations are to be told, all of it; `undefined` when they know.
#[wasm_bindgen]
pub fn breakers_to_publish(now_ms: f64) -> Option<String> {
    isolate::breakers_to_publish(timestamp(now_ms))
}

/// Says that they could not be told.
#[wasm_bindgen]
pub fn publishing_failed() {
    isolate::publishing_failed();
}

/// Says under which name answers are kept from here on. What was kept under another one is not served any more.
#[wasm_bindgen]
pub fn set_cache_suffix(name: &str) {
    cache::set_cache_suffix(name);
}

#[wasm_bindgen]
impl Change {
    /// The key.
    #[wasm_bindgen(getter)]
    pub fn key(&self) -> String {
        self.0.key().to_owned()
    }

    /// The value, which for a purge is a new one each time; `undefined` to delete the key.
    pub fn value(&self, now_ms: f64) -> Option<String> {
        self.0.value(timestamp(now_ms))
    }
}

/// The answer to whoever has ordered a change: that it is kept, or why it could not be.
#[wasm_bindgen]
pub fn change_response(problem: Option<String>) -> Response {
    order::change_response(problem.as_deref())
}

/// Answers an ask by the account of its key, `undefined` if there is none. Answers with a list: the account, to be stored; from when on,
/// in ms since the Unix epoch, it need not be kept; and the grant, to be sent. With `undefined` when ask or account is not to be
/// understood, as when it was written by another version.
#[wasm_bindgen]
pub fn answer_ask(ask: &[u8], account: Option<Box<[u8]>>, now_ms: f64) -> Option<Array> {
    let answered = authority::answer_ask(ask, account.as_deref(), now_ms as u64)?;
    let ends_ms = JsValue::from_f64(answered.ends_ms() as f64);
    Some(Array::of3(&bytes(&answered.account()), &ends_ms, &bytes(&answered.grant())))
}

/// A copy that is JavaScript's own.
fn bytes(bytes: &[u8]) -> JsValue {
    Uint8Array::from(bytes).into()
}
