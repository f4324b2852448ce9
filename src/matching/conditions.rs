//! The conditions on host, method and headers, as a trie that asks for as little as it can.

use super::id;
use super::values::Values;
use crate::lookup::Lookup;
use crate::policy::{HeaderCondition, HostGlob, Match};

/// Tries over conditions; each path glob's rules have a root here.
#[derive(Debug, Default)]
pub(super) struct Conditions {
    nodes: Vec<Node>,
}

/// What stands when all conditions on the way here hold.
#[derive(Debug, Default)]
struct Node {
    /// Rules that have no further condition.
    rules: Vec<u32>,
    /// What the other rules look at next, each thing once.
    tests: Vec<Test>,
}

/// All that rules of one node want of one thing.
#[derive(Debug)]
struct Test {
    subject: Subject,
    values: Values,
    /// Where it goes on when the thing is absent.
    absent: Option<u32>,
}

/// A thing to look at.
#[derive(Debug, PartialEq, Eq)]
enum Subject {
    Host,
    Method,
    Header(String),
}

/// What one rule wants of one thing.
#[derive(Clone, Copy)]
enum Wanted<'m> {
    Text(&'m [u8]),
    Glob(&'m [u8], &'m [u8]),
    Absent,
}

impl Conditions {
    /// A new root, without rules.
    pub(super) fn add(&mut self) -> u32 {
        let new = id(self.nodes.len());
        self.nodes.push(Node::default());
        new
    }

    /// Puts `rule` where the conditions of `matches` lead from `root`, once for each of its hosts and methods.
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

    /// Adds the rules whose conditions hold from `root` on, so that `found` stays ascending, each rule once.
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

    /// Where it goes on from `at` when `subject` is as `wanted`, made when there is no such place yet.
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

/// Adds a rule to those that were found, ascending, unless it is among them: a rule of several hosts can be met by more
/// than one of them. Nearly always it comes last.
fn add_in_order(rule: u32, found: &mut Vec<u32>) {
    if found.last().is_none_or(|last| *last < rule) {
        found.push(rule);
    } else if let Err(place) = found.binary_search(&rule) {
        found.insert(place, rule);
    }
}

/// Each of `all`, or one `None` when there is nothing to choose from.
fn each_or_none<T>(all: &[T]) -> impl Iterator<Item = Option<&T>> {
    all.iter().map(Some).chain(all.is_empty().then_some(None))
}

/// The header conditions in the order in which they are looked at: those that leave the fewest rules come first, which
/// is exact values, then globs, then absence. By name within these, so that rules share their way.
fn header_conditions(matches: &Match) -> Vec<(&str, Wanted<'_>)> {
    let mut conditions: Vec<(&str, Wanted<'_>)> = Vec::with_capacity(matches.headers.len());
    for (name, condition) in &matches.headers {
        let new = (name.as_str(), wanted(condition));
        // A rule has 32 of them at most: not worth the code of a sort.
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
