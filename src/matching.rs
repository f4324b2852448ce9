//! Finds the rules that match a request.
//!
//! Rules are compiled once into two tries, so that a request is looked up instead of tested against one rule after
//! another:
//!
//! 1. A trie over the segments of the path ([`Matcher`]). Each node finds its children by literal segment (a hash
//!    table) and by glob (one lookup for each shape of glob, see `values`). It points to the rules that end there, and
//!    to those that end there in `**`.
//! 2. From there, a trie over conditions (`conditions`): host, then method, then headers, exact values first. The rules
//!    of a node differ in a *value*, and the request's value is looked up among theirs. So a thousand rules that differ
//!    in one header's value cost one call to the host and one lookup.
//!
//! The host is asked for something only if a rule that may still match needs it, and only once per request
//! ([`Lookup`]).
//!
//! Bounds: each node is visited at most once per request, and the search goes no deeper than the deepest rule, so 8 KB
//! of slashes or segments cost no more than a short path. The *names* of headers cannot be looked up: rules that differ
//! in the name of a header cost one call for each name.

mod conditions;
mod covering;
mod mismatch;
mod values;

pub use mismatch::{Mismatch, mismatch};

use self::conditions::Conditions;
use self::values::Values;
use crate::lookup::Lookup;
use crate::policy::{Match, PathGlob, SegmentGlob};

/// A list of [`Match`]es, compiled.
#[derive(Debug, Default)]
pub struct Matcher {
    /// The trie over paths. Its root is the first node.
    nodes: Vec<PathNode>,
    conditions: Conditions,
}

/// A node of the trie over paths: the possible next segments, and the conditions of the rules that end here.
#[derive(Debug, Default)]
struct PathNode {
    children: Values,
    /// The root of the conditions for rules whose glob ends here.
    here: Option<u32>,
    /// The same for rules whose glob ends here in `**`.
    deep: Option<u32>,
}

impl Matcher {
    /// Compiles `matches`. A rule's number is its index in them.
    pub fn new<'m>(matches: impl IntoIterator<Item = &'m Match>) -> Self {
        let mut matcher = Self { nodes: vec![PathNode::default()], conditions: Conditions::default() };
        for (rule, matches) in (0..).zip(matches) {
            let root = matcher.place(matches.path.as_ref());
            matcher.conditions.insert(root, rule, matches);
        }
        matcher
    }

    /// Whether there are no rules.
    pub fn is_empty(&self) -> bool {
        self.conditions.is_empty()
    }

    /// Replaces the content of `found` with the numbers of the rules that match the request, in ascending order.
    pub fn find<'a>(&'a self, request: &Lookup<'a>, found: &mut Vec<u32>) {
        found.clear();
        let Some(root) = self.nodes.first() else { return };
        if root.children.is_empty() && root.here.is_none() {
            // No rule has a condition on the path, so it need not be asked for.
            self.conditions.collect(root.deep, request, found);
        } else {
            self.walk(root, segments(request.path()), request, found);
        }
    }

    /// Follows the path's `rest` from `node` while there are rules.
    fn walk<'a>(&'a self, node: &'a PathNode, rest: Option<&[u8]>, request: &Lookup<'a>, found: &mut Vec<u32>) {
        let (mut node, mut rest) = (node, rest);
        loop {
            self.conditions.collect(node.deep, request, found);
            let Some(path) = rest else {
                return self.conditions.collect(node.here, request, found);
            };
            if node.children.is_empty() {
                return;
            }
            let (segment, after) = split_segment(path);
            // This loop follows the last child that matches, and recursion the others. So the recursion is at most as
            // deep as one rule has globs.
            let mut last: Option<&PathNode> = None;
            let mut follow = |child: u32| {
                let Some(child) = self.nodes.get(child as usize) else {
                    return;
                };
                if let Some(other) = last.replace(child) {
                    self.walk(other, after, request, found);
                }
            };
            // An empty segment follows a trailing slash. No glob matches it.
            if segment.is_empty() {
                node.children.exact(segment).into_iter().for_each(follow);
            } else {
                node.children.each(segment, &mut follow);
            }
            let Some(child) = last else { return };
            (node, rest) = (child, after);
        }
    }

    /// The root of the conditions for rules with this path. Created if it does not exist.
    fn place(&mut self, path: Option<&PathGlob>) -> u32 {
        let mut at = 0;
        for segment in path.map_or(&[][..], significant) {
            at = self.child(at, segment);
        }
        let Some(node) = self.nodes.get_mut(at as usize) else {
            return at;
        };
        let place = if path.is_none_or(|path| path.deep) { &mut node.deep } else { &mut node.here };
        *place.get_or_insert_with(|| self.conditions.add())
    }

    fn child(&mut self, at: u32, segment: &SegmentGlob) -> u32 {
        let new = id(self.nodes.len());
        let Some(node) = self.nodes.get_mut(at as usize) else {
            return at;
        };
        let child = match segment {
            SegmentGlob::Literal(text) => node.children.exact_or_insert(text, new),
            SegmentGlob::Star { prefix, suffix } => node.children.glob_or_insert(prefix, suffix, new),
        };
        if child == new {
            self.nodes.push(PathNode::default());
        }
        child
    }
}

/// The part of a normalised path that is matched by segment: `None` for `/`, which has no segments.
fn segments(path: &[u8]) -> Option<&[u8]> {
    path.strip_prefix(b"/").filter(|rest| !rest.is_empty())
}

/// The first segment, and the rest after its slash.
fn split_segment(path: &[u8]) -> (&[u8], Option<&[u8]>) {
    match path.iter().position(|&byte| byte == b'/') {
        Some(slash) => (path.get(..slash).unwrap_or(path), path.get(slash.saturating_add(1)..)),
        None => (path, None),
    }
}

/// The segments of a glob in the trie: none for the glob `/`, like the path `/`.
fn significant(glob: &PathGlob) -> &[SegmentGlob] {
    match glob.segments.as_slice() {
        [SegmentGlob::Literal(text)] if text.is_empty() => &[],
        segments => segments,
    }
}

/// The id of the node that is added at index `len`. No policy has so many nodes that it would not fit.
fn id(len: usize) -> u32 {
    u32::try_from(len).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests;
