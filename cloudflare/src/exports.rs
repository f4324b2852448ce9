//! The functions and classes that JavaScript calls, for the Worker that `entry.mjs` deploys.

use crate::host::{self, Request, Response};
use crate::shared_limits::Asks;
use crate::verdict::Verdict;
use crate::{authority, cache, isolate, order, origin, shared_breakers, shared_limits, task, timestamp, wait};
use js_sys::{Array, Function, Promise, Uint8Array};
use std::rc::Rc;
use tidegate::policy::OnFailure;
use wasm_bindgen::prelude::*;

/// 3 KB smaller, compressed, than the standard library's allocator, and as fast: a policy with claims costs the same
/// with either. Allocating and freeing take constant time.
#[global_allocator]
static ALLOCATOR: rlsf::SmallGlobalTlsf = rlsf::SmallGlobalTlsf::new();

/// A request under way. JavaScript frees it if its client goes away.
#[wasm_bindgen]
pub struct Task(task::Task);

/// A request that waits for its turn. JavaScript frees it if its client goes away.
#[wasm_bindgen]
pub struct Wait(wait::Wait);

/// A request that waits for the authority. JavaScript frees it when it has its verdict, or when its client has gone.
#[wasm_bindgen]
pub struct GrantWait(shared_limits::GrantWait);

/// An ask to be sent to a Durable Object.
#[wasm_bindgen]
pub struct ObjectAsk(shared_limits::ObjectAsk);

/// A round of breaker reports to be sent to a Durable Object.
#[wasm_bindgen]
pub struct Reports(shared_breakers::Reports);

/// A value to be written to KV.
#[wasm_bindgen]
pub struct Change(order::Change);

/// Called once when an instance starts.
#[wasm_bindgen(start)]
pub fn start() {
    // Without a hook, a panic would not log its message and place.
    std::panic::set_hook(Box::new(|info| host::log_error(&format!("tidegate: {info}"))));
}

/// Puts a policy in force. A non-empty `mode` overrides the policy's own. Counts continue from the previous policy.
/// `env` are the Worker's bindings. Returns what to do with requests that cannot be decided: `pass` or `refuse`.
///
/// # Errors
/// All problems of the policy or the mode, one per line, as text. The previous policy then stays in force.
#[wasm_bindgen]
pub fn configure(policy: &str, mode: &str, env: &JsValue) -> Result<String, JsValue> {
    let on_failure = match isolate::configure(policy, mode, env)? {
        OnFailure::Pass => "pass",
        OnFailure::Refuse => "refuse",
    };
    Ok(on_failure.to_owned())
}

/// What is wrong with a mode, if anything. An empty string is valid: the policy's own mode.
#[wasm_bindgen]
pub fn mode_problem(word: &str) -> Option<String> {
    isolate::mode_of(word).err()
}

/// The time in ms within which a waiting request must have its verdict.
#[wasm_bindgen]
pub fn deadline_ms() -> u32 {
    isolate::deadline_ms()
}

/// Sets the handler that answers requests instead of the zone's origin. It takes a request, and returns a response or a
/// promise of one.
#[wasm_bindgen]
pub fn set_handler(handler: Function) {
    origin::set_handler(Some(Rc::new(move |request: &Request| match handler.call1(&JsValue::UNDEFINED, request) {
        Ok(answer) => Promise::resolve(&answer),
        Err(error) => Promise::reject(&error),
    })));
}

/// Decides on a request. Returns `undefined` if it passes unchanged; a list of the header fields to add to its response,
/// names and values alternating; a response to send instead; or a `Task`, a `Wait`, a `GrantWait` or a `Change`.
#[wasm_bindgen]
pub fn decide(request: &Request, now_ms: f64) -> JsValue {
    isolate::decide(request, timestamp(now_ms)).into()
}

impl From<Verdict> for JsValue {
    fn from(verdict: Verdict) -> Self {
        match verdict {
            Verdict::Passes => JsValue::UNDEFINED,
            Verdict::PassesWithFields(fields) => fields.into(),
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
    /// Continues with the outcome of the last promise: its value, or the error if `failed`. Returns the next promise to
    /// await; or a list of that promise and one that says when to resume at the latest; or the response for the client;
    /// or `undefined` when the task has ended.
    pub fn resume(&mut self, outcome: JsValue, failed: bool) -> JsValue {
        self.0.resume(if failed { Err(outcome) } else { Ok(outcome) }).unwrap_or(JsValue::UNDEFINED)
    }
}

#[wasm_bindgen]
impl Wait {
    /// In how many ms to ask for the verdict.
    #[wasm_bindgen(getter)]
    pub fn pause_ms(&self) -> u32 {
        self.0.pause_ms()
    }

    /// The verdict, as `decide` returns it; `null` while the request has to wait.
    pub fn verdict(&mut self, request: &Request, now_ms: f64) -> JsValue {
        self.0.verdict(request, timestamp(now_ms)).into()
    }
}

#[wasm_bindgen]
impl GrantWait {
    /// How long an answer of the authority is awaited, in ms.
    #[wasm_bindgen(getter)]
    pub fn deadline_ms(&self) -> u32 {
        self.0.deadline_ms()
    }

    /// The verdict, as `decide` returns it; `null` while the request has to wait.
    pub fn verdict(&mut self, request: &Request, now_ms: f64) -> JsValue {
        self.0.verdict(request, timestamp(now_ms)).into()
    }
}

/// Whether there are shared limits, and an authority for them.
#[wasm_bindgen]
pub fn has_shared_limits() -> bool {
    isolate::has_shared_limits()
}

/// The asks to send now to the authority over shared limits: an `ObjectAsk` per ask of a Durable Object, or a `Task`
/// per call to Redis. To be called after each step that may have made asks.
#[wasm_bindgen]
pub fn asks_to_send(now_ms: f64) -> Vec<JsValue> {
    match isolate::asks_to_send(timestamp(now_ms)) {
        Asks::Objects(asks) => asks.into_iter().map(|ask| ObjectAsk(ask).into()).collect(),
        Asks::Redis(calls) => calls.into_iter().map(|call| Task(call).into()).collect(),
    }
}

#[wasm_bindgen]
impl ObjectAsk {
    /// The message to send.
    #[wasm_bindgen(getter)]
    pub fn message(&self) -> Box<[u8]> {
        self.0.message()
    }

    /// Which of `shards` objects counts the key.
    pub fn shard(&self, shards: u32) -> u32 {
        self.0.shard(shards)
    }

    /// Handles the answer; `undefined` if there will be none.
    pub fn done(self, grant: Option<Box<[u8]>>, now_ms: f64) {
        self.0.done(grant.as_deref(), timestamp(now_ms));
    }
}

/// Does what is due for shared limits, such as returning idle permits. Returns in how many ms to call again;
/// `undefined` while nothing is pending.
#[wasm_bindgen]
pub fn tend(now_ms: f64) -> Option<u32> {
    isolate::tend(timestamp(now_ms))
}

/// Whether there are shared breakers, and an authority for them.
#[wasm_bindgen]
pub fn has_shared_breakers() -> bool {
    isolate::has_shared_breakers()
}

/// The round of reports to send now to the authority over shared breakers, if one is due: `Reports` for the Durable
/// Object, or a `Task` that calls Redis; else `undefined`.
#[wasm_bindgen]
pub fn due_round(now_ms: f64) -> JsValue {
    match isolate::due_round(timestamp(now_ms)) {
        Some(shared_breakers::ReportRound::Object(reports)) => Reports(reports).into(),
        Some(shared_breakers::ReportRound::Redis(call)) => Task(call).into(),
        None => JsValue::UNDEFINED,
    }
}

/// Whether there are reports for that authority.
#[wasm_bindgen]
pub fn has_reports(now_ms: f64) -> bool {
    isolate::has_reports(timestamp(now_ms))
}

#[wasm_bindgen]
impl Reports {
    /// The message to send.
    #[wasm_bindgen(getter)]
    pub fn message(&self) -> Box<[u8]> {
        self.0.message()
    }

    /// Handles the answer; `undefined` if there will be none.
    pub fn done(self, standings: Option<Box<[u8]>>, now_ms: f64) {
        self.0.done(standings.as_deref(), timestamp(now_ms));
    }
}

/// Answers a round of reports. `records` are the stored records of its breakers, concatenated, 64 bytes each; zeros for
/// a breaker without one. Returns a list: the records to store, and the answer to send. `undefined` if the message
/// cannot be read, for example because another version wrote it.
#[wasm_bindgen]
pub fn answer_reports(message: &[u8], records: &[u8], now_ms: f64) -> Option<Array> {
    let answered = shared_breakers::answer_reports(message, records, now_ms as u64)?;
    Some(Array::of2(&bytes(answered.records()), &bytes(answered.standings())))
}

/// Whether breakers may have changes to publish to other locations.
#[wasm_bindgen]
pub fn has_breaker_changes() -> bool {
    isolate::has_breaker_changes()
}

/// Applies the breaker states that other locations have published.
#[wasm_bindgen]
pub fn receive_breakers(text: &str, now_ms: f64) {
    isolate::receive_breakers(text, timestamp(now_ms));
}

/// The text to publish to other locations, with all states; `undefined` if there is nothing new.
#[wasm_bindgen]
pub fn breakers_to_publish(now_ms: f64) -> Option<String> {
    isolate::breakers_to_publish(timestamp(now_ms))
}

/// Notes that publishing failed, so that it is tried again.
#[wasm_bindgen]
pub fn publishing_failed() {
    isolate::publishing_failed();
}

/// Sets the suffix of the cache's name. Responses kept under another suffix are not served any more.
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

    /// The value, `undefined` to delete the key. Each purge has a new value.
    pub fn value(&self, now_ms: f64) -> Option<String> {
        self.0.value(timestamp(now_ms))
    }
}

/// The response to the operator: that the change is stored, or why it could not be.
#[wasm_bindgen]
pub fn change_response(problem: Option<String>) -> Response {
    order::change_response(problem.as_deref())
}

/// Answers an ask. `account` is the stored account of its key, `undefined` if there is none. Returns a list: the
/// account to store; the time in ms since the Unix epoch from which it need not be kept; and the grant to send.
/// `undefined` if the ask or the account cannot be read, for example because another version wrote it.
#[wasm_bindgen]
pub fn answer_ask(ask: &[u8], account: Option<Box<[u8]>>, now_ms: f64) -> Option<Array> {
    let answered = authority::answer_ask(ask, account.as_deref(), now_ms as u64)?;
    let ends_ms = JsValue::from_f64(answered.ends_ms() as f64);
    Some(Array::of3(&bytes(&answered.account()), &ends_ms, &bytes(&answered.grant())))
}

/// A copy in JavaScript's memory.
fn bytes(bytes: &[u8]) -> JsValue {
    Uint8Array::from(bytes).into()
}
