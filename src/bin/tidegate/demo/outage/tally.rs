//! Counts of a phase's responses: who served them, and the breakers' states that they show.

use std::sync::atomic::{AtomicU8, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

/// Who served a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ServedBy {
    /// The CDN.
    Cdn,
    /// The origin.
    Origin,
    /// No upstream: a kept response.
    Stale,
    /// No upstream: the policy's static response.
    Static,
    /// Not served: an error, or no response in time.
    Failed,
}

/// The state of a breaker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    Closed,
    Open,
    HalfOpen,
    Ramping,
}

/// The states that a breaker was seen in: a bit for each, in the order of [`State::ALL`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct States(u8);

/// Counts of the requests of one phase. Many tasks add to them.
#[derive(Debug, Default)]
pub struct Tally {
    sent: AtomicU64,
    by: [AtomicU64; ServedBy::ALL.len()],
    slowest_us: AtomicU64,
    /// The states that each breaker was seen in.
    states: [AtomicU8; BREAKERS.len()],
    /// The same since the last [`Tally::take_recent`].
    recent: [AtomicU8; BREAKERS.len()],
}

/// The counts at one moment.
#[derive(Clone, Copy, Debug, Default)]
pub struct Counts {
    /// Requests sent.
    pub sent: u64,
    by: [u64; ServedBy::ALL.len()],
    /// The longest time of a request that did not fail.
    pub slowest: Duration,
    /// The states that each of [`BREAKERS`] was seen in.
    pub states: [States; BREAKERS.len()],
}

impl ServedBy {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Cdn, Self::Origin, Self::Stale, Self::Static, Self::Failed];

    /// The name in tables.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Cdn => "cdn",
            Self::Origin => "origin",
            Self::Stale => "stale",
            Self::Static => "static",
            Self::Failed => "failed",
        }
    }

    /// Who served a response with this `x-tidegate`.
    pub fn from_header(header: &str, is_success: bool) -> Self {
        let mut parts = header.split("; ");
        let by = parts.find_map(|part| part.strip_prefix("upstream=").or_else(|| part.strip_prefix("step=")));
        match by {
            Some("cdn") if is_success => Self::Cdn,
            Some("origin") if is_success => Self::Origin,
            Some("stale") if is_success => Self::Stale,
            Some("static") => Self::Static,
            _ => Self::Failed,
        }
    }
}

impl State {
    const ALL: [(Self, &'static str); 4] =
        [(Self::Closed, "closed"), (Self::Open, "open"), (Self::HalfOpen, "half-open"), (Self::Ramping, "ramping")];
}

impl States {
    /// The names of the states, or a dash if there are none.
    pub fn describe(self) -> String {
        let seen = State::ALL.iter().filter(|(state, _)| self.0 & bit(*state) != 0);
        let names: Vec<&str> = seen.map(|(_, name)| *name).collect();
        if names.is_empty() { "-".to_owned() } else { names.join(", ") }
    }
}

impl Tally {
    /// Counts a request that is sent.
    pub fn send(&self) {
        self.sent.fetch_add(1, Relaxed);
    }

    /// Counts a request that has ended, with its duration.
    pub fn end(&self, by: ServedBy, took: Duration) {
        if let Some(count) = self.by.get(by as usize) {
            count.fetch_add(1, Relaxed);
        }
        if by != ServedBy::Failed {
            self.slowest_us.fetch_max(u64::try_from(took.as_micros()).unwrap_or(u64::MAX), Relaxed);
        }
    }

    /// Adds the breakers' states in a response's `x-tidegate`.
    pub fn see(&self, header: &str) {
        let breakers = header.split("breakers=").nth(1).unwrap_or_default();
        for (name, state) in breakers.split(", ").filter_map(|breaker| breaker.split_once(':')) {
            let state = State::ALL.iter().find(|(_, name)| *name == state);
            let place = BREAKERS.iter().position(|other| *other == name);
            if let Some((state, _)) = state
                && let Some((all, recent)) = place.and_then(|at| self.states.get(at).zip(self.recent.get(at)))
            {
                all.fetch_or(bit(*state), Relaxed);
                recent.fetch_or(bit(*state), Relaxed);
            }
        }
    }

    /// The states that breakers were seen in since the last call.
    pub fn take_recent(&self) -> [States; BREAKERS.len()] {
        self.recent.each_ref().map(|states| States(states.swap(0, Relaxed)))
    }

    /// The counts now.
    pub fn counts(&self) -> Counts {
        Counts {
            sent: self.sent.load(Relaxed),
            by: self.by.each_ref().map(|count| count.load(Relaxed)),
            slowest: Duration::from_micros(self.slowest_us.load(Relaxed)),
            states: self.states.each_ref().map(|states| States(states.load(Relaxed))),
        }
    }
}

impl Counts {
    /// How many requests had this outcome.
    pub fn by(&self, by: ServedBy) -> u64 {
        self.by.get(by as usize).copied().unwrap_or(0)
    }
}

fn bit(state: State) -> u8 {
    1 << state as u8
}

/// The breakers of the demo's policy.
pub const BREAKERS: [&str; 2] = ["cdn", "origin"];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_tell_who_served_and_how_breakers_stand() {
        for (header, is_success, by) in [
            ("upstream=cdn; step=first; breakers=cdn:closed, origin:closed", true, ServedBy::Cdn),
            ("upstream=origin; step=fallback; breakers=cdn:open, origin:closed", true, ServedBy::Origin),
            ("upstream=origin; step=fallback", false, ServedBy::Failed),
            ("step=stale; breakers=cdn:open, origin:open", true, ServedBy::Stale),
            ("step=static; breakers=cdn:open, origin:open", false, ServedBy::Static),
            ("step=unavailable", false, ServedBy::Failed),
            ("", true, ServedBy::Failed),
        ] {
            assert_eq!(ServedBy::from_header(header, is_success), by, "{header}");
        }
        let tally = Tally::default();
        tally.see("step=stale; breakers=cdn:open, origin:half-open");
        tally.see("upstream=cdn; step=first; breakers=cdn:half-open, origin:half-open");
        let seen = tally.take_recent().map(States::describe);
        assert_eq!(seen, ["open, half-open", "half-open"]);
        assert_eq!(tally.take_recent().map(States::describe), ["-", "-"]);
        assert_eq!(tally.counts().states.map(States::describe), seen);
    }
}
