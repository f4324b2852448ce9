//! For tests only, and not in the shipped build: each request sets the time and the random draw.
//!
//! The clock does not move between requests, so a scenario does not depend on the speed of the machine. A request with
//! `x-tidegate-test-asks` is answered here, with the number of other requests seen and of those under way. By that the
//! tests know when the Worker has caught up.

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
    /// The number of requests seen.
    seen: u64,
}

thread_local! {
    static CLOCK: Cell<Clock> = const { Cell::new(Clock { now_ms: START_MS, draw: 0, seen: 0 }) };
    static UNDER_WAY: Cell<u32> = const { Cell::new(0) };
}

/// A request that waits or is under way.
pub struct UnderWay;

impl UnderWay {
    /// Counts one more.
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

/// Sets the clock as the request says. Returns a response if the request only asked for the counts.
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
        // Setting a field of a plain object cannot fail.
        let _ = Reflect::set(&init, &"headers".into(), &lines);
        Response::new(&JsValue::from_str(""), &init)
    })
}

/// The test time in ms, in place of the host's.
pub fn instead_of(_now_ms: f64) -> f64 {
    CLOCK.get().now_ms as f64
}

/// The test draw, in place of the random one.
pub fn instead_of_draw(_draw: Draw) -> Draw {
    Draw(CLOCK.get().draw)
}

/// How long a request may wait by the host's clock, while the test clock stands still.
pub fn instead_of_deadline(_deadline: Span) -> Span {
    Span::from_secs(600)
}

/// A fixed seed for key hashes, in place of the random one.
pub fn instead_of_seed(_seed: Seed) -> Seed {
    Seed::from_bytes(*b"tidegate-scenari")
}

/// The time at which scenarios start.
const START_MS: u64 = 1_800_014_400_000;
