//! Shows what each Envoy admits, and all together: live and in a summary.

use std::sync::Arc;
use std::time::{Duration, Instant};

use console::style;

use super::super::screen::{Screen, bar};
use super::super::tally::{Counts, Tally};
use super::super::view::{milliseconds, table};
use super::{ENVOYS, Phase, QUOTA};

/// The live view of a phase.
pub struct View {
    screen: Screen,
    phase: Phase,
    number: usize,
    began: Instant,
    /// The counts at the last drawing, and when that was.
    last: (Instant, [Counts; ENVOYS]),
    most: f64,
}

/// The results of a phase.
pub struct Outcome {
    phase: Phase,
    counts: [Counts; ENVOYS],
    took: Duration,
    most: f64,
    store_calls: u64,
}

impl View {
    /// The view of a phase that is about to begin.
    pub fn new(plain: bool, phase: Phase, number: usize) -> Self {
        println!("\n{}", style(format!("{number}. {}", phase.title)).bold());
        let now = Instant::now();
        Self { screen: Screen::new(plain), phase, number, began: now, last: (now, Default::default()), most: 0.0 }
    }

    /// Draws the last second.
    pub fn draw(&mut self, tallies: &[Arc<Tally>; ENVOYS]) {
        let counts = tallies.each_ref().map(|tally| tally.counts());
        let (then, before) = &self.last;
        let seconds = then.elapsed().as_secs_f64().max(0.001);
        let rates = |field: fn(&Counts) -> u64| -> [f64; ENVOYS] {
            std::array::from_fn(|at| rate(field(&counts[at]).saturating_sub(field(&before[at])), seconds))
        };
        let (offered, admitted) = (rates(|counts| counts.offered), rates(Counts::admitted));
        let refused = rates(|counts| counts.refused);
        self.last = (Instant::now(), counts);
        let sum: f64 = admitted.iter().sum();
        self.most = self.most.max(sum);
        let (elapsed, number) = (self.began.elapsed(), self.number);
        let store = if self.phase.counts { "Redis counts" } else { "Redis is stopped" };
        self.screen.show(
            || {
                let mut table = table(&["", "offered/s", "admitted/s", "refused/s", "of the quota"]);
                for at in 0..ENVOYS {
                    let share = bar(admitted[at] / as_float(QUOTA), BAR);
                    table.add_row([name(at), whole(offered[at]), whole(admitted[at]), whole(refused[at]), share]);
                }
                let sums = [offered, admitted, refused].map(|rates| whole(rates.iter().sum()));
                let [offered, admitted, refused] = sums;
                table.add_row(["together".to_owned(), offered, admitted, refused, bar(sum / as_float(QUOTA), BAR)]);
                format!("{:.0} s, {store}\n{table}", elapsed.as_secs_f64())
            },
            || {
                let each = admitted.map(whole).join(" + ");
                format!("phase {number} {:>4.1} s | admitted/s {each} = {sum:.0} | {store}", elapsed.as_secs_f64())
            },
        );
    }

    /// Ends the view, and returns the results of the phase.
    pub fn end(self, tallies: &[Arc<Tally>; ENVOYS], store_calls: u64) -> Outcome {
        let counts = tallies.each_ref().map(|tally| tally.counts());
        Outcome { phase: self.phase, counts, took: self.began.elapsed(), most: self.most, store_calls }
    }
}

/// Prints a table of all phases.
pub fn print_summary(outcomes: &[Outcome]) {
    println!("\n{}", style("What came of it").bold());
    let header = ["", "each Envoy admitted/s", "together", "most in 1 s", "failed", "p99", "store calls per 1000"];
    let mut table = table(&header);
    for outcome in outcomes {
        let seconds = outcome.took.as_secs_f64().max(0.001);
        let admitted = outcome.counts.map(|counts| rate(counts.admitted(), seconds));
        let sum = |field: fn(&Counts) -> u64| outcome.counts.iter().map(field).sum::<u64>();
        let calls = 1_000.0 * as_float(outcome.store_calls) / as_float(sum(|counts| counts.offered).max(1));
        table.add_row([
            outcome.phase.title.to_owned(),
            admitted.map(whole).join(" + "),
            whole(admitted.iter().sum()),
            whole(outcome.most),
            sum(|counts| counts.failed).to_string(),
            milliseconds(outcome.counts.iter().filter_map(|counts| counts.p99).max()),
            format!("{calls:.1}"),
        ]);
    }
    println!("{table}");
    println!(
        "The quota is {QUOTA} a second, by a sliding window: the first second of a load that begins at once may have \
         more. While Redis is stopped each Envoy counts with the share that it had."
    );
}

fn name(at: usize) -> String {
    format!("Envoy {}", at + 1)
}

fn whole(rate: f64) -> String {
    format!("{rate:.0}")
}

fn rate(count: u64, seconds: f64) -> f64 {
    as_float(count) / seconds
}

#[allow(clippy::cast_precision_loss, reason = "counts for the eye, far fewer than 2^52")]
fn as_float(count: u64) -> f64 {
    count as f64
}

const BAR: usize = 24;
