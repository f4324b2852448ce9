//! One worker's part in telling how the service is: it counts what it sees, and on a tick adds that to what all share.

use core::hash::{Hash, Hasher};

use siphasher::sip::SipHasher13;

use super::orca::Report;
use super::window::{Tally, Window};
use super::{Health, Rules, Standing};
use crate::policy::Policy;
use crate::request::{ResponseFacts, is_error};
use crate::shed::{self, Pressure, Share};
use crate::units::{Span, Timestamp};
use crate::varint;

/// What one worker has counted, and what it last knew of what all have.
#[derive(Debug)]
pub struct Monitor {
    rules: Rules,
    shedding: Option<shed::Rules>,
    /// What has not been shared yet.
    mine: Tally,
    /// What all share, as it was at the last tick.
    shared: Shared,
    /// The sum of its window.
    recent: Tally,
    /// When a report of load was last looked for.
    reported: Timestamp,
}

/// What all workers share.
#[derive(Debug, Default)]
struct Shared {
    standing: Standing,
    pressure: Pressure,
    window: Window,
}

impl Monitor {
    /// A worker that has seen nothing; `None` when the policy does not ask how the service is.
    #[must_use]
    pub fn new(policy: &Policy) -> Option<Self> {
        let rules = policy.health.clone()?;
        let (mine, recent) = (Tally::default(), Tally::default());
        let shared = Shared::default();
        Some(Self { rules, shedding: policy.shedding, mine, shared, recent, reported: Timestamp::EPOCH })
    }

    /// What tells those of another policy apart from what is shared under this one: where nothing changes that bears on
    /// health and shedding, a new policy goes on with what is known.
    #[must_use]
    pub fn identity(&self) -> u64 {
        let mut hasher = SipHasher13::new();
        (&self.rules, &self.shedding).hash(&mut hasher);
        hasher.finish()
    }

    /// Counts an answer at `now` to a request that its upstream had at `began`; how long it took is left out where that is
    /// `None`, since a client sends a body as slowly as it likes. An error of the service is a status as [`is_error`] has it, and
    /// where that is 200 a gRPC status that says the same (UNKNOWN, DEADLINE_EXCEEDED, INTERNAL, UNAVAILABLE, DATA_LOSS)
    /// in the headers, where gRPC has it when there is nothing else to answer.
    pub fn answered(&mut self, answer: &dyn ResponseFacts, began: Option<Timestamp>, now: Timestamp) {
        let Some(failed) = failed(answer) else { return };
        self.mine.count(began.map(|began| now.since(began)), failed);
        // A mean needs no more, and at ten thousand answers a second to look at each would be most of what they cost.
        if self.rules.reads_reports() && (now.since(self.reported) >= REPORTS_APART || now < self.reported) {
            self.reported = now;
            if let Some(report) = answer.header("endpoint-load-metrics").as_deref().and_then(Report::read) {
                self.mine.report(&report);
            }
        }
    }

    /// Counts a request without an answer, whose client or upstream went away after all of it was sent. If it had waited for so long that the
    /// service is degraded, it was a slow call; of a shorter one nothing is known.
    pub fn abandoned(&mut self, began: Timestamp, now: Timestamp) {
        let waited = now.since(began);
        if self.rules.slow().is_some_and(|slow| waited >= slow) {
            self.mine.count(Some(waited), false);
        }
    }

    /// Adds what was counted here to what all share, of which `bytes` is the latest; `None` when nobody has shared
    /// anything. Answers whether `merged` is now to be published in its place. When that succeeds, [`Monitor::published`]
    /// must follow; when somebody else has published first, all of this is to be done again, and until it is nothing is
    /// lost.
    pub fn merge(&mut self, bytes: Option<&[u8]>, merged: &mut Vec<u8>, now: Timestamp) -> bool {
        // What cannot be read counts as nothing: the next merge of every worker makes it good.
        if bytes.is_none_or(|bytes| self.shared.decode(bytes).is_none()) {
            self.shared = Shared::default();
        }
        let Shared { standing, pressure, window } = &mut self.shared;
        let before = (*standing, pressure.level);
        window.add(&self.mine, self.rules.window, now);
        if let Some(rules) = &self.shedding {
            window.latest(self.rules.window, now, &mut self.recent);
            *pressure = pressure.after(standing.health, self.rules.trend(&self.recent), rules, now);
        }
        window.sum(self.rules.window, now, &mut self.recent);
        *standing = standing.after(&self.recent, &self.rules, now);
        let news = !self.mine.is_empty() || before != (*standing, pressure.level);
        merged.clear();
        self.shared.encode(self.rules.window, now, merged);
        news
    }

    /// What was counted here is shared now.
    pub fn published(&mut self) {
        self.mine = Tally::default();
    }

    /// How the service stands.
    #[must_use]
    pub fn standing(&self) -> Standing {
        self.shared.standing
    }

    /// How much is shed.
    #[must_use]
    pub fn pressure(&self) -> Pressure {
        self.shared.pressure
    }

    /// What all workers have seen within the window.
    #[must_use]
    pub fn recent(&self) -> &Tally {
        &self.recent
    }

    /// What it goes by.
    #[must_use]
    pub fn rules(&self) -> &Rules {
        &self.rules
    }
}

impl Shared {
    fn encode(&self, length: Span, now: Timestamp, bytes: &mut Vec<u8>) {
        bytes.push(VERSION);
        for number in [
            self.standing.health as u64,
            self.standing.since.as_nanos(),
            self.standing.calm_since.as_nanos(),
            self.pressure.level.bits().into(),
            self.pressure.at.as_nanos(),
            self.pressure.falls_since.as_nanos(),
        ] {
            varint::write(number, bytes);
        }
        self.window.encode(length, now, bytes);
    }

    fn decode(&mut self, bytes: &[u8]) -> Option<()> {
        let (version, mut rest) = bytes.split_first()?;
        if *version != VERSION {
            return None;
        }
        self.standing.health = Health::numbered(varint::read(&mut rest)?)?;
        self.standing.since = Timestamp::from_nanos(varint::read(&mut rest)?);
        self.standing.calm_since = Timestamp::from_nanos(varint::read(&mut rest)?);
        self.pressure.level = Share::from_bits(varint::read(&mut rest)?)?;
        self.pressure.at = Timestamp::from_nanos(varint::read(&mut rest)?);
        self.pressure.falls_since = Timestamp::from_nanos(varint::read(&mut rest)?);
        self.window.decode(rest)
    }
}

/// Whether an answer is an error of the service; `None` when there is no answer.
fn failed(answer: &dyn ResponseFacts) -> Option<bool> {
    Some(match answer.status()? {
        200 => answer.header("grpc-status").is_some_and(|status| GRPC_ERRORS.contains(&status.as_ref())),
        status => is_error(status),
    })
}

/// The gRPC statuses that are errors of the service and not of its client.
const GRPC_ERRORS: [&[u8]; 5] = [b"2", b"4", b"13", b"14", b"15"];

/// A hundred reports a second of each worker are enough for a mean.
const REPORTS_APART: Span = Span::from_millis(10);

/// The version of the shared bytes.
const VERSION: u8 = 1;
