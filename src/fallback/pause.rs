//! A wait before a further try: the request's own backoff, or a pause that an upstream has asked for.

use crate::units::{Span, Timestamp};

/// A wait that has begun. The default is over.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pause {
    since: Timestamp,
    until: Timestamp,
}

impl Pause {
    /// A pause that begins now.
    #[must_use]
    pub fn new(wait: Span, now: Timestamp) -> Self {
        Self { since: now, until: now.after(wait) }
    }

    /// The time left. Zero if the clock reads a time before the pause began: it was set back, and it is unknown when it
    /// would reach the end.
    #[must_use]
    pub fn left(&self, now: Timestamp) -> Span {
        if now < self.since { Span::ZERO } else { self.until.since(now) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pause_is_over_after_its_time_or_when_the_clock_was_set_back() {
        let at = Timestamp::from_millis;
        let pause = Pause::new(Span::from_millis(250), at(10_000));
        for (now, left_ms) in [(10_000, 250), (10_249, 1), (10_250, 0), (99_999, 0), (9_999, 0), (0, 0)] {
            assert_eq!(pause.left(at(now)), Span::from_millis(left_ms), "at {now}");
        }
    }
}
