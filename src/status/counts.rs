//! The counters, for hosts that export no metrics.

use super::json::Json;
use crate::metrics::{Counters, Fate, Total};
use crate::policy::{Policy, TierIndex};

/// Writes `"requests"`, with a row for each limit and tier with a nonzero count, and `"totals"`.
pub(super) fn write(json: &mut Json, policy: &Policy, counters: &Counters) {
    // A policy without tiers has one unnamed tier.
    let tiers = policy.tiers.len().max(1);
    let rows = (0..policy.limits.len())
        .flat_map(|limit| (0..tiers).filter_map(move |tier| Some((limit, TierIndex::new(tier)?))))
        .map(|(limit, tier)| (limit, tier, Fate::ALL.map(|fate| counters.requests(limit, tier, fate))))
        .filter(|(_, _, counts)| counts.iter().any(|count| *count > 0));
    json.list("requests", |json| {
        for (limit, tier, counts) in rows.take(MOST_ROWS) {
            json.item(|json| {
                json.text("limit", policy.limits.get(limit).map_or("", |limit| limit.name.as_str()));
                json.text("tier", policy.tiers.get(tier.get()).map_or("default", |tier| tier.as_str()));
                Fate::ALL.iter().zip(counts).for_each(|(fate, count)| json.number(fate.as_str(), count));
            });
        }
    });
    json.object("totals", |json| {
        Total::ALL.into_iter().for_each(|total| json.number(total.as_str(), counters.total(total)));
    });
}

/// Limits the status page to some hundred KB.
const MOST_ROWS: usize = 1_024;
