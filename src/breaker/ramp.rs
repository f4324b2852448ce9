//! The return to admitting all calls: the admitted share grows linearly, so an upstream that has just recovered does
//! not get all waiting clients at once.

use crate::policy::Ramp;
use crate::units::{BasisPoints, Draw, Span};

/// How long a call with this draw has to wait if the ramp began `elapsed` ago; `None` admits it.
///
/// The wait ends exactly when the line reaches the draw, so refused clients that come back in time are spread as evenly
/// as the line rises. Such a client has another draw by then and may be refused again.
pub(super) fn wait(ramp: Ramp, elapsed: Span, draw: Draw) -> Option<Span> {
    if elapsed >= ramp.over {
        return None;
    }
    let over = u128::from(ramp.over.as_nanos());
    let from = u128::from(ramp.from.get()).saturating_mul(WHOLE) / ALL;
    let rise = WHOLE.saturating_sub(from);
    let risen = rise.saturating_mul(elapsed.as_nanos().into()).checked_div(over).unwrap_or(WHOLE);
    let draw = u128::from(draw.0);
    if draw < from.saturating_add(risen) {
        return None;
    }
    // One nanosecond more, because the line must be above the draw.
    let reached = draw.saturating_sub(from).saturating_mul(over).checked_div(rise).unwrap_or(over).saturating_add(1);
    let reached = u64::try_from(reached).unwrap_or(u64::MAX).min(ramp.over.as_nanos());
    Some(Span::from_nanos(reached.saturating_sub(elapsed.as_nanos()).max(1)))
}

/// The number of possible draws.
const WHOLE: u128 = 1 << 64;
const ALL: u128 = BasisPoints::ALL.get() as u128;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn ramp(percent: u16, secs: u64) -> Ramp {
        Ramp { from: BasisPoints::new(percent * 100), over: Span::from_secs(secs) }
    }

    #[test]
    fn the_share_rises_in_a_straight_line() {
        // Evenly spaced draws, so the share is counted exactly.
        let draws: Vec<Draw> = (0..1_000).map(|place| Draw(u64::MAX / 1_000 * place)).collect();
        for (secs, admitted) in [(0, 100), (15, 550), (20, 700), (30, 1_000), (31, 1_000)] {
            let ramp = ramp(10, 30);
            let count = draws.iter().filter(|draw| wait(ramp, Span::from_secs(secs), **draw).is_none()).count();
            assert!(count.abs_diff(admitted) <= 1, "{secs}: {count}");
        }
    }

    proptest! {
        #[test]
        fn waiting_as_told_suffices_for_the_same_draw_and_less_does_not(
            from in 1_u16..=10_000, over_ms in 1_000_u64..3_600_000, elapsed in 0.0..1.0, draw in any::<u64>(),
        ) {
            let ramp = Ramp { from: BasisPoints::new(from), over: Span::from_millis(over_ms) };
            let elapsed = (ramp.over.as_nanos() as f64 * elapsed) as u64;
            if let Some(told) = wait(ramp, Span::from_nanos(elapsed), Draw(draw)) {
                prop_assert!(told.as_nanos() <= ramp.over.as_nanos());
                let after = |ns: u64| wait(ramp, Span::from_nanos(elapsed + ns), Draw(draw));
                prop_assert_eq!(after(told.as_nanos() + 1), None);
                if told.as_nanos() > 2 {
                    prop_assert!(after(told.as_nanos() - 2).is_some());
                }
            }
        }
    }
}
