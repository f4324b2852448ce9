//! The mode of a policy as a whole: enforce, observe only, stricter quotas, or closed for maintenance.

use core::fmt;
use core::net::IpAddr;
use core::str::FromStr;

use crate::lookup::Lookup;
use crate::matching::Matcher;
use crate::network::Networks;
use crate::policy::{Limit, Match, Policy, Quota};
use crate::units::{Permits, Span};

/// How a policy acts as a whole.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum Mode {
    /// As the policy says.
    #[default]
    Enforce,
    /// Everything is decided and counted as if enforced, but every request goes on.
    Observe,
    /// Every quota is reduced to this percentage of the policy's, `1..=100`.
    Strict(u8),
    /// Every request is refused, except those let in.
    Maintenance(Maintenance),
}

/// The name of a mode, as in a policy or in an operator's request to change it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ModeWord {
    /// See [`Mode::Enforce`].
    Enforce,
    /// See [`Mode::Observe`].
    Observe,
    /// See [`Mode::Strict`].
    Strict,
    /// See [`Mode::Maintenance`].
    Maintenance,
}

/// A word that names no mode.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnknownMode(String);

/// The response to every request during maintenance, and the exceptions.
#[derive(Clone, Debug, PartialEq)]
pub struct Maintenance {
    /// The status, `200..=599`.
    pub(crate) status: u16,
    /// When clients may retry.
    pub(crate) retry_after: Span,
    /// The page's media type and the page; `None` for an error in the form that limits send.
    pub(crate) page: Option<(String, String)>,
    /// Requests that are let in: those that any of these matches.
    pub(crate) allow_paths: Vec<Match>,
    /// Clients that are let in.
    pub(crate) allow_addresses: Networks,
}

impl Mode {
    /// The mode's name in the policy.
    #[must_use]
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::Enforce => "enforce",
            Self::Observe => "observe",
            Self::Strict(_) => "strict",
            Self::Maintenance(_) => "maintenance",
        }
    }

    /// The quota in force in place of the policy's `quota`: permits and burst rounded down, but at least one.
    pub(crate) fn in_force(&self, quota: Quota) -> Quota {
        if !matches!(self, Self::Strict(_)) {
            return quota;
        }
        let permits = self.share(quota.permits).get();
        // Rounding the permits down slows the refill. So the burst is bounded: the bucket has to fill within
        // `MAX_FILL`, or its state could not hold it.
        let most = u128::from(MAX_FILL.as_nanos())
            .saturating_mul(permits.into())
            .checked_div(quota.window.as_nanos().into())
            .map_or(1, |most| u32::try_from(most).unwrap_or(u32::MAX).max(1));
        Quota {
            permits: Permits::new(permits),
            window: quota.window,
            burst: Permits::new(self.share(quota.burst).get().min(most)),
            least: quota.least.map(|least| self.share(least)),
        }
    }

    /// The number of permits in force in place of the policy's.
    pub(crate) fn share(&self, permits: Permits) -> Permits {
        let Self::Strict(percent) = *self else { return permits };
        let share = u64::from(permits.get()).saturating_mul(percent.into()).checked_div(100).unwrap_or(0);
        Permits::new(u32::try_from(share.max(1)).unwrap_or(u32::MAX))
    }

    /// The rules of the maintenance in force; `None` in other modes.
    pub(crate) fn maintenance(&self) -> Option<&Maintenance> {
        match self {
            Self::Maintenance(maintenance) => Some(maintenance),
            _ => None,
        }
    }
}

impl Policy {
    /// The limits that would let no request pass in the mode `strict`, because each request costs more than a quota
    /// then has: the limit, the cost, and that quota. This is no error, because a policy must not be rejected in an
    /// emergency.
    pub fn shut_when_strict(&self) -> impl Iterator<Item = (&Limit, Permits, Permits)> {
        let strict = Mode::Strict(self.strict);
        self.limits.iter().filter_map(move |limit| {
            let has = |quota: &Quota| {
                let quota = strict.in_force(*quota);
                quota.least.unwrap_or(quota.burst)
            };
            let (cost, least) = (limit.cost.least(), limit.quotas.iter().flatten().map(has).min()?);
            (least < cost).then_some((limit, cost, least))
        })
    }
}

impl ModeWord {
    /// The word.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Enforce => "enforce",
            Self::Observe => "observe",
            Self::Strict => "strict",
            Self::Maintenance => "maintenance",
        }
    }
}

impl FromStr for ModeWord {
    type Err = UnknownMode;

    /// The mode with exactly this name.
    fn from_str(word: &str) -> Result<Self, UnknownMode> {
        let known = ALL.into_iter().find(|mode| mode.as_str() == word);
        known.ok_or_else(|| UnknownMode(word.chars().filter(|c| !c.is_control()).take(LONGEST_SHOWN).collect()))
    }
}

/// States the error and the valid names.
impl fmt::Display for UnknownMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let known = ALL.map(ModeWord::as_str).join("\", \"");
        write!(f, "\"{}\" is not a mode; write one of \"{known}\"", self.0)
    }
}

impl core::error::Error for UnknownMode {}

/// The requests that maintenance lets in, prepared for deciding.
#[derive(Debug)]
pub(crate) struct MaintenanceExemptions {
    paths: Matcher,
    addresses: Networks,
}

impl MaintenanceExemptions {
    /// The exceptions of this maintenance.
    pub(crate) fn new(maintenance: &Maintenance) -> Self {
        Self { paths: Matcher::new(&maintenance.allow_paths), addresses: maintenance.allow_addresses.clone() }
    }

    /// Whether a request is let in. `found` is scratch space; `address` is called only if there are networks.
    pub(crate) fn exempt<'a>(
        &'a self,
        request: &Lookup<'a>,
        found: &mut Vec<u32>,
        address: impl FnOnce() -> Option<IpAddr>,
    ) -> bool {
        self.paths.find(request, found);
        !found.is_empty()
            || (!self.addresses.is_empty() && address().is_some_and(|address| self.addresses.contain(address)))
    }
}

const ALL: [ModeWord; 4] = [ModeWord::Enforce, ModeWord::Observe, ModeWord::Strict, ModeWord::Maintenance];

/// How much of a wrong word is shown: longer words are no typing errors.
const LONGEST_SHOWN: usize = 64;

/// A bucket fills in at most this time, the longest window.
const MAX_FILL: Span = Span::from_secs(31 * 86_400);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_strict_quota_is_its_share_rounded_down_and_at_least_one() {
        let quota = |permits, burst| Quota {
            permits: Permits::new(permits),
            window: Span::from_secs(60),
            burst: Permits::new(burst),
            least: None,
        };
        for (percent, said, in_force) in [
            (50, quota(100, 30), quota(50, 15)),
            (50, quota(5, 5), quota(2, 2)),
            (1, quota(99, 1), quota(1, 1)),
            (100, quota(7, 9), quota(7, 9)),
        ] {
            assert_eq!(Mode::Strict(percent).in_force(said), in_force);
            assert_eq!(Mode::Observe.in_force(said), said);
        }
    }

    #[test]
    fn a_mode_is_known_by_its_word_and_a_slip_is_told() {
        for mode in ALL {
            assert_eq!(mode.as_str().parse(), Ok(mode));
        }
        let told = |word: &str| word.parse::<ModeWord>().unwrap_err().to_string();
        let listed = r#""strct" is not a mode; write one of "enforce", "observe", "strict", "maintenance""#;
        assert_eq!(told("strct"), listed);
        assert!(told(&"x".repeat(1_000)).len() < 200);
    }

    #[test]
    fn a_mode_set_from_outside_stands_in_place_of_the_policys() {
        let text = r#"{"version": 1, "mode": "observe", "strict": {"factor_percent": 10}}"#;
        let mode = |word| crate::policy::Policy::parse_in(word, text).unwrap().mode;
        assert_eq!(mode(ModeWord::Strict), Mode::Strict(10));
        assert_eq!(mode(ModeWord::Enforce), Mode::Enforce);
    }

    #[test]
    fn a_strict_bucket_takes_no_longer_to_fill_than_any_may() {
        let said = Quota { permits: Permits::new(199), window: MAX_FILL, burst: Permits::new(199), least: None };
        let in_force = Mode::Strict(1).in_force(said);
        assert_eq!((in_force.permits.get(), in_force.burst.get()), (1, 1));
        let said = Quota {
            permits: Permits::new(199),
            window: Span::from_secs(86_400),
            burst: Permits::new(6_000),
            least: None,
        };
        assert_eq!(Mode::Strict(1).in_force(said).burst.get(), 31);
    }
}
