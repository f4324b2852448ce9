//! For the suite alone: the time, and what is left to chance, are what the last request said. Not in what is shipped.
//!
//! The clock stands between requests, so that a scenario comes out the same however slow the machine is. A request that asks
//! for it is answered here, with how many others there were and for which time the root was last called: by that the suite
//! knows that the filter has come as far as it has.

use crate::host::{self, Map};
use core::cell::Cell;
use tidegate::key::Seed;
use tidegate::units::{Draw, Span, Timestamp};

#[derive(Clone, Copy)]
struct Clock {
    now_ns: u64,
    draw: u64,
    /// How many requests have come.
    seen: u64,
    /// For which time the root was last called.
    ticked_ns: u64,
}

thread_local! {
    /// Every scenario has VMs of its own. That of Envoy's main thread sees no requests, and stands at the beginning.
    static CLOCK: Cell<Clock> = const { Cell::new(Clock { now_ns: START_NS, draw: 0, seen: 0, ticked_ns: 0 }) };
}

/// Sets the clock as the request says. `true` when the request wanted no more than that, and was answered.
pub fn set() -> bool {
    let number = |name| {
        let value = host::header(Map::Request, name).ok().flatten()?;
        str::from_utf8(&value).ok()?.parse::<u64>().ok()
    };
    let mut clock = CLOCK.get();
    if let Some(now_ms) = number("x-tidegate-test-now") {
        clock.now_ns = now_ms.saturating_mul(1_000_000);
    }
    clock.draw = number("x-tidegate-test-draw").unwrap_or(0);
    let asks = number("x-tidegate-test-asks").is_some();
    clock.seen = clock.seen.saturating_add(u64::from(!asks));
    CLOCK.set(clock);
    if asks {
        let (seen, ticked_ms) = (clock.seen.to_string(), (clock.ticked_ns / 1_000_000).to_string());
        let lines: [(&[u8], &[u8]); 2] =
            [(b"x-tidegate-test-seen", seen.as_bytes()), (b"x-tidegate-test-ticked", ticked_ms.as_bytes())];
        let _ = host::respond(204, 0, "tidegate_test", &lines, b"");
    }
    asks
}

/// The time in nanoseconds, whatever the host says.
pub fn instead_of(_now_ns: u64) -> u64 {
    CLOCK.get().now_ns
}

/// What is left to chance, whatever was drawn.
pub fn instead_of_draw(_draw: Draw) -> Draw {
    Draw(CLOCK.get().draw)
}

/// The root has done what was due by this time.
pub fn ticked(now: Timestamp) {
    CLOCK.set(Clock { ticked_ns: now.as_nanos(), ..CLOCK.get() });
}

/// How often the root is called, where it wanted to be called that often: nobody knows when the clock will be set.
pub fn period(period: Span) -> Span {
    period.min(Span::from_millis(20))
}

/// The seed of every key's hash, whatever was drawn.
pub fn instead_of_seed(_seed: Seed) -> Seed {
    Seed::from_bytes(*b"tidegate-scenari")
}

/// When scenarios begin.
const START_NS: u64 = 1_800_014_400_000_000_000;
