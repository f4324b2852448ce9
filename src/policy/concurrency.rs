//! Reads limits with the algorithm `concurrency`, and reports settings that they cannot have.

use super::document;
use super::error::{Path, Problems};
use super::shapes::OneOf;
use super::value::View;
use super::{Algorithm, KeyPart, Quota};
use crate::units::{Permits, Span};

/// The quota of a concurrency limit. Its window is the lease: the default here, and the limit's own through [`leased`].
pub(super) fn quota(document: View<'_, document::Quota>, at: &Path<'_>, problems: &mut Problems) -> Option<Quota> {
    if document.window()?.is_some() {
        let hint = "remove it, or use another algorithm";
        problems.report(&at.field("window"), &["requests in flight are not counted by the window"], &[hint]);
    }
    let (least, permits) = match document.adaptive()? {
        None => (None, document.permits()??),
        Some(adaptive) => {
            let (min, max) = (adaptive.min()?, adaptive.max()?);
            if min > max {
                let problem = &["min is ", &min.to_string(), ", more than max, which is ", &max.to_string()];
                let hint = &["write at most ", &max.to_string()];
                problems.report(&at.field("adaptive").field("min"), problem, hint);
            }
            (Some(Permits::new(min)), max)
        }
    };
    let permits = Permits::new(permits);
    Some(Quota { permits, window: DEFAULT_LEASE, burst: permits, least })
}

/// Reports settings that the limit's algorithm cannot have. Returns the lease of a concurrency limit, and `Some(None)`
/// for other algorithms.
pub(super) fn check(
    document: View<'_, document::Limit>,
    algorithm: Option<Algorithm>,
    at: &Path<'_>,
    problems: &mut Problems,
) -> Option<Option<Span>> {
    if algorithm == Some(Algorithm::Concurrency) {
        in_flight(document, at, problems);
        return Some(Some(document.lease()?.unwrap_or(DEFAULT_LEASE)));
    }
    if algorithm.is_some() && matches!(document.lease(), Some(Some(_))) {
        let hint = "use the algorithm \"concurrency\", or remove this";
        problems.report(&at.field("lease"), &["only permits of requests in flight have a lease"], &[hint]);
    }
    Some(None)
}

/// These quotas with the lease as their window, if there is a lease.
pub(super) fn leased(mut quotas: Vec<Vec<Quota>>, lease: Option<Span>) -> Vec<Vec<Quota>> {
    if let Some(lease) = lease {
        quotas.iter_mut().flatten().for_each(|quota| quota.window = lease);
    }
    quotas
}

/// Reports settings that a concurrency limit cannot have.
fn in_flight(document: View<'_, document::Limit>, at: &Path<'_>, problems: &mut Problems) {
    if document.quotas().flatten().is_some() {
        problems.report(&at.field("quotas"), &[SEVERAL], &["write one \"quota\""]);
    }
    let is_adaptive = |quota: Option<View<'_, document::Quota>>| {
        quota.and_then(View::<document::Quota>::adaptive).flatten().is_some()
    };
    let mut adaptive = is_adaptive(document.quota().flatten());
    let by_tier = document.by_tier();
    for (name, quota) in by_tier.iter().flat_map(|by_tier| by_tier.iter()) {
        match quota {
            Some(OneOf::First(quota)) => adaptive |= is_adaptive(Some(quota)),
            Some(OneOf::Second(_)) => {
                problems.report(&at.field("by_tier").field(name.as_str()), &[SEVERAL], &["write one quota, in braces"]);
            }
            None => {}
        }
    }
    if document.only_on().flatten().is_some() {
        let problem = "a request is in flight before anybody knows its answer";
        problems.report(&at.field("only_on"), &[problem], &["remove it"]);
    }
    if let Some(OneOf::Second(cost)) = document.cost()
        && cost.response_header().flatten().is_some()
    {
        let problem = "a request takes its permits before there is an answer to say how many";
        let hint = "write a number, or \"request_header\"";
        problems.report(&at.field("cost").field("response_header"), &[problem], &[hint]);
    }
    if let (true, Some(key), Some(by_tier)) = (adaptive, document.key(), by_tier) {
        adaptive_key(key.known().collect(), by_tier.is_empty(), &at.field("key"), problems);
    }
}

/// Reports a key that distinguishes clients: an adaptive quota measures the upstream that they have in common.
fn adaptive_key(key: Vec<&KeyPart>, one_quota: bool, at: &Path<'_>, problems: &mut Problems) {
    match (key.as_slice(), one_quota) {
        ([], true) | ([KeyPart::Tier], _) => {}
        (_, true) => {
            let problem =
                "an adaptive quota is for all requests together: one client says too little about an upstream";
            problems.report(at, &[problem], &["write [], or [\"tier\"] for one quota each tier"]);
        }
        (_, false) => {
            problems.report(at, &["an adaptive quota by tier is one for each tier"], &["write [\"tier\"]"]);
        }
    }
}

const SEVERAL: &str = "requests in flight have one quota, since they have no windows to differ by";

/// Renewing the permits of long requests this rarely costs nothing, and waiting this long for lost permits is bearable.
const DEFAULT_LEASE: Span = Span::from_secs(30);
