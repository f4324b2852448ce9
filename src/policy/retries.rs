//! When a request may be sent again, and after how long.

use super::document;
use super::error::{Path, Problems};
use super::value::View;
use crate::units::{Draw, Span};

/// When a request may be sent again, and after how long.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Retries {
    /// The methods of requests that may be sent again, upper case.
    pub(crate) methods: Vec<String>,
    /// How many retries there may be, in percent of recent requests, at most 100.
    pub(crate) budget_percent: u32,
    pub(crate) backoff: Backoff,
}

/// How long a request waits before a retry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backoff {
    /// The longest wait before the first retry, at most a minute.
    pub(crate) initial: Span,
    /// The longest wait before any retry, not less than `initial`, at most a minute.
    pub(crate) max: Span,
}

impl Backoff {
    /// How long to wait before the retry that follows this number of tries: a random part of a time that is `initial`
    /// after the first try and doubles with each further one, up to `max`. The wait is uniform in `draw`.
    #[must_use]
    pub fn wait(&self, tries: u32, draw: Draw) -> Span {
        let doubled = 1_u64.checked_shl(tries.saturating_sub(1)).unwrap_or(u64::MAX);
        let most = self.initial.as_nanos().saturating_mul(doubled).min(self.max.as_nanos());
        // The upper half of the product is uniform between zero and `most`.
        Span::from_nanos((u128::from(most).saturating_mul(u128::from(draw.0)) >> 64) as u64)
    }
}

/// Reads when a request may be sent again.
pub(super) fn retries(
    document: View<'_, document::Fallback>,
    at: &Path<'_>,
    problems: &mut Problems,
) -> Option<Retries> {
    let backoff = document.backoff().and_then(|backoff| {
        let (initial, max) = (backoff.initial()?, backoff.max()?);
        if max < initial {
            problems.report(
                &at.field("backoff").field("max"),
                &[&format!("{max} is less than \"initial\", {initial}")],
                &["write a time not less than \"initial\""],
            );
        }
        Some(Backoff { initial, max })
    });
    Some(Retries {
        methods: document.methods()?.known().map(str::to_owned).collect(),
        budget_percent: document.budget_percent()?,
        backoff: backoff?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_the_most_and_are_left_to_chance() {
        let backoff = Backoff { initial: Span::from_millis(25), max: Span::from_millis(80) };
        for (tries, most) in [(1, 25), (2, 50), (3, 80), (4, 80), (200, 80)] {
            let (least, half, all) = (Draw(0), Draw(1 << 63), Draw(u64::MAX));
            assert_eq!(backoff.wait(tries, least), Span::ZERO, "{tries}");
            assert_eq!(backoff.wait(tries, half), Span::from_nanos(most * 500_000), "{tries}");
            assert_eq!(backoff.wait(tries, all), Span::from_nanos(most * 1_000_000 - 1), "{tries}");
        }
    }
}
