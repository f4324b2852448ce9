//! What was counted, for a host that exports no metrics.

use core::fmt::{self, Write as _};

use super::report::list;
use crate::metrics::{Counters, Fate, Total};
use crate::policy::{Policy, TierIndex};

/// Writes `"requests"`, a row for each limit and tier that counted any, and `"totals"`, each after a comma.
pub(super) fn write(text: &mut String, policy: &Policy, counters: &Counters) -> fmt::Result {
    // A policy without tiers has one that nobody named.
    let tiers = policy.tiers.len().max(1);
    let rows = (0..policy.limits.len())
        .flat_map(|limit| (0..tiers).filter_map(move |tier| Some((limit, TierIndex::new(tier)?))))
        .map(|(limit, tier)| (limit, tier, Fate::ALL.map(|fate| counters.requests(limit, tier, fate))))
        .filter(|(_, _, counts)| counts.iter().any(|count| *count > 0));
    text.push_str(",\"requests\":");
    list(text, rows.take(MOST_ROWS), |text, (limit, tier, counts)| {
        let name = policy.limits.get(limit).map_or("", |limit| limit.name.as_str());
        let tier = policy.tiers.get(tier.get()).map_or("default", |tier| tier.as_str());
        write!(text, "{{\"limit\":\"{name}\",\"tier\":\"{tier}\"")?;
        for (fate, count) in Fate::ALL.iter().zip(counts) {
            write!(text, ",\"{}\":{count}", fate.as_str())?;
        }
        text.write_char('}')
    })?;
    text.push_str(",\"totals\":{");
    for (place, total) in Total::ALL.into_iter().enumerate() {
        let comma = if place == 0 { "" } else { "," };
        write!(text, "{comma}\"{}\":{}", total.as_str(), counters.total(total))?;
    }
    text.write_char('}')
}

/// A page of status is some hundred KB at most.
const MOST_ROWS: usize = 1_024;
