//! The format of a scenario: a policy, requests with their times, the responses of upstreams, and the expected result
//! of each request.
//!
//! Unknown fields are errors, and so is a step whose expectation is incomplete. What an expectation does not mention
//! must not be in the response; [`Expected`] lists the exceptions.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use serde::Deserialize;
use serde_json::Value;

/// One scenario.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scenario {
    /// What it shows, in a sentence.
    pub shows: String,
    /// The policy in force.
    pub policy: Value,
    /// Header fields of every response, unless a step's expectation overrides them.
    #[serde(default)]
    pub always: BTreeMap<String, String>,
    /// What upstreams do at first, by the name of their cluster.
    #[serde(default)]
    pub upstreams: BTreeMap<String, Does>,
    /// The steps, in order of time.
    pub steps: Vec<Step>,
    /// Where a host responds differently, by the host's name.
    #[serde(default)]
    pub differs: BTreeMap<String, Difference>,
    /// The file name without its extension.
    #[serde(skip)]
    pub name: String,
}

/// One step: a request, an upstream that sends a response it has held back, or a change of upstreams.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Step {
    /// The time since the beginning: `"90s"`, `"250ms"`.
    #[serde(deserialize_with = "millis")]
    pub at: u64,
    /// Whether the clock steps back to this time.
    #[serde(default)]
    pub steps_back: bool,
    /// What upstreams do from now on.
    #[serde(default)]
    pub upstreams: BTreeMap<String, Does>,
    /// The request's method and target: `"GET /api/x?y=z"`.
    pub send: Option<String>,
    /// The address of the client.
    #[serde(default = "default_client")]
    pub from: String,
    /// The host that the request names.
    #[serde(default = "default_host")]
    pub host: String,
    /// Header lines; several values for one name are a list.
    #[serde(default)]
    pub headers: BTreeMap<String, Lines>,
    /// The request's body.
    pub body: Option<String>,
    /// The random draw, in percent of its range.
    #[serde(default)]
    pub draw_percent: u8,
    /// How often the request is sent, one after the other. The expectation describes the last one; the earlier ones
    /// must get the same decision.
    #[serde(default = "once")]
    pub times: u32,
    /// A name for this request: its upstream holds the response back until a step's `ends` has the same name.
    pub holds: Option<String>,
    /// The upstream sends the response that it holds back under this name.
    pub ends: Option<String>,
    /// The expected result of the request.
    pub expect: Option<Expected>,
}

/// What an upstream does with a request.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Does {
    /// The status of its response.
    #[serde(default = "ok")]
    pub status: u16,
    /// Header fields of its response.
    #[serde(default)]
    pub headers: BTreeMap<String, String>,
    /// Its body; the upstream's name if absent.
    pub body: Option<String>,
    /// Whether its body is the path and query that it received.
    #[serde(default)]
    pub echoes: bool,
    /// Whether its body lists the request that it received: method, path and query, and those header lines that are in
    /// [`ECHOED_FIELDS`].
    #[serde(default)]
    pub tells: bool,
    /// A failure in place of a response.
    pub fails: Option<Fails>,
}

/// How an upstream fails to respond.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Fails {
    /// It cuts the connection.
    Reset,
    /// It never responds.
    Timeout,
}

/// The expected result of a request. Fields that are not listed must not be in the response, except for an upstream's
/// own fields and body, if an upstream has responded; and `content-type: application/json` and
/// `cache-control: no-store`, if the request was refused.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Expected {
    /// Whether the request goes on.
    pub decision: Decision,
    /// The response's status.
    pub status: u16,
    /// Why it was refused or answered, as in logs: `tidegate_limit_api`.
    pub reason: Option<String>,
    /// How long the request waited.
    #[serde(default, deserialize_with = "some_millis")]
    pub after: Option<u64>,
    /// The upstreams that were asked, by their clusters. If absent: `origin` if the request goes on, else none.
    pub asked: Option<Vec<String>>,
    /// The response's body.
    pub body: Option<String>,
    /// In place of `body`: some members of the JSON object in the body.
    #[serde(default)]
    pub says: BTreeMap<String, Value>,
    /// The response's header fields, of those in [`FIELDS`]; `null` for one that must be absent though it is usually
    /// there.
    #[serde(default)]
    pub fields: BTreeMap<String, Option<String>>,
}

/// The decision.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Decision {
    /// An upstream responds.
    Admitted,
    /// An upstream responds, after a wait.
    Delayed,
    /// The request is refused.
    Refused,
    /// Tidegate responds in place of an upstream, because no upstream can, or because the request is for one of
    /// Tidegate's pages.
    Answered,
}

/// How a host differs.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Difference {
    /// Why it has to differ, in the words of README.
    pub why: String,
    /// The expectations for this host, by the number of the step. If absent, the host is known to lack something, and
    /// must fail the scenario.
    pub steps: Option<BTreeMap<usize, Expected>>,
}

/// Header lines of one name.
#[derive(Clone, Debug, Deserialize)]
#[serde(untagged)]
pub enum Lines {
    One(String),
    Several(Vec<String>),
}

impl Lines {
    pub fn all(&self) -> &[String] {
        match self {
            Self::One(line) => std::slice::from_ref(line),
            Self::Several(lines) => lines,
        }
    }
}

impl Scenario {
    /// The expectation of a step on this host.
    pub fn expected(&self, host: &str, step: usize) -> Option<&Expected> {
        let other = self.differs.get(host).and_then(|it| it.steps.as_ref()?.get(&step));
        other.or(self.steps[step - 1].expect.as_ref())
    }

    /// Whether the host is known to lack something that the scenario needs.
    pub fn is_lacking(&self, host: &str) -> bool {
        self.differs.get(host).is_some_and(|it| it.steps.is_none())
    }

    /// What is wrong with it, beyond what its types check.
    fn problem(&self) -> Option<String> {
        let mut last = 0;
        let held = |name: &String| self.steps.iter().any(|step| step.holds.as_ref() == Some(name));
        for (number, step) in self.numbered() {
            let hosts = self.differs.values().filter_map(|it| it.steps.as_ref()?.get(&number));
            let expectations = step.expect.iter().chain(hosts);
            let problem = if step.at < last && !step.steps_back {
                Some("it comes after what is later".to_owned())
            } else if step.send.is_some() != step.expect.is_some() {
                Some("what is sent has to be expected to come to something, and nothing else".to_owned())
            } else if step.send.as_ref().is_some_and(|send| send.split(' ').count() != 2) {
                Some("`send` is a method, a blank and a target".to_owned())
            } else if step.ends.as_ref().is_some_and(|name| !held(name)) {
                Some("it ends what nobody holds".to_owned())
            } else if step.upstreams.keys().any(|name| !UPSTREAMS.contains(&name.as_str())) {
                Some(format!("upstreams are {UPSTREAMS:?}"))
            } else {
                expectations.filter_map(Expected::problem).next()
            };
            if problem.is_some() {
                return problem.map(|problem| format!("step {number}: {problem}"));
            }
            last = step.at;
        }
        if let Some(host) = self.differs.keys().find(|host| !HOSTS.contains(&host.as_str())) {
            return Some(format!("{host} is none of {HOSTS:?}"));
        }
        if self.shows.split(' ').count() < 4 || !self.shows.ends_with('.') {
            return Some("`shows` is a sentence".to_owned());
        }
        unknown_field(self.always.keys())
    }

    pub fn numbered(&self) -> impl Iterator<Item = (usize, &Step)> {
        (1..).zip(&self.steps)
    }
}

impl Step {
    /// The random draw, of 2^64.
    pub fn draw(&self) -> u64 {
        u64::MAX / 100 * u64::from(self.draw_percent.min(100))
    }
}

impl Expected {
    fn problem(&self) -> Option<String> {
        let goes_on = matches!(self.decision, Decision::Admitted | Decision::Delayed);
        if goes_on == self.reason.is_some() {
            return Some("there is a `reason` if and only if the request does not go on".to_owned());
        }
        if self.decision == Decision::Delayed && self.after.is_none() {
            return Some("a request that is delayed goes on `after` a while".to_owned());
        }
        unknown_field(self.fields.keys())
    }
}

/// What is wrong with these header fields.
fn unknown_field<'n>(mut names: impl Iterator<Item = &'n String>) -> Option<String> {
    names.find(|name| !FIELDS.contains(&name.as_str())).map(|name| format!("{name} is none of {:?}", *FIELDS))
}

/// All scenarios, ordered by name.
pub fn all() -> Vec<Scenario> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/scenarios");
    let mut files: Vec<PathBuf> = std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files.iter().map(|file| read(file)).collect()
}

fn read(file: &Path) -> Scenario {
    let name = file.file_stem().unwrap().to_string_lossy().into_owned();
    parse(&std::fs::read_to_string(file).unwrap(), name)
        .unwrap_or_else(|problem| panic!("{}: {problem}", file.display()))
}

/// Reads a scenario.
///
/// # Errors
/// What is wrong with it.
pub fn parse(text: &str, name: String) -> Result<Scenario, String> {
    let scenario: Scenario = serde_json::from_str(text).map_err(|error| error.to_string())?;
    let scenario = Scenario { name, ..scenario };
    scenario.problem().map_or(Ok(scenario), Err)
}

fn millis<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
    let text = String::deserialize(deserializer)?;
    let units = [("ms", 1), ("s", 1_000), ("m", 60_000), ("h", 3_600_000), ("d", 86_400_000)];
    let read = |(unit, ms): (&str, u64)| text.strip_suffix(unit)?.parse::<u64>().ok()?.checked_mul(ms);
    let wrong = || serde::de::Error::custom(format!("{text:?} is no time; write one like \"90s\" or \"250ms\""));
    units.into_iter().find_map(read).ok_or_else(wrong)
}

fn some_millis<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<u64>, D::Error> {
    millis(deserializer).map(Some)
}

fn default_client() -> String {
    "192.0.2.1".to_owned()
}

fn default_host() -> String {
    "example.com".to_owned()
}

fn once() -> u32 {
    1
}

fn ok() -> u16 {
    200
}

/// The header fields that are compared, byte for byte.
pub static FIELDS: LazyLock<Vec<&str>> = LazyLock::new(|| fields("compared"));

/// The header fields of requests that upstreams list in their responses.
pub static ECHOED_FIELDS: LazyLock<Vec<&str>> = LazyLock::new(|| fields("told"));

/// One of the lists that the Worker's tests read too.
fn fields(list: &str) -> Vec<&'static str> {
    let mut lists: BTreeMap<&str, Vec<&str>> =
        serde_json::from_str(include_str!("fields.json")).expect("lists of names");
    lists.remove(list).expect("a list of the file")
}

/// The hosts that run the scenarios.
pub const HOSTS: [&str; 3] = ["native", "envoy", "workerd"];

/// The upstreams. Requests without a route go to `origin`; no server listens at `nowhere`.
pub const UPSTREAMS: [&str; 4] = ["origin", "cdn", "spare", "nowhere"];

/// The start time of every scenario: noon of a day, in milliseconds since 1970.
pub const START_MS: u64 = 1_800_014_400_000;

/// The seed of every scenario's keys.
pub const SEED: [u8; 16] = *b"tidegate-scenari";
