//! For the test suite only, and not in the shipped build: each request sets the time and the random draw.
//!
//! The clock does not move between requests, so a scenario does not depend on the speed of the machine. A request with
//! `x-tidegate-test-asks` is answered here, with the number of other requests seen and the time of the last tick. By
//! that the suite knows when the filter has caught up.

use crate::host::{self, Map};
use core::cell::Cell;
use tidegate::key::Seed;
use tidegate::units::{Draw, Span, Timestamp};

#[derive(Clone, Copy)]
struct Clock {
    now_ns: u64,
    draw: u64,
    /// The number of requests seen.
    seen: u64,
    /// The test time of the root's last tick.
    ticked_ns: u64,
}

thread_local! {
    /// Every scenario has VMs of its own. The VM of Envoy's main thread sees no requests, so its clock stays at the
    /// start.
    static CLOCK: Cell<Clock> = const { Cell::new(Clock { now_ns: START_NS, draw: 0, seen: 0, ticked_ns: 0 }) };
}

/// Sets the clock as the request says. Returns `true` if the request only asked for the counts, and was answered.
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

/// The test time in ns, in place of the host's.
pub fn instead_of(_now_ns: u64) -> u64 {
    CLOCK.get().now_ns
}

/// The test draw, in place of the random one.
pub fn instead_of_draw(_draw: Draw) -> Draw {
    Draw(CLOCK.get().draw)
}

/// Notes that the root has done what was due by this time.
pub fn ticked(now: Timestamp) {
    CLOCK.set(Clock { ticked_ns: now.as_nanos(), ..CLOCK.get() });
}

/// The tick period: at most 20 ms, because the filter cannot know when the clock will be set.
pub fn period(period: Span) -> Span {
    period.min(Span::from_millis(20))
}

/// A fixed seed for key hashes, in place of the random one.
pub fn instead_of_seed(_seed: Seed) -> Seed {
    Seed::from_bytes(*b"tidegate-scenari")
}

/// The time at which scenarios start.
const START_NS: u64 = 1_800_014_400_000_000_000;
