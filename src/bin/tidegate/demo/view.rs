//! The live view of the spike.

use std::sync::Arc;
use std::time::{Duration, Instant};

use comfy_table::{CellAlignment, LineStyle, Table, TableStyle};
use console::style;

use super::origin::{Settings, Stats};
use super::population::Act;
use super::screen::{Screen, bar};
use super::tally::{Counts, Tally};

/// The live view of an act.
pub struct View {
    screen: Screen,
    act: Act,
    number: usize,
    lasting: Duration,
    began: Instant,
    /// The origin's counts at the last drawing, and when that was.
    last: (Instant, Stats),
}

impl View {
    /// The view of an act that is about to begin.
    pub fn new(plain: bool, act: Act, number: usize, lasting: Duration, origin: Stats) -> Self {
        println!("\n{}", style(format!("Act {number}: {}", act.title)).bold());
        let now = Instant::now();
        Self { screen: Screen::new(plain), act, number, lasting, began: now, last: (now, origin) }
    }

    /// How long to wait between two drawings.
    pub fn period(&self) -> Duration {
        self.screen.period()
    }

    /// Draws the current state of the act.
    pub fn draw(&mut self, tallies: &[Arc<Tally>], origin: Stats, settings: &Settings) {
        let counts: Vec<Counts> = tallies.iter().map(|tally| tally.counts()).collect();
        let load = self.load_line(origin, settings);
        self.last = (Instant::now(), origin);
        let elapsed = self.began.elapsed();
        let (act, number, lasting) = (&self.act, self.number, self.lasting);
        let sum = |field: fn(&Counts) -> u64| counts.iter().map(field).sum::<u64>();
        self.screen.show(
            || format!("{}\n{}\n{load}", progress(elapsed, lasting), group_table(act, &counts)),
            || {
                format!(
                    "act {number} {:>4.1} s | offered {} admitted {} refused {} failed {} | {load}",
                    elapsed.as_secs_f64(),
                    sum(|counts| counts.offered),
                    sum(Counts::admitted),
                    sum(|counts| counts.refused),
                    sum(|counts| counts.failed),
                )
            },
        );
    }

    fn load_line(&self, origin: Stats, settings: &Settings) -> String {
        let (then, before) = self.last;
        let elapsed = then.elapsed().max(Duration::from_millis(1)).as_secs_f64();
        #[allow(clippy::cast_precision_loss, reason = "a rate for the eye")]
        let per_s = |now: u64, before: u64| now.saturating_sub(before) as f64 / elapsed;
        format!(
            "origin: working on {} of {}, {} waiting, {:.0} served/s, {:.0} failed/s",
            origin.in_flight,
            settings.capacity,
            origin.queue,
            per_s(origin.served, before.served),
            per_s(origin.failed + origin.overloaded, before.failed + before.overloaded),
        )
    }
}

/// One row for each group of an act.
pub fn group_table(act: &Act, counts: &[Counts]) -> Table {
    let mut table = table(&["clients", "offered", "admitted", "refused", "failed", "served", "p50", "p99"]);
    for (group, counts) in act.groups.iter().zip(counts) {
        table.add_row([
            group.name.to_owned(),
            counts.offered.to_string(),
            counts.admitted().to_string(),
            counts.refused.to_string(),
            counts.failed.to_string(),
            percent(counts.served_percent()),
            milliseconds(counts.p50),
            milliseconds(counts.p99),
        ]);
    }
    table
}

/// An empty table: names at the left, numbers at the right.
pub fn table(header: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_style(LINES).set_header(header);
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table
}

/// A share in percent, rounded down: 100% means all.
pub fn percent(share: Option<f64>) -> String {
    share.map_or_else(|| "-".to_owned(), |share| format!("{:.1}%", (share * 10.0).floor() / 10.0))
}

/// A latency in milliseconds.
pub fn milliseconds(latency: Option<Duration>) -> String {
    latency.map_or_else(|| "-".to_owned(), |latency| format!("{} ms", latency.as_millis()))
}

fn progress(elapsed: Duration, lasting: Duration) -> String {
    let share = elapsed.as_secs_f64() / lasting.as_secs_f64().max(0.001);
    format!("[{}] {:.1} s", bar(share, BAR), elapsed.as_secs_f64())
}

/// A line above the header, below it and at the end; none between rows.
const LINES: TableStyle = TableStyle::new()
    .top_border(LineStyle::none().fill('─').junction('─'))
    .header_separator(LineStyle::none().fill('─').junction('─'))
    .bottom_border(LineStyle::none().fill('─').junction('─'));
const BAR: usize = 40;
