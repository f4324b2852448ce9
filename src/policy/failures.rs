//! How a call to an upstream ended, and which outcomes are failures.

use super::text::Failure;
use super::value::Items;
use crate::request::is_error;

/// How a call to an upstream ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CallEnd {
    /// The upstream responded with this status.
    Answered(u16),
    /// The connection could not be established.
    NotConnected,
    /// No response began in time.
    TimedOut,
    /// The connection was closed before the response.
    Reset,
    /// The connection could not be established, or was closed before the response; the host does not tell which. It is
    /// a failure if either of the two is.
    Unanswered,
    /// The client left before the response, so the outcome is unknown.
    Abandoned,
    /// There was a response, but the host could not deliver the whole of it: it was too large, or broke off. The
    /// attempt has failed, whatever the route counts as a failure. The breaker does not count it, because the upstream
    /// may be healthy.
    Lost,
    /// The call was not made: another filter in front of the upstream responded, for example one that authenticates
    /// clients. Its response goes to the client and says nothing about the upstream.
    NotMade,
}

/// Which outcomes of a call are failures.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Failures {
    not_connected: bool,
    timed_out: bool,
    reset: bool,
    /// A bit for each status from 400 to 655.
    statuses: [u64; 4],
}

impl Failures {
    /// The failures that these words name: `connect`, `timeout`, `reset`, `5xx`, `429`. [`is_error`] says which
    /// statuses `5xx` covers.
    pub(super) fn of(words: &Items<'_, Failure>) -> Self {
        let mut failures = Self::default();
        for word in words.known() {
            match word {
                "connect" => failures.not_connected = true,
                "timeout" => failures.timed_out = true,
                "reset" => failures.reset = true,
                "5xx" => (500..600).filter(|status| is_error(*status)).for_each(|status| failures.add(status)),
                status => failures.add(status.parse().unwrap_or(0)),
            }
        }
        failures
    }

    fn add(&mut self, status: u16) {
        if let Some((word, bit)) = place(status)
            && let Some(word) = self.statuses.get_mut(word)
        {
            *word |= bit;
        }
    }

    /// Whether a call with this outcome has failed.
    #[must_use]
    pub fn contain(&self, end: CallEnd) -> bool {
        match end {
            CallEnd::Answered(status) => {
                place(status).is_some_and(|(word, bit)| self.statuses.get(word).is_some_and(|word| word & bit != 0))
            }
            CallEnd::NotConnected => self.not_connected,
            CallEnd::TimedOut => self.timed_out,
            CallEnd::Reset => self.reset,
            CallEnd::Unanswered => self.not_connected || self.reset,
            CallEnd::Abandoned | CallEnd::Lost | CallEnd::NotMade => false,
        }
    }
}

/// The word and the bit of a status; `None` for a status that is never a failure.
fn place(status: u16) -> Option<(usize, u64)> {
    let bit = status.checked_sub(FIRST_STATUS)?;
    Some((usize::from(bit / 64), 1 << (bit % 64)))
}

const FIRST_STATUS: u16 = 400;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statuses_are_failures_one_by_one() {
        let mut failures = Failures::default();
        for status in [400, 429, 503, 599] {
            failures.add(status);
        }
        let failed: Vec<u16> = (0..=u16::MAX).filter(|status| failures.contain(CallEnd::Answered(*status))).collect();
        assert_eq!(failed, [400, 429, 503, 599]);
        for end in [
            CallEnd::NotConnected,
            CallEnd::TimedOut,
            CallEnd::Reset,
            CallEnd::Unanswered,
            CallEnd::Abandoned,
            CallEnd::Lost,
            CallEnd::NotMade,
        ] {
            assert!(!failures.contain(end), "{end:?}");
        }
    }

    #[test]
    fn a_client_cannot_bring_about_a_failure_by_a_method_that_nobody_knows() {
        let text = r#"{ "version": 1, "breakers": { "b": { "window": { "count": 1 }, "failures": ["5xx"] },
            "c": { "window": { "count": 1 }, "failures": ["5xx", "501"] } } }"#;
        let policy = crate::policy::Policy::parse(text).unwrap();
        let failed = |failures: &Failures| -> Vec<u16> {
            (0..=u16::MAX).filter(|status| failures.contain(CallEnd::Answered(*status))).collect()
        };
        let [b, c] = policy.breakers() else { panic!("{policy:?}") };
        assert_eq!(failed(&b.failures), (500..600).filter(|status| *status != 501).collect::<Vec<_>>());
        assert_eq!(failed(&c.failures), (500..600).collect::<Vec<_>>(), "unless the policy says it itself");
    }

    #[test]
    fn what_may_be_either_is_a_failure_where_one_of_them_is() {
        let (connect, reset) =
            (Failures { not_connected: true, ..Failures::default() }, Failures { reset: true, ..Failures::default() });
        let timeout = Failures { timed_out: true, ..Failures::default() };
        assert!(connect.contain(CallEnd::Unanswered) && reset.contain(CallEnd::Unanswered));
        assert!(!timeout.contain(CallEnd::Unanswered));
    }
}
