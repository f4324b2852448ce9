//! The summary of the outage: a row for each phase.

use std::time::Duration;

use console::style;

use super::super::view::{milliseconds, table};
use super::load::PATIENCE;
use super::phases::Phase;
use super::tally::{Counts, ServedBy};

/// The results of one phase.
pub struct Outcome {
    /// The phase.
    pub phase: Phase,
    /// The counts of requests through the filter.
    pub filtered: Counts,
    /// The counts of requests past it.
    pub unfiltered: Counts,
}

/// Prints the summary. `latest` is the longest delay of a request behind its schedule, and `closed` is whether the
/// CDN's breaker has closed in the end.
pub fn print(outcomes: &[Outcome], latest: Duration, closed: bool) {
    println!("\n{}", style("Who served, phase by phase").bold());
    let mut header = vec!["phase", "requests"];
    header.extend(ServedBy::ALL.map(ServedBy::as_str));
    header.extend(["slowest", "failed without"]);
    let mut served = table(&header);
    let mut breakers = table(&["phase", "breaker of cdn", "breaker of origin"]);
    for outcome in outcomes {
        let counts = &outcome.filtered;
        let mut row = vec![outcome.phase.title.to_owned(), counts.sent.to_string()];
        row.extend(ServedBy::ALL.map(|by| counts.by(by).to_string()));
        row.push(milliseconds(Some(counts.slowest)));
        row.push(outcome.unfiltered.by(ServedBy::Failed).to_string());
        served.add_row(row);
        let states = counts.states.iter().map(|states| states.describe());
        breakers.add_row(std::iter::once(outcome.phase.title.to_owned()).chain(states));
    }
    println!("{served}");
    println!(
        "stale: an answer that was kept; static: the policy's page, for assets of which none was kept;\n\
         failed: an error, or no answer within {:.1} s; without: sent past Tidegate, to the CDN alone.\n\
         A request counts in the phase in which it was sent, though it may have been answered in the next.",
        PATIENCE.as_secs_f64()
    );
    println!("\n{}\n{breakers}", style("In which states answers showed the breakers").bold());
    let sum = |count: &dyn Fn(&Outcome) -> u64| outcomes.iter().map(count).sum::<u64>();
    println!(
        "\nOf {} requests {} failed and {} got the static page. Of {} sent at the same times to the CDN past Tidegate, {} failed.",
        sum(&|outcome| outcome.filtered.sent),
        sum(&|outcome| outcome.filtered.by(ServedBy::Failed)),
        sum(&|outcome| outcome.filtered.by(ServedBy::Static)),
        sum(&|outcome| outcome.unfiltered.sent),
        sum(&|outcome| outcome.unfiltered.by(ServedBy::Failed)),
    );
    if !closed {
        println!("{}", style("The CDN's breaker did not close in time.").bold());
    }
    if latest > TOLERABLE {
        let late = latest.as_millis();
        println!("{}", style(format!("This machine was busy: the load was sent late by up to {late} ms.")).bold());
    }
}

/// A tenth of the policy's timeout for the CDN. A longer delay of this machine may look like one of an upstream.
const TOLERABLE: Duration = Duration::from_millis(50);
