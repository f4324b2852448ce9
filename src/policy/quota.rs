//! Reads quotas: the checks across the fields of a quota, and across the quotas of a limit.

use super::document;
use super::error::{Path, Problems};
use super::value::{Items, View};
use super::{Algorithm, Quota, concurrency};
use crate::units::{Permits, Span};

/// The quotas of a list. No two may have the same window, because clients are told of each quota by its window.
pub(super) fn several(
    documents: &Items<'_, document::Quota>,
    algorithm: Option<Algorithm>,
    at: &Path<'_>,
    problems: &mut Problems,
) -> Option<Vec<Quota>> {
    let mut quotas: Vec<Option<Quota>> = Vec::new();
    for (index, item) in documents.iter().enumerate() {
        let at = at.item(index);
        let quota = item.and_then(|item| one(item, algorithm, &at, problems));
        if let (Some(quota), true) = (&quota, algorithm != Some(Algorithm::Concurrency))
            && quotas.iter().flatten().any(|other| other.window == quota.window)
        {
            let problem = &["another quota of this list has the window ", &quota.window.to_string(), " already"];
            problems.report(&at.field("window"), problem, &["keep one of them"]);
        }
        quotas.push(quota);
    }
    quotas.into_iter().collect()
}

/// One quota.
pub(super) fn one(
    document: View<'_, document::Quota>,
    algorithm: Option<Algorithm>,
    at: &Path<'_>,
    problems: &mut Problems,
) -> Option<Quota> {
    let is_bucket = algorithm == Some(Algorithm::TokenBucket);
    if matches!(document.burst(), Some(Some(_))) && algorithm.is_some() && !is_bucket {
        let hint = "use the algorithm \"token-bucket\", or remove this";
        problems.report(&at.field("burst"), &["only a token bucket has a burst"], &[hint]);
    }
    let adaptive = document.adaptive()?;
    if algorithm == Some(Algorithm::Concurrency) {
        return concurrency::quota(document, at, problems);
    }
    if adaptive.is_some() && algorithm.is_some() {
        let hint = "use the algorithm \"concurrency\", or write \"permits\"";
        problems.report(&at.field("adaptive"), &["only requests in flight can be found out"], &[hint]);
    }
    let window = document.window()?;
    if window.is_none() && algorithm.is_some() {
        problems.report(&at.field("window"), &["this field is missing"], &[WINDOW_HINT]);
    }
    // Missing fields have been reported.
    let (permits, window) = (document.permits()??, window?);
    let burst = document.burst()?.unwrap_or(permits);
    let window_ns = u128::from(window.as_nanos());
    if is_bucket
        && u128::from(permits).saturating_mul(NANOS_PER_SEC) > window_ns.saturating_mul(MAX_PERMITS_PER_SEC.into())
    {
        problems.report(
            &at.field("permits"),
            &[&format!("{permits} permits in {window} are more than a token bucket can count")],
            &[&format!("write at most {MAX_PERMITS_PER_SEC} permits per second, or use \"fixed-window\"")],
        );
    }
    let most = u128::from(MAX_FILL.as_nanos()).saturating_mul(permits.into()).checked_div(window_ns).unwrap_or(0);
    // A value that does not fit is larger than any burst.
    let most = u64::try_from(most).unwrap_or(u64::MAX);
    if is_bucket && u64::from(burst) > most {
        problems.report(
            &at.field("burst"),
            &[&format!("at {permits} permits in {window}, a burst of {burst} takes more than {MAX_FILL} to fill")],
            &["write at most ", &most.to_string()],
        );
    }
    Some(Quota { permits: Permits::new(permits), window, burst: Permits::new(burst), least: None })
}

/// Reports a cost that is larger than a quota.
pub(super) fn check_cost(cost: Permits, quotas: &[Option<Vec<Quota>>], at: &Path<'_>, problems: &mut Problems) {
    if let Some(least) = quotas
        .iter()
        .flatten()
        .flatten()
        .map(|quota| quota.least.unwrap_or(quota.burst).get())
        .min()
        .filter(|least| *least < cost.get())
    {
        let (cost, least) = (cost.get().to_string(), least.to_string());
        let problem = &["every request costs ", &cost, " or more, and a quota has only ", &least];
        problems.report(at, problem, &["write at most ", &least, ", or a larger quota"]);
    }
}

/// The longest time to fill a bucket: the longest window.
const MAX_FILL: Span = Span::from_secs(31 * 86_400);

/// A token bucket counts in nanoseconds. At a million permits a second, a permit takes a thousand of them, and the
/// rounding error of a division stays under a tenth of a percent.
const MAX_PERMITS_PER_SEC: u32 = 1_000_000;

/// The reader's own hint for a missing duration; the window is optional to the reader.
const WINDOW_HINT: &str = "write a whole number and a unit (ms, s, m, h, d) in quotes, from \"10ms\" to \"31d\"";

const NANOS_PER_SEC: u128 = 1_000_000_000;
