//! Requests in flight on many instances: permits are held, and not spent.
//!
//! An instance says how many permits it keeps ([`Ask::keeps`]), whatever it was granted before, and how many more it
//! needs. The answer says how many it holds from now on in total, and until when. Messages carry totals and not
//! changes, so one that is lost, late or duplicated is corrected by the next, and
//!
//! ```text
//! the sum of what all instances hold <= permits
//! ```
//!
//! at any time by the authority's clock. This requires two things of an instance. After sending an ask, it uses no more
//! than the ask says to keep, until an answer grants more. And it counts the time of an answer from when it sent the
//! ask. An instance that is silent for the length of the lease holds nothing any more. Permits that an instance keeps
//! are not taken away, even under a policy that has fewer permits; nothing more is granted until enough are free.
//!
//! **No instance is passed over forever.** An instance that gets too few permits waits in line, for the cost of its
//! cheapest request. Permits that come free are reserved for the instance that has waited longest. An instance that was
//! served and still lacks permits goes to the end of the line. Instances that hold permits are told how many are called
//! back ([`Grant::called_back`]): as their requests end, they give that many back instead of using them for other
//! requests. An instance that does not ask again for [`LINE_MS`] has left the line.

use super::account::split_grant;
use super::{Ask, Grant, Instance, MAX_INSTANCES};
use crate::units::Permits;

/// What one instance holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Holder {
    pub(super) instance: Instance,
    pub(super) seq: u64,
    pub(super) held: Permits,
    /// When its lease ends. If it holds nothing, until when its sequence number is remembered.
    pub(super) until_ms: u64,
    /// Since when it waits in line, and for how many permits; zero if it does not.
    pub(super) since_ms: u64,
    pub(super) short: Permits,
}

/// What all instances hold of one key.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Holders(pub(super) Vec<Holder>);

impl Ask {
    /// For requests in flight: the permits that the instance keeps, at least those that its requests hold. Unlike for
    /// windows, the field has what is kept, and not what is given back.
    #[must_use]
    pub const fn keeps(&self) -> Permits {
        self.back
    }
}

impl Grant {
    /// For requests in flight: how many permits the instance should give back as its requests end, because others lack
    /// them.
    #[must_use]
    pub fn called_back(&self) -> Permits {
        Permits::new(u32::try_from(self.window).unwrap_or(u32::MAX))
    }
}

impl Holders {
    /// Answers an ask at `now_ms`.
    pub(super) fn answer(&mut self, ask: &Ask, now_ms: u64) -> Grant {
        let lease_ms = ask.terms.window_ms;
        for holder in &mut self.0 {
            // After the clock has stepped back, a lease would last too long; no instance counts on more than this.
            holder.until_ms = holder.until_ms.min(now_ms.saturating_add(lease_ms));
        }
        self.0.retain(|holder| holder.until_ms > now_ms);
        let known = self.0.iter().find(|holder| holder.instance == ask.instance).copied();
        let holder = match known {
            // An earlier ask says nothing about now.
            Some(holder) if ask.seq < holder.seq => Holder { held: Permits::ZERO, ..holder },
            Some(holder) if ask.seq == holder.seq => holder,
            _ => self.settle(ask, known.unwrap_or(Holder { instance: ask.instance, ..Holder::default() }), now_ms),
        };
        let sum = self.sum();
        let lasts_ms = if holder.held > Permits::ZERO { holder.until_ms.saturating_sub(now_ms) } else { 0 };
        let left = ask.terms.permits.minus(sum);
        let called = self.line(ask, now_ms).fold(Permits::ZERO, |sum, (_, short)| sum.plus(short));
        Grant {
            granted: holder.held,
            left,
            lasts_ms,
            retry_after_ms: (ask.least <= ask.terms.permits).then_some(0),
            reset_ms: 0,
            window: u64::from(called.minus(left).min(holder.held).get()),
            drawn: u64::from(sum.get()),
        }
    }

    /// When the last lease ends, in ms; 0 if there is none.
    pub(super) fn ends_ms(&self) -> u64 {
        self.0.iter().map(|holder| holder.until_ms).max().unwrap_or(0)
    }

    /// All permits held.
    pub(super) fn sum(&self) -> Permits {
        self.0.iter().fold(Permits::ZERO, |sum, holder| sum.plus(holder.held))
    }

    /// Decides what the instance holds from now on, and remembers it.
    fn settle(&mut self, ask: &Ask, before: Holder, now_ms: u64) -> Holder {
        // Permits whose lease has expired meanwhile are still in use: the instance gets them back, unless others have
        // them.
        let there = ask.terms.permits.minus(self.sum().minus(before.held));
        let kept = ask.keeps().min(before.held.max(there));
        let free = there.minus(kept);
        let stands = is_in_line(&before, ask, now_ms);
        let since_ms = if stands { before.since_ms } else { now_ms };
        let (mut reserved, mut nobody_lacks) = (Permits::ZERO, true);
        for (other, short) in self.line(ask, now_ms) {
            nobody_lacks = false;
            if other < (since_ms, ask.instance) {
                reserved = reserved.plus(short);
            }
        }
        // Nothing is drawn ahead while another instance lacks permits.
        let ask = &Ask { want: if nobody_lacks { ask.want } else { ask.need }, ..*ask };
        let (served, ahead) = split_grant(ask, free.minus(reserved));
        let lacks = ask.need.minus(served);
        let short = if ask.least > ask.terms.permits { Permits::ZERO } else { lacks.min(ask.least.max(Permits::ONE)) };
        let since_ms = match (short, served) {
            (Permits::ZERO, _) => 0,
            (_, Permits::ZERO) => since_ms,
            _ => now_ms,
        };
        let held = kept.plus(served).plus(ahead);
        let until_ms = now_ms.saturating_add(ask.terms.window_ms);
        let holder = Holder { instance: ask.instance, seq: ask.seq, held, until_ms, since_ms, short };
        if self.remember(holder) { holder } else { Holder { held: Permits::ZERO, ..holder } }
    }

    /// The other instances in line: since when, which, and for how many permits.
    fn line(&self, ask: &Ask, now_ms: u64) -> impl Iterator<Item = ((u64, Instance), Permits)> {
        let others = self.0.iter().filter(|other| other.instance != ask.instance);
        others
            .filter(move |other| is_in_line(other, ask, now_ms))
            .map(|other| ((other.since_ms, other.instance), other.short))
    }

    /// Remembers what an instance holds. If there is no room, it replaces an instance that holds nothing. If there is
    /// none, it returns false and the instance gets nothing, because what others hold cannot be forgotten.
    fn remember(&mut self, new: Holder) -> bool {
        let holders = &mut self.0;
        if let Some(old) = holders.iter_mut().find(|holder| holder.instance == new.instance) {
            *old = new;
            return true;
        }
        if holders.len() < MAX_INSTANCES {
            holders.push(new);
            return true;
        }
        let idle = holders.iter_mut().filter(|holder| holder.held == Permits::ZERO);
        let Some(first) = idle.min_by_key(|holder| (holder.until_ms, holder.instance)) else { return false };
        *first = new;
        true
    }
}

/// Whether an instance lacks permits and has asked recently: its lease began with its last ask.
fn is_in_line(holder: &Holder, ask: &Ask, now_ms: u64) -> bool {
    let heard_ms = holder.until_ms.saturating_sub(ask.terms.window_ms);
    holder.short > Permits::ZERO && heard_ms.saturating_add(LINE_MS) > now_ms
}

/// How long after its last ask, in ms, an instance stays in line. A refused client that waits the one second of
/// its `Retry-After` is back by then.
pub const LINE_MS: u64 = 1_500;

#[cfg(test)]
mod tests {
    use super::super::{Account, Shared, Terms};
    use super::*;
    use crate::key::KeyHash;

    const NOW: u64 = 1_700_000_000_000;
    const LEASE_MS: u64 = 10_000;

    /// An ask of an instance that keeps `keeps` permits and needs `need` more.
    fn ask(instance: u64, seq: u64, keeps: u32, need: u32) -> Ask {
        let permits = Permits::new(4);
        Ask {
            key: KeyHash::from_bits(1),
            terms: Terms { algorithm: Shared::InFlight, permits, window_ms: LEASE_MS, burst: permits },
            instance: Instance::new(instance),
            seq,
            need: Permits::new(need),
            least: Permits::new(need.min(1)),
            want: Permits::new(need),
            back: Permits::new(keeps),
            back_of: 0,
        }
    }

    fn held(account: &mut Account, ask: &Ask, at: u64) -> u32 {
        account.answer(ask, NOW + at).granted.get()
    }

    #[test]
    fn all_together_hold_no_more_than_there_are_and_what_is_not_kept_is_there_for_others() {
        let mut account = Account::default();
        assert_eq!(held(&mut account, &ask(1, 1, 0, 3), 0), 3);
        assert_eq!(held(&mut account, &ask(2, 1, 0, 3), 1), 1);
        assert_eq!(held(&mut account, &ask(1, 2, 1, 0), 2), 1);
        assert_eq!(held(&mut account, &ask(2, 2, 1, 3), 3), 3);
    }

    #[test]
    fn messages_that_are_doubled_or_out_of_order_change_nothing() {
        let mut account = Account::default();
        let (first, second) = (ask(1, 1, 0, 4), ask(1, 2, 1, 0));
        let grant = account.answer(&first, NOW);
        let again = account.answer(&first, NOW + 5);
        assert_eq!(again, Grant { lasts_ms: grant.lasts_ms - 5, ..grant });
        assert_eq!(held(&mut account, &second, 6), 1);
        assert_eq!(held(&mut account, &first, 7), 0, "the late one is told nothing of use");
        assert_eq!(account.answer(&ask(2, 1, 0, 0), NOW + 8).drawn, 1);
    }

    #[test]
    fn who_is_heard_of_no_more_holds_nothing_when_its_lease_is_over_and_who_asks_keeps_what_it_has() {
        let mut account = Account::default();
        assert_eq!(held(&mut account, &ask(1, 1, 0, 2), 0), 2);
        assert_eq!(held(&mut account, &ask(2, 1, 0, 2), 0), 2);
        assert_eq!(held(&mut account, &ask(2, 2, 2, 0), LEASE_MS - 1), 2);
        assert_eq!(held(&mut account, &ask(3, 1, 0, 4), LEASE_MS - 1), 0);
        assert_eq!(held(&mut account, &ask(3, 2, 0, 4), LEASE_MS), 2);
        assert_eq!(held(&mut account, &ask(1, 2, 2, 0), LEASE_MS + 1), 0, "others have what it was too late to keep");
        assert_eq!(held(&mut account, &ask(3, 3, 1, 0), LEASE_MS + 2), 1);
        assert_eq!(held(&mut account, &ask(1, 3, 2, 0), LEASE_MS + 3), 1, "it has again what is free");
    }

    #[test]
    fn who_was_refused_first_is_next_and_those_who_hold_are_told() {
        let mut account = Account::default();
        assert_eq!(held(&mut account, &ask(1, 1, 0, 4), 0), 4);
        assert_eq!(held(&mut account, &ask(2, 1, 0, 1), 10), 0);
        assert_eq!(held(&mut account, &ask(3, 1, 0, 1), 20), 0);
        let told = account.answer(&ask(1, 2, 4, 0), NOW + 30);
        assert_eq!((told.granted.get(), told.called_back().get()), (4, 2));
        // It would like them back itself, and has to wait in line behind the others.
        let gave = account.answer(&ask(1, 3, 3, 1), NOW + 40);
        assert_eq!((gave.granted.get(), gave.left.get(), gave.called_back().get()), (3, 1, 1));
        assert_eq!(held(&mut account, &ask(3, 2, 0, 1), 50), 0, "another is before it");
        assert_eq!(held(&mut account, &ask(2, 2, 0, 1), 60), 1);
        assert_eq!(held(&mut account, &ask(1, 4, 2, 1), 70), 2);
        assert_eq!(held(&mut account, &ask(3, 3, 0, 1), 80), 1);
        assert_eq!(held(&mut account, &ask(2, 3, 0, 0), 90), 0);
        assert_eq!(held(&mut account, &ask(1, 5, 2, 1), 100), 3);
    }

    #[test]
    fn nothing_is_kept_for_who_does_not_come_again_or_wants_more_than_there_is() {
        let mut account = Account::default();
        assert_eq!(held(&mut account, &ask(1, 1, 0, 4), 0), 4);
        assert_eq!(held(&mut account, &ask(2, 1, 0, 1), 10), 0);
        let dear = Ask { least: Permits::new(5), ..ask(3, 1, 0, 5) };
        assert_eq!(account.answer(&dear, NOW + 11).retry_after_ms, None);
        assert_eq!(held(&mut account, &ask(1, 2, 3, 1), 20), 3, "kept for the second");
        assert_eq!(held(&mut account, &ask(1, 3, 3, 1), 10 + LINE_MS), 4);
    }

    #[test]
    fn what_is_drawn_ahead_is_a_quarter_of_what_is_left_and_nothing_while_others_lack_it() {
        let mut account = Account::default();
        let many = |instance, seq, keeps, need, want| {
            let terms = Terms { permits: Permits::new(100), ..ask(1, 1, 0, 0).terms };
            Ask { terms, want: Permits::new(want), ..ask(instance, seq, keeps, need) }
        };
        assert_eq!(held(&mut account, &many(1, 1, 0, 20, 100), 0), 40);
        assert_eq!(held(&mut account, &many(2, 1, 0, 60, 90), 0), 60);
        assert_eq!(held(&mut account, &many(3, 1, 0, 1, 1), 0), 0);
        assert_eq!(held(&mut account, &many(1, 2, 20, 0, 10), 1), 20);
    }

    #[test]
    fn a_policy_with_fewer_permits_takes_nothing_away_and_gives_nothing_more() {
        let mut account = Account::default();
        assert_eq!(held(&mut account, &ask(1, 1, 0, 4), 0), 4);
        let fewer = |seq, keeps, need| Ask {
            terms: Terms { permits: Permits::new(2), ..ask(1, 1, 0, 0).terms },
            ..ask(1, seq, keeps, need)
        };
        assert_eq!(held(&mut account, &fewer(2, 4, 1), 1), 4);
        assert_eq!(held(&mut account, &fewer(3, 1, 1), 2), 2);
    }

    #[test]
    fn a_clock_that_steps_back_far_keeps_nobody_for_longer_than_a_lease() {
        let mut account = Account::default();
        assert_eq!(held(&mut account, &ask(1, 1, 0, 4), 3_600_000), 4);
        assert_eq!(held(&mut account, &ask(2, 1, 0, 4), 0), 0);
        assert_eq!(held(&mut account, &ask(2, 2, 0, 4), LEASE_MS), 4);
    }
}
