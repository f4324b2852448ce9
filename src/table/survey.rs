//! How full the table is, counted a few pages at a time.

use super::{Page, SLOTS};
use crate::store::Store;
use crate::units::Timestamp;

/// Walks over the table, `STEP` pages a step, so that counting its live keys costs almost nothing.
///
/// Each stretch of pages counts as it was when the walk last visited it. During the first walk, unvisited pages are
/// assumed to be like the visited ones.
#[derive(Debug, Default)]
pub struct Survey {
    next: usize,
    /// Live keys of each visited stretch, in the table's order: four bytes for every 4,096 slots.
    live: Vec<u32>,
}

impl Survey {
    /// Takes one step, and returns the estimated number of live keys in the table. Pages that cannot be read count as
    /// empty.
    pub fn step<S: Store>(&mut self, store: &mut S, now: Timestamp) -> u64 {
        let pages = store.pages();
        let first = u32::try_from(self.next).unwrap_or(0).saturating_mul(STEP);
        let stretch = first..first.saturating_add(STEP).min(pages);
        store.begin();
        let live = stretch.clone().map(|page| store.read(page).map_or(0, |page| Page::live(page, now))).sum::<usize>();
        let live = u32::try_from(live).unwrap_or(u32::MAX);
        match self.live.get_mut(self.next) {
            Some(seen) => *seen = live,
            None => self.live.push(live),
        }
        self.next = if stretch.end < pages { self.next.saturating_add(1) } else { 0 };
        let walked = u64::try_from(self.live.len()).unwrap_or(u64::MAX).saturating_mul(u64::from(STEP));
        let seen: u64 = self.live.iter().map(|live| u64::from(*live)).sum();
        let all = u64::from(pages).max(1);
        seen.saturating_mul(all).checked_div(walked.min(all)).unwrap_or(0)
    }
}

/// Pages of one step: 4,096 slots. A table for 100,000 keys is walked through in 33 steps.
pub const STEP: u32 = 4_096 / SLOTS as u32;
