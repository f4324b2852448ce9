//! What is known of one key.

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
    /// Not answered yet.
    pub(super) asked: Option<Asked>,
    /// When there was last something to ask.
    pub(super) asked_at: Timestamp,
    /// Given up, and may be answered yet.
    pub(super) late: Option<Asked>,
    /// When the last ask was given up.
    pub(super) failed_at: Option<Timestamp>,
    pub(super) refusal: Option<Refusal>,
    /// What was refused without asking, since the last ask.
    pub(super) refused: Permits,
    /// What the last lease was, and when it came.
    pub(super) granted: Permits,
    pub(super) granted_at: Timestamp,
    /// How many permits to draw ahead.
    pub(super) ahead: u32,
    /// How long leases last.
    pub(super) lasts: Span,
    pub(super) left: Permits,
    pub(super) reset_at: Timestamp,
    pressure: Pressure,
    /// When permits expire, and others are to be drawn in time; the epoch when that was done.
    pub(super) renew_at: Timestamp,
    pub(super) own: Own,
    pub(super) share: Share,
    owed: Permits,
    owed_until: Timestamp,
}

/// An ask.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Asked {
    pub(super) seq: u64,
    /// When it was sent; the epoch while it was not.
    pub(super) sent_at: Timestamp,
    pub(super) need: Permits,
    pub(super) least: Permits,
    pub(super) ahead: u32,
    pub(super) back: Permits,
    pub(super) back_of: u64,
    pub(super) ticket: Option<Ticket>,
}

impl Asked {
    pub(super) fn is_sent(&self) -> bool {
        self.sent_at > Timestamp::EPOCH
    }
}

/// What was granted to this worker in one window, and could be given back.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Own {
    pub(super) window: u64,
    pub(super) out: Permits,
    pub(super) until: Timestamp,
}

/// The authority has said that there are too few permits.
#[derive(Clone, Copy, Debug)]
pub(super) struct Refusal {
    /// When it said so.
    pub(super) at: Timestamp,
    /// Until when, if nobody gives any back.
    pub(super) until: Timestamp,
    /// To a request that costs so much.
    pub(super) least: Permits,
}

impl Refusal {
    pub(super) fn holds(&self, now: Timestamp) -> bool {
        now < self.until
    }

    /// Whether permits come so quickly that a client which is refused meanwhile hardly notices.
    pub(super) fn is_brief(&self) -> bool {
        self.until.since(self.at) < BRIEF
    }

    /// After how long to ask again: when something may have come, or others may have given something back.
    pub(super) fn ask_again(&self) -> Span {
        self.until.since(self.at).min(BRIEF).max(ASK_AGAIN)
    }
}

impl Entry {
    pub(super) fn new(of: &Shared, now: Timestamp) -> Self {
        Self {
            of: *of,
            pace: Pace::new(now),
            asked: None,
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
            own: Own::default(),
            share: Share::default(),
            owed: Permits::ZERO,
            owed_until: Timestamp::EPOCH,
        }
    }

    /// Follows a clock that was set back behind the last ask: what was to hold for a while, and how often requests came, would hold
    /// until the clock is there again.
    pub(super) fn follow(&mut self, now: Timestamp) {
        if now >= self.asked_at {
            return;
        }
        (self.asked_at, self.granted_at, self.pace) = (now, self.granted_at.min(now), Pace::new(now));
        (self.refusal, self.pressure) = (None, Pressure::default());
        self.reset_at = self.reset_at.min(now.after(self.believable(u64::MAX)));
        self.owed_until = self.owed_until.min(now.after(Span::from_millis(self.of.terms.window_ms)));
    }

    /// Whether a request has to go without at once, since there was too little for all a moment ago, others draw too, and what
    /// comes next is here before it expires. Where nobody else draws it is known what is left.
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

    /// Whether a sliding window is about to end of which this instance gets a few permits, as may be all others: then what has
    /// come free since they last drew is of use to who waits for it alone.
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

    /// How long permits will be of use that are drawn now.
    fn useful(&self, now: Timestamp) -> Span {
        match self.of.terms.algorithm {
            // Where there is too little, a bucket may have nothing left to lend.
            Algorithm::TokenBucket if self.pressure.is_felt(self.of.terms.algorithm, now) => {
                self.lasts.max(Span::from_millis(SOON_MS))
            }
            Algorithm::TokenBucket => Span::from_millis(Bucket::lend_ms(&self.of.terms).max(SOON_MS)),
            _ if now < self.reset_at => self.reset_at.since(now),
            _ => Span::from_millis(self.of.terms.window_ms),
        }
    }

    /// Of what was refused, as much as is of use before it expires.
    pub(super) fn demand(&self, cost: Permits, now: Timestamp) -> Permits {
        let requests = self.pace.expects(self.useful(now), now);
        let most = requests.div_ceil(2).max(1).saturating_mul(u64::from(cost.get()));
        self.refused.min(Permits::new(u32::try_from(most).unwrap_or(u32::MAX)))
    }

    /// Whether what was refused may be asked for again by now.
    pub(super) fn is_to_ask_again(&self, now: Timestamp) -> bool {
        let is_over = self.refusal.is_none_or(|refusal| refusal.at.after(refusal.ask_again()) <= now);
        let is_pressed = self.is_pressed(now) && self.asked_at.after(self.interval(now)) > now;
        let is_late = self.is_pressed(now) && self.pace.expects(self.useful(now), now) < FEW;
        is_over && !is_pressed && !is_late
    }

    /// How often to ask while there is too little: so that all instances together ask about as often as one alone would.
    fn interval(&self, now: Timestamp) -> Span {
        let whole = u64::from(BasisPoints::ALL.get());
        let share = self.share.known().map_or(whole, |share| u64::from(share.get()));
        let interval = ASK_AGAIN.as_nanos().saturating_mul(whole).checked_div(share).unwrap_or(u64::MAX);
        // What comes is to be of use for longer than it was waited for.
        let longest = LONGEST_INTERVAL.min(Span::from_nanos(self.useful(now).as_nanos() >> 1));
        Span::from_nanos(interval).min(longest).max(ASK_AGAIN)
    }

    /// Says how many permits to draw ahead from here on, seeing how long the last lease has lasted or will.
    pub(super) fn resize(&mut self, lasted: Span, cost: Permits, now: Timestamp) {
        let aim = AIM.min(Span::from_nanos(self.lasts.as_nanos() >> 1));
        let long = Span::from_nanos(aim.as_nanos().saturating_mul(4));
        self.ahead = if self.of.exact || lasted > COLD {
            0
        } else if lasted < aim {
            let least = cost.get().saturating_mul(FIRST_REQUESTS);
            // Not more than twice what came last: the authority may have less than was wanted.
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
            // Where there is enough, a slow client's next request finds its permits too.
            self.ahead = self.ahead.max(permits(self.pace.expects(self.useful(now).min(HOLD), now).min(FEW)));
        }
    }

    /// How many permits to draw ahead of those that are `here`, or are asked for in the same ask. What is left of them when a
    /// sliding window ends nobody can use any more: where there is too little for all, fewer are drawn than are likely to be used.
    pub(super) fn ahead_of(&self, here: Permits, cost: Permits, now: Timestamp) -> u32 {
        let algorithm = self.of.terms.algorithm;
        if algorithm != Algorithm::SlidingWindow || !self.pressure.is_felt(algorithm, now) {
            return self.ahead;
        }
        let requests = self.pace.expects(self.useful(now), now).saturating_mul(LIKELY_PERCENT) / 100;
        let likely = u32::try_from(requests).unwrap_or(u32::MAX).saturating_mul(cost.get());
        self.ahead.min(likely.saturating_sub(here.get()))
    }

    /// Whether what expires unused is soon made up for: a bucket that fills slowly would be emptied by it.
    fn is_worth_holding(&self) -> bool {
        self.of.terms.algorithm != Algorithm::TokenBucket || self.comes_soon()
    }

    fn comes_soon(&self) -> bool {
        self.of.terms.window_ms < u64::from(self.of.terms.permits.get()).saturating_mul(BRIEF_MS)
    }

    /// Whether others are to be drawn for permits that expire now.
    pub(super) fn renews(&mut self, now: Timestamp) -> bool {
        self.renew_at = Timestamp::EPOCH;
        let at_least = if self.pressure.is_felt(self.of.terms.algorithm, now) { FEW } else { 1 };
        if self.of.terms.algorithm == Algorithm::FixedWindow {
            // A new window begins.
            self.pressure.relieve();
        }
        let is_held = self.own.out > Permits::ZERO && self.own.until > now;
        if is_held || self.asked.is_some() || self.of.exact || !self.is_worth_holding() || self.is_pressed(now) {
            return false;
        }
        self.pace.expects(self.useful(now).min(HOLD), now) >= at_least
    }

    /// Takes in what the authority says. Answers with the permits that have come.
    pub(super) fn take_in(&mut self, asked: &Asked, grant: &Grant, in_time: bool, now: Timestamp) -> Option<Arrived> {
        if in_time {
            // A late answer tells of what was.
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
        // The authority's clock may be as good as a millisecond further than it says.
        let lasts = Span::from_millis(grant.lasts_ms.saturating_sub(1));
        let until = asked.sent_at.after(lasts);
        let before = if grant.window == self.own.window { self.own.out } else { Permits::ZERO };
        self.own = Own { window: grant.window, out: before.plus(grant.granted), until };
        let needed = grant.granted.min(asked.need);
        let permits = needed.plus(self.pay(grant.granted.minus(needed), now));
        (self.granted, self.granted_at, self.lasts) = (permits, now, lasts);
        self.renew_at = match self.of.terms.algorithm {
            Algorithm::TokenBucket => until,
            _ => self.reset_at,
        };
        (permits > Permits::ZERO && now < until).then_some(Arrived { account: self.of.account, permits, until })
    }

    /// A wait that the authority tells, if nothing it counts takes longer. An answer that was another's, or one of a clock that jumped,
    /// would be gone by for as long as it says.
    fn believable(&self, wait_ms: u64) -> Span {
        let terms = &self.of.terms;
        let whole_ms = match terms.algorithm {
            // What fills it.
            Algorithm::TokenBucket => {
                let all_ms = terms.window_ms.saturating_mul(u64::from(terms.burst.get()));
                all_ms.checked_div(u64::from(terms.permits.get())).unwrap_or(0).max(terms.window_ms)
            }
            _ => terms.window_ms,
        };
        Span::from_millis(wait_ms.min(whole_ms.saturating_mul(LONGEST_WAIT)))
    }

    /// What a grant says of requests to come, if there is not enough for them.
    fn refused(&self, asked: &Asked, grant: &Grant, now: Timestamp) -> Option<Refusal> {
        let wanted = asked.need.plus(Permits::new(asked.ahead));
        if asked.least == Permits::ZERO
            || grant.granted >= wanted
            || grant.retry_after_ms == Some(0) && grant.granted == Permits::ZERO
        {
            return None;
        }
        if grant.granted == Permits::ZERO {
            // Nothing is asked that is never to be had.
            let until = now.after(self.believable(grant.retry_after_ms.unwrap_or(u64::MAX)));
            return Some(Refusal { at: now, until, least: asked.least });
        }
        // No more was left than is refilled while a few are asked for: soon there is nothing. Where permits come slowly, each that
        // is left is asked for, and nobody refused before the last.
        // The next window is another matter.
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

    /// Pays what is owed with these permits, and answers how many are left of them.
    pub(super) fn pay(&mut self, permits: Permits, now: Timestamp) -> Permits {
        if now >= self.owed_until {
            self.owed = Permits::ZERO;
        }
        let paid = permits.min(self.owed);
        self.owed = self.owed.minus(paid);
        permits.minus(paid)
    }

    /// Whether nobody asks for the key any more, so that what it holds is of more use to others. While there is enough for all,
    /// a slow client's permits may wait for it.
    pub(super) fn is_idle(&self, now: Timestamp) -> bool {
        // What has only just come is for those who have waited for it.
        let used_at = self.pace.last().max(self.granted_at);
        let is_felt = self.pressure.is_felt(self.of.terms.algorithm, now);
        used_at.after(IDLE) <= now && (is_felt || used_at.after(HOLD) <= now || self.pace.has_ceased(IDLE, now))
    }

    pub(super) fn is_free(&self) -> bool {
        self.asked.is_none()
    }
}

/// So many windows a count weighs at most: the one that it was made in and the next.
const LONGEST_WAIT: u64 = 2;
/// What is to be had again so soon, a client may be refused without asking.
const BRIEF: Span = Span::from_millis(100);
/// So long a lease should last: long enough that asking costs little, and short since what waits in one instance others
/// lack.
pub(super) const AIM: Span = Span::from_millis(200);
/// After so long between two leases the next request draws what it costs.
const COLD: Span = Span::from_secs(5);
/// What is refilled at least so quickly, a client hardly notices to be without.
const BRIEF_MS: u64 = 100;
/// Whoever draws so much draws alone.
const LONE: BasisPoints = BasisPoints::new(9_000);
/// While there is too little, one instance asks at least so often.
const LONGEST_INTERVAL: Span = Span::from_millis(200);
/// So long a slow client's permits wait for it.
const HOLD: Span = Span::from_secs(2);
/// So many requests of a slow client find permits.
const FEW: u64 = 2;
const FIRST_REQUESTS: u32 = 4;
/// An instance that gets fewer permits a window draws none ahead in the last part of a sliding one, since nobody may come for them by
/// then.
const SPARSE: u64 = 5;
/// Where most instances are so, what came free meanwhile is there for those whose requests come in the last such part of the window,
/// and wait: no greater a part of all requests.
const LAST_PART: u64 = 50;
/// Of the requests that are expected on average nearly always so many come.
const LIKELY_PERCENT: u64 = 75;
/// A quarter of what the key table can hold for one key.
const MOST_AHEAD: u32 = 1 << 18;
