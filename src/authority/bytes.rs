//! An account as bytes, for a host whose memory does not last.

use super::account::{LastAnswer, MAX_INSTANCES};
use super::in_flight::{Holder, Holders};
use super::{Account, Instance};
use crate::limiter::{State, UsedShare};
use crate::units::Permits;
use crate::words;

impl Account {
    /// The account as bytes: a version, then numbers of eight bytes each, little-endian. Accounts of requests in flight
    /// have a version of their own.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        if !self.holders.0.is_empty() {
            return self.held_bytes();
        }
        let bucket = &self.bucket;
        let state = self.state.unwrap_or_default();
        let head = [
            VERSION,
            self.at_ms,
            self.drawn,
            self.ends_ms,
            u64::from(self.state.is_some()),
            state.fresh_at_ticks(),
            u64::from(state.used().get()),
            state.payload(),
            bucket.at_ms,
            bucket.debt_ns,
            bucket.epoch_ms,
            u64::from(bucket.lent.get()),
            u64::from(bucket.lent_before.get()),
        ];
        let mut bytes = Vec::with_capacity(HEAD_NUMBERS * 8);
        words::append(&mut bytes, &head);
        for latest in &self.latest {
            let (granted, out) = (u64::from(latest.granted.get()), u64::from(latest.out.get()));
            let numbers = [latest.instance.get(), latest.seq, granted, latest.window, latest.ends_ms, out];
            words::append(&mut bytes, &numbers);
        }
        bytes
    }

    /// The account in these bytes; `None` if they have another version or are not an account.
    #[must_use]
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let (numbers, rest) = bytes.as_chunks::<8>();
        let mut numbers = numbers.iter().map(|number| u64::from_le_bytes(*number));
        if !rest.is_empty() || numbers.len() > HEAD_NUMBERS + MAX_INSTANCES * NUMBERS_PER_INSTANCE {
            return None;
        }
        match numbers.next()? {
            VERSION => {}
            VERSION_IN_FLIGHT => return Self::held_from(numbers),
            _ => return None,
        }
        let mut next = || numbers.next();
        let mut account = Self { at_ms: next()?, drawn: next()?, ends_ms: next()?, ..Self::default() };
        let is_there = next()? != 0;
        let state = State::at_ticks(next()?, UsedShare::from_byte(u8::try_from(next()?).ok()?), next()?);
        account.state = is_there.then_some(state);
        (account.bucket.at_ms, account.bucket.debt_ns, account.bucket.epoch_ms) = (next()?, next()?, next()?);
        (account.bucket.lent, account.bucket.lent_before) = (permits(next()?)?, permits(next()?)?);
        while let Some(instance) = next() {
            let (seq, granted) = (next()?, permits(next()?)?);
            let (window, ends_ms, out) = (next()?, next()?, permits(next()?)?);
            account.latest.push(LastAnswer { instance: Instance::new(instance), seq, granted, window, ends_ms, out });
        }
        Some(account)
    }

    fn held_bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(HEAD_NUMBERS * 8);
        words::append(&mut bytes, &[VERSION_IN_FLIGHT, self.at_ms, self.drawn, self.ends_ms]);
        for holder in &self.holders.0 {
            let (held, short) = (u64::from(holder.held.get()), u64::from(holder.short.get()));
            let numbers = [holder.instance.get(), holder.seq, held, holder.until_ms, holder.since_ms, short];
            words::append(&mut bytes, &numbers);
        }
        bytes
    }

    fn held_from(mut numbers: impl Iterator<Item = u64>) -> Option<Self> {
        let mut next = || numbers.next();
        let mut account = Self { at_ms: next()?, drawn: next()?, ends_ms: next()?, ..Self::default() };
        let Holders(holders) = &mut account.holders;
        while let Some(instance) = next() {
            let (seq, held, until_ms) = (next()?, permits(next()?)?, next()?);
            let (since_ms, short) = (next()?, permits(next()?)?);
            holders.push(Holder { instance: Instance::new(instance), seq, held, until_ms, since_ms, short });
        }
        (!holders.is_empty() && holders.len() <= MAX_INSTANCES).then_some(account)
    }
}

pub(super) fn permits(number: u64) -> Option<Permits> {
    u32::try_from(number).ok().filter(|number| *number <= Permits::MAX.get()).map(Permits::new)
}

const VERSION: u64 = 1;
const VERSION_IN_FLIGHT: u64 = 2;
/// How many numbers an account has without its instances, and how many each instance adds.
const HEAD_NUMBERS: usize = 13;
const NUMBERS_PER_INSTANCE: usize = 6;
