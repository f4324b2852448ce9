//! The result of a request on some host, and how it differs from what was expected.

use std::collections::BTreeMap;
use std::fmt::Write;

use serde_json::Value;

use super::document::{Decision, Does, Expected, FIELDS, Fails, Scenario};

/// The result of one request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    pub status: u16,
    /// Why Tidegate responded, if it did.
    pub reason: Option<String>,
    /// How long the request waited, in milliseconds.
    pub after_ms: u64,
    /// The clusters that were asked, in order.
    pub asked: Vec<String>,
    pub body: String,
    /// The compared header fields.
    pub fields: BTreeMap<String, String>,
}

impl Seen {
    /// Keeps those of these header lines that are compared, several of one name as one.
    pub fn keep<'a>(&mut self, lines: impl IntoIterator<Item = (&'a str, &'a str)>) {
        for (name, value) in lines {
            let name = name.to_ascii_lowercase();
            if !FIELDS.contains(&name.as_str()) {
                continue;
            }
            // Lists may or may not have a space after the comma.
            let is_list = name == "vary";
            let kept = self.fields.entry(name).or_default();
            if !kept.is_empty() {
                kept.push_str(", ");
            }
            if is_list {
                kept.push_str(&value.split(',').map(str::trim).collect::<Vec<_>>().join(", "));
            } else {
                kept.push_str(value);
            }
        }
    }

    pub fn decision(&self) -> Decision {
        match self.reason.as_deref() {
            None if self.after_ms > 0 => Decision::Delayed,
            None => Decision::Admitted,
            Some("tidegate_status" | "tidegate_stale" | "tidegate_static" | "tidegate_unavailable") => {
                Decision::Answered
            }
            Some(_) => Decision::Refused,
        }
    }
}

/// The differences between a step's expectation and its result, one per line.
pub fn differences(
    scenario: &Scenario,
    expected: &Expected,
    does: &BTreeMap<String, Does>,
    seen: &Seen,
) -> Vec<String> {
    let mut lines = Vec::new();
    let mut compare = |what: &str, expected: String, got: String| {
        if expected != got {
            lines.push(format!("{what}: expected {expected}, got {got}"));
        }
    };
    let goes_on = expected.reason.is_none();
    let asked = expected.asked.clone().unwrap_or_else(|| Vec::from_iter(goes_on.then(|| "origin".to_owned())));
    let answer = asked.last().filter(|_| goes_on).map(|cluster| answer_of(cluster, does));
    let mut fields = scenario.always.clone();
    if let Some(answer) = &answer {
        fields.extend(answer.headers.clone().into_iter().filter(|(name, _)| FIELDS.contains(&name.as_str())));
    }
    if expected.decision == Decision::Refused {
        fields.insert("content-type".to_owned(), "application/json".to_owned());
        fields.insert("cache-control".to_owned(), "no-store".to_owned());
    }
    for (name, value) in &expected.fields {
        match value {
            Some(value) => fields.insert(name.clone(), value.clone()),
            None => fields.remove(name),
        };
    }
    let mut body = expected.body.clone().or_else(|| answer.and_then(|answer| answer.body)).unwrap_or_default();
    if !expected.says.is_empty() {
        let said: Value = serde_json::from_str(&seen.body).unwrap_or_default();
        for (member, value) in &expected.says {
            compare(member, value.to_string(), said[member].to_string());
        }
        // The other members of the body depend on the host.
        body.clone_from(&seen.body);
    }
    compare("decision", format!("{:?}", expected.decision), format!("{:?}", seen.decision()));
    compare("status", expected.status.to_string(), seen.status.to_string());
    compare("reason", format!("{:?}", expected.reason), format!("{:?}", seen.reason));
    compare("after", format!("{} ms", expected.after.unwrap_or(0)), format!("{} ms", seen.after_ms));
    compare("asked", format!("{asked:?}"), format!("{:?}", seen.asked));
    compare("body", format!("{body:?}"), format!("{:?}", seen.body));
    for name in FIELDS.iter().copied() {
        let shown =
            |fields: &BTreeMap<String, String>| fields.get(name).map_or("none".to_owned(), |it| format!("{it:?}"));
        compare(name, shown(&fields), shown(&seen.fields));
    }
    lines
}

/// What the upstream of this cluster responds.
pub fn answer_of(cluster: &str, does: &BTreeMap<String, Does>) -> Does {
    let mut answer = does.get(cluster).cloned().unwrap_or(Does {
        status: 200,
        headers: BTreeMap::new(),
        body: None,
        echoes: false,
        tells: false,
        fails: (cluster == "nowhere").then_some(Fails::Reset),
    });
    answer.body.get_or_insert_with(|| cluster.to_owned());
    answer.headers.entry("content-type".to_owned()).or_insert_with(|| "text/plain".to_owned());
    answer
}

/// What went wrong in a scenario on one host.
#[derive(Debug)]
pub struct Report<'s> {
    scenario: &'s Scenario,
    host: &'static str,
    lines: String,
    /// The result of each step's last request.
    pub seen: BTreeMap<usize, Seen>,
}

impl<'s> Report<'s> {
    pub fn new(scenario: &'s Scenario, host: &'static str) -> Self {
        Self { scenario, host, lines: String::new(), seen: BTreeMap::new() }
    }

    /// Compares a step's result with its expectation.
    pub fn step(&mut self, number: usize, does: &BTreeMap<String, Does>, seen: &Seen) {
        self.seen.insert(number, seen.clone());
        let Some(expected) = self.scenario.expected(self.host, number) else { return };
        let differences = differences(self.scenario, expected, does, seen);
        if !differences.is_empty() {
            self.wrong(number, &differences.join("\n      "));
        }
    }

    /// Compares the result of an earlier repetition of a step with the decision that is expected of the last.
    pub fn early(&mut self, number: usize, seen: &Seen) {
        let Some(expected) = self.scenario.expected(self.host, number) else { return };
        if (expected.decision, expected.status) != (seen.decision(), seen.status) {
            let wanted = format!("{:?} {}", expected.decision, expected.status);
            self.wrong(
                number,
                &format!("before its last time: expected {wanted}, got {:?} {}", seen.decision(), seen.status),
            );
        }
    }

    /// Records a problem with a step.
    pub fn wrong(&mut self, number: usize, problem: &str) {
        let step = &self.scenario.steps[number - 1];
        let what = step.send.as_deref().unwrap_or("no request");
        // Writing to a string cannot fail.
        let _ = write!(
            self.lines,
            "\n  tests/scenarios/{}.json, step {number} (at {} ms, {what}) on {}:\n      {problem}",
            self.scenario.name, step.at, self.host
        );
    }

    /// The complaint; `None` if the scenario came out as it should.
    pub fn complaint(self) -> Option<String> {
        match (self.scenario.is_lacking(self.host), self.lines.is_empty()) {
            (false, true) | (true, false) => None,
            (false, false) => Some(self.lines),
            (true, true) => Some(format!(
                "\n  tests/scenarios/{}.json: {} is said to differ, and comes through all of it: take that out",
                self.scenario.name, self.host
            )),
        }
    }
}
