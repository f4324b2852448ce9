//! Counts of the responses of a recent span of time, in a ring of time slots that all workers share.

use super::latency::{BUCKETS, Latencies};
use super::orca::{Load, Report};
use crate::units::{BasisPoints, Span, Timestamp};
use crate::varint;

/// The counts of some calls.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    calls: u32,
    failures: u32,
    latencies: Latencies,
    loads: [Sum; Load::ALL.len()],
}

/// The sum of one load over its reports.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Sum {
    reports: u32,
    millionths: u64,
}

impl Tally {
    /// Counts a call that took `span`, if that is known.
    pub fn count(&mut self, span: Option<Span>, failed: bool) {
        self.calls = self.calls.saturating_add(1);
        self.failures = self.failures.saturating_add(u32::from(failed));
        if let Some(span) = span {
            self.latencies.count(span);
        }
    }

    /// Adds a report of an upstream's load.
    pub fn report(&mut self, report: &Report) {
        for (sum, load) in self.loads.iter_mut().zip(Load::ALL) {
            if let Some(told) = report.load(load) {
                sum.reports = sum.reports.saturating_add(1);
                sum.millionths = sum.millionths.saturating_add(told);
            }
        }
    }

    /// Adds the counts of another worker or slot.
    pub fn add(&mut self, others: &Self) {
        self.calls = self.calls.saturating_add(others.calls);
        self.failures = self.failures.saturating_add(others.failures);
        self.latencies.add(&others.latencies);
        for (sum, other) in self.loads.iter_mut().zip(&others.loads) {
            sum.reports = sum.reports.saturating_add(other.reports);
            sum.millionths = sum.millionths.saturating_add(other.millionths);
        }
    }

    /// The number of calls.
    #[must_use]
    pub fn calls(&self) -> u32 {
        self.calls
    }

    /// The number of calls that failed.
    #[must_use]
    pub fn failures(&self) -> u32 {
        self.failures
    }

    /// The share of calls that failed, rounded down; zero without calls.
    #[must_use]
    pub fn error_rate(&self) -> BasisPoints {
        let share = u64::from(self.failures).saturating_mul(10_000).checked_div(self.calls.into()).unwrap_or(0);
        BasisPoints::new(u16::try_from(share).unwrap_or(u16::MAX))
    }

    /// The durations of the calls.
    #[must_use]
    pub fn latencies(&self) -> &Latencies {
        &self.latencies
    }

    /// The mean of a load over its reports, in millionths; `None` without reports.
    #[must_use]
    pub fn load(&self, load: Load) -> Option<u64> {
        let sum = self.loads.get(load as usize)?;
        sum.millionths.checked_div(sum.reports.into())
    }

    pub(super) fn is_empty(&self) -> bool {
        self.calls == 0 && self.loads.iter().all(|sum| sum.reports == 0)
    }

    fn encode(&self, bytes: &mut Vec<u8>) {
        varint::write(self.calls.into(), bytes);
        varint::write(self.failures.into(), bytes);
        for sum in &self.loads {
            varint::write(sum.reports.into(), bytes);
            varint::write(sum.millionths, bytes);
        }
        // Most buckets are empty, because most calls take about as long as others. So each count is written after the
        // number of empty buckets before it.
        let mut empty = 0;
        for count in self.latencies.counts() {
            if *count == 0 {
                empty = u64::saturating_add(empty, 1);
                continue;
            }
            varint::write(empty, bytes);
            varint::write((*count).into(), bytes);
            empty = 0;
        }
        varint::write(BUCKETS as u64, bytes);
    }

    /// Replaces this tally by one that is read from the front of `bytes`.
    fn decode(&mut self, bytes: &mut &[u8]) -> Option<()> {
        *self = Self::default();
        self.calls = small(bytes)?;
        self.failures = small(bytes)?;
        for sum in &mut self.loads {
            *sum = Sum { reports: small(bytes)?, millionths: varint::read(bytes)? };
        }
        let mut counts = self.latencies.counts_mut().iter_mut();
        while let empty @ ..BUCKETS = usize::try_from(varint::read(bytes)?).ok()? {
            *counts.nth(empty)? = small(bytes)?;
        }
        Some(())
    }
}

fn small(bytes: &mut &[u8]) -> Option<u32> {
    u32::try_from(varint::read(bytes)?).ok()
}

/// The tallies of the last slots of time.
#[derive(Clone, Debug, Default)]
pub struct Window {
    slots: [Slot; SLOTS as usize],
}

#[derive(Clone, Debug, Default)]
struct Slot {
    /// The slot's number since the epoch.
    number: u64,
    tally: Tally,
}

impl Window {
    /// Adds counts at `now` to a window of this length.
    pub fn add(&mut self, tally: &Tally, length: Span, now: Timestamp) {
        if tally.is_empty() {
            return;
        }
        let number = slot_of(length, now);
        let place = usize::try_from(number % SLOTS).unwrap_or(0);
        let Some(slot) = self.slots.get_mut(place) else { return };
        if slot.number != number {
            *slot = Slot { number, tally: Tally::default() };
        }
        slot.tally.add(tally);
    }

    /// The sum of the slots within `length` before `now`, to a tenth of it. Slots after `now`, left by a clock that was
    /// set back, do not count.
    pub fn sum(&self, length: Span, now: Timestamp, sum: &mut Tally) {
        self.sum_slots(SLOTS, length, now, sum);
    }

    /// The sum of the last fifth of `length`, or somewhat less, but of at least the last two ticks, so every worker's
    /// counts are in it.
    pub fn latest(&self, length: Span, now: Timestamp, sum: &mut Tally) {
        let slots = LATEST.as_nanos().checked_div(slot_len(length)).unwrap_or(0).clamp(2, SLOTS);
        self.sum_slots(slots, length, now, sum);
    }

    fn sum_slots(&self, slots: u64, length: Span, now: Timestamp, sum: &mut Tally) {
        *sum = Tally::default();
        for slot in self.slots.iter().filter(|slot| slot.is_within(slots, slot_of(length, now))) {
            sum.add(&slot.tally);
        }
    }

    /// Appends the slots that still count at `now`.
    pub(super) fn encode(&self, length: Span, now: Timestamp, bytes: &mut Vec<u8>) {
        for slot in
            self.slots.iter().filter(|slot| slot.is_within(SLOTS, slot_of(length, now)) && !slot.tally.is_empty())
        {
            varint::write(slot.number, bytes);
            slot.tally.encode(bytes);
        }
    }

    /// Replaces the slots by those in `bytes`.
    pub(super) fn decode(&mut self, mut bytes: &[u8]) -> Option<()> {
        *self = Self::default();
        while !bytes.is_empty() {
            let number = varint::read(&mut bytes)?;
            let slot = self.slots.get_mut(usize::try_from(number % SLOTS).ok()?)?;
            slot.number = number;
            slot.tally.decode(&mut bytes)?;
        }
        Some(())
    }
}

impl Slot {
    /// Whether this is one of the last `slots` slots, counted from slot `now`.
    fn is_within(&self, slots: u64, now: u64) -> bool {
        now.checked_sub(self.number).is_some_and(|age| age < slots)
    }
}

fn slot_of(length: Span, now: Timestamp) -> u64 {
    now.as_nanos().checked_div(slot_len(length)).unwrap_or(0)
}

fn slot_len(length: Span) -> u64 {
    length.as_nanos() / SLOTS
}

/// The number of slots of a window. When it moves on, a tenth of it is forgotten at once.
const SLOTS: u64 = 10;

/// Two ticks: an adapter merges the workers' counts at least once a second.
const LATEST: Span = Span::from_secs(2);

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn tally(calls: u32, failures: u32, ms: u64) -> Tally {
        let mut tally = Tally::default();
        (0..calls).for_each(|call| tally.count(Some(Span::from_millis(ms)), call < failures));
        tally
    }

    fn sum(window: &Window, length: Span, now: Timestamp) -> Tally {
        // The old content must not remain.
        let mut sum = tally(9, 9, 9);
        window.sum(length, now, &mut sum);
        sum
    }

    #[test]
    fn a_tally_tells_rates_and_means_and_none_of_nothing() {
        let mut some = tally(8, 2, 100);
        assert_eq!((some.calls(), some.failures(), some.error_rate().get()), (8, 2, 2_500));
        assert_eq!(some.load(Load::Cpu), None);
        for cpu in ["0.2", "0.4"] {
            some.report(&Report::read(["TEXT cpu_utilization=", cpu].concat().as_bytes()).unwrap());
        }
        assert_eq!((some.load(Load::Cpu), some.load(Load::Memory)), (Some(300_000), None));
        assert_eq!(Tally::default().error_rate().get(), 0);
    }

    #[test]
    fn what_is_older_than_the_window_or_after_now_does_not_count() {
        let (length, start) = (Span::from_secs(10), Timestamp::from_millis(1_800_000_000_000));
        let mut window = Window::default();
        window.add(&tally(5, 1, 10), length, start);
        window.add(&tally(3, 0, 10), length, start.after(Span::from_secs(9)));
        for (secs, calls) in [(0, 5), (9, 8), (10, 3), (18, 3), (19, 0), (1_000_000, 0)] {
            assert_eq!(sum(&window, length, start.after(Span::from_secs(secs))).calls(), calls, "{secs}");
        }
        assert_eq!(sum(&window, length, start.before(Span::from_secs(1))).calls(), 0);
        // After the clock was set back, new counts replace those of slots that lie in the future.
        window.add(&tally(7, 0, 10), length, start.before(Span::from_secs(1)));
        assert_eq!(sum(&window, length, start.before(Span::from_secs(1))).calls(), 7);
    }

    #[test]
    fn damaged_bytes_are_no_window_and_do_no_harm() {
        let (length, now) = (Span::from_secs(10), Timestamp::from_millis(1_800_000_000_000));
        let mut window = Window::default();
        window.add(&tally(5, 1, 10), length, now);
        let mut bytes = Vec::new();
        window.encode(length, now, &mut bytes);
        for len in 1..bytes.len() {
            assert_eq!(Window::default().decode(&bytes[..len]), None, "{len}");
        }
        assert_eq!(Window::default().decode(&[0xff; 200]), None);
    }

    proptest! {
        #[test]
        fn bytes_are_the_window(
            counted in prop::collection::vec((0_u64..30, 0_u32..40, 0_u64..900_000), 0..20),
            at in 0_u64..40,
        ) {
            let (length, start) = (Span::from_secs(10), Timestamp::from_millis(1_800_000_000_000));
            let mut window = Window::default();
            let mut model = Vec::new();
            let mut latest = 0;
            for (secs, calls, ms) in counted {
                latest = latest.max(secs);
                let counted = tally(calls, calls / 3, ms);
                window.add(&counted, length, start.after(Span::from_secs(latest)));
                model.push((latest, counted));
            }
            let at = latest.max(at);
            let now = start.after(Span::from_secs(at));
            let mut expected = Tally::default();
            model.iter().filter(|(secs, _)| secs + 10 > at).for_each(|(_, tally)| expected.add(tally));
            prop_assert_eq!(&sum(&window, length, now), &expected);
            let (mut bytes, mut again) = (Vec::new(), Window::default());
            window.encode(length, now, &mut bytes);
            prop_assert!(bytes.len() < 10 * 400, "{}", bytes.len());
            prop_assert_eq!(again.decode(&bytes), Some(()));
            prop_assert_eq!(&sum(&again, length, now), &expected);
        }
    }
}
