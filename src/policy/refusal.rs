//! Reads penalties and bans.

use super::document;
use super::error::{Path, Problems};
use super::value::View;
use super::{Algorithm, Ban, Cost, KeyPart, Penalty, Quota};
use crate::units::Permits;

/// The penalty of a limit. It must leave room for a request in every quota.
pub(super) fn penalty(
    limit: View<'_, document::Limit>,
    cost: Option<&Cost>,
    quotas: &[Option<Vec<Quota>>],
    at: &Path<'_>,
    problems: &mut Problems,
) -> Option<Option<Penalty>> {
    let Some(document) = limit.penalty()? else { return Some(None) };
    if limit.algorithm() == Some(Algorithm::FixedWindow) {
        let hint = "use \"sliding-window\" or \"token-bucket\", or remove this";
        problems.report(at, &["a fixed window forgets a penalty with its window, when it would count"], &[hint]);
    }
    if limit.algorithm() == Some(Algorithm::Concurrency) {
        let problem = "nobody would give back what a refused request was charged";
        problems.report(at, &[problem], &["remove this, or use another algorithm"]);
    }
    let (charged, max) = (document.cost(), document.max());
    if let (Some(charged), Some(max)) = (charged, max)
        && charged > max
    {
        let max = max.to_string();
        let problem = &["a penalty of ", &charged.to_string(), " permits is more than max, which is ", &max];
        problems.report(&at.field("cost"), problem, &["write at most ", &max]);
    }
    let least = quotas.iter().flatten().flatten().map(|quota| quota.permits.min(quota.burst)).min();
    if let (Some(max), Some(cost), Some(least)) = (max, cost, least)
        && let most = least.minus(cost.least()).get()
        && max > most
    {
        let problem = &["of a quota of ", &least.get().to_string(), " nothing would be left for a request"];
        let hint = match most {
            0 => ["remove the penalty, or write a larger quota".to_owned(), String::new()],
            most => ["write at most ".to_owned(), most.to_string()],
        };
        problems.report(&at.field("max"), problem, &hint.each_ref().map(String::as_str));
    }
    Some(Some(Penalty { cost: Permits::new(charged?), max: Permits::new(max?) }))
}

/// The ban of a limit. It needs a key that distinguishes clients.
pub(super) fn ban(
    limit: View<'_, document::Limit>,
    key: Option<&[KeyPart]>,
    at: &Path<'_>,
    problems: &mut Problems,
) -> Option<Option<Ban>> {
    let Some(document) = limit.ban()? else { return Some(None) };
    if key.is_some_and(|key| !key.iter().any(tells_clients_apart)) {
        problems.report(
            at,
            &["the key of this limit is shared by strangers, who would all be banned for one of them"],
            &["put \"address\", a header, cookie, query parameter or claim into the key, or remove this"],
        );
    }
    Some(Some(Ban { after: document.after()?, within: document.within()?, lasts: document.lasts()? }))
}

fn tells_clients_apart(part: &KeyPart) -> bool {
    match part {
        KeyPart::Address | KeyPart::Header(_) | KeyPart::Cookie(_) | KeyPart::Query(_) | KeyPart::Claim(_) => true,
        KeyPart::Path | KeyPart::Method | KeyPart::Host | KeyPart::Tier | KeyPart::Locality(_) => false,
    }
}
