//! The request to the service.

use super::message::{write_bytes, write_number};
use crate::units::Permits;
use core::fmt::Write as _;
use sha2::{Digest as _, Sha256};
use std::borrow::Cow;

/// One counter of the service: a limit, and the client's key in it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Descriptor {
    entries: Vec<u8>,
    cost: Permits,
}

impl Descriptor {
    /// A descriptor without entries that charges `cost` permits.
    #[must_use]
    pub fn new(cost: Permits) -> Self {
        Self { entries: Vec::new(), cost }
    }

    /// Adds an entry.
    ///
    /// A value has to be UTF-8, or the service could not read the message at all, and the service stores each value for
    /// as long as it counts by it. So a value that is longer than 256 bytes or is not UTF-8 is replaced by its hash,
    /// `sha256:` and 64 hexadecimal digits. In practice, different values never share a hash.
    pub fn push(&mut self, key: &str, value: &[u8]) {
        let mut entry = Vec::new();
        write_bytes(1, key.as_bytes(), &mut entry);
        write_bytes(2, text(value).as_bytes(), &mut entry);
        write_bytes(1, &entry, &mut self.entries);
    }
}

/// The message that asks about these descriptors, each of which charges its own cost: `RateLimitRequest`.
///
/// The request has one cost for all. If costs differ, each descriptor whose cost is not the greatest has its own. An
/// older service does not read it, and charges the greatest to all.
#[must_use]
pub fn request(domain: &str, descriptors: &[Descriptor]) -> Vec<u8> {
    let mut bytes = Vec::new();
    write_bytes(1, domain.as_bytes(), &mut bytes);
    let cost = descriptors.iter().map(|descriptor| descriptor.cost).max().unwrap_or_default();
    for descriptor in descriptors {
        let mut message = descriptor.entries.clone();
        if descriptor.cost != cost {
            let mut addend = Vec::new();
            write_number(1, descriptor.cost.get().into(), &mut addend);
            write_bytes(3, &addend, &mut message);
        }
        write_bytes(2, &message, &mut bytes);
    }
    write_number(3, cost.get().into(), &mut bytes);
    bytes
}

fn text(value: &[u8]) -> Cow<'_, str> {
    match str::from_utf8(value) {
        Ok(text) if value.len() <= LONGEST => Cow::Borrowed(text),
        _ => {
            let mut hash = "sha256:".to_owned();
            for byte in Sha256::digest(value) {
                // Writing to a string cannot fail.
                let _ = write!(hash, "{byte:02x}");
            }
            Cow::Owned(hash)
        }
    }
}

/// User names, paths and keys are seldom longer.
const LONGEST: usize = 256;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_that_no_service_could_read_is_told_by_its_hash() {
        assert_eq!(text("jürgen".as_bytes()), "jürgen");
        assert_eq!(text(&[b'a'; 256]).len(), 256);
        // As sha256sum has them.
        assert_eq!(text(b"\xff"), "sha256:a8100ae6aa1940d0b663bb31cd466142ebbdbd5187131b92d93818987832eb89");
        assert_eq!(text(&[b'a'; 257]).len(), "sha256:".len() + 64);
        assert_ne!(text(&[b'a'; 257]), text(&[b'a'; 258]));
    }
}
