//! Which share of a key's demand is this instance's own.
//!
//! Both are summed as grants come, and older sums count less with each grant: what this instance drew, and what all did,
//! which the authority's [`drawn`](crate::authority::Grant::drawn) tells. Where every instance takes its recent share of the
//! quota while the store fails, all together take the quota. Before anything is known the policy's `local_share_percent`
//! counts; then all together take that many percent times as many as there are.

use crate::units::{BasisPoints, Permits};

/// What this instance and all have drawn of late.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Share {
    own: u64,
    all: u64,
    /// The authority's count when it last answered.
    drawn: Option<u64>,
}

impl Share {
    /// Takes note of an answer.
    pub(super) fn learn(&mut self, granted: Permits, drawn: u64) {
        let granted = u64::from(granted.get());
        // An authority that counts less than before has begun anew.
        let grown = match self.drawn {
            Some(before) if drawn >= before => drawn.saturating_sub(before),
            _ => drawn,
        };
        let aged = |sum: u64| sum.saturating_sub(sum >> FADE_SHIFT);
        self.own = aged(self.own).saturating_add(granted << SCALE_SHIFT);
        self.all = aged(self.all).saturating_add(grown.max(granted) << SCALE_SHIFT);
        self.drawn = Some(drawn);
    }

    /// The share; `None` where nothing is known.
    pub(super) fn known(&self) -> Option<BasisPoints> {
        let whole = u64::from(BasisPoints::ALL.get());
        let share = self.own.saturating_mul(whole).checked_div(self.all)?;
        Some(BasisPoints::new(u16::try_from(share).unwrap_or(u16::MAX)))
    }
}

/// Each answer takes an eighth from what was before it.
const FADE_SHIFT: u32 = 3;
/// So that small sums fade too.
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
