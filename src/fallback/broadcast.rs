//! How instances that count by themselves tell each other of their breakers, through a key-value store that they read
//! and write from time to time and that may show old values.
//!
//! They tell that a breaker has opened or closed, but not how its probes go: an instance that learns that the breaker
//! is open probes for itself when that time is over. Of two records the one with the higher generation counts, so a
//! late or repeated record changes nothing. A record that was open until a time in the past has no effect.
//!
//! All records are in one text, with a line for each breaker: its identity, a space, and its record in base64.

use super::{Ledgers, MemoryLedgers};
use crate::breaker::{Ledger, Part, Shared};
use crate::sorted_map::SortedMap;
use crate::units::{Span, Timestamp};
use base64ct::{Base64Unpadded, Encoding};

/// What the store is known to hold, and whether there is news for it.
#[derive(Debug, Default)]
pub struct Broadcast {
    stored: SortedMap<String, Seen>,
    /// The number of publications here when the store was last brought up to date.
    changes: u64,
    /// Breakers that agree through an authority instead.
    left_out: Vec<String>,
}

/// A breaker's record in the store, as last seen, and when it was last seen there.
#[derive(Clone, Copy, Debug, Default)]
struct Seen {
    record: Shared,
    seen_at: Timestamp,
}

impl Broadcast {
    /// Excludes these breakers: they agree through an authority.
    pub fn leave_out(&mut self, identities: impl Iterator<Item = String>) {
        self.left_out = identities.collect();
    }

    fn is_left_out(&self, identity: &str) -> bool {
        self.left_out.iter().any(|other| other == identity)
    }

    /// Applies the text that was read from the store. Lines that are not records are skipped.
    pub fn receive(&mut self, text: &str, ledgers: &mut MemoryLedgers, now: Timestamp) {
        for (identity, record) in text.lines().filter_map(read).take(MOST_BREAKERS) {
            if record.generation() >= self.stored(identity).generation() {
                self.stored.insert(identity.to_owned(), Seen { record, seen_at: now });
            }
            let is_left_out = self.is_left_out(identity);
            if !is_left_out && record.counts_at(now) && record.generation() > published(ledgers, identity).generation()
            {
                // Publishing in memory always succeeds.
                let _ = ledgers.of(identity).publish(Part::Transitions, &record.encode());
            }
        }
        // A record that was not seen for [`SEEN_WITHIN`] was overwritten by an instance that had not seen it: it is
        // told again.
        let before = self.stored.len();
        self.stored.retain(|seen| seen.seen_at > now || now.since(seen.seen_at) <= SEEN_WITHIN);
        if self.stored.len() < before {
            self.mark_unsent();
        }
    }

    /// Whether breakers here have published anything since the store was last brought up to date.
    /// [`Broadcast::compose`] may still find that nothing is to be written.
    #[must_use]
    pub fn may_have_news(&self, ledgers: &MemoryLedgers) -> bool {
        self.changes != ledgers.changes()
    }

    /// The text to write to the store; `None` if there is no news.
    pub fn compose(&mut self, ledgers: &mut MemoryLedgers, now: Timestamp) -> Option<String> {
        self.changes = ledgers.changes();
        let mut all = self.stored.clone();
        let mut is_news = false;
        let identities: Vec<String> = ledgers.identities().take(MOST_BREAKERS).map(str::to_owned).collect();
        for identity in identities {
            let own = published(ledgers, &identity);
            let is_left_out = self.is_left_out(&identity);
            if !is_left_out && own.generation() > self.stored(&identity).generation() && own.counts_at(now) {
                all.insert(identity, Seen { record: own, seen_at: now });
                is_news = true;
            }
        }
        let line = |(identity, seen): (&String, &Seen)| {
            [identity.as_str(), " ", &Base64Unpadded::encode_string(&seen.record.encode()), "\n"].concat()
        };
        is_news.then(|| all.iter().take(MOST_BREAKERS).map(line).collect())
    }

    /// Notes that writing the text has failed: it is still news.
    pub fn mark_unsent(&mut self) {
        self.changes = u64::MAX;
    }

    fn stored(&self, identity: &str) -> Shared {
        self.stored.get(identity).map_or_else(Shared::default, |seen| seen.record)
    }
}

fn read(line: &str) -> Option<(&str, Shared)> {
    let (identity, record) = line.split_once(' ')?;
    Some((identity, Shared::decode(&Base64Unpadded::decode_vec(record).ok()?).ok()?))
}

fn published(ledgers: &mut MemoryLedgers, identity: &str) -> Shared {
    match ledgers.of(identity).read(Part::Transitions) {
        Ok(Some(bytes)) => Shared::decode(bytes).unwrap_or_default(),
        _ => Shared::default(),
    }
}

/// How long the store may show an old value: a minute in Workers KV, doubled as a margin.
const SEEN_WITHIN: Span = Span::from_secs(120);
/// The most that a policy can have.
const MOST_BREAKERS: usize = 4_096;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::breaker::{Admission, Breakers, Outcome, State};
    use crate::policy::Policy;
    use crate::units::Draw;

    const POLICY: &str = r#"{"version": 1, "upstreams": {"cdn": {"url": "http://cdn.example", "breaker": "b"}},
        "breakers": {"b": {"window": {"time": "30s"}, "consecutive_failures": 1, "open": {"initial": "10s", "jitter_percent": 0},
        "half_open": {"probes": 1}, "ramp": {"from_percent": 100, "over": "1s"}}}, "routes": [{"name": "all", "upstreams": ["cdn"]}]}"#;

    struct Location {
        breakers: Breakers,
        ledgers: MemoryLedgers,
        broadcast: Broadcast,
    }

    impl Location {
        fn new() -> Self {
            let breakers = Breakers::new(&Policy::parse(POLICY).unwrap());
            Self { breakers, ledgers: MemoryLedgers::new(), broadcast: Broadcast::default() }
        }

        fn call(&mut self, outcome: Outcome, now: Timestamp) -> bool {
            let (identity, local) = self.breakers.named(0).unwrap();
            let ledger = self.ledgers.of(identity);
            local.tick(ledger, Draw(0), now);
            let Admission::Pass(ticket) = local.admit(ledger, Draw(0), now) else { return false };
            local.observe(ledger, ticket, outcome, Span::ZERO, Draw(0), now);
            true
        }

        fn state(&mut self, now: Timestamp) -> State {
            let (identity, local) = self.breakers.named(0).unwrap();
            local.tick(self.ledgers.of(identity), Draw(0), now);
            local.state(now)
        }

        /// Reads the store and then writes to it, as a host does.
        fn exchange(&mut self, place: &mut String, now: Timestamp) {
            self.broadcast.receive(place, &mut self.ledgers, now);
            if let Some(text) = self.broadcast.compose(&mut self.ledgers, now) {
                *place = text;
                self.broadcast.receive(place, &mut self.ledgers, now);
            }
        }
    }

    fn at(secs: u64) -> Timestamp {
        Timestamp::from_millis(1_800_000_000_000 + secs * 1_000)
    }

    #[test]
    fn a_breaker_that_opens_in_one_place_opens_in_all_and_so_it_closes() {
        let (mut one, mut other, mut place) = (Location::new(), Location::new(), String::new());
        assert!(other.call(Outcome::Success, at(0)));
        assert!(one.call(Outcome::Failure, at(0)));
        one.exchange(&mut place, at(1));
        other.exchange(&mut place, at(2));
        assert_eq!((one.state(at(2)), other.state(at(2))), (State::Open, State::Open));
        assert!(one.call(Outcome::Success, at(11)), "a probe");
        assert_eq!(one.state(at(11)), State::Ramping);
        one.exchange(&mut place, at(12));
        other.exchange(&mut place, at(13));
        assert!(matches!(other.state(at(13)), State::Ramping | State::Closed));
        assert!(
            !other.broadcast.may_have_news(&other.ledgers)
                || other.broadcast.compose(&mut other.ledgers, at(13)).is_none()
        );
    }

    #[test]
    fn what_is_stale_is_ignored() {
        let (mut one, mut other, mut place) = (Location::new(), Location::new(), String::new());
        assert!(one.call(Outcome::Failure, at(0)));
        one.exchange(&mut place, at(0));
        let early = place.clone();
        assert!(one.call(Outcome::Success, at(11)));
        one.exchange(&mut place, at(11));
        // A minute late, and then again after the newer text.
        other.exchange(&mut early.clone(), at(60));
        assert_eq!(other.state(at(60)), State::Closed);
        other.exchange(&mut place, at(61));
        other.exchange(&mut early.clone(), at(62));
        assert!(other.call(Outcome::Success, at(62)));
        one.broadcast.receive(&early, &mut one.ledgers, at(12));
        assert_ne!(one.state(at(12)), State::Open);
    }

    #[test]
    fn what_another_one_has_written_over_is_told_again_when_it_can_no_longer_be_an_old_sight() {
        let (mut one, mut place) = (Location::new(), String::new());
        assert!(one.call(Outcome::Failure, at(0)));
        assert!(one.call(Outcome::Success, at(11)));
        one.exchange(&mut place, at(11));
        for (secs, expected) in [(12, false), (71, false), (140, true)] {
            one.broadcast.receive("", &mut one.ledgers, at(secs));
            assert_eq!(one.broadcast.may_have_news(&one.ledgers), expected, "{secs} s");
        }
        assert_eq!(one.broadcast.compose(&mut one.ledgers, at(140)), Some(place));
    }

    #[test]
    fn what_could_not_be_told_is_news_still_and_nothing_else_is() {
        let mut one = Location::new();
        assert!(!one.broadcast.may_have_news(&one.ledgers));
        assert!(one.call(Outcome::Failure, at(0)));
        assert!(one.broadcast.may_have_news(&one.ledgers));
        let text = one.broadcast.compose(&mut one.ledgers, at(0)).unwrap();
        assert!(text.starts_with("cdn ") && text.lines().count() == 1, "{text}");
        one.broadcast.mark_unsent();
        assert!(one.broadcast.may_have_news(&one.ledgers));
        assert_eq!(one.broadcast.compose(&mut one.ledgers, at(0)), Some(text.clone()));
        one.broadcast.receive(&text, &mut one.ledgers, at(0));
        assert_eq!(one.broadcast.compose(&mut one.ledgers, at(0)), None);
    }

    #[test]
    fn lines_that_are_no_records_are_passed_over() {
        let mut one = Location::new();
        for text in ["", "cdn", "cdn !", "cdn AAAA", "\u{0}\n cdn", "cdn "] {
            one.broadcast.receive(text, &mut one.ledgers, at(0));
        }
        assert_eq!(one.state(at(0)), State::Closed);
    }
}
