//! Redis as the authority: its scripts against the core's implementation, and both protocols, on a real Redis behind
//! real HTTP fronts.

mod breakers;
mod cluster;
mod equal;
mod faults;
pub mod front;
pub mod process;
mod protocols;
pub mod stage;

use tidegate::authority::{Ask, Instance, Shared, Terms};
use tidegate::key::KeyHash;
use tidegate::policy::Protocol;
use tidegate::units::Permits;

pub const PROTOCOLS: [Protocol; 2] = [Protocol::Upstash, Protocol::Webdis];
pub const ALGORITHMS: [Shared; 3] = [Shared::FixedWindow, Shared::SlidingWindow, Shared::TokenBucket];

/// Terms of `permits` in a window.
pub fn terms(algorithm: Shared, permits: u32, window_ms: u64) -> Terms {
    Terms { algorithm, permits: Permits::new(permits), window_ms, burst: Permits::new(permits) }
}

/// The first ask of an instance, for one permit that it needs now.
pub fn ask(key: u64, terms: Terms, instance: u64) -> Ask {
    Ask {
        key: KeyHash::from_bits(key),
        terms,
        instance: Instance::new(instance),
        seq: 1,
        need: Permits::ONE,
        least: Permits::ONE,
        want: Permits::ONE,
        back: Permits::ZERO,
        back_of: 0,
    }
}
