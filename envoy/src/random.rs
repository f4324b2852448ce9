//! Random draws, generated in the VM's own memory: asking the host for each would cost half a microsecond.

use crate::host;
use tidegate::units::Draw;

/// SplitMix64 (Steele, Lea, Flood 2014). Its numbers decide which requests are shed and how long some wait. They need
/// not be secret.
pub struct Random(u64);

impl Random {
    /// A generator seeded from the host's random source, so that no two workers draw alike.
    pub fn new() -> Self {
        let mut seed = [0; 8];
        if getrandom::fill(&mut seed).is_err() {
            return Self(host::now_ns());
        }
        Self(u64::from_le_bytes(seed))
    }

    /// The next draw.
    pub fn draw(&mut self) -> Draw {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        let draw = Draw(mixed ^ (mixed >> 31));
        #[cfg(feature = "test-clock")]
        let draw = crate::clock::instead_of_draw(draw);
        draw
    }
}
