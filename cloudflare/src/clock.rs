//! For the tests alone: the time, and what is left to chance, are what the last request said. Not in what is shipped.
//!
//! The clock stands between requests, so that a scenario comes out the same however slow the machine is. A request that asks
//! for it is answered here, with how many others there were and how many are under way: by that the tests know that the
//! Worker has come as far as it has.

use crate::host::{Request, Response};
use core::cell::Cell;
use js_sys::{Array, Object, Reflect};
use tidegate::key::Seed;
use tidegate::units::{Draw, Span};
use wasm_bindgen::JsValue;

#[derive(Clone, Copy)]
struct Clock {
    now_ms: u64,
    draw: u64,
    /// How many requests have come.
    seen: u64,
}

thread_local! {
    static CLOCK: Cell<Clock> = const { Cell::new(Clock { now_ms: START_MS, draw: 0, seen: 0 }) };
    static UNDER_WAY: Cell<u32> = const { Cell::new(0) };
}

/// A request that waits or is on its way.
pub struct UnderWay;

impl UnderWay {
    /// One more.
    pub fn new() -> Self {
        UNDER_WAY.set(UNDER_WAY.get().saturating_add(1));
        Self
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        UNDER_WAY.set(UNDER_WAY.get().saturating_sub(1));
    }
}

/// Sets the clock as the request says. Answers the request if it wanted no more than that.
pub fn set(request: &Request) -> Option<Response> {
    let number = |name| request.headers().get(name)?.parse::<u64>().ok();
    let mut clock = CLOCK.get();
    if let Some(now_ms) = number("x-tidegate-test-now") {
        clock.now_ms = now_ms;
    }
    clock.draw = number("x-tidegate-test-draw").unwrap_or(0);
    let asks = number("x-tidegate-test-asks").is_some();
    clock.seen = clock.seen.saturating_add(u64::from(!asks));
    CLOCK.set(clock);
    asks.then(|| {
        let line = |name: &str, number: String| Array::of2(&name.into(), &number.into());
        let lines = Array::of2(
            &line("x-tidegate-test-seen", clock.seen.to_string()),
            &line("x-tidegate-test-under-way", UNDER_WAY.get().to_string()),
        );
        let init = Object::new();
        // To set a field of a plain object cannot fail.
        let _ = Reflect::set(&init, &"headers".into(), &lines);
        Response::new(&JsValue::from_str(""), &init)
    })
}

/// The time in milliseconds, whatever the host says.
pub fn instead_of(_now_ms: f64) -> f64 {
    CLOCK.get().now_ms as f64
}

/// What is left to chance, whatever was drawn.
pub fn instead_of_draw(_draw: Draw) -> Draw {
    Draw(CLOCK.get().draw)
}

/// How long a request may wait by the host's clock, while this one stands.
pub fn instead_of_deadline(_deadline: Span) -> Span {
    Span::from_secs(600)
}

/// The seed of every key's hash, whatever was drawn.
pub fn instead_of_seed(_seed: Seed) -> Seed {
    Seed::from_bytes(*b"tidegate-scenari")
}

/// When scenarios begin.
const START_MS: u64 = 1_800_014_400_000;
