//! The live view of the outage: the faults, the breakers' states, and who serves.

use std::time::{Duration, Instant};

use console::style;

use super::super::screen::{Screen, bar};
use super::phases::{PHASES, Phase};
use super::tally::{BREAKERS, Counts, ServedBy, States, Tally};

/// The live view of a phase.
pub struct View {
    screen: Screen,
    began: Instant,
    /// The counts at the last drawing, with the filter and past it, and when that was.
    last: (Instant, Counts, Counts),
}

impl View {
    /// The view of a phase that is about to begin, of an outage that began at `began`.
    pub fn new(plain: bool, phase: Phase, number: usize, began: Instant) -> Self {
        println!("{}", style(format!("{number}/{} {}", PHASES.len(), phase.title)).bold());
        let last = (Instant::now(), Counts::default(), Counts::default());
        Self { screen: Screen::new(plain), began, last }
    }

    /// How long to wait between two drawings.
    pub fn period(&self) -> Duration {
        self.screen.period()
    }

    /// Draws the current state of the phase. `waiting` is the number of clients that wait for a response past the
    /// filter.
    pub fn draw(&mut self, filtered: &Tally, unfiltered: &Tally, waiting: usize) {
        let (then, before, unfiltered_before) = &self.last;
        let elapsed = then.elapsed().as_secs_f64().max(0.001);
        #[allow(clippy::cast_precision_loss, reason = "a rate for the eye")]
        let per_s = |now: u64, before: u64| now.saturating_sub(before) as f64 / elapsed;
        let (now, unfiltered_now) = (filtered.counts(), unfiltered.counts());
        let rates = ServedBy::ALL.map(|by| (by, per_s(now.by(by), before.by(by))));
        let failing = per_s(unfiltered_now.by(ServedBy::Failed), unfiltered_before.by(ServedBy::Failed));
        let breakers = breakers(filtered.take_recent());
        let seconds = self.began.elapsed().as_secs_f64();
        self.screen.show(
            || {
                let all = rates.iter().map(|(_, rate)| rate).sum::<f64>().max(1.0);
                let line = |(by, rate): &(ServedBy, f64)| {
                    format!("{:>9} [{}] {rate:>4.0}/s\n", by.as_str(), bar(rate / all, BAR))
                };
                let served: String = rates.iter().map(line).collect();
                format!(
                    "{seconds:>5.1} s  breakers: {breakers}\n{served}\
                     without Tidegate: {failing:.0}/s failed, {waiting} waiting"
                )
            },
            || {
                let served = rates.map(|(by, rate)| format!("{} {rate:.0}", by.as_str())).join(", ");
                format!("{seconds:>5.1} s | {breakers} | {served} | without: failed {failing:.0}, waiting {waiting}")
            },
        );
        self.last = (Instant::now(), now, unfiltered_now);
    }

    /// Draws the end of the phase, unless it was drawn just before: rates over so short a time say nothing.
    pub fn end(&mut self, filtered: &Tally, unfiltered: &Tally, waiting: usize) {
        if self.last.0.elapsed() * 2 > self.period() {
            self.draw(filtered, unfiltered, waiting);
        }
    }
}

/// `cdn open, half-open; origin closed`
fn breakers(states: [States; BREAKERS.len()]) -> String {
    let each = BREAKERS.iter().zip(states).map(|(name, states)| format!("{name} {}", states.describe()));
    each.collect::<Vec<_>>().join("; ")
}

const BAR: usize = 40;
