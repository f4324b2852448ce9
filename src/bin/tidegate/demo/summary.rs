//! The summary of the spike: the acts side by side.

use std::collections::BTreeMap;
use std::time::Duration;

use console::style;

use super::origin::Stats;
use super::population::Act;
use super::tally::Counts;
use super::view::{group_table, milliseconds, percent, table};

/// One of the origin's counts.
type Field = fn(&Stats) -> u64;

/// The results of one act.
pub struct Outcome {
    /// The act.
    pub act: Act,
    /// The counts of each of its groups.
    pub counts: Vec<Counts>,
    /// The longest delay of a request behind its schedule.
    pub latest: Duration,
    /// The origin's counts in this act.
    pub origin: Stats,
}

/// Prints the summary. `stats` are Envoy's own counters, if Envoy is the host.
pub fn print(outcomes: &[Outcome], stats: Option<&BTreeMap<String, u64>>) {
    println!("\n{}", style("What the clients got, act by act").bold());
    for (number, outcome) in (1..).zip(outcomes) {
        println!("\n{number}. {}\n{}", outcome.act.title, group_table(&outcome.act, &outcome.counts));
    }
    println!(
        "admitted: not refused; failed: admitted, but an error or no answer; latencies are those of the successes."
    );

    println!("\n{}", style("What the filter saved").bold());
    println!("{}", comparison(outcomes));
    if outcomes.iter().any(|outcome| outcome.latest > TOLERABLE) {
        let warning = "This machine was too busy to send in time: the latencies above contain its delay. Try again.";
        println!("{}", style(warning).bold());
    }
    let Some(stats) = stats else { return };
    let decisions = decisions(stats);
    if decisions.is_empty() {
        println!("Envoy has no counters of the filter.");
    } else {
        println!("As Envoy counted it, limit by limit: {}.", decisions.join(", "));
    }
}

/// What the usual clients got, and the origin's load: one column for each act.
fn comparison(outcomes: &[Outcome]) -> comfy_table::Table {
    let mut header = vec!["the usual clients"];
    header.extend(outcomes.iter().map(|outcome| outcome.act.short));
    let mut table = table(&header);
    let usual: Vec<_> = outcomes.iter().flat_map(|outcome| outcome.act.groups).filter(|group| group.usual).collect();
    let mut names: Vec<&str> = Vec::new();
    for group in usual {
        if !names.contains(&group.name) {
            names.push(group.name);
        }
    }
    for name in names {
        let of = |outcome: &Outcome| {
            let mut groups = outcome.act.groups.iter().zip(&outcome.counts);
            groups.find(|(group, _)| group.name == name).map(|(_, counts)| *counts).unwrap_or_default()
        };
        let row = |label: &str, cell: &dyn Fn(Counts) -> String| -> Vec<String> {
            std::iter::once(label.to_owned()).chain(outcomes.iter().map(|outcome| cell(of(outcome)))).collect()
        };
        table.add_row(row(&format!("{name}: served"), &|counts| percent(counts.served_percent())));
        table.add_row(row(&format!("{name}: p99"), &|counts| milliseconds(counts.p99)));
    }
    let rows: [(&str, Field); 5] = [
        ("origin: served", |stats| stats.served),
        ("origin: turned away", |stats| stats.overloaded),
        ("origin: given up on by clients", |stats| stats.abandoned),
        ("origin: most at work", |stats| stats.peak_in_flight),
        ("origin: most waiting", |stats| stats.peak_queue),
    ];
    for (label, value) in rows {
        table.add_row(
            std::iter::once(label.to_owned()).chain(outcomes.iter().map(|outcome| value(&outcome.origin).to_string())),
        );
    }
    let latest = outcomes.iter().map(|outcome| milliseconds(Some(outcome.latest)));
    table.add_row(std::iter::once("load: sent late by at most".to_owned()).chain(latest));
    table
}

/// `per-address refused 9012`, from counters named `wasmcustom.tidegate_requests_total.limit=L.decision=D.tier=T`.
fn decisions(stats: &BTreeMap<String, u64>) -> Vec<String> {
    let mut sums: BTreeMap<(&str, &str), u64> = BTreeMap::new();
    for (name, value) in stats {
        let labels = name.strip_prefix("wasmcustom.tidegate_requests_total.limit=");
        if let Some((limit, rest)) = labels.and_then(|labels| labels.split_once(".decision="))
            && let Some((decision, _)) = rest.split_once(".tier=")
        {
            *sums.entry((limit, decision)).or_default() += value;
        }
    }
    sums.iter().map(|((limit, decision), sum)| format!("{limit} {decision} {sum}")).collect()
}

/// The time that the origin works on a request. A longer delay of the sender distorts the latencies.
const TOLERABLE: Duration = Duration::from_millis(50);
