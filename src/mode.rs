//! How a policy acts as a whole: as it says, by watching only, more strictly, or closed for maintenance.

use core::fmt;
use core::net::IpAddr;
use core::str::FromStr;

use crate::lookup::Lookup;
use crate::matching::Matcher;
use crate::network::Networks;
use crate::policy::{Limit, Match, Policy, Quota};
use crate::units::{Permits, Span};

/// How a policy acts.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum Mode {
    /// As it says.
    #[default]
    Enforce,
    /// Everything is decided and counted as it would be, and every request goes on.
    Observe,
    /// Every quota is this share of what the policy says, in percent, `1..=100`.
    Strict(u8),
    /// Nobody goes on but those let in.
    Maintenance(Maintenance),
}

/// The word for a mode, as in a policy or from whoever sets it while the policy stays.
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

/// A word that is no mode.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnknownMode(String);

/// What everybody gets during maintenance, and who does not.
#[derive(Clone, Debug, PartialEq)]
pub struct Maintenance {
    /// The status, `200..=599`.
    pub(crate) status: u16,
    /// When to come back.
    pub(crate) retry_after: Span,
    /// The page's media type and the page; `None` for an error as limits send it.
    pub(crate) page: Option<(String, String)>,
    /// Requests that are let in, any of these.
    pub(crate) allow_paths: Vec<Match>,
    /// Clients that are let in.
    pub(crate) allow_addresses: Networks,
}

impl Mode {
    /// The word for it in the policy.
    #[must_use]
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::Enforce => "enforce",
            Self::Observe => "observe",
            Self::Strict(_) => "strict",
            Self::Maintenance(_) => "maintenance",
        }
    }

    /// The quota that is in force for one that the policy says: permits and burst rounded down, but at least one.
    pub(crate) fn in_force(&self, quota: Quota) -> Quota {
        if !matches!(self, Self::Strict(_)) {
            return quota;
        }
        let permits = self.share(quota.permits).get();
        // Permits that are rounded down fill the bucket more slowly than its share would take, and what no bucket may
        // take to fill is more than its state can hold.
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

    /// How many are in force of so many permits that the policy says.
    pub(crate) fn share(&self, permits: Permits) -> Permits {
        let Self::Strict(percent) = *self else { return permits };
        let share = u64::from(permits.get()).saturating_mul(percent.into()).checked_div(100).unwrap_or(0);
        Permits::new(u32::try_from(share.max(1)).unwrap_or(u32::MAX))
    }

    /// The maintenance in force.
    pub(crate) fn maintenance(&self) -> Option<&Maintenance> {
        match self {
            Self::Maintenance(maintenance) => Some(maintenance),
            _ => None,
        }
    }
}

impl Policy {
    /// The limits that the mode `strict` would let no request pass, since each costs more than a quota would then have: the
    /// limit, the cost, and that quota. No error, for in an emergency a policy is not to be refused.
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

    /// The mode of this word, with nothing around it.
    fn from_str(word: &str) -> Result<Self, UnknownMode> {
        let known = ALL.into_iter().find(|mode| mode.as_str() == word);
        known.ok_or_else(|| UnknownMode(word.chars().filter(|c| !c.is_control()).take(LONGEST_SHOWN).collect()))
    }
}

/// What is wrong, and what would be right.
impl fmt::Display for UnknownMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let known = ALL.map(ModeWord::as_str).join("\", \"");
        write!(f, "\"{}\" is not a mode; write one of \"{known}\"", self.0)
    }
}

impl core::error::Error for UnknownMode {}

/// Whom maintenance lets in, made ready to be asked.
#[derive(Debug)]
pub(crate) struct Door {
    paths: Matcher,
    addresses: Networks,
}

impl Door {
    /// The door of this maintenance.
    pub(crate) fn new(maintenance: &Maintenance) -> Self {
        Self { paths: Matcher::new(&maintenance.allow_paths), addresses: maintenance.allow_addresses.clone() }
    }

    /// Whether a request is let in. `found` is room for the search; `address` is asked for only when there are networks.
    pub(crate) fn lets_in<'a>(
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

/// What is shown of a word that is wrong: more is nobody's slip.
const LONGEST_SHOWN: usize = 64;

/// Filling a bucket takes at most as long as the longest window.
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
