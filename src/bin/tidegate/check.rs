//! `tidegate check`: what is wrong with a policy document, with the line where it stands.

use std::borrow::Cow;
use std::fmt::{self, Write as _};
use std::fs::File;
use std::io::{self, Read, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::string::FromUtf8Error;

use tidegate::policy::{Idle, Policy, PolicyError, PolicyErrors};

use crate::locate::Located;

/// Check policy documents and say, with line and path, everything that is wrong with them
///
/// The exit status is 0 when all are right, 1 when one is wrong, 2 when one cannot be read.
#[derive(Debug, clap::Args)]
pub struct Check {
    /// The documents; `-` is the standard input
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
}

impl Check {
    /// Checks all documents, in their order.
    pub fn run(self) -> ExitCode {
        let worst = self.files.iter().map(|file| check(file)).max().unwrap_or(Outcome::Right);
        ExitCode::from(worst as u8)
    }
}

/// What became of a document, as the exit status says it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Outcome {
    Right = 0,
    Wrong = 1,
    Unreadable = 2,
}

fn check(file: &Path) -> Outcome {
    let name = name(file);
    let bytes = match read(file) {
        Ok(bytes) => bytes,
        Err(error) => {
            // Nobody to tell when this cannot be written either: the status still says it.
            let _ = writeln!(io::stderr(), "tidegate: cannot read {name}: {error}");
            return Outcome::Unreadable;
        }
    };
    let (outcome, report) = match String::from_utf8(bytes) {
        Ok(text) if text.starts_with(BYTE_ORDER_MARK) => (Outcome::Wrong, Ok(marked(&name))),
        Ok(text) => match Policy::parse(&text) {
            Ok(policy) => (Outcome::Right, Ok(approval(&name, &policy))),
            Err(errors) => (Outcome::Wrong, listing(&name, &text, &errors)),
        },
        Err(error) => (Outcome::Wrong, Ok(not_utf8(&name, &error))),
    };
    let _ = io::stdout().write_all(report.unwrap_or_default().as_bytes());
    outcome
}

/// What a document is called in reports.
pub fn name(file: &Path) -> Cow<'_, str> {
    if file == Path::new("-") { "stdin".into() } else { file.to_string_lossy() }
}

/// The bytes of a document; `-` is the standard input. Of one that is no policy for its size alone not all is read: it may have no end.
pub fn read(file: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let source: &mut dyn Read = if file == Path::new("-") { &mut io::stdin() } else { &mut File::open(file)? };
    source.take(MOST_BYTES + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > MOST_BYTES {
        return Err(io::Error::other(format!("it has more than {MOST_BYTES} bytes, and a policy at most 1048576")));
    }
    Ok(bytes)
}

/// What is wrong with a text that begins with a mark which editors do not show.
pub fn marked(name: &str) -> String {
    format!("{name}:1: the text begins with a byte order mark, which JSON has not; save it as UTF-8 without one\n")
}

/// Where a document stops being text.
pub fn not_utf8(name: &str, error: &FromUtf8Error) -> String {
    let right = error.as_bytes().get(..error.utf8_error().valid_up_to()).unwrap_or_default();
    let line = right.iter().filter(|byte| **byte == b'\n').count() + 1;
    format!("{name}:{line}: the text is not UTF-8 here; save it as UTF-8\n")
}

/// One line for each error, in the order of the text.
pub fn listing(name: &str, text: &str, errors: &PolicyErrors) -> Result<String, fmt::Error> {
    let located = Located::new(text);
    let line = |error: &PolicyError| error.place.map_or_else(|| located.line(&error.path), |place| place.line);
    let mut errors: Vec<_> = errors.iter().map(|error| (line(error), error)).collect();
    errors.sort_by_key(|(line, _)| *line);
    let mut listing = String::new();
    for (line, error) in errors {
        writeln!(listing, "{name}:{line}: {error}")?;
    }
    Ok(listing)
}

fn approval(name: &str, policy: &Policy) -> String {
    let count = |count: usize, what| format!("{count} {what}{}", if count == 1 { "" } else { "s" });
    let (limits, tiers) = (policy.limits().len(), policy.tiers().len());
    let mut approval = format!("{name}: ok ({}, {})\n", count(limits, "limit"), count(tiers, "tier"));
    for (limit, cost, least) in policy.shut_when_strict() {
        let (limit, cost, least) = (limit.name().as_str(), cost.get(), least.get());
        approval.push_str(&format!(
            "{name}: under the mode \"strict\" no request would pass the limit \"{limit}\": each costs {cost} or more, and a \
             quota would have only {least}; raise \"factor_percent\" or the quota\n"
        ));
    }
    for idle in policy.idle() {
        approval.push_str(&format!("{name}: {}\n", told(&idle)));
    }
    let store = policy.stores().redis().filter(|store| store.cluster().is_some());
    let limit = policy.limits().iter().find(|limit| limit.is_shared()).map(|limit| ("limit", limit.name()));
    let breaker =
        policy.breakers().iter().find(|breaker| breaker.is_shared()).map(|breaker| ("breaker", breaker.name()));
    if let (Some((what, shared)), None) = (limit.or(breaker), store) {
        let shared = shared.as_str();
        approval.push_str(&format!(
            "{name}: Envoy would refuse this policy: the {what} \"{shared}\" is global, and \"stores\" has no \"redis\" with a \
             \"cluster\"; Cloudflare Workers need none\n"
        ));
    }
    approval
}

/// What can never act, and what would be right.
fn told(idle: &Idle<'_>) -> String {
    let denied = "has no effect: it is on \"deny\" too, which comes first; remove it from one of them";
    match idle {
        Idle::Route { route, taken } => {
            let (route, taken) = (route.as_str(), taken.as_str());
            format!(
                "the route \"{route}\" is never taken: the route \"{taken}\" before it is for all of its requests; put \"{route}\" first"
            )
        }
        Idle::Addresses(first, last) if first == last => format!("the address {first} on \"allow\" {denied}"),
        Idle::Addresses(first, last) => format!("the network {first} to {last} on \"allow\" {denied}"),
        Idle::Header(header) => format!("a value of the header \"{header}\" on \"allow\" {denied}"),
        Idle::ApiKeys => format!("an API key on \"allow\" {denied}"),
    }
}

/// The mark by which some editors tell that a text is UTF-8.
pub const BYTE_ORDER_MARK: char = '\u{feff}';

/// So much is read that a document which is too large can be told how large it is.
const MOST_BYTES: u64 = 4 * 1_024 * 1_024;
