//! What an isolate goes by: the policy in force there, and what it is asked and told. An isolate has one thread.

use crate::agreeing::{self, Conference};
use crate::gate::Gate;
use crate::host::Request;
use crate::redis;
use crate::sharing::{self, Asks};
use crate::verdict::Verdict;
use std::cell::RefCell;
use std::rc::Rc;
use tidegate::mode::ModeWord;
use tidegate::policy::OnFailure;
use tidegate::units::{Span, Timestamp};
use wasm_bindgen::JsValue;

thread_local! {
    /// The policy in force in this isolate, and what it has counted.
    static GATE: RefCell<Option<Rc<Gate>>> = const { RefCell::new(None) };
}

/// Puts a policy in force, in the mode of this word or, where that is empty, in its own; and answers what is to be done with requests
/// that cannot be decided. What was counted before goes on counting. `env` are the Worker's bindings.
///
/// # Errors
/// Everything that is wrong with the document or the word, a line each. What was in force stays.
pub fn configure(policy: &str, mode: &str, env: &JsValue) -> Result<OnFailure, String> {
    let before = GATE.with_borrow(Option::clone);
    let gate = Gate::new(policy, mode_of(mode)?, env, before.as_deref())?;
    let on_failure = gate.engine.policy().on_failure();
    GATE.with_borrow_mut(|current| *current = Some(Rc::new(gate)));
    Ok(on_failure)
}

/// The mode of a word; `None` of an empty one, which is the policy's own.
///
/// # Errors
/// What is wrong with the word.
pub fn mode_of(word: &str) -> Result<Option<ModeWord>, String> {
    match word.trim() {
        "" => Ok(None),
        word => word.parse().map(Some).map_err(|error| format!("tidegate: mode error: {error}")),
    }
}

/// Within how many milliseconds a request that waits must have its verdict.
pub fn deadline_ms() -> u32 {
    let longest = GATE.with_borrow(|gate| gate.as_ref().map_or(Span::ZERO, |gate| gate.engine.policy().longest_wait()));
    // A second more than the policy allows: by then something has gone wrong.
    let deadline = longest.plus(Span::from_secs(1));
    #[cfg(feature = "test-clock")]
    let deadline = crate::clock::instead_of_deadline(deadline);
    u32::try_from(deadline.as_secs_ceil().saturating_mul(1_000)).unwrap_or(u32::MAX)
}

/// Decides on a request.
pub fn decide(request: &Request, now: Timestamp) -> Verdict {
    #[cfg(feature = "panic-on-header")]
    crate::trap::spring(request);
    #[cfg(feature = "test-clock")]
    if let Some(answer) = crate::clock::set(request) {
        return Verdict::Answered(answer);
    }
    let gate = GATE.with_borrow(Option::clone);
    gate.map_or(Verdict::Passes, |gate| gate.decide(request, now))
}

/// Whether there are limits to be shared, and an authority over them.
pub fn shares() -> bool {
    GATE.with_borrow(|gate| gate.as_ref().is_some_and(|gate| gate.work().leases.global_ref().is_some()))
}

/// What is to be sent to the authority over shared limits: to be asked after each step that may have come to that.
pub fn asks(now: Timestamp) -> Asks {
    let Some(gate) = GATE.with_borrow(Option::clone) else { return Asks::Objects(Vec::new()) };
    match &gate.redis {
        Some(redis) => Asks::Redis(redis::calls(&gate, redis, now)),
        None => Asks::Objects(sharing::errands(&gate, now)),
    }
}

/// Does what is due for limits that are shared, as giving back what is idle. Answers with after how many milliseconds to call
/// again; `None` while there is nothing to be done.
pub fn tend(now: Timestamp) -> Option<u32> {
    let gate = GATE.with_borrow(Option::clone)?;
    let work = &mut *gate.work();
    sharing::tend(&gate.engine, work, now)
}

/// Whether there are breakers to be shared, and an authority over them.
pub fn agrees() -> bool {
    GATE.with_borrow(|gate| gate.as_ref().is_some_and(|gate| gate.work().known.upstreams().alone().is_some()))
}

/// A round of reports for the authority over shared breakers, if it is time for one: to be asked now and then.
pub fn confer(now: Timestamp) -> Option<Conference> {
    agreeing::conference(&GATE.with_borrow(Option::clone)?, now)
}

/// Whether something is to be told to that authority.
pub fn tells(now: Timestamp) -> bool {
    GATE.with_borrow(|gate| gate.as_ref().is_some_and(|gate| gate.work().known.upstreams().tells(now)))
}

/// Whether breakers may have something to tell other locations.
pub fn may_have_news() -> bool {
    let gate = GATE.with_borrow(Option::clone);
    gate.is_some_and(|gate| gate.memory.broadcast.borrow().may_have_news(&gate.memory.ledgers.borrow()))
}

/// Lets breakers learn what other locations have told of theirs.
pub fn hear(text: &str, now: Timestamp) {
    if let Some(gate) = GATE.with_borrow(Option::clone) {
        let mut ledgers = gate.memory.ledgers.borrow_mut();
        gate.memory.broadcast.borrow_mut().receive(text, &mut ledgers, now);
    }
}

/// What other locations are to be told, all of it; `None` when they know.
pub fn news(now: Timestamp) -> Option<String> {
    let gate = GATE.with_borrow(Option::clone)?;
    let mut ledgers = gate.memory.ledgers.borrow_mut();
    gate.memory.broadcast.borrow_mut().compose(&mut ledgers, now)
}

/// Says that they could not be told.
pub fn untold() {
    if let Some(gate) = GATE.with_borrow(Option::clone) {
        gate.memory.broadcast.borrow_mut().mark_unsent();
    }
}
