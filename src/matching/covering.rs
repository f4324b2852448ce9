//! Whether one rule is for every request that another one is for: of the two, the later may never be reached.
//!
//! What is answered is certain. Two rules that together cover a third are not looked for, nor what no request can be.

use super::significant;
use crate::policy::{HeaderCondition, HostGlob, Match, PathGlob, SegmentGlob};

impl Match {
    /// Whether every request that meets `other` meets this too.
    pub(crate) fn covers(&self, other: &Self) -> bool {
        let has_method = |method| self.methods.contains(method);
        let has_host = |host: &HostGlob| self.hosts.iter().any(|of| host_covers(of, host));
        path_covers(self.path.as_ref(), other.path.as_ref())
            && (self.methods.is_empty() || (!other.methods.is_empty() && other.methods.iter().all(has_method)))
            && (self.hosts.is_empty() || (!other.hosts.is_empty() && other.hosts.iter().all(has_host)))
            && self.headers.iter().all(|(name, condition)| {
                let same = other.headers.iter().find(|(other, _)| other == name);
                same.is_some_and(|(_, other)| header_covers(condition, other))
            })
    }
}

/// Without a glob it is every path.
fn path_covers(glob: Option<&PathGlob>, other: Option<&PathGlob>) -> bool {
    let of = |glob: Option<&PathGlob>| glob.is_none_or(|glob| glob.deep);
    let (segments, others) = (glob.map_or(&[][..], significant), other.map_or(&[][..], significant));
    let fits = if of(glob) { segments.len() <= others.len() } else { segments.len() == others.len() && !of(other) };
    fits && segments.iter().zip(others).all(|(segment, other)| segment_covers(segment, other))
}

fn segment_covers(glob: &SegmentGlob, other: &SegmentGlob) -> bool {
    match (glob, other) {
        (SegmentGlob::Literal(text), SegmentGlob::Literal(other)) => text == other,
        (SegmentGlob::Literal(_), SegmentGlob::Star { .. }) => false,
        // An empty segment is what follows a slash at the end, and no glob is for it.
        (SegmentGlob::Star { prefix, suffix }, SegmentGlob::Literal(text)) => {
            let rest = text.strip_prefix(prefix.as_slice());
            !text.is_empty() && rest.is_some_and(|rest| rest.ends_with(suffix))
        }
        (SegmentGlob::Star { prefix, suffix }, SegmentGlob::Star { prefix: begins, suffix: ends }) => {
            begins.starts_with(prefix) && ends.ends_with(suffix)
        }
    }
}

fn host_covers(glob: &HostGlob, other: &HostGlob) -> bool {
    let lies_below = |host: &str, above: &str| host.strip_suffix(above).is_some_and(|rest| rest.ends_with('.'));
    match (glob, other) {
        (HostGlob::Exact(host), HostGlob::Exact(other)) => host == other,
        (HostGlob::Exact(_), HostGlob::Below(_)) => false,
        (HostGlob::Below(above), HostGlob::Exact(other)) => lies_below(other, above),
        (HostGlob::Below(above), HostGlob::Below(other)) => other == above || lies_below(other, above),
    }
}

fn header_covers(condition: &HeaderCondition, other: &HeaderCondition) -> bool {
    match (condition, other) {
        (HeaderCondition::Glob { prefix, suffix }, HeaderCondition::Exact(text)) => {
            text.strip_prefix(prefix.as_str()).is_some_and(|rest| rest.ends_with(suffix))
        }
        (HeaderCondition::Glob { prefix, suffix }, HeaderCondition::Glob { prefix: begins, suffix: ends }) => {
            begins.starts_with(prefix) && ends.ends_with(suffix)
        }
        (condition, other) => condition == other,
    }
}
