//! What one worker knows of a breaker, and the steps that it takes.

use super::Outcome;
use super::bytes::Reader;
use super::global::{ReportFields, Standing};
use super::recovery::Election;
use super::shared::{Phase, Shared, State};
use super::window::{Tally, Window};
use crate::policy::{Breaker, BreakerMode, CallEnd};
use crate::units::{Draw, Span, Timestamp};

/// What one worker knows of a breaker.
#[derive(Debug)]
pub struct Local {
    rules: Breaker,
    /// The record as this worker last read it, or its own successor of it while the worker is alone.
    shared: Shared,
    /// While this worker is alone: the published record whose successor it could not publish.
    diverged_from: Option<Shared>,
    /// The calls of all workers as far as this one has seen them, including its own.
    view: Window,
    /// Its own calls that it has not published yet.
    pending: Window,
    statistics: Statistics,
    /// The breaker is shared by instances, and its authority decides who probes.
    governed: bool,
    /// When a call was last refused, until the authority has answered a round that could have elected this instance. If
    /// only an election could admit a call then, or up to [`SHORTLY`] later, this instance asks to be elected, so the
    /// next call can probe.
    refused_at: Option<Timestamp>,
    /// When the current count of candidates began, and how many calls it has admitted.
    candidates: (Timestamp, u32),
}

/// What a call may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admission {
    /// The call goes on. Its outcome is reported with this ticket.
    Pass(Ticket),
    /// The call is refused.
    Refuse {
        /// The time after which a call may be admitted again; `None` if it is unknown.
        retry_after: Option<Span>,
    },
    /// The call goes on and its outcome is not counted: the breaker only observes, and would have refused it.
    Observe {
        /// The retry delay of the refusal.
        retry_after: Option<Span>,
    },
}

/// Identifies a call when its outcome is counted: by the generation of the breaker in which it began.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ticket {
    generation: u64,
    kind: Kind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// The outcome is ignored.
    Untracked,
    Call,
    Probe,
    /// The client had not sent the whole request. When the outcome arrives, the call becomes a probe if one is still
    /// needed.
    Candidate,
}

/// What one worker has counted since these numbers were last taken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Statistics {
    /// Calls that ended, including probes, but without those that were ignored or late.
    pub calls: u64,
    /// Calls of these that failed.
    pub failures: u64,
    /// Calls of these that were slow.
    pub slow: u64,
    /// Calls that were refused.
    pub rejected: u64,
    /// Calls that a breaker in mode `observe` would have refused.
    pub observed: u64,
    /// Calls admitted as probes or as candidates.
    pub probes: u64,
    /// How often this worker has opened the breaker.
    pub opened: u64,
    /// Outcomes that arrived after the generation of their call had ended.
    pub late: u64,
}

impl Statistics {
    /// Takes the numbers and resets them to zero.
    pub fn take(&mut self) -> Self {
        core::mem::take(self)
    }

    /// The names of the numbers that are exported as metrics and shown on the status page.
    pub const NAMES: [&str; 7] = ["calls", "failures", "slow", "rejected", "observed", "probes", "opened"];

    /// The numbers, in the order of [`Statistics::NAMES`].
    #[must_use]
    pub const fn values(&self) -> [u64; Self::NAMES.len()] {
        [self.calls, self.failures, self.slow, self.rejected, self.observed, self.probes, self.opened]
    }
}

impl Ticket {
    /// Whether the call is a probe.
    #[must_use]
    pub fn is_probe(&self) -> bool {
        self.kind == Kind::Probe
    }

    /// Whether the call may become a probe when its outcome arrives.
    pub(super) fn is_candidate(&self) -> bool {
        self.kind == Kind::Candidate
    }
}

impl Local {
    /// A worker without any knowledge: the breaker is closed, and its window empty.
    #[must_use]
    pub fn new(rules: &Breaker) -> Self {
        Self {
            rules: rules.clone(),
            shared: Shared::default(),
            diverged_from: None,
            view: Window::new(rules.window),
            pending: Window::new(rules.window),
            statistics: Statistics::default(),
            governed: false,
            refused_at: None,
            candidates: (Timestamp::EPOCH, 0),
        }
    }

    /// The breaker's rules.
    #[must_use]
    pub fn rules(&self) -> &Breaker {
        &self.rules
    }

    /// What this worker has counted, to be taken or changed.
    pub fn statistics(&mut self) -> &mut Statistics {
        &mut self.statistics
    }

    /// What this worker has counted.
    #[must_use]
    pub fn statistics_known(&self) -> &Statistics {
        &self.statistics
    }

    /// The record as this worker last saw it.
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

    /// The calls over which the rates are taken, as far as this worker has seen them.
    #[must_use]
    pub fn tally(&self) -> Tally {
        self.view.tally()
    }

    /// How a call with this end counts.
    #[must_use]
    pub fn outcome(&self, end: CallEnd) -> Outcome {
        match end {
            CallEnd::Abandoned | CallEnd::Lost | CallEnd::NotMade => Outcome::Ignored,
            end if self.rules.failures.contain(end) => Outcome::Failure,
            _ => Outcome::Success,
        }
    }

    /// Decides what the call may do; `None` if that needs the published record, see [`Local::elect`].
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

    /// Whether a call would be refused now by the record as this worker knows it. Counts nothing.
    #[must_use]
    pub(crate) fn refuses(&self, draw: Draw, now: Timestamp) -> bool {
        match self.rules.mode {
            BreakerMode::Enforce => self.shared.wait(&self.rules, self.is_governed(), draw, now).is_some(),
            BreakerMode::ForcedOpen => true,
            BreakerMode::Observe | BreakerMode::Disabled => false,
        }
    }

    /// Takes over a record that was read or published. If its generation is another one, the counted calls are dropped.
    pub fn adopt(&mut self, shared: Shared) {
        if shared.generation != self.shared.generation {
            self.view.clear();
            self.pending.clear();
        }
        (self.shared, self.diverged_from) = (shared, None);
    }

    /// Takes over a record that was read. Returns `false` if it is still the one whose successor this worker could not
    /// publish: the worker stays alone.
    pub(super) fn take_over(&mut self, shared: Shared) -> bool {
        if self.diverged_from == Some(shared) {
            return false;
        }
        self.adopt(shared);
        true
    }

    /// What to publish for a call on which [`Local::judge`] could not decide, with a record just adopted. `None` if the
    /// record now decides.
    #[must_use]
    pub fn elect(&self, draw: Draw, now: Timestamp) -> Option<Election> {
        self.shared.elect(&self.rules, self.is_governed(), draw, now)
    }

    /// Admits a probe, once its election is published and that record adopted.
    pub fn probe(&mut self) -> Admission {
        self.goes_on(Kind::Probe)
    }

    fn goes_on(&mut self, kind: Kind) -> Admission {
        self.statistics.probes = self.statistics.probes.saturating_add(1);
        Admission::Pass(self.ticket(kind))
    }

    /// Admits a call on which [`Local::judge`] could not decide and whose client has not sent the whole request. It
    /// does not become a probe yet: a request that is never completed would be waited for and block the probe's place.
    /// Its outcome may count as a probe's, see [`Local::settle`]. Per quarter of `half_open.max_wait`, as many
    /// candidates as probes are admitted.
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

    /// Refuses a call; if the breaker only observes, counts that it would have been refused.
    pub(super) fn refuse(&mut self, retry_after: Option<Span>) -> Admission {
        if self.rules.mode == BreakerMode::Observe {
            self.statistics.observed = self.statistics.observed.saturating_add(1);
            return Admission::Observe { retry_after };
        }
        self.statistics.rejected = self.statistics.rejected.saturating_add(1);
        Admission::Refuse { retry_after }
    }

    /// Counts the outcome of a call that ended at `now` and took this long, without the time in which the client sent
    /// it. Returns whether the breaker should open by the calls that this worker has seen. A probe's outcome enters
    /// only the statistics; its effect is that of [`Local::settle`].
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

    /// What to publish for the outcome of a probe or a candidate, with a record just adopted. `None` if the probe's
    /// generation is over, or the candidate is no longer needed as a probe.
    #[must_use]
    pub fn settle(&self, ticket: Ticket, outcome: Outcome, took: Span, draw: Draw, now: Timestamp) -> Option<Shared> {
        // A slow success does not prove that the upstream has recovered.
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

    /// What to publish to open the breaker because of calls of this generation, with a record just adopted. `None` if
    /// that generation is over.
    #[must_use]
    pub fn open(&self, generation: u64, draw: Draw, now: Timestamp) -> Option<Shared> {
        self.shared.opens(&self.rules, generation, draw, now)
    }

    /// What to publish because time has passed, with a record just adopted.
    #[must_use]
    pub fn expire(&self, draw: Draw, now: Timestamp) -> Option<Shared> {
        self.shared.expire(&self.rules, draw, now)
    }

    /// The generation of the record as this worker last saw it.
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.shared.generation
    }

    /// Whether this worker has counted calls that it has not published.
    #[must_use]
    pub fn has_pending(&self) -> bool {
        !self.pending.is_empty()
    }

    /// Adds the calls that this worker has counted to the published calls of all, and writes the sum into `bytes`, to
    /// be published in their place. Returns `false` if nothing is to be published: the published calls are of a
    /// generation that this worker has not seen yet, or of an unknown version.
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
            // If the published window has another length, from another policy, its calls are unusable: the window
            // becomes empty.
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

    /// Notes that the merged calls have been published.
    pub fn merged(&mut self) {
        self.pending.clear();
    }

    /// Adopts a record that could not be published. This worker is then alone: it decides by itself until another
    /// record is published, or it can publish again.
    pub(super) fn adopt_unpublished(&mut self, next: Shared) {
        let diverged_from = self.diverged_from.or(Some(self.shared));
        self.adopt(Shared { generation: next.generation | ALONE, ..next });
        self.diverged_from = diverged_from;
    }

    pub(super) fn is_alone(&self) -> bool {
        self.diverged_from.is_some()
    }

    /// Sets whether the authority answers, for a breaker that many instances share. While it does not, the instance
    /// decides by what it sees itself.
    pub fn govern(&mut self, governed: bool) {
        self.governed = governed && self.rules.is_shared();
        self.refused_at = self.refused_at.filter(|_| self.governed);
    }

    /// Whether an authority decides who probes.
    #[must_use]
    pub fn is_governed(&self) -> bool {
        self.governed && self.diverged_from.is_none()
    }

    /// What to report to the authority, if anything: see [`global`](super::global).
    #[must_use]
    pub(crate) fn report(&self, now: Timestamp) -> ReportFields {
        let wants = self.refused_at.is_some_and(|at| self.shared.is_due(at.after(SHORTLY)));
        self.shared.report(&self.rules, wants, now)
    }

    /// What to publish for the authority's answer to a round sent at `sent_at`, with a record just adopted. `None` if
    /// it changes nothing.
    pub(super) fn agree(&self, standing: &Standing, sent_at: Timestamp, now: Timestamp) -> Option<Shared> {
        self.shared.agree(&self.rules, standing, sent_at, now)
    }

    /// Notes that the authority has answered a round sent at `sent_at`. If an election was possible then, this answers
    /// the wish for it; the next refused call renews the wish.
    pub(super) fn note_answer(&mut self, sent_at: Timestamp) {
        if self.shared.is_due(sent_at) {
            self.refused_at = None;
        }
    }

    /// What a worker that was alone publishes to rejoin the others: the state of the breaker by now. `None` while
    /// probes are awaited, because their outcomes would be lost.
    pub(super) fn rejoin(&self) -> Option<Shared> {
        let published = self.diverged_from?;
        let settled = !matches!(self.shared.phase, Phase::HalfOpen(_));
        settled.then(|| Shared { generation: published.generation.wrapping_add(1), ..self.shared })
    }

    fn ticket(&self, kind: Kind) -> Ticket {
        Ticket { generation: self.shared.generation, kind }
    }
}

/// If a call was refused this shortly before probes are due, the next one is expected in time: such a breaker gets
/// about four calls a second or more.
const SHORTLY: Span = Span::from_millis(250);

/// Marks generations that were never published, so they never equal a published one.
const ALONE: u64 = 1 << 63;

const VERSION: u8 = 1;
