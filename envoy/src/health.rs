//! The service's health as seen by all workers, merged in Envoy's shared data: one value for each policy whose health
//! settings differ.

use crate::host::{self, HostError};
use tidegate::health::monitor::Monitor;
use tidegate::units::Timestamp;

/// Merges this worker's counts into the shared value, and learns those of the others.
pub fn share(monitor: &mut Monitor, bytes: &mut Vec<u8>) {
    let key = key(monitor.identity());
    for _ in 0..MAX_ROUNDS {
        // An unreadable value counts as absent: this worker then relies on what it sees itself.
        let known = host::shared(&key).ok().flatten();
        let now = Timestamp::from_nanos(host::now_ns());
        if !monitor.merge(known.as_ref().map(|known| known.bytes.as_slice()), bytes, now) {
            return;
        }
        match host::set_shared(&key, bytes, known.map(|known| known.cas)) {
            Ok(()) => return monitor.published(),
            Err(HostError::CAS_MISMATCH) => {}
            // The counts are kept, and shared with the next tick.
            Err(_) => return,
        }
    }
}

/// The key in shared data.
fn key(identity: u64) -> [u8; 12] {
    let mut key = *b"tg/h________";
    if let Some((_, place)) = key.split_last_chunk_mut::<8>() {
        *place = identity.to_le_bytes();
    }
    key
}

/// Bounded: each conflict means that another worker succeeded, and the next tick tries again.
const MAX_ROUNDS: u32 = 8;
