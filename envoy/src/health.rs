//! What the workers know of the service's health, brought together in Envoy's shared data: one value for each policy that
//! differs in what it goes by.

use crate::host::{self, HostError};
use tidegate::health::monitor::Monitor;
use tidegate::units::Timestamp;

/// Adds what this worker has counted to what all share, and learns what the others have.
pub fn share(monitor: &mut Monitor, bytes: &mut Vec<u8>) {
    let key = key(monitor.identity());
    for _ in 0..MAX_ROUNDS {
        // What cannot be read is as good as absent: this worker then goes by what it sees itself.
        let known = host::shared(&key).ok().flatten();
        let now = Timestamp::from_nanos(host::now_ns());
        if !monitor.merge(known.as_ref().map(|known| known.bytes.as_slice()), bytes, now) {
            return;
        }
        match host::set_shared(&key, bytes, known.map(|known| known.cas)) {
            Ok(()) => return monitor.published(),
            Err(HostError::CAS_MISMATCH) => {}
            // What was counted is kept, and shared with the next tick.
            Err(_) => return,
        }
    }
}

/// The name in shared data.
fn key(identity: u64) -> [u8; 12] {
    let mut key = *b"tg/h________";
    if let Some((_, place)) = key.split_last_chunk_mut::<8>() {
        *place = identity.to_le_bytes();
    }
    key
}

/// Each conflict means that another worker was first, and there is a next tick.
const MAX_ROUNDS: u32 = 8;
