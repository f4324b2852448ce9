//! The effect of a flood of addresses on the key table, for several page sizes, with the page code that is shipped.
//!
//! Three tables. First: how many live keys are forgotten when as many live as planned for, by how full pages are
//! planned. Second: one minute in which honest and greedy clients share a table of 100,000 keys with an attack of ten
//! million requests; each decision is compared with that of the same limiter in unbounded memory. Third: what it costs
//! an attacker to have one known key forgotten.
//!
//! `cargo bench --bench flood` runs it. No times are measured, and every run prints the same figures.

#![allow(missing_docs, reason = "a program, not a library")]

#[path = "random.rs"]
mod random;

use random::{Random, mix};
use tidegate::key::KeyHash;
use tidegate::limiter::{Meter, State, Verdict};
use tidegate::policy::{Policy, TierIndex};
use tidegate::table::{Displaces, PageOf, page_of};
use tidegate::units::{Permits, Timestamp};

fn main() {
    let smoke = !std::env::args().any(|argument| argument == "--bench");
    let scale = if smoke { 100 } else { 1 };
    let meter = meter();
    println!("Keys forgotten when {MAX_KEYS} live together, by how full pages are planned, and bytes of each");
    print!("{:<18}", "");
    FILLS.iter().for_each(|(fill, over)| print!("{:>18}", format!("{fill}/{over}: {:.1} B", bytes(*fill, *over))));
    println!();
    full::<2>(&meter);
    full::<4>(&meter);
    full::<8>(&meter);
    full::<16>(&meter);
    full::<32>(&meter);

    println!(
        "\nOne minute: {HONEST} honest clients of 10 requests, {GREEDY} greedy ones of {GREEDY_REQUESTS}, quota {QUOTA}, {MAX_KEYS} keys"
    );
    println!(
        "at {}/{} full. Of the honest requests wrongly refused / of the greedy ones' quota admitted beyond it",
        PLANNED.0, PLANNED.1
    );
    print!("{:<18}", "attack");
    ATTACKS.iter().for_each(|attack| print!("{:>24}", attack.name()));
    println!();
    flooded::<2>(&meter, scale);
    flooded::<4>(&meter, scale);
    flooded::<8>(&meter, scale);
    flooded::<16>(&meter, scale);
    flooded::<32>(&meter, scale);

    let trials = if smoke { 1 } else { TRIALS };
    println!(
        "\nRequests that an attacker needs, who does not know the keys' hash, until one known key at its quota is forgotten,"
    );
    println!("of {trials} tries; a key that has used half of its quota takes half as many");
    println!("{:<18}{:>18}{:>18}", "", "fewest", "median");
    forgotten::<2>(&meter, trials);
    forgotten::<4>(&meter, trials);
    forgotten::<8>(&meter, trials);
    forgotten::<16>(&meter, trials);
    forgotten::<32>(&meter, trials);
}

/// A key table of pages of `G` groups, used in the same way as the engine uses its own.
struct Table<const G: usize> {
    pages: Vec<PageOf<G>>,
}

impl<const G: usize> Table<G> {
    fn new((fill, over): (usize, usize)) -> Self {
        let pages = (MAX_KEYS * over).div_ceil(fill * PageOf::<G>::SLOTS);
        Self { pages: vec![PageOf::EMPTY; pages] }
    }

    /// Whether a request is admitted, and what it displaced. An admitted request is charged.
    fn decide(&mut self, meter: &Meter, key: KeyHash, cost: u32, now: Timestamp) -> (bool, Displaces) {
        let page = page_of(key, self.pages.len() as u32);
        let page = &mut self.pages[page as usize];
        let probe = page.probe(key, now);
        let outcome = meter.check(probe.state(), Permits::new(cost), now);
        let admit = outcome.verdict == Verdict::Admit;
        if !admit {
            return (false, Displaces::Nothing);
        }
        page.write(&probe, key, outcome.state);
        (true, probe.displaces())
    }

    fn knows(&self, key: KeyHash, now: Timestamp) -> bool {
        self.pages[page_of(key, self.pages.len() as u32) as usize].probe(key, now).state().is_some()
    }
}

/// As many live keys as planned for, with one request each within one window.
fn full<const G: usize>(meter: &Meter) {
    print!("{:<18}", format!("{} slots", PageOf::<G>::SLOTS));
    for planned in FILLS {
        let mut table = Table::<G>::new(planned);
        let decide = |n| table.decide(meter, key(n), 1, at(0.0)).1;
        let lost = (0..MAX_KEYS as u64).map(decide).filter(|displaced| matches!(displaced, Displaces::Live(_))).count();
        print!("{:>18}", percent(lost, MAX_KEYS));
    }
    println!();
}

/// An attack within the minute: this many addresses with this many requests each.
struct Attack {
    addresses: u64,
    requests: u64,
}

impl Attack {
    fn name(&self) -> String {
        match self.addresses {
            0 => "none".to_owned(),
            addresses => {
                let attacking = addresses * self.requests;
                let share = 100 * attacking / (attacking + (HONEST * 10 + GREEDY * GREEDY_REQUESTS) as u64);
                format!("{} x {} ({share}%)", grouped(addresses), self.requests)
            }
        }
    }
}

fn flooded<const G: usize>(meter: &Meter, scale: u64) {
    print!("{:<18}", format!("{} slots", PageOf::<G>::SLOTS));
    for attack in &ATTACKS {
        let told = Minute::<G>::new().run(meter, attack, scale);
        print!("{:>24}", format!("{} / {}", told.honest_refused, told.greedy_admitted));
    }
    println!();
}

/// The decisions of one minute, compared with those of the same limiter in unbounded memory.
struct Minute<const G: usize> {
    table: Table<G>,
    /// The states of the honest clients and then of the greedy ones, without any forgotten.
    exact: Vec<Option<State>>,
    wrongly_refused: usize,
    wrongly_admitted: i64,
}

struct Told {
    honest_refused: String,
    greedy_admitted: String,
}

impl<const G: usize> Minute<G> {
    fn new() -> Self {
        let exact = vec![None; HONEST + GREEDY];
        Self { table: Table::new(PLANNED), exact, wrongly_refused: 0, wrongly_admitted: 0 }
    }

    /// All requests in random order, evenly over the minute. An attack goes through its addresses round by round, so
    /// each has used as much as it can before the next round starts.
    fn run(mut self, meter: &Meter, attack: &Attack, scale: u64) -> Told {
        let attacking = attack.addresses * attack.requests / scale;
        let honest = (HONEST * 10) as u64 / scale;
        let greedy = (GREEDY * GREEDY_REQUESTS) as u64 / scale;
        let all = attacking + honest + greedy;
        let mut random = Random(7);
        let mut attacked = 0;
        for step in 0..all {
            let now = at(60.0 * step as f64 / all as f64);
            let chosen = random.below(all);
            if chosen < attacking {
                let address = FIRST_ATTACKER + attacked / attack.requests;
                attacked += 1;
                self.table.decide(meter, key(address), 1, now);
            } else if chosen < attacking + honest {
                self.known(meter, random.below(HONEST as u64) as usize, now);
            } else {
                self.known(meter, HONEST + random.below(GREEDY as u64) as usize, now);
            }
        }
        let quotas = (GREEDY * QUOTA as usize) as f64;
        Told {
            honest_refused: percent(self.wrongly_refused, honest as usize),
            greedy_admitted: format!("{:.2}%", 100.0 * self.wrongly_admitted as f64 / quotas),
        }
    }

    fn known(&mut self, meter: &Meter, client: usize, now: Timestamp) {
        let (admitted, _) = self.table.decide(meter, key(client as u64), 1, now);
        let outcome = meter.check(self.exact[client], Permits::ONE, now);
        self.exact[client] = Some(outcome.state);
        let right = outcome.verdict == Verdict::Admit;
        if client < HONEST {
            self.wrongly_refused += usize::from(right && !admitted);
        } else {
            self.wrongly_admitted += i64::from(admitted) - i64::from(right);
        }
    }
}

/// The cost for an attacker who brings one address after another to its quota until the known key is gone.
fn forgotten<const G: usize>(meter: &Meter, trials: u64) {
    let quota = u64::from(QUOTA);
    let cost = |trial| addresses_until_gone::<G>(meter, trial) * quota;
    let mut costs: Vec<u64> = (0..trials).map(cost).collect();
    costs.sort_unstable();
    let (fewest, median) = (grouped(costs[0]), grouped(costs[costs.len() / 2]));
    println!("{:<18}{fewest:>18}{median:>18}", format!("{} slots", PageOf::<G>::SLOTS));
}

fn addresses_until_gone<const G: usize>(meter: &Meter, trial: u64) -> u64 {
    let mut table = Table::<G>::new(PLANNED);
    let known = key(trial << 40);
    table.decide(meter, known, QUOTA, at(0.0));
    // One second later, so that the attacker's keys expire no earlier than the known one.
    let first = (trial << 40) + 1;
    let gone = (first..first + 100 * MAX_KEYS as u64).find(|address| {
        table.decide(meter, key(*address), QUOTA, at(1.0));
        !table.knows(known, at(1.0))
    });
    gone.expect("a table is full some day") - first + 1
}

fn meter() -> Meter {
    let document = format!(r#"{{"version":1,"limits":[{{"name":"a","quota":{{"permits":{QUOTA},"window":"60s"}}}}]}}"#);
    let policy = Policy::parse(&document).expect("a good policy");
    let limit = &policy.limits()[0];
    Meter::new(limit.algorithm(), &limit.quotas(TierIndex::default())[0])
}

fn key(n: u64) -> KeyHash {
    KeyHash::from_bits(mix(n.wrapping_add(0x1234_5678_9abc_def1)))
}

/// The time this many seconds after the beginning of a minute.
fn at(seconds: f64) -> Timestamp {
    Timestamp::from_nanos(1_800_014_400_000_000_000 + (seconds * 1e9) as u64)
}

fn bytes(fill: usize, over: usize) -> f64 {
    16.0 * over as f64 / fill as f64
}

fn percent(part: usize, whole: usize) -> String {
    format!("{:.3}%", 100.0 * part as f64 / whole as f64)
}

fn grouped(n: u64) -> String {
    let digits = n.to_string();
    let groups: Vec<&str> =
        digits.as_bytes().rchunks(3).rev().filter_map(|group| std::str::from_utf8(group).ok()).collect();
    groups.join(",")
}

const MAX_KEYS: usize = 100_000;
const FILLS: [(usize, usize); 3] = [(3, 4), (4, 5), (9, 10)];
/// The same as in the core.
const PLANNED: (usize, usize) = (9, 10);
const QUOTA: u32 = 100;
const HONEST: usize = 50_000;
const GREEDY: usize = 200;
const GREEDY_REQUESTS: usize = 1_000;
const FIRST_ATTACKER: u64 = 1 << 32;
const TRIALS: u64 = 31;
const ATTACKS: [Attack; 5] = [
    Attack { addresses: 0, requests: 1 },
    Attack { addresses: 1_000_000, requests: 1 },
    Attack { addresses: 10_000_000, requests: 1 },
    Attack { addresses: 1_000_000, requests: 10 },
    Attack { addresses: 100_000, requests: 100 },
];
