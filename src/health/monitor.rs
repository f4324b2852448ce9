//! One worker's part in judging the service: it counts responses, and on a tick adds its counts to the state that all
//! workers share.

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

/// One worker's counts, and the shared state as it last saw it.
#[derive(Debug)]
pub struct Monitor {
    rules: Rules,
    shedding: Option<shed::Rules>,
    /// Counts that are not in the shared state yet.
    mine: Tally,
    /// The shared state at the last tick.
    shared: Shared,
    /// The sum of the shared window.
    recent: Tally,
    /// When this worker last looked for a load report.
    reported: Timestamp,
}

/// The state that all workers share.
#[derive(Debug, Default)]
struct Shared {
    standing: Standing,
    pressure: Pressure,
    window: Window,
}

impl Monitor {
    /// A worker without counts; `None` if the policy has no health rules.
    #[must_use]
    pub fn new(policy: &Policy) -> Option<Self> {
        let rules = policy.health.clone()?;
        let (mine, recent) = (Tally::default(), Tally::default());
        let shared = Shared::default();
        Some(Self { rules, shedding: policy.shedding, mine, shared, recent, reported: Timestamp::EPOCH })
    }

    /// Identifies the rules of health and shedding. Shared state is kept under this number, so a new policy that does
    /// not change them continues with the old state.
    #[must_use]
    pub fn identity(&self) -> u64 {
        let mut hasher = SipHasher13::new();
        (&self.rules, &self.shedding).hash(&mut hasher);
        hasher.finish()
    }

    /// Counts a response at `now`. `began` is when its upstream had the whole request; `None` leaves out the duration,
    /// because a client may send a body as slowly as it likes. Errors of the service are the statuses of [`is_error`],
    /// and with status 200 the gRPC statuses UNKNOWN, DEADLINE_EXCEEDED, INTERNAL, UNAVAILABLE and DATA_LOSS in the
    /// headers, where gRPC puts them in a response without messages.
    pub fn answered(&mut self, answer: &dyn ResponseFacts, began: Option<Timestamp>, now: Timestamp) {
        let Some(failed) = failed(answer) else { return };
        self.mine.count(began.map(|began| now.since(began)), failed);
        // A mean needs no more reports. At ten thousand responses a second, reading each one would be most of the cost.
        if self.rules.reads_reports() && (now.since(self.reported) >= REPORTS_APART || now < self.reported) {
            self.reported = now;
            if let Some(report) = answer.header("endpoint-load-metrics").as_deref().and_then(Report::read) {
                self.mine.report(&report);
            }
        }
    }

    /// Counts a request without a response, whose client or upstream went away after the whole request was sent. If it
    /// had already waited for the latency at which the service is degraded, it was a slow call; otherwise nothing is
    /// known.
    pub fn abandoned(&mut self, began: Timestamp, now: Timestamp) {
        let waited = now.since(began);
        if self.rules.slow().is_some_and(|slow| waited >= slow) {
            self.mine.count(Some(waited), false);
        }
    }

    /// Adds this worker's counts to the shared state, whose latest version is `bytes`; `None` if nothing has been
    /// shared yet. Returns whether `merged` has news that must be published in its place. After that succeeds, call
    /// [`Monitor::published`]. If another worker has published first, repeat the merge; until then no count is lost.
    pub fn merge(&mut self, bytes: Option<&[u8]>, merged: &mut Vec<u8>, now: Timestamp) -> bool {
        // Unreadable state counts as empty: the next merge of every worker repairs it.
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

    /// Notes that this worker's counts are now shared.
    pub fn published(&mut self) {
        self.mine = Tally::default();
    }

    /// The health of the service.
    #[must_use]
    pub fn standing(&self) -> Standing {
        self.shared.standing
    }

    /// How much is shed.
    #[must_use]
    pub fn pressure(&self) -> Pressure {
        self.shared.pressure
    }

    /// The counts of all workers within the window.
    #[must_use]
    pub fn recent(&self) -> &Tally {
        &self.recent
    }

    /// The rules of health.
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

/// Whether a response is an error of the service; `None` if it has no status.
fn failed(answer: &dyn ResponseFacts) -> Option<bool> {
    Some(match answer.status()? {
        200 => answer.header("grpc-status").is_some_and(|status| GRPC_ERRORS.contains(&status.as_ref())),
        status => is_error(status),
    })
}

/// The gRPC statuses that are errors of the service rather than of the client.
const GRPC_ERRORS: [&[u8]; 5] = [b"2", b"4", b"13", b"14", b"15"];

/// A hundred reports a second and worker are enough for a mean.
const REPORTS_APART: Span = Span::from_millis(10);

/// The version of the shared bytes.
const VERSION: u8 = 1;
