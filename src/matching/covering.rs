//! Whether one rule matches every request that another one matches, so that the later of the two is never reached.
//!
//! A positive answer is certain. A negative one is not: two rules that cover a third only together are not found, nor
//! are rules that no request can match.

use super::significant;
use crate::policy::{HeaderCondition, HostGlob, Match, PathGlob, SegmentGlob};

impl Match {
    /// Whether every request that matches `other` matches this rule too.
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

/// A rule without a glob matches every path.
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
        // The empty segment after a trailing slash is matched by no glob.
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
