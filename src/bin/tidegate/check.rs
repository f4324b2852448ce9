//! `tidegate check`: lists the errors of a policy document, each with its line.

use std::borrow::Cow;
use std::fmt::{self, Write as _};
use std::fs::File;
use std::io::{self, Read, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::string::FromUtf8Error;

use tidegate::policy::{Policy, PolicyError, PolicyErrors, Shadowed};

use crate::locate::Located;

/// Check policy documents and list every error, with its line and path
///
/// The exit status is 0 if all documents are valid, 1 if one is not, 2 if one cannot be read.
#[derive(Debug, clap::Args)]
pub struct Check {
    /// The policy documents; `-` is the standard input
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
}

impl Check {
    /// Checks all documents in the given order.
    pub fn run(self) -> ExitCode {
        let worst = self.files.iter().map(|file| check(file)).max().unwrap_or(Outcome::Right);
        ExitCode::from(worst as u8)
    }
}

/// The result for a document. The exit status is the worst of all.
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
            // If standard error cannot be written either, the exit status still tells.
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

/// The name of a document in reports.
pub fn name(file: &Path) -> Cow<'_, str> {
    if file == Path::new("-") { "stdin".into() } else { file.to_string_lossy() }
}

/// Reads a document; `-` is the standard input. Stops after [`MOST_BYTES`], because the input may be endless.
pub fn read(file: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let source: &mut dyn Read = if file == Path::new("-") { &mut io::stdin() } else { &mut File::open(file)? };
    source.take(MOST_BYTES + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > MOST_BYTES {
        return Err(io::Error::other(format!("it has more than {MOST_BYTES} bytes, and a policy at most 1048576")));
    }
    Ok(bytes)
}

/// The report about a text that begins with a byte order mark, which editors do not show.
pub fn marked(name: &str) -> String {
    format!("{name}:1: the text begins with a byte order mark, which JSON has not; save it as UTF-8 without one\n")
}

/// The report about a document that is not UTF-8, with the line of the first wrong byte.
pub fn not_utf8(name: &str, error: &FromUtf8Error) -> String {
    let right = error.as_bytes().get(..error.utf8_error().valid_up_to()).unwrap_or_default();
    let line = right.iter().filter(|byte| **byte == b'\n').count() + 1;
    format!("{name}:{line}: the text is not UTF-8 here; save it as UTF-8\n")
}

/// The report about a wrong document: one line for each error, in the order of their lines.
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
    for shadowed in policy.shadowed() {
        approval.push_str(&format!("{name}: {}\n", warning(&shadowed)));
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

/// Why a part never takes effect, and what to change.
fn warning(shadowed: &Shadowed<'_>) -> String {
    let denied = "has no effect: it is on \"deny\" too, which comes first; remove it from one of them";
    match shadowed {
        Shadowed::Route { route, by } => {
            let (route, by) = (route.as_str(), by.as_str());
            format!(
                "the route \"{route}\" is never taken: the route \"{by}\" before it takes all of its requests; put \"{route}\" first"
            )
        }
        Shadowed::Addresses(first, last) if first == last => format!("the address {first} on \"allow\" {denied}"),
        Shadowed::Addresses(first, last) => format!("the network {first} to {last} on \"allow\" {denied}"),
        Shadowed::Header(header) => format!("a value of the header \"{header}\" on \"allow\" {denied}"),
        Shadowed::ApiKeys => format!("an API key on \"allow\" {denied}"),
    }
}

/// The mark with which some editors begin UTF-8 files.
pub const BYTE_ORDER_MARK: char = '\u{feff}';

/// Above the largest policy, 1 MiB: for a document between the two, the policy's own error tells its exact size.
const MOST_BYTES: u64 = 4 * 1_024 * 1_024;
