//! The conditions on host, method and headers, as a trie that asks the host for as little as possible.

use super::id;
use super::values::Values;
use crate::lookup::Lookup;
use crate::policy::{HeaderCondition, HostGlob, Match};

/// Tries over conditions. The rules of each path glob have a root of their own.
#[derive(Debug, Default)]
pub(super) struct Conditions {
    nodes: Vec<Node>,
}

/// What applies if all conditions on the path to this node hold.
#[derive(Debug, Default)]
struct Node {
    /// Rules without further conditions.
    rules: Vec<u32>,
    /// What the other rules test next, one entry for each subject.
    tests: Vec<Test>,
}

/// All values of one subject that the rules of one node ask for.
#[derive(Debug)]
struct Test {
    subject: Subject,
    values: Values,
    /// The node to continue from if the subject is absent.
    absent: Option<u32>,
}

/// A part of the request that rules test.
#[derive(Debug, PartialEq, Eq)]
enum Subject {
    Host,
    Method,
    Header(String),
}

/// What one rule requires of a subject.
#[derive(Clone, Copy)]
enum Wanted<'m> {
    Text(&'m [u8]),
    Glob(&'m [u8], &'m [u8]),
    Absent,
}

impl Conditions {
    /// Whether there are no rules.
    pub(super) fn is_empty(&self) -> bool {
        self.nodes.is_empty()
    }

    /// Adds a root without rules.
    pub(super) fn add(&mut self) -> u32 {
        let new = id(self.nodes.len());
        self.nodes.push(Node::default());
        new
    }

    /// Inserts `rule` at the nodes that the conditions of `matches` lead to from `root`, once for each of its hosts and
    /// methods.
    pub(super) fn insert(&mut self, root: u32, rule: u32, matches: &Match) {
        let headers = header_conditions(matches);
        for host in each_or_none(&matches.hosts) {
            let at = host.map_or(root, |host| self.on_host(root, host));
            for method in each_or_none(&matches.methods) {
                let mut at = match method {
                    Some(method) => self.child(at, Subject::Method, Wanted::Text(method.as_bytes())),
                    None => at,
                };
                for (name, wanted) in &headers {
                    at = self.child(at, Subject::Header((*name).to_owned()), *wanted);
                }
                self.put(at, rule);
            }
        }
    }

    /// Adds the rules whose conditions hold from `root` on. Keeps `found` ascending, with each rule once.
    pub(super) fn collect<'a>(&'a self, root: Option<u32>, request: &Lookup<'a>, found: &mut Vec<u32>) {
        let Some(node) = root.and_then(|root| self.nodes.get(root as usize)) else {
            return;
        };
        node.rules.iter().for_each(|rule| add_in_order(*rule, found));
        for test in &node.tests {
            let value = match &test.subject {
                Subject::Host => Some(request.host()),
                Subject::Method => Some(request.method()),
                Subject::Header(name) => request.header(name),
            };
            match value {
                Some(value) => test.values.each(value, |next| self.collect(Some(next), request, found)),
                None => self.collect(test.absent, request, found),
            }
        }
    }

    fn on_host(&mut self, at: u32, host: &HostGlob) -> u32 {
        match host {
            HostGlob::Exact(host) => self.child(at, Subject::Host, Wanted::Text(host.as_bytes())),
            HostGlob::Below(host) => {
                let suffix = [b".", host.as_bytes()].concat();
                self.child(at, Subject::Host, Wanted::Glob(b"", &suffix))
            }
        }
    }

    /// The node to continue from `at` if `subject` is as `wanted`. Created if it does not exist.
    fn child(&mut self, at: u32, subject: Subject, wanted: Wanted<'_>) -> u32 {
        let new = id(self.nodes.len());
        let Some(node) = self.nodes.get_mut(at as usize) else {
            return at;
        };
        let place = node.tests.iter().position(|test| test.subject == subject).unwrap_or_else(|| {
            node.tests.push(Test { subject, values: Values::default(), absent: None });
            node.tests.len().saturating_sub(1)
        });
        let Some(test) = node.tests.get_mut(place) else {
            return at;
        };
        let child = match wanted {
            Wanted::Text(text) => test.values.exact_or_insert(text, new),
            Wanted::Glob(prefix, suffix) => test.values.glob_or_insert(prefix, suffix, new),
            Wanted::Absent => *test.absent.get_or_insert(new),
        };
        if child == new {
            self.nodes.push(Node::default());
        }
        child
    }

    fn put(&mut self, at: u32, rule: u32) {
        if let Some(node) = self.nodes.get_mut(at as usize)
            && node.rules.last() != Some(&rule)
        {
            node.rules.push(rule);
        }
    }
}

/// Inserts a rule into the ascending list of those found, unless it is there already: several hosts of one rule can
/// match. It almost always belongs at the end.
fn add_in_order(rule: u32, found: &mut Vec<u32>) {
    if found.last().is_none_or(|last| *last < rule) {
        found.push(rule);
    } else if let Err(place) = found.binary_search(&rule) {
        found.insert(place, rule);
    }
}

/// Each of `all`, or a single `None` if `all` is empty.
fn each_or_none<T>(all: &[T]) -> impl Iterator<Item = Option<&T>> {
    all.iter().map(Some).chain(all.is_empty().then_some(None))
}

/// The header conditions in the order in which they are tested. Those that leave the fewest rules come first: exact
/// values, then globs, then absence. Each kind is ordered by name, so that rules share nodes.
fn header_conditions(matches: &Match) -> Vec<(&str, Wanted<'_>)> {
    let mut conditions: Vec<(&str, Wanted<'_>)> = Vec::with_capacity(matches.headers.len());
    for (name, condition) in &matches.headers {
        let new = (name.as_str(), wanted(condition));
        // A rule has at most 32 of them: a sort is not worth its code size.
        let place = conditions.partition_point(|other| rank(other) < rank(&new));
        conditions.insert(place, new);
    }
    conditions
}

fn rank<'m>((name, wanted): &(&'m str, Wanted<'_>)) -> (u8, &'m str) {
    let order = match wanted {
        Wanted::Text(_) => 0,
        Wanted::Glob(..) => 1,
        Wanted::Absent => 2,
    };
    (order, name)
}

fn wanted(condition: &HeaderCondition) -> Wanted<'_> {
    match condition {
        HeaderCondition::Absent => Wanted::Absent,
        HeaderCondition::Exact(text) => Wanted::Text(text.as_bytes()),
        HeaderCondition::Glob { prefix, suffix } => Wanted::Glob(prefix.as_bytes(), suffix.as_bytes()),
    }
}
