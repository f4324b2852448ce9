//! The last calls, up to a fixed number, with two bits for each.

use super::{Call, Tally};
use crate::breaker::bytes::Reader;

/// A ring of the last calls.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct CountWindow {
    /// How many calls the window holds when full.
    capacity: u32,
    /// The position of the next call, which is also that of the oldest call once the ring is full.
    next: u32,
    /// Four calls per byte.
    calls: Vec<u8>,
    total: Tally,
}

impl CountWindow {
    /// An empty window for `capacity` calls.
    pub(crate) fn new(capacity: u32) -> Self {
        let calls = vec![0; usize::try_from(capacity.div_ceil(PER_BYTE)).unwrap_or(0)];
        Self { capacity, next: 0, calls, total: Tally::default() }
    }

    pub(crate) fn clear(&mut self) {
        // Calls beyond the count are never read, so they need not be cleared.
        (self.next, self.total) = (0, Tally::default());
    }

    pub(crate) fn record(&mut self, call: Call) {
        if self.total.calls >= self.capacity {
            self.total.subtract(self.at(self.next).into());
        }
        self.total.add(call.into());
        let shift = self.next.wrapping_rem(PER_BYTE).wrapping_mul(BITS);
        let bits = u8::from(call.failed) | (u8::from(call.slow) << 1);
        if let Some(byte) = self.calls.get_mut((self.next / PER_BYTE) as usize) {
            *byte = (*byte & !(MASK << shift)) | (bits << shift);
        }
        self.next = self.after(self.next);
    }

    /// Adds the calls of another window of the same capacity, oldest first.
    pub(crate) fn merge(&mut self, later: &Self) {
        let mut place = later.first();
        for _ in 0..later.total.calls {
            self.record(later.at(place));
            place = later.after(place);
        }
    }

    pub(crate) fn tally(&self) -> Tally {
        self.total
    }

    /// The position of the oldest call.
    fn first(&self) -> u32 {
        if self.total.calls >= self.capacity { self.next } else { 0 }
    }

    fn after(&self, place: u32) -> u32 {
        let next = place.saturating_add(1);
        if next >= self.capacity { 0 } else { next }
    }

    fn at(&self, place: u32) -> Call {
        let byte = self.calls.get((place / PER_BYTE) as usize).copied().unwrap_or(0);
        let bits = byte >> place.wrapping_rem(PER_BYTE).wrapping_mul(BITS);
        Call { failed: bits & 1 != 0, slow: bits & 2 != 0 }
    }

    /// Writes the capacity, the number of calls, the position of the next call, and the used part of the ring.
    pub(crate) fn encode(&self, bytes: &mut Vec<u8>) {
        bytes.push(KIND);
        for number in [self.capacity, self.total.calls, self.next] {
            bytes.extend_from_slice(&number.to_le_bytes());
        }
        let used = (self.total.calls.div_ceil(PER_BYTE)) as usize;
        bytes.extend_from_slice(self.calls.get(..used).unwrap_or(&self.calls));
    }

    pub(crate) fn decode(&mut self, reader: &mut Reader<'_>) -> Option<()> {
        if reader.byte()? != KIND || reader.u32()? != self.capacity {
            return None;
        }
        let (calls, next) = (reader.u32()?, reader.u32()?);
        let consistent = calls <= self.capacity && next < self.capacity && (calls == self.capacity || next == calls);
        let ring = reader.rest();
        let room = self.calls.get_mut(..(calls.div_ceil(PER_BYTE)) as usize)?;
        if !consistent || ring.len() != room.len() {
            return None;
        }
        room.copy_from_slice(ring);
        self.next = next;
        for place in 0..calls {
            self.total.add(self.at(place).into());
        }
        Some(())
    }
}

const PER_BYTE: u32 = 4;
const BITS: u32 = 2;
const MASK: u8 = 0b11;
const KIND: u8 = 2;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn call(bits: u8) -> Call {
        Call { failed: bits & 1 != 0, slow: bits & 2 != 0 }
    }

    fn sum(calls: &[u8]) -> Tally {
        let mut sum = Tally::default();
        calls.iter().for_each(|bits| sum.add(call(*bits).into()));
        sum
    }

    proptest! {
        #[test]
        fn the_window_holds_the_last_calls_whoever_recorded_them(
            capacity in 1_u32..40,
            batches in prop::collection::vec(prop::collection::vec(0_u8..4, 0..60), 1..6),
        ) {
            let mut window = CountWindow::new(capacity);
            let mut all = Vec::new();
            for (index, batch) in batches.iter().enumerate() {
                let mut other = CountWindow::new(capacity);
                for bits in batch {
                    if index % 2 == 0 { window.record(call(*bits)) } else { other.record(call(*bits)) }
                }
                window.merge(&other);
                all.extend(batch);
                prop_assert_eq!(window.tally(), sum(&all[all.len().saturating_sub(capacity as usize)..]));
                let mut bytes = Vec::new();
                window.encode(&mut bytes);
                let mut read = CountWindow::new(capacity);
                prop_assert!(read.decode(&mut Reader::new(&bytes)).is_some());
                prop_assert_eq!(read.tally(), window.tally());
                window = read;
            }
        }
    }
}
