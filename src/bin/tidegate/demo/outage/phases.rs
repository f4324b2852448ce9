//! The phases of the outage.

use std::time::Duration;

use super::server::Fault;

/// A part of the outage with constant faults.
#[derive(Clone, Copy, Debug)]
pub struct Phase {
    /// What happens, in plain words.
    pub title: &'static str,
    /// What is wrong with the CDN.
    pub cdn: Fault,
    /// What is wrong with the origin.
    pub origin: Fault,
    /// Whether the phase goes on until the CDN's breaker is closed.
    pub until_closed: bool,
}

/// How long a slow CDN takes for a response: longer than a client waits.
const SLOW: Duration = Duration::from_secs(3);

const WELL: Phase = Phase { title: "all is well", cdn: Fault::None, origin: Fault::None, until_closed: false };

/// The phases.
pub const PHASES: [Phase; 7] = [
    WELL,
    Phase { title: "the CDN answers 500", cdn: Fault::Errors, ..WELL },
    Phase { title: "the CDN refuses connections", cdn: Fault::Refuses, ..WELL },
    Phase { title: "the CDN takes 3 s", cdn: Fault::Slow(SLOW), ..WELL },
    Phase { title: "the origin is gone as well", cdn: Fault::Slow(SLOW), origin: Fault::Refuses, ..WELL },
    Phase { title: "both are back", until_closed: true, ..WELL },
    Phase { title: "all is well again", ..WELL },
];
