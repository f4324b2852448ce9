//! The policy in force in an isolate, and the calls that JavaScript or the library makes to it. An isolate has one
//! thread.

use crate::gate::Gate;
use crate::host::Request;
use crate::redis;
use crate::shared_breakers::{self, ReportRound};
use crate::shared_limits::{self, Asks};
use crate::verdict::Verdict;
use std::cell::RefCell;
use std::rc::Rc;
use tidegate::mode::ModeWord;
use tidegate::policy::OnFailure;
use tidegate::units::{Span, Timestamp};
use wasm_bindgen::JsValue;

thread_local! {
    /// The policy in force in this isolate, with its counts.
    static GATE: RefCell<Option<Rc<Gate>>> = const { RefCell::new(None) };
}

/// Puts a policy in force. A non-empty `mode` overrides the policy's own. Counts continue from the previous policy.
/// `env` are the Worker's bindings. Returns what to do with requests that cannot be decided.
///
/// # Errors
/// All problems of the policy or the mode, one per line. The previous policy then stays in force.
pub fn configure(policy: &str, mode: &str, env: &JsValue) -> Result<OnFailure, String> {
    let before = GATE.with_borrow(Option::clone);
    let gate = Gate::new(policy, mode_of(mode)?, env, before.as_deref())?;
    let on_failure = gate.engine.policy().on_failure();
    GATE.with_borrow_mut(|current| *current = Some(Rc::new(gate)));
    Ok(on_failure)
}

/// Parses a mode. An empty string is `None`: the policy's own mode.
///
/// # Errors
/// What is wrong with the mode.
pub fn mode_of(word: &str) -> Result<Option<ModeWord>, String> {
    match word.trim() {
        "" => Ok(None),
        word => word.parse().map(Some).map_err(|error| format!("tidegate: mode error: {error}")),
    }
}

/// The time in ms within which a waiting request must have its verdict.
pub fn deadline_ms() -> u32 {
    let longest = GATE.with_borrow(|gate| gate.as_ref().map_or(Span::ZERO, |gate| gate.engine.policy().longest_wait()));
    // One second more than the policy allows: by then something has gone wrong.
    let deadline = longest.plus(Span::from_secs(1));
    #[cfg(feature = "test-clock")]
    let deadline = crate::clock::instead_of_deadline(deadline);
    u32::try_from(deadline.as_secs_ceil().saturating_mul(1_000)).unwrap_or(u32::MAX)
}

/// Decides on a request.
pub fn decide(request: &Request, now: Timestamp) -> Verdict {
    #[cfg(feature = "panic-on-header")]
    crate::trap::panic_if_asked(request);
    #[cfg(feature = "test-clock")]
    if let Some(answer) = crate::clock::set(request) {
        return Verdict::Responds(answer);
    }
    let gate = GATE.with_borrow(Option::clone);
    gate.map_or(Verdict::Passes, |gate| gate.decide(request, now))
}

/// Whether there are shared limits, and an authority for them.
pub fn has_shared_limits() -> bool {
    GATE.with_borrow(|gate| gate.as_ref().is_some_and(|gate| gate.work().leases.global_ref().is_some()))
}

/// The asks to send now to the authority over shared limits. To be called after each step that may have made asks.
pub fn asks_to_send(now: Timestamp) -> Asks {
    let Some(gate) = GATE.with_borrow(Option::clone) else { return Asks::Objects(Vec::new()) };
    match &gate.redis {
        Some(redis) => Asks::Redis(redis::calls(&gate, redis, now)),
        None => Asks::Objects(shared_limits::object_asks(&gate, now)),
    }
}

/// Does what is due for shared limits, such as returning idle permits. Returns in how many ms to call again; `None`
/// while nothing is pending.
pub fn tend(now: Timestamp) -> Option<u32> {
    let gate = GATE.with_borrow(Option::clone)?;
    let work = &mut *gate.work();
    shared_limits::tend(&gate.engine, work, now)
}

/// Whether there are shared breakers, and an authority for them.
pub fn has_shared_breakers() -> bool {
    GATE.with_borrow(|gate| gate.as_ref().is_some_and(|gate| gate.work().known.upstreams().alone().is_some()))
}

/// The round of reports to send now to the authority over shared breakers, if one is due. To be polled.
pub fn due_round(now: Timestamp) -> Option<ReportRound> {
    shared_breakers::due_round(&GATE.with_borrow(Option::clone)?, now)
}

/// Whether there are reports for that authority.
pub fn has_reports(now: Timestamp) -> bool {
    GATE.with_borrow(|gate| gate.as_ref().is_some_and(|gate| gate.work().known.upstreams().tells(now)))
}

/// Whether breakers may have changes to publish to other locations.
pub fn has_breaker_changes() -> bool {
    let gate = GATE.with_borrow(Option::clone);
    gate.is_some_and(|gate| gate.memory.broadcast.borrow().may_have_news(&gate.memory.ledgers.borrow()))
}

/// Applies the breaker states that other locations have published.
pub fn receive_breakers(text: &str, now: Timestamp) {
    if let Some(gate) = GATE.with_borrow(Option::clone) {
        let mut ledgers = gate.memory.ledgers.borrow_mut();
        gate.memory.broadcast.borrow_mut().receive(text, &mut ledgers, now);
    }
}

/// The text to publish to other locations, with all states; `None` if there is nothing new.
pub fn breakers_to_publish(now: Timestamp) -> Option<String> {
    let gate = GATE.with_borrow(Option::clone)?;
    let mut ledgers = gate.memory.ledgers.borrow_mut();
    gate.memory.broadcast.borrow_mut().compose(&mut ledgers, now)
}

/// Notes that publishing failed, so that it is tried again.
pub fn publishing_failed() {
    if let Some(gate) = GATE.with_borrow(Option::clone) {
        gate.memory.broadcast.borrow_mut().mark_unsent();
    }
}
