//! What one worker knows of one key, and what follows from it.

use super::pace::Pace;
use super::pressure::{Pressure, scarce};
use super::share::Share;
use super::{ASK_AGAIN, Arrived, Grant, IDLE, Shared};
use crate::authority::Shared as Algorithm;
use crate::authority::bucket::{Bucket, SOON_MS};
use crate::breaker::Ticket;
use crate::units::{BasisPoints, Permits, Span, Timestamp};

/// What one worker knows of one key.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub(super) of: Shared,
    pub(super) pace: Pace,
    /// The ask that is queued or sent, and not answered.
    pub(super) pending: Option<PendingAsk>,
    /// When the last ask was queued.
    pub(super) asked_at: Timestamp,
    /// The last ask that passed its deadline. Its answer can still bring permits.
    pub(super) late: Option<PendingAsk>,
    /// When an ask last failed: answered with an error, not answered in time, or stopped by the breaker.
    pub(super) failed_at: Option<Timestamp>,
    pub(super) refusal: Option<Refusal>,
    /// Permits refused without asking, since the last ask.
    pub(super) refused: Permits,
    /// The size of the last lease, and when it arrived.
    pub(super) granted: Permits,
    pub(super) granted_at: Timestamp,
    /// How many permits to draw ahead.
    pub(super) ahead: u32,
    /// How long the last lease lasts.
    pub(super) lasts: Span,
    pub(super) left: Permits,
    pub(super) reset_at: Timestamp,
    pressure: Pressure,
    /// When permits expire and new ones are to be drawn; the epoch once that is done.
    pub(super) renew_at: Timestamp,
    pub(super) returnable: Returnable,
    pub(super) share: Share,
    owed: Permits,
    owed_until: Timestamp,
}

/// An ask that is queued or sent.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct PendingAsk {
    pub(super) seq: u64,
    /// When it was sent; the epoch before that.
    pub(super) sent_at: Timestamp,
    pub(super) need: Permits,
    pub(super) least: Permits,
    pub(super) ahead: u32,
    pub(super) back: Permits,
    pub(super) back_of: u64,
    pub(super) ticket: Option<Ticket>,
}

impl PendingAsk {
    pub(super) fn is_sent(&self) -> bool {
        self.sent_at > Timestamp::EPOCH
    }
}

/// Permits granted to this worker in one window that it could give back.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Returnable {
    pub(super) window: u64,
    pub(super) permits: Permits,
    pub(super) until: Timestamp,
}

/// The authority has said that there are too few permits.
#[derive(Clone, Copy, Debug)]
pub(super) struct Refusal {
    /// When the answer arrived.
    pub(super) at: Timestamp,
    /// Until when there are too few, if no other instance gives permits back.
    pub(super) until: Timestamp,
    /// The cost of the cheapest request that was refused.
    pub(super) least: Permits,
}

impl Refusal {
    pub(super) fn holds(&self, now: Timestamp) -> bool {
        now < self.until
    }

    /// Whether permits return so soon that a client hardly notices a refusal until then.
    pub(super) fn is_brief(&self) -> bool {
        self.until.since(self.at) < BRIEF
    }

    /// How long after the refusal to ask again: by then permits may be free, or other instances may have given some
    /// back.
    pub(super) fn ask_again(&self) -> Span {
        self.until.since(self.at).min(BRIEF).max(ASK_AGAIN)
    }
}

impl Entry {
    pub(super) fn new(of: &Shared, now: Timestamp) -> Self {
        Self {
            of: *of,
            pace: Pace::new(now),
            pending: None,
            asked_at: Timestamp::EPOCH,
            late: None,
            failed_at: None,
            refusal: None,
            refused: Permits::ZERO,
            granted: Permits::ZERO,
            granted_at: Timestamp::EPOCH,
            ahead: 0,
            lasts: Span::ZERO,
            left: Permits::ZERO,
            reset_at: now,
            pressure: Pressure::default(),
            renew_at: Timestamp::EPOCH,
            returnable: Returnable::default(),
            share: Share::default(),
            owed: Permits::ZERO,
            owed_until: Timestamp::EPOCH,
        }
    }

    /// Adjusts to a clock that was set back to before the last ask. Otherwise refusals and the measured pace would
    /// apply until the clock has caught up.
    pub(super) fn follow_clock(&mut self, now: Timestamp) {
        if now >= self.asked_at {
            return;
        }
        (self.asked_at, self.granted_at, self.pace) = (now, self.granted_at.min(now), Pace::new(now));
        (self.refusal, self.pressure) = (None, Pressure::default());
        self.reset_at = self.reset_at.min(now.after(self.believable(u64::MAX)));
        self.owed_until = self.owed_until.min(now.after(Span::from_millis(self.of.terms.window_ms)));
    }

    /// Whether a request is refused without asking: a moment ago there were too few permits for all, other instances
    /// draw too, and new permits come quickly. If no other instance draws, this one knows what is left.
    pub(super) fn is_pressed(&self, now: Timestamp) -> bool {
        let terms = &self.of.terms;
        let is_over = terms.algorithm == Algorithm::FixedWindow && now >= self.reset_at;
        let is_lone = self.share.known().is_some_and(|share| share >= LONE);
        let is_on = self.pressure.is_on(terms.algorithm, now);
        let whole = match terms.algorithm {
            Algorithm::TokenBucket => self.useful(now),
            _ => Span::from_millis(terms.window_ms),
        };
        let is_few = self.pace.expects(whole, now) < FEW;
        is_on && self.comes_soon() && !is_over && !is_lone && !is_few && !self.is_last_call(now) && !self.of.exact
    }

    /// Whether a sliding window is about to end in which this instance gets few permits, as perhaps all others do.
    /// Permits that came free since the others last drew are then of use only to requests that wait for them.
    fn is_last_call(&self, now: Timestamp) -> bool {
        let terms = &self.of.terms;
        let last = Span::from_nanos(Span::from_millis(terms.window_ms).as_nanos() / LAST_PART);
        let slides = terms.algorithm == Algorithm::SlidingWindow;
        let whole = u64::from(BasisPoints::ALL.get());
        let sparse = |share: BasisPoints| {
            u64::from(terms.permits.get()).saturating_mul(u64::from(share.get())) < SPARSE.saturating_mul(whole)
        };
        slides && self.useful(now) <= last && self.share.known().is_some_and(sparse)
    }

    /// How long permits that are drawn now can be used.
    fn useful(&self, now: Timestamp) -> Span {
        match self.of.terms.algorithm {
            // While permits are short, a bucket may have nothing left to lend.
            Algorithm::TokenBucket if self.pressure.is_felt(self.of.terms.algorithm, now) => {
                self.lasts.max(Span::from_millis(SOON_MS))
            }
            Algorithm::TokenBucket => Span::from_millis(Bucket::lend_ms(&self.of.terms).max(SOON_MS)),
            _ if now < self.reset_at => self.reset_at.since(now),
            _ => Span::from_millis(self.of.terms.window_ms),
        }
    }

    /// The refused permits, as far as they can be used before they expire.
    pub(super) fn demand(&self, cost: Permits, now: Timestamp) -> Permits {
        let requests = self.pace.expects(self.useful(now), now);
        let most = requests.div_ceil(2).max(1).saturating_mul(u64::from(cost.get()));
        self.refused.min(Permits::new(u32::try_from(most).unwrap_or(u32::MAX)))
    }

    /// Whether it is time to ask again for what was refused.
    pub(super) fn is_to_ask_again(&self, now: Timestamp) -> bool {
        let is_over = self.refusal.is_none_or(|refusal| refusal.at.after(refusal.ask_again()) <= now);
        let is_pressed = self.is_pressed(now) && self.asked_at.after(self.interval(now)) > now;
        let is_late = self.is_pressed(now) && self.pace.expects(self.useful(now), now) < FEW;
        is_over && !is_pressed && !is_late
    }

    /// How often to ask while permits are short: all instances together should ask about as often as one alone would.
    fn interval(&self, now: Timestamp) -> Span {
        let whole = u64::from(BasisPoints::ALL.get());
        let share = self.share.known().map_or(whole, |share| u64::from(share.get()));
        let interval = ASK_AGAIN.as_nanos().saturating_mul(whole).checked_div(share).unwrap_or(u64::MAX);
        // Permits should be usable for longer than the wait for them took.
        let longest = LONGEST_INTERVAL.min(Span::from_nanos(self.useful(now).as_nanos() >> 1));
        Span::from_nanos(interval).min(longest).max(ASK_AGAIN)
    }

    /// Sets how many permits to draw ahead from now on, given how long the last lease lasted or will last.
    pub(super) fn resize(&mut self, lasted: Span, cost: Permits, now: Timestamp) {
        let aim = AIM.min(Span::from_nanos(self.lasts.as_nanos() >> 1));
        let long = Span::from_nanos(aim.as_nanos().saturating_mul(4));
        self.ahead = if self.of.exact || lasted > COLD {
            0
        } else if lasted < aim {
            let least = cost.get().saturating_mul(FIRST_REQUESTS);
            // At most twice the last grant: the authority may have had less than was wanted.
            self.granted.get().max(self.ahead >> 1).saturating_mul(2).clamp(least, MOST_AHEAD.max(least))
        } else if lasted > long {
            self.ahead >> 1
        } else {
            self.ahead
        };
        if self.of.exact {
            return;
        }
        let permits = |requests: u64| u32::try_from(requests).unwrap_or(u32::MAX).saturating_mul(cost.get());
        let expected = self.pace.expects(self.useful(now), now);
        if self.pace.is_known() {
            self.ahead = self.ahead.min(permits(expected));
        }
        if self.is_worth_holding() && !self.pressure.is_felt(self.of.terms.algorithm, now) {
            // While there are enough permits, a slow client's next request should find its permits too.
            self.ahead = self.ahead.max(permits(self.pace.expects(self.useful(now).min(HOLD), now).min(FEW)));
        }
    }

    /// How many permits to draw ahead, given those that are `here` already or are part of the same ask. What is left of
    /// them when a sliding window ends is lost. While permits are short, no more are drawn than are likely to be used.
    pub(super) fn ahead_of(&self, here: Permits, cost: Permits, now: Timestamp) -> u32 {
        let algorithm = self.of.terms.algorithm;
        if algorithm != Algorithm::SlidingWindow || !self.pressure.is_felt(algorithm, now) {
            return self.ahead;
        }
        let requests = self.pace.expects(self.useful(now), now).saturating_mul(LIKELY_PERCENT) / 100;
        let likely = u32::try_from(requests).unwrap_or(u32::MAX).saturating_mul(cost.get());
        self.ahead.min(likely.saturating_sub(here.get()))
    }

    /// Whether permits that expire unused are soon replaced. They would drain a bucket that fills slowly.
    fn is_worth_holding(&self) -> bool {
        self.of.terms.algorithm != Algorithm::TokenBucket || self.comes_soon()
    }

    fn comes_soon(&self) -> bool {
        self.of.terms.window_ms < u64::from(self.of.terms.permits.get()).saturating_mul(BRIEF_MS)
    }

    /// Whether to draw new permits in place of those that expire now.
    pub(super) fn renews(&mut self, now: Timestamp) -> bool {
        self.renew_at = Timestamp::EPOCH;
        let at_least = if self.pressure.is_felt(self.of.terms.algorithm, now) { FEW } else { 1 };
        if self.of.terms.algorithm == Algorithm::FixedWindow {
            // A new window begins.
            self.pressure.relieve();
        }
        let is_held = self.returnable.permits > Permits::ZERO && self.returnable.until > now;
        if is_held || self.pending.is_some() || self.of.exact || !self.is_worth_holding() || self.is_pressed(now) {
            return false;
        }
        self.pace.expects(self.useful(now).min(HOLD), now) >= at_least
    }

    /// Handles a grant. Returns the permits that it brought, less those that were owed.
    pub(super) fn apply_grant(
        &mut self,
        asked: &PendingAsk,
        grant: &Grant,
        in_time: bool,
        now: Timestamp,
    ) -> Option<Arrived> {
        if in_time {
            // A late answer describes a state that has passed; only its permits count.
            (self.left, self.reset_at) = (grant.left, now.after(self.believable(grant.reset_ms)));
            self.share.learn(grant.granted, grant.drawn);
            self.failed_at = None;
            self.refusal = self.refused(asked, grant, now);
            self.pressure.learn(self.refusal.is_some(), grant, &self.of.terms, now);
            if self.of.terms.algorithm == Algorithm::FixedWindow {
                self.renew_at = self.reset_at;
            }
        }
        if grant.granted == Permits::ZERO {
            return None;
        }
        // The authority's clock may be almost a millisecond ahead of what it says.
        let lasts = Span::from_millis(grant.lasts_ms.saturating_sub(1));
        let until = asked.sent_at.after(lasts);
        let before = if grant.window == self.returnable.window { self.returnable.permits } else { Permits::ZERO };
        self.returnable = Returnable { window: grant.window, permits: before.plus(grant.granted), until };
        let needed = grant.granted.min(asked.need);
        let permits = needed.plus(self.pay(grant.granted.minus(needed), now));
        (self.granted, self.granted_at, self.lasts) = (permits, now, lasts);
        self.renew_at = match self.of.terms.algorithm {
            Algorithm::TokenBucket => until,
            _ => self.reset_at,
        };
        (permits > Permits::ZERO && now < until).then_some(Arrived { account: self.of.account, permits, until })
    }

    /// A wait in the authority's answer, up to the longest one that the algorithm allows. An answer that belongs to
    /// another key, or comes from a clock that jumped, would otherwise apply for as long as it says.
    fn believable(&self, wait_ms: u64) -> Span {
        let terms = &self.of.terms;
        let whole_ms = match terms.algorithm {
            // How long an empty bucket takes to fill, but at least the window.
            Algorithm::TokenBucket => {
                let all_ms = terms.window_ms.saturating_mul(u64::from(terms.burst.get()));
                all_ms.checked_div(u64::from(terms.permits.get())).unwrap_or(0).max(terms.window_ms)
            }
            _ => terms.window_ms,
        };
        Span::from_millis(wait_ms.min(whole_ms.saturating_mul(LONGEST_WAIT)))
    }

    /// The refusal of later requests that follows from a grant; `None` if the grant leaves enough for them.
    fn refused(&self, asked: &PendingAsk, grant: &Grant, now: Timestamp) -> Option<Refusal> {
        let wanted = asked.need.plus(Permits::new(asked.ahead));
        if asked.least == Permits::ZERO
            || grant.granted >= wanted
            || grant.retry_after_ms == Some(0) && grant.granted == Permits::ZERO
        {
            return None;
        }
        if grant.granted == Permits::ZERO {
            // No request is asked for that costs more than the whole quota, so the answer always has a wait.
            let until = now.after(self.believable(grant.retry_after_ms.unwrap_or(u64::MAX)));
            return Some(Refusal { at: now, until, least: asked.least });
        }
        // So little is left that it is used up within a few asks. Where permits refill slowly, `scarce` is zero: then
        // asks go on until the last permit is used. The refusal ends with the window.
        let until = now.after(ASK_AGAIN).min(self.reset_at);
        (u64::from(grant.left.get()) <= scarce(&self.of.terms)).then_some(Refusal {
            at: now,
            until,
            least: asked.least,
        })
    }

    pub(super) fn owe(&mut self, permits: Permits, window: Span, now: Timestamp) {
        let before = if now < self.owed_until { self.owed } else { Permits::ZERO };
        self.owed = before.plus(permits);
        if before == Permits::ZERO {
            self.owed_until = now.after(window);
        }
    }

    /// Pays off what is owed with these permits, and returns how many of them remain.
    pub(super) fn pay(&mut self, permits: Permits, now: Timestamp) -> Permits {
        if now >= self.owed_until {
            self.owed = Permits::ZERO;
        }
        let paid = permits.min(self.owed);
        self.owed = self.owed.minus(paid);
        permits.minus(paid)
    }

    /// Whether the key has no requests any more, so that its permits are of more use to other instances. While permits
    /// are not short, a slow client's are kept for it.
    pub(super) fn is_idle(&self, now: Timestamp) -> bool {
        // Permits that have just arrived are for the requests that waited for them.
        let used_at = self.pace.last().max(self.granted_at);
        let is_felt = self.pressure.is_felt(self.of.terms.algorithm, now);
        used_at.after(IDLE) <= now && (is_felt || used_at.after(HOLD) <= now || self.pace.has_ceased(IDLE, now))
    }

    pub(super) fn is_free(&self) -> bool {
        self.pending.is_none()
    }
}

/// A count weighs in at most this many windows: the one that it was made in and the next.
const LONGEST_WAIT: u64 = 2;
/// If permits come back within this time, a client may be refused without asking.
const BRIEF: Span = Span::from_millis(100);
/// How long a lease should last: long enough that asking costs little, and short because other instances lack the
/// permits that one holds.
pub(super) const AIM: Span = Span::from_millis(200);
/// After this time between two leases, the next request draws only its cost.
const COLD: Span = Span::from_secs(5);
/// If a permit refills at least this often, a client hardly notices a refusal.
const BRIEF_MS: u64 = 100;
/// An instance with at least this share counts as the only one that draws.
const LONE: BasisPoints = BasisPoints::new(9_000);
/// While permits are short, one instance asks at least this often.
const LONGEST_INTERVAL: Span = Span::from_millis(200);
/// How long permits are kept for a slow client.
const HOLD: Span = Span::from_secs(2);
/// How many requests of a slow client find permits here.
const FEW: u64 = 2;
const FIRST_REQUESTS: u32 = 4;
/// An instance that gets fewer permits per window than this lets requests wait in the last part of a sliding window. It
/// draws none ahead then, because no request may come for them before the window ends.
const SPARSE: u64 = 5;
/// The last part of a window is one fiftieth of it. Where most instances get few permits, those that came free are
/// there for requests that come in this part, and wait: at most this fraction of all requests.
const LAST_PART: u64 = 50;
/// Of the requests that are expected on average, nearly always this many come.
const LIKELY_PERCENT: u64 = 75;
/// A quarter of what the key table can hold for one key.
const MOST_AHEAD: u32 = 1 << 18;
