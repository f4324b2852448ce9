//! What one worker knows of one key whose permits are held and not spent: requests in flight.

use super::{ASK_AGAIN, Grant, IDLE, Shared};
use crate::breaker::Ticket;
use crate::key::KeyHash;
use crate::limiter::State;
use crate::limiter::concurrency::Slots;
use crate::policy::Quota;
use crate::sorted_map::SortedMap;
use crate::units::{BasisPoints, Permits, Span, Timestamp};

/// What one worker knows of one key.
#[derive(Debug)]
pub(super) struct Flight {
    pub(super) of: Shared,
    slots: Slots,
    /// The permits that its requests hold.
    state: Option<State>,
    /// The permits that the authority lets it hold, when they expire, and how many of them are called back for other
    /// instances.
    held: Permits,
    until: Timestamp,
    called_back: Permits,
    /// What the authority had left.
    pub(super) left: Permits,
    /// Permits granted to waiting requests that have not taken them yet.
    promised: Permits,
    promised_at: Timestamp,
    /// The most permits that requests held in this period, and in the one before.
    peak: Permits,
    peak_before: Permits,
    /// When to ask again, to renew the lease and to learn what is called back.
    pub(super) renew_at: Timestamp,
    pub(super) pending: Option<PendingAsk>,
    /// When the last ask was queued.
    pub(super) asked_at: Timestamp,
    /// The last ask, past its deadline. Its answer still counts if it arrives before the next ask.
    pub(super) late: Option<PendingAsk>,
    pub(super) failed_at: Option<Timestamp>,
    pub(super) shortage: Option<Shortage>,
    pub(super) seen_at: Timestamp,
    share: Share,
}

/// An ask that is queued or sent.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct PendingAsk {
    pub(super) seq: u64,
    /// When it was sent; the epoch before that.
    pub(super) sent_at: Timestamp,
    /// The permits for waiting requests, and the cost of the cheapest of these.
    pub(super) need: Permits,
    pub(super) least: Permits,
    /// What the worker holds if all of that is granted.
    pub(super) all: Permits,
    pub(super) ticket: Option<Ticket>,
}

/// The authority had too few permits.
#[derive(Clone, Copy, Debug)]
pub(super) struct Shortage {
    pub(super) at: Timestamp,
    /// The cost of the cheapest request that was not served.
    pub(super) least: Permits,
}

/// The permits of an [`Ask`](crate::authority::Ask): what is kept, and what is asked for.
pub(super) struct AskPermits {
    pub(super) keeps: Permits,
    pub(super) need: Permits,
    pub(super) least: Permits,
    pub(super) want: Permits,
}

impl PendingAsk {
    pub(super) fn is_sent(&self) -> bool {
        self.sent_at > Timestamp::EPOCH
    }
}

impl Flight {
    fn new(of: &Shared, now: Timestamp) -> Self {
        let (permits, window) = (of.terms.permits, Span::from_millis(of.terms.window_ms));
        Self {
            of: *of,
            slots: Slots::new(&Quota { permits, window, burst: permits, least: None }),
            state: None,
            held: Permits::ZERO,
            until: Timestamp::EPOCH,
            called_back: Permits::ZERO,
            left: Permits::ZERO,
            promised: Permits::ZERO,
            promised_at: Timestamp::EPOCH,
            peak: Permits::ZERO,
            peak_before: Permits::ZERO,
            renew_at: now,
            pending: None,
            asked_at: Timestamp::EPOCH,
            late: None,
            failed_at: None,
            shortage: None,
            seen_at: now,
            share: Share::default(),
        }
    }

    /// The permits that its requests hold.
    pub(super) fn in_flight(&self, now: Timestamp) -> Permits {
        self.slots.in_flight(self.state, now)
    }

    /// The permits that it may hold.
    pub(super) fn held(&self, now: Timestamp) -> Permits {
        if now < self.until { self.held } else { Permits::ZERO }
    }

    /// Whether the permits held here leave room for a request of this `cost`. Permits that the authority has called
    /// back may only be used by the requests they were granted to, and none are handed out in the last half of a lease:
    /// so a request keeps its permits for at least that long, even if the authority becomes unreachable.
    pub(super) fn has_room(&self, cost: Permits, now: Timestamp) -> bool {
        let half = Span::from_millis(self.of.terms.window_ms >> 1);
        let (held, in_flight) = (self.held(now), self.in_flight(now));
        let usable = held.min(held.minus(self.called_back).max(in_flight.plus(self.promised)));
        now.after(half) <= self.until && in_flight.plus(cost) <= usable
    }

    /// Whether a request has room in this instance's share of the permits while the authority fails. `unknown` is the
    /// share where none has been measured.
    pub(super) fn has_room_alone(&self, cost: Permits, unknown: BasisPoints, now: Timestamp) -> bool {
        let share = u64::from(self.share.known().unwrap_or(unknown).get());
        let part = u64::from(self.of.terms.permits.get()).saturating_mul(share);
        let part = part.checked_div(u64::from(BasisPoints::ALL.get())).unwrap_or(0);
        // At least one, or a small quota would be none.
        let part = Permits::new(u32::try_from(part).unwrap_or(u32::MAX).max(1));
        self.in_flight(now).plus(cost) <= part.max(self.held(now))
    }

    /// A request holds `cost` permits from now on.
    pub(super) fn take(&mut self, cost: Permits, now: Timestamp) {
        self.state = Some(self.slots.charge(self.state, cost, now));
        self.promised = self.promised.minus(cost);
        self.peak = self.peak.max(self.in_flight(now));
    }

    /// A request that took these permits at `taken_at` has ended.
    pub(super) fn give_back(&mut self, permits: Permits, taken_at: Timestamp) {
        self.state = self.state.map(|state| self.slots.refund(state, permits, taken_at));
    }

    /// Charges a request's permits again if it has held them so long that it would soon count as gone. Returns whether
    /// it did.
    pub(super) fn renew(&mut self, permits: Permits, taken_at: Timestamp, now: Timestamp) -> bool {
        let due = !self.slots.is_current(taken_at, now);
        if due {
            self.give_back(permits, taken_at);
            self.state = Some(self.slots.charge(self.state, permits, now));
        }
        due
    }

    /// How many of the held permits to keep: those that its requests hold and, unless every request asks, as many as
    /// they held recently, with slack if they are many.
    fn goal(&self, now: Timestamp) -> Permits {
        let needed = self.in_flight(now).plus(self.promised);
        let wanted = if self.of.exact { needed } else { with_slack(self.peak.max(self.peak_before)).max(needed) };
        let held = self.held(now);
        held.min(wanted).min(held.minus(self.called_back).max(needed))
    }

    /// Whether there are permits to give back.
    pub(super) fn has_spare(&self, now: Timestamp) -> bool {
        self.goal(now) < self.held(now)
    }

    /// Whether there are permits to give back at once: those that others have called back, or all spare ones if every
    /// request asks.
    pub(super) fn has_to_give(&self, now: Timestamp) -> bool {
        (self.of.exact || self.called_back > Permits::ZERO) && self.has_spare(now)
    }

    /// Whether an ask is due even if no request waits.
    pub(super) fn is_due(&self, now: Timestamp) -> bool {
        let (held, in_flight) = (self.held(now), self.in_flight(now));
        let goes_on = held > Permits::ZERO || in_flight > Permits::ZERO;
        self.has_spare(now) || goes_on && (self.renew_at <= now || in_flight > held)
    }

    /// Whether so few held permits are free that more should be drawn before a request has to wait for them.
    pub(super) fn runs_short(&self, now: Timestamp) -> bool {
        let in_flight = self.in_flight(now);
        let room = self.held(now).minus(in_flight);
        let in_vain = self.asked_at.after(ASK_AGAIN) > now || self.left == Permits::ZERO;
        !self.of.exact && in_flight.get() >= MANY && room.get() < in_flight.get() >> 3 && !in_vain
    }

    /// Ends a period: forgets the peak of the one before last. Returns whether nothing useful is known of the key any
    /// more.
    pub(super) fn end_period(&mut self, now: Timestamp) -> bool {
        (self.peak_before, self.peak) = (self.peak, self.in_flight(now));
        if self.promised_at.after(IDLE) <= now {
            // The request that it was promised to has gone.
            self.promised = Permits::ZERO;
        }
        self.is_free(now) && self.seen_at.after(REMEMBERED) <= now
    }

    /// Treats what was granted as lost, and what the ask under way may still bring: it is unknown how long either
    /// lasts.
    fn lose(&mut self) {
        (self.until, self.late) = (Timestamp::EPOCH, None);
        if let Some(asked) = self.pending.as_mut().filter(|asked| asked.is_sent()) {
            asked.sent_at = Timestamp::from_nanos(1);
        }
    }

    fn is_free(&self, now: Timestamp) -> bool {
        self.in_flight(now) == Permits::ZERO && self.held(now) == Permits::ZERO && self.pending.is_none()
    }

    /// What to ask now; `None` if nothing is needed any more. From here on no more is held than the ask says to keep.
    pub(super) fn next_ask(&mut self, now: Timestamp) -> Option<AskPermits> {
        let (in_flight, goal) = (self.in_flight(now), self.goal(now));
        let is_due = self.is_due(now);
        let Some(asked) = &mut self.pending else { return None };
        // What requests hold is in use, even if fewer permits are held for them.
        let (keeps, need) = (goal.max(in_flight), asked.need);
        let all = keeps.plus(need);
        let draws_ahead = !self.of.exact && self.called_back == Permits::ZERO;
        let ahead = if draws_ahead { with_slack(in_flight.plus(need)).minus(all) } else { Permits::ZERO };
        if need == Permits::ZERO && !is_due && ahead == Permits::ZERO {
            return None;
        }
        asked.sent_at = now.max(Timestamp::from_nanos(1));
        asked.all = all;
        self.held = goal;
        (self.called_back, self.late) = (Permits::ZERO, None);
        Some(AskPermits { keeps, need, least: asked.least, want: need.plus(ahead) })
    }

    /// Handles the authority's answer to this ask.
    pub(super) fn apply_grant(&mut self, asked: &PendingAsk, grant: &Grant, in_time: bool, now: Timestamp) {
        let lasts = Span::from_millis(grant.lasts_ms.saturating_sub(MARGIN_MS));
        let until = asked.sent_at.after(lasts);
        (self.held, self.until, self.called_back) = (grant.granted, until, grant.called_back());
        self.left = grant.left;
        let is_scarce = grant.left.get() <= self.of.terms.permits.get() >> 2;
        let lease = Span::from_millis(self.of.terms.window_ms >> 2);
        self.renew_at = asked.sent_at.after(if is_scarce { lease.min(SCARCE_RENEW) } else { lease });
        if !in_time {
            return;
        }
        self.failed_at = None;
        self.share.learn(grant.granted, grant.drawn);
        let lacks = asked.need > Permits::ZERO && grant.granted < asked.all;
        self.shortage = lacks.then_some(Shortage { at: now, least: asked.least });
        let spare = grant.granted.minus(self.in_flight(now));
        (self.promised, self.promised_at) = (asked.need.min(spare), now);
    }
}

/// These permits and, if they are many, a quarter more for requests to come.
fn with_slack(permits: Permits) -> Permits {
    if permits.get() < MANY { permits } else { Permits::new(permits.get().saturating_add(permits.get() >> 2)) }
}

/// This instance's share of all that is held, as [`super::share`] has it of what is drawn.
#[derive(Clone, Copy, Debug, Default)]
struct Share {
    own: u64,
    all: u64,
}

impl Share {
    fn learn(&mut self, own: Permits, all: u64) {
        // Each answer takes an eighth off the sums before it.
        let add = |sum: u64, more: u64| sum.saturating_sub(sum >> 3).saturating_add(more << 4);
        self.own = add(self.own, u64::from(own.get()));
        self.all = add(self.all, all.max(u64::from(own.get())));
    }

    fn known(self) -> Option<BasisPoints> {
        let share = self.own.saturating_mul(u64::from(BasisPoints::ALL.get())).checked_div(self.all)?;
        Some(BasisPoints::new(u16::try_from(share).unwrap_or(u16::MAX)))
    }
}

/// What one worker knows of many keys, bounded: when the table is full, a new key has no place until one is free.
#[derive(Debug, Default)]
pub(super) struct Flights {
    flights: SortedMap<u64, Box<Flight>>,
    latest: Timestamp,
    swept_at: Timestamp,
    period_began_at: Timestamp,
}

impl Flights {
    pub(super) fn get(&self, key: KeyHash) -> Option<&Flight> {
        self.flights.get(&key.get()).map(|flight| &**flight)
    }

    pub(super) fn find(&mut self, key: KeyHash) -> Option<&mut Flight> {
        self.flights.get_mut(&key.get()).map(|flight| &mut **flight)
    }

    pub(super) fn find_or_make(&mut self, of: &Shared, now: Timestamp) -> Option<&mut Flight> {
        let key = of.key.get();
        if self.flights.get(&key).is_none() {
            if self.flights.len() >= MOST_KEYS && self.swept_at.after(SWEPT_EVERY) <= now {
                // A sweep frees many keys at once, or none, so a flood of keys does not cause one for each request.
                self.swept_at = now;
                self.flights.retain(|flight| !flight.is_free(now));
            }
            if self.flights.len() >= MOST_KEYS {
                return None;
            }
            self.flights.insert(key, Box::new(Flight::new(of, now)));
        }
        self.find(of.key)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.flights.is_empty()
    }

    /// Notes the time. If the clock has stepped back by more than the margin, held permits would last too long: all are
    /// lost.
    pub(super) fn note_time(&mut self, now: Timestamp) {
        if now.after(Span::from_millis(MARGIN_MS - 1)) < self.latest {
            self.flights.values_mut().for_each(|flight| flight.lose());
            (self.period_began_at, self.swept_at, self.latest) = (now, now, now);
        }
        self.latest = self.latest.max(now);
    }

    /// When [`end_period`](Self::end_period) is due; `None` while nothing is known.
    pub(super) fn next_period(&self) -> Option<Timestamp> {
        (!self.flights.is_empty()).then(|| self.period_began_at.after(IDLE))
    }

    /// Ends a period for every key if it is over, and returns the keys for which an ask is due.
    pub(super) fn end_period(&mut self, now: Timestamp) -> Vec<KeyHash> {
        let mut due = Vec::new();
        if self.period_began_at.after(IDLE) > now {
            return due;
        }
        self.period_began_at = now;
        self.flights.retain(|flight| !flight.end_period(now));
        let flights = self.flights.iter().map(|(_, flight)| flight);
        let silent = flights.filter(|flight| flight.pending.is_none() && flight.is_due(now));
        due.extend(silent.map(|flight| flight.of.key).take(MOST_AT_ONCE));
        due
    }
}

/// How much earlier permits expire here than with the authority, in ms. The authority's clock may be almost a
/// millisecond ahead of what it says. The clock here may step back a little, and a reading of it may be some time old.
const MARGIN_MS: u64 = 1_001;
/// From this many requests at once, more may soon come.
const MANY: u32 = 4;
/// While few permits are left, ask this often, to learn what is called back.
const SCARCE_RENEW: Span = Span::from_secs(1);
/// How long the share of a client without requests is remembered.
const REMEMBERED: Span = Span::from_secs(5);
/// Keys with requests in flight in one worker. A full table takes about three mebibytes.
const MOST_KEYS: usize = 8_192;
/// Looking through all keys takes as long as some hundred requests.
const SWEPT_EVERY: Span = Span::from_millis(10);
/// Asks made in one go; the others follow the next time.
const MOST_AT_ONCE: usize = 64;
