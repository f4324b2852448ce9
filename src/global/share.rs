//! This instance's share of a key's demand.
//!
//! Two sums grow with every grant: what this instance drew, and what all instances drew, which the authority tells in
//! [`drawn`](crate::authority::Grant::drawn). Older grants count less. If every instance takes its recent share of the
//! quota while the store fails, together they take the quota. Before anything is known, the policy's
//! `local_share_percent` applies to each; together they then take that percentage times the number of instances.

use crate::units::{BasisPoints, Permits};

/// What this instance and all instances have drawn recently.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Share {
    own: u64,
    all: u64,
    /// The authority's count in its last answer.
    drawn: Option<u64>,
}

impl Share {
    /// Learns from an answer.
    pub(super) fn learn(&mut self, granted: Permits, drawn: u64) {
        let granted = u64::from(granted.get());
        // An authority that counts less than before has restarted its count.
        let grown = match self.drawn {
            Some(before) if drawn >= before => drawn.saturating_sub(before),
            _ => drawn,
        };
        let aged = |sum: u64| sum.saturating_sub(sum >> FADE_SHIFT);
        self.own = aged(self.own).saturating_add(granted << SCALE_SHIFT);
        self.all = aged(self.all).saturating_add(grown.max(granted) << SCALE_SHIFT);
        self.drawn = Some(drawn);
    }

    /// The share; `None` before the first grant.
    pub(super) fn known(&self) -> Option<BasisPoints> {
        let whole = u64::from(BasisPoints::ALL.get());
        let share = self.own.saturating_mul(whole).checked_div(self.all)?;
        Some(BasisPoints::new(u16::try_from(share).unwrap_or(u16::MAX)))
    }
}

/// Each answer takes an eighth off the sums before it.
const FADE_SHIFT: u32 = 3;
/// Permits are scaled up so that small sums fade too.
const SCALE_SHIFT: u32 = 4;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_follows_what_is_drawn() {
        let mut share = Share::default();
        assert_eq!(share.known(), None);
        let mut drawn = 0;
        for _ in 0..100 {
            drawn += 40;
            share.learn(Permits::new(10), drawn);
        }
        assert_eq!(share.known(), Some(BasisPoints::new(2_500)));
        for _ in 0..100 {
            drawn += 10;
            share.learn(Permits::new(10), drawn);
        }
        assert!(share.known() > Some(BasisPoints::new(9_900)));
        share.learn(Permits::new(5), 5);
        assert!(share.known() > Some(BasisPoints::new(9_900)), "an authority that began anew tells nothing of others");
    }
}
