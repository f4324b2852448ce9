//! What one worker knows of a breaker, and the steps that it takes with it.

use super::Outcome;
use super::bytes::Reader;
use super::global::{Standing, Told};
use super::recovery::Election;
use super::shared::{Phase, Shared, State};
use super::window::{Tally, Window};
use crate::policy::{Breaker, BreakerMode, CallEnd};
use crate::units::{Draw, Span, Timestamp};

/// What one worker knows of a breaker.
#[derive(Debug)]
pub struct Local {
    rules: Breaker,
    /// The record, as this worker last saw it, or what it makes of it alone.
    shared: Shared,
    /// While this worker is alone: the record that it could not publish a successor of.
    left: Option<Shared>,
    /// The calls of all workers, as far as this one has seen them, and its own.
    view: Window,
    /// Its own that others have not seen.
    pending: Window,
    statistics: Statistics,
    /// The breaker is shared, and an authority says who probes.
    governed: bool,
    /// When a call was refused last that was not heard of in an answer since. If it came when only an election could admit it, or
    /// shortly before, this instance wants to be elected, so that the next call finds it so.
    refused_at: Option<Timestamp>,
    /// How many calls went on that may yet be probes, and since when that is counted.
    candidates: (Timestamp, u32),
}

/// What a call may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admission {
    /// It goes on, and its outcome comes back with this ticket.
    Pass(Ticket),
    /// It is refused. `None` where nobody knows for how long.
    Refuse {
        /// After this a call may be admitted again.
        retry_after: Option<Span>,
    },
    /// It goes on and its outcome is not asked for: the breaker only observes, and would have refused it.
    Observe {
        /// As it would have said.
        retry_after: Option<Span>,
    },
}

/// What an outcome is counted by: the generation of the breaker in which the call began.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ticket {
    generation: u64,
    kind: Kind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// Nothing becomes of the outcome.
    Untracked,
    Call,
    Probe,
    /// Its client had still to send of it. When its outcome is there, it is a probe, if one is still looked for.
    Candidate,
}

/// What happened at one worker, since these numbers were last taken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Statistics {
    /// Calls that ended, also probes, but for those that told nothing or too late.
    pub calls: u64,
    /// Those of them that failed.
    pub failures: u64,
    /// Those of them that were slow.
    pub slow: u64,
    /// Calls that were refused.
    pub rejected: u64,
    /// Calls that would have been refused, had the breaker not only observed.
    pub observed: u64,
    /// Calls that were probes, or went on to become some.
    pub probes: u64,
    /// How often this worker was the one to open the breaker.
    pub opened: u64,
    /// Outcomes that came when the generation of their call was over.
    pub late: u64,
}

impl Statistics {
    /// The numbers; from here on they are counted anew.
    pub fn take(&mut self) -> Self {
        core::mem::take(self)
    }

    /// The words of what is told to whoever watches.
    pub const WORDS: [&str; 7] = ["calls", "failures", "slow", "rejected", "observed", "probes", "opened"];

    /// The numbers of these words.
    #[must_use]
    pub const fn told(&self) -> [u64; Self::WORDS.len()] {
        [self.calls, self.failures, self.slow, self.rejected, self.observed, self.probes, self.opened]
    }
}

impl Ticket {
    /// Whether the call is a probe.
    #[must_use]
    pub fn is_probe(&self) -> bool {
        self.kind == Kind::Probe
    }

    /// Whether it may become one when its outcome is there.
    pub(super) fn is_candidate(&self) -> bool {
        self.kind == Kind::Candidate
    }
}

impl Local {
    /// A worker that knows nothing yet: the breaker is closed, and its window empty.
    #[must_use]
    pub fn new(rules: &Breaker) -> Self {
        Self {
            rules: rules.clone(),
            shared: Shared::default(),
            left: None,
            view: Window::new(rules.window),
            pending: Window::new(rules.window),
            statistics: Statistics::default(),
            governed: false,
            refused_at: None,
            candidates: (Timestamp::EPOCH, 0),
        }
    }

    /// The pattern of the breaker.
    #[must_use]
    pub fn rules(&self) -> &Breaker {
        &self.rules
    }

    /// What happened at this worker.
    pub fn statistics(&mut self) -> &mut Statistics {
        &mut self.statistics
    }

    /// What happened at this worker, as it is.
    #[must_use]
    pub fn statistics_known(&self) -> &Statistics {
        &self.statistics
    }

    /// The record, as this worker last saw it.
    #[must_use]
    pub fn shared(&self) -> &Shared {
        &self.shared
    }

    /// What the breaker does at `now`.
    #[must_use]
    pub fn state(&self, now: Timestamp) -> State {
        match self.rules.mode {
            BreakerMode::ForcedOpen => State::Open,
            BreakerMode::Disabled => State::Closed,
            BreakerMode::Enforce | BreakerMode::Observe => self.shared.state(&self.rules, now),
        }
    }

    /// The calls that the rates are taken over, as far as this worker has seen them.
    #[must_use]
    pub fn tally(&self) -> Tally {
        self.view.tally()
    }

    /// How a call that ended so counts.
    #[must_use]
    pub fn outcome(&self, end: CallEnd) -> Outcome {
        match end {
            CallEnd::Abandoned | CallEnd::Lost | CallEnd::NotMade => Outcome::Ignored,
            end if self.rules.failures.contain(end) => Outcome::Failure,
            _ => Outcome::Success,
        }
    }

    /// What the call may do; `None` when that takes the record as it is now, see [`Local::elect`].
    pub fn judge(&mut self, draw: Draw, now: Timestamp) -> Option<Admission> {
        match self.rules.mode {
            BreakerMode::Enforce | BreakerMode::Observe => {}
            BreakerMode::ForcedOpen => return Some(self.refuse(None)),
            BreakerMode::Disabled => return Some(Admission::Pass(self.ticket(Kind::Untracked))),
        }
        match self.shared.wait(&self.rules, self.is_governed(), draw, now) {
            Some(wait) => {
                self.refused_at = self.is_governed().then_some(now);
                Some(self.refuse(Some(wait)))
            }
            None if self.shared.phase == Phase::Closed => Some(Admission::Pass(self.ticket(Kind::Call))),
            None => None,
        }
    }

    /// Whether a call would be refused now by the record as this worker knows it, without counting that.
    #[must_use]
    pub(crate) fn refuses(&self, draw: Draw, now: Timestamp) -> bool {
        match self.rules.mode {
            BreakerMode::Enforce => self.shared.wait(&self.rules, self.is_governed(), draw, now).is_some(),
            BreakerMode::ForcedOpen => true,
            BreakerMode::Observe | BreakerMode::Disabled => false,
        }
    }

    /// Takes over the record, as it was read or published. Calls of another generation say nothing about this one.
    pub fn adopt(&mut self, shared: Shared) {
        if shared.generation != self.shared.generation {
            self.view.clear();
            self.pending.clear();
        }
        (self.shared, self.left) = (shared, None);
    }

    /// Takes over the record as it was read. Answers `false` when it is the one that this worker has left: it goes on
    /// alone.
    pub(super) fn take_over(&mut self, shared: Shared) -> bool {
        if self.left == Some(shared) {
            return false;
        }
        self.adopt(shared);
        true
    }

    /// What to publish for a call of which [`Local::judge`] said nothing, with a record just adopted. `None` when the
    /// record has an answer after all.
    #[must_use]
    pub fn elect(&self, draw: Draw, now: Timestamp) -> Option<Election> {
        self.shared.elect(&self.rules, self.is_governed(), draw, now)
    }

    /// The admission of a probe, once its election was published and that record adopted.
    pub fn probe(&mut self) -> Admission {
        self.goes_on(Kind::Probe)
    }

    fn goes_on(&mut self, kind: Kind) -> Admission {
        self.statistics.probes = self.statistics.probes.saturating_add(1);
        Admission::Pass(self.ticket(kind))
    }

    /// The admission of a call of which [`Local::judge`] said nothing, and whose client has still to send of it. It is no probe
    /// yet: one that is never sent would be waited for, and no other would get its place. Its outcome may be a probe's, see
    /// [`Local::settle`]. In a quarter of the time for which probes are waited for there are as many such calls as probes.
    pub(super) fn candidate(&mut self, now: Timestamp) -> Admission {
        let rules = &self.rules.half_open;
        let span = Span::from_nanos(rules.max_wait.as_nanos() / 4);
        let (since, count) = &mut self.candidates;
        if now < *since || now >= since.after(span) {
            (*since, *count) = (now, 0);
        }
        if *count >= rules.probes {
            let retry_after = since.after(span).since(now);
            return self.refuse(Some(retry_after));
        }
        *count = count.saturating_add(1);
        self.goes_on(Kind::Candidate)
    }

    /// The refusal of a call that no record could be had for.
    pub(super) fn refuse(&mut self, retry_after: Option<Span>) -> Admission {
        if self.rules.mode == BreakerMode::Observe {
            self.statistics.observed = self.statistics.observed.saturating_add(1);
            return Admission::Observe { retry_after };
        }
        self.statistics.rejected = self.statistics.rejected.saturating_add(1);
        Admission::Refuse { retry_after }
    }

    /// Counts the outcome of a call that ended at `now` and took so long, not counting what the client took to send it.
    /// Answers whether the breaker should open by what this worker has seen. A probe is in the statistics alone, and its
    /// outcome is for [`Local::settle`].
    pub fn record(&mut self, ticket: Ticket, outcome: Outcome, took: Span, now: Timestamp) -> bool {
        let slow = self.rules.is_slow(took);
        if ticket.kind == Kind::Untracked || (outcome == Outcome::Ignored && !slow) {
            return false;
        }
        let statistics = &mut self.statistics;
        if ticket.generation != self.shared.generation {
            statistics.late = statistics.late.saturating_add(1);
            return false;
        }
        statistics.calls = statistics.calls.saturating_add(1);
        statistics.failures = statistics.failures.saturating_add(u64::from(outcome == Outcome::Failure));
        statistics.slow = statistics.slow.saturating_add(u64::from(slow));
        if ticket.kind != Kind::Call {
            return false;
        }
        self.view.record(outcome, slow, now);
        self.pending.record(outcome, slow, now);
        self.opens()
    }

    /// What to publish for a probe's outcome, with a record just adopted. `None` when its generation is over, or when of a call that
    /// may have become one no probe is looked for any more.
    #[must_use]
    pub fn settle(&self, ticket: Ticket, outcome: Outcome, took: Span, draw: Draw, now: Timestamp) -> Option<Shared> {
        // A probe is to show that the upstream is well, and one that is slow does not.
        let outcome = if self.rules.is_slow(took) { Outcome::Failure } else { outcome };
        let elected = match ticket.kind {
            Kind::Candidate if outcome == Outcome::Ignored => return None,
            Kind::Candidate => match self.elect(draw, now)? {
                Election::Probe(next) => next,
                Election::Change(next) => return Some(next),
            },
            _ => self.shared,
        };
        let generation = if ticket.is_candidate() { elected.generation } else { ticket.generation };
        elected.settle(&self.rules, generation, outcome, draw, now)
    }

    /// Whether the calls that this worker has seen open the breaker.
    #[must_use]
    pub fn opens(&self) -> bool {
        self.shared.phase == Phase::Closed && self.view.opens(&self.rules)
    }

    /// What to publish to open the breaker on calls of this generation, with a record just adopted. `None` when that is
    /// over.
    #[must_use]
    pub fn open(&self, generation: u64, draw: Draw, now: Timestamp) -> Option<Shared> {
        self.shared.opens(&self.rules, generation, draw, now)
    }

    /// What to publish because of the time alone, with a record just adopted.
    #[must_use]
    pub fn expire(&self, draw: Draw, now: Timestamp) -> Option<Shared> {
        self.shared.expire(&self.rules, draw, now)
    }

    /// The generation of the record, as this worker last saw it.
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.shared.generation
    }

    /// Whether this worker has counted what others have not seen.
    #[must_use]
    pub fn has_pending(&self) -> bool {
        !self.pending.is_empty()
    }

    /// Adds what this worker has counted to the calls of all, as others have published them, and writes the sum into
    /// `bytes`, to be published in their place. Answers `false` when there is nothing to be published: these calls are of
    /// a generation that this worker has not seen yet, or of an unknown version.
    pub fn merge(&mut self, published: Option<&[u8]>, bytes: &mut Vec<u8>, now: Timestamp) -> bool {
        self.pending.advance(now);
        let mut reader = Reader::new(published.unwrap_or_default());
        let mut known = false;
        if published.is_some_and(|bytes| !bytes.is_empty()) {
            if reader.byte() != Some(VERSION) {
                return false;
            }
            match reader.u64() {
                Some(generation) if generation > self.shared.generation => return false,
                Some(generation) => known = generation == self.shared.generation,
                None => {}
            }
        }
        if known {
            // Calls of a window that was longer or shorter, under another policy, are of no use, and leave it empty.
            self.view.decode(&mut reader);
            self.view.advance(now);
        } else {
            self.view.clear();
        }
        self.view.merge(&self.pending);
        bytes.clear();
        bytes.push(VERSION);
        bytes.extend_from_slice(&self.shared.generation.to_le_bytes());
        self.view.encode(bytes);
        true
    }

    /// What was merged has been published.
    pub fn merged(&mut self) {
        self.pending.clear();
    }

    /// Keeps to itself what could not be published: this worker is its own authority until others publish something, or
    /// it can again.
    pub(super) fn keep(&mut self, next: Shared) {
        let left = self.left.or(Some(self.shared));
        self.adopt(Shared { generation: next.generation | ALONE, ..next });
        self.left = left;
    }

    pub(super) fn is_alone(&self) -> bool {
        self.left.is_some()
    }

    /// Says whether there is an authority that answers, of those breakers that many instances share. While there is none,
    /// the instance goes on by what it sees itself.
    pub fn govern(&mut self, governed: bool) {
        self.governed = governed && self.rules.is_shared();
        self.refused_at = self.refused_at.filter(|_| self.governed);
    }

    /// Whether an authority says who probes.
    #[must_use]
    pub fn is_governed(&self) -> bool {
        self.governed && self.left.is_none()
    }

    /// What the authority is to be told, if anything: see [`global`](super::global).
    #[must_use]
    pub(crate) fn report(&self, now: Timestamp) -> Told {
        let wants = self.refused_at.is_some_and(|at| self.shared.is_due(at.after(SHORTLY)));
        self.shared.report(&self.rules, wants, now)
    }

    /// What to publish for what stands with the authority, as it was asked at `sent_at`, with a record just adopted. `None`
    /// when that is known.
    pub(super) fn agree(&self, standing: &Standing, sent_at: Timestamp, now: Timestamp) -> Option<Shared> {
        self.shared.agree(&self.rules, standing, sent_at, now)
    }

    /// The authority has answered what it was asked at `sent_at`: whoever wants to be elected still says so with the next call.
    pub(super) fn answered(&mut self, sent_at: Timestamp) {
        if self.shared.is_due(sent_at) {
            self.refused_at = None;
        }
    }

    /// What a worker that is alone publishes to be alone no longer: what has become of the breaker meanwhile. Not while it
    /// awaits probes, whose outcomes would be lost.
    pub(super) fn rejoin(&self) -> Option<Shared> {
        let left = self.left?;
        let settled = !matches!(self.shared.phase, Phase::HalfOpen(_));
        settled.then(|| Shared { generation: left.generation.wrapping_add(1), ..self.shared })
    }

    fn ticket(&self, kind: Kind) -> Ticket {
        Ticket { generation: self.shared.generation, kind }
    }
}

/// Where a call was refused so shortly before probes may come, another is taken to follow: four a second and more.
const SHORTLY: Span = Span::from_millis(250);

/// Marks generations that were never published, so that no published one is taken for them.
const ALONE: u64 = 1 << 63;

const VERSION: u8 = 1;
