//! What is known of one key, and a table of those, bounded.

use super::share::Share;
use super::{ASK_AGAIN, Arrived, Grant, Shared};
use crate::breaker::Ticket;
use crate::key::KeyHash;
use crate::units::{Permits, Span, Timestamp};

/// What one worker knows of one key.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub(super) of: Shared,
    pub(super) seen_at: Timestamp,
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
    /// Until when, if nobody gives any back; `None` for ever.
    pub(super) until: Option<Timestamp>,
    /// To a request that costs so much.
    pub(super) least: Permits,
}

impl Refusal {
    pub(super) fn holds(&self, now: Timestamp) -> bool {
        self.until.is_none_or(|until| now < until)
    }

    /// Whether permits come so quickly that a client which is refused meanwhile hardly notices.
    pub(super) fn is_brief(&self) -> bool {
        self.until.is_some_and(|until| until.since(self.at) < BRIEF)
    }

    /// After how long to ask again: when something may have come, or others may have given something back.
    pub(super) fn ask_again(&self) -> Span {
        self.until.map_or(BRIEF, |until| until.since(self.at).min(BRIEF)).max(ASK_AGAIN)
    }
}

impl Entry {
    fn new(of: &Shared, now: Timestamp) -> Self {
        Self {
            of: *of,
            seen_at: now,
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
            own: Own::default(),
            share: Share::default(),
            owed: Permits::ZERO,
            owed_until: Timestamp::EPOCH,
        }
    }

    /// Counts a request, and answers whether the key is asked for in quick succession.
    pub(super) fn touch(&mut self, now: Timestamp) -> bool {
        let hot = self.seen_at.after(HOT_GAP) > now;
        self.seen_at = now;
        hot
    }

    /// Says how many permits to draw ahead from here on, seeing how long the last lease has lasted or will.
    pub(super) fn resize(&mut self, lasted: Span, cost: Permits) {
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
    }

    /// Takes in what the authority says. Answers with the permits that have come.
    pub(super) fn take_in(&mut self, asked: &Asked, grant: &Grant, in_time: bool, now: Timestamp) -> Option<Arrived> {
        if in_time {
            // A late answer tells of what was.
            (self.left, self.reset_at) = (grant.left, now.after(Span::from_millis(grant.reset_ms)));
            self.share.learn(grant.granted, grant.drawn);
            self.failed_at = None;
            self.refusal = self.refused(asked, grant, now);
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
        (permits > Permits::ZERO && now < until).then_some(Arrived { account: self.of.account, permits, until })
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
            let until = grant.retry_after_ms.map(|wait| now.after(Span::from_millis(wait)));
            return Some(Refusal { at: now, until, least: asked.least });
        }
        // No more was left than is refilled while a few are asked for: soon there is nothing. Where permits come slowly, each that
        // is left is asked for, and nobody refused before the last.
        let terms = &self.of.terms;
        let scarce = u64::from(terms.permits.get()).saturating_mul(SCARCE_MS).checked_div(terms.window_ms).unwrap_or(0);
        // The next window is another matter.
        let until = Some(now.after(ASK_AGAIN).min(now.after(Span::from_millis(grant.reset_ms))));
        (u64::from(grant.left.get()) <= scarce).then_some(Refusal { at: now, until, least: asked.least })
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

    fn is_free(&self) -> bool {
        self.asked.is_none()
    }
}

/// A fixed table of sets. A key that finds its set full takes the place of the one asked for longest ago that has no ask
/// under way; there may be none.
#[derive(Debug, Default)]
pub(super) struct Table {
    sets: Vec<Vec<Entry>>,
    /// Whether any key may hold permits that could be given back.
    holds_permits: bool,
}

impl Table {
    pub(super) fn get(&self, key: KeyHash) -> Option<&Entry> {
        self.sets.get(set_of(key))?.iter().find(|entry| entry.of.key == key)
    }

    pub(super) fn find(&mut self, key: KeyHash) -> Option<&mut Entry> {
        self.sets.get_mut(set_of(key))?.iter_mut().find(|entry| entry.of.key == key)
    }

    pub(super) fn find_or_make(&mut self, of: &Shared, now: Timestamp) -> Option<&mut Entry> {
        if self.sets.is_empty() {
            self.sets = vec![Vec::new(); SETS];
        }
        let set = self.sets.get_mut(set_of(of.key))?;
        let at = match set.iter().position(|entry| entry.of.key == of.key) {
            Some(at) => at,
            None if set.len() < WAYS => {
                set.push(Entry::new(of, now));
                set.len().saturating_sub(1)
            }
            None => {
                let free = set.iter().enumerate().filter(|(_, entry)| entry.is_free());
                let (at, _) = free.min_by_key(|(_, entry)| entry.seen_at)?;
                *set.get_mut(at)? = Entry::new(of, now);
                at
            }
        };
        let entry = set.get_mut(at)?;
        // A policy may have changed what the key may have.
        entry.of = *of;
        Some(entry)
    }

    pub(super) fn holds_permits(&self) -> bool {
        self.holds_permits
    }

    pub(super) fn note_held(&mut self) {
        self.holds_permits = true;
    }

    /// The keys of which nobody has asked for `idle`, and that hold permits of their own.
    pub(super) fn idle(&mut self, idle: Span, now: Timestamp) -> Vec<KeyHash> {
        let mut keys = Vec::new();
        if !self.holds_permits {
            return keys;
        }
        self.holds_permits = false;
        for entry in self.sets.iter_mut().flatten() {
            if entry.own.until <= now {
                entry.own.out = Permits::ZERO;
            }
            if entry.own.out == Permits::ZERO {
                continue;
            }
            self.holds_permits = true;
            // What has only just come is for those who have waited for it.
            let used_at = entry.seen_at.max(entry.granted_at);
            if entry.asked.is_none() && used_at.after(idle) <= now && keys.len() < MOST_RETURNS {
                keys.push(entry.of.key);
            }
        }
        keys
    }
}

fn set_of(key: KeyHash) -> usize {
    key.get() as usize & (SETS - 1)
}

/// Requests so close to each other make a key hot.
const HOT_GAP: Span = Span::from_millis(20);
/// What is to be had again so soon, a client may be refused without asking.
const BRIEF: Span = Span::from_millis(100);
/// So long a lease should last: long enough that asking costs little, and short since what waits in one instance others
/// lack.
const AIM: Span = Span::from_millis(200);
/// After so long between two leases the next request draws what it costs.
const COLD: Span = Span::from_secs(5);
/// What is refilled in so many milliseconds is soon used up.
const SCARCE_MS: u64 = 50;
const FIRST_REQUESTS: u32 = 4;
/// A quarter of what the key table can hold for one key.
const MOST_AHEAD: u32 = 1 << 18;
/// Returns sent in one go: what is left of them goes next time, or expires.
const MOST_RETURNS: usize = 64;
/// A power of two. The table is about a mebibyte when full.
const SETS: usize = 1_024;
const WAYS: usize = 4;
const _: () = assert!(SETS.is_power_of_two());
