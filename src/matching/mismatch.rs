//! Why a request does not match one rule: for `explain`, and as the simple model that compiled rules are tested
//! against.

use super::{segments, significant, split_segment};
use crate::lookup::Lookup;
use crate::policy::{HeaderCondition, HostGlob, Match, PathGlob, SegmentGlob};

/// The first condition of a rule that does not hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mismatch<'m> {
    /// The path does not match.
    Path,
    /// The host does not match.
    Host,
    /// The method does not match.
    Method,
    /// The header with this name does not match.
    Header(&'m str),
}

/// The first condition of `rule` that `request` does not meet; `None` if it meets all.
#[must_use]
pub fn mismatch<'a>(rule: &'a Match, request: &Lookup<'a>) -> Option<Mismatch<'a>> {
    if rule.path.as_ref().is_some_and(|glob| !path_fits(glob, request.path())) {
        return Some(Mismatch::Path);
    }
    if !rule.hosts.is_empty() && !rule.hosts.iter().any(|glob| host_fits(glob, request.host())) {
        return Some(Mismatch::Host);
    }
    if !rule.methods.is_empty() && !rule.methods.iter().any(|method| method.as_bytes() == request.method()) {
        return Some(Mismatch::Method);
    }
    let unmet = rule.headers.iter().find(|(name, condition)| !header_fits(condition, request.header(name)));
    unmet.map(|(name, _)| Mismatch::Header(name))
}

fn path_fits(glob: &PathGlob, path: &[u8]) -> bool {
    let mut rest = segments(path);
    for wanted in significant(glob) {
        let Some(path) = rest else { return false };
        let (segment, after) = split_segment(path);
        let fits = match wanted {
            SegmentGlob::Literal(text) => segment == text,
            SegmentGlob::Star { prefix, suffix } => !segment.is_empty() && ends_fit(prefix, suffix, segment),
        };
        if !fits {
            return false;
        }
        rest = after;
    }
    glob.deep || rest.is_none()
}

fn host_fits(glob: &HostGlob, host: &[u8]) -> bool {
    match glob {
        HostGlob::Exact(name) => host == name.as_bytes(),
        HostGlob::Below(name) => host.strip_suffix(name.as_bytes()).is_some_and(|below| below.ends_with(b".")),
    }
}

fn header_fits(condition: &HeaderCondition, value: Option<&[u8]>) -> bool {
    match (condition, value) {
        (HeaderCondition::Absent, value) => value.is_none(),
        (HeaderCondition::Exact(text), Some(value)) => value == text.as_bytes(),
        (HeaderCondition::Glob { prefix, suffix }, Some(value)) => {
            ends_fit(prefix.as_bytes(), suffix.as_bytes(), value)
        }
        (_, None) => false,
    }
}

fn ends_fit(prefix: &[u8], suffix: &[u8], value: &[u8]) -> bool {
    value.strip_prefix(prefix).is_some_and(|rest| rest.ends_with(suffix))
}
