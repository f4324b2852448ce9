//! The upstreams on the status page: what served the clients, and the state of each breaker.

use super::json::Json;
use super::report::{Percent, millis};
use crate::breaker::{Local, State, Statistics};
use crate::fallback::{ServedBy, Upstreams};
use crate::policy::{BreakerMode, Policy};
use crate::units::Timestamp;

/// The state of the upstreams.
#[derive(Clone, Copy)]
pub struct UpstreamsNow<'a> {
    /// What the worker that handles the request knows of them, after [`Upstreams::refresh`].
    pub known: &'a Upstreams,
    /// The counts of all workers.
    pub counted: &'a dyn Counted,
}

/// The counts of all workers of a host since it started, added up by the host.
///
/// It is deliberately not `Debug`: a `dyn` with `Debug` would link the formatting of everything behind it into the
/// Worker.
pub trait Counted {
    /// How many requests of the route at this index were served by this.
    fn served(&self, route: usize, by: ServedBy) -> u64;

    /// How many requests of the route at this index needed a kept response and found none.
    fn misses(&self, route: usize) -> u64;

    /// The counts of the breaker at this index of [`Breakers`](crate::breaker::Breakers), by [`Statistics::NAMES`].
    fn breaker(&self, place: usize) -> [u64; Statistics::NAMES.len()];
}

/// For a host that has one worker and exports no metrics: that worker's own counts.
impl Counted for Upstreams {
    fn served(&self, route: usize, by: ServedBy) -> u64 {
        self.served_known().get(route, by)
    }

    fn misses(&self, route: usize) -> u64 {
        self.served_known().misses(route)
    }

    fn breaker(&self, place: usize) -> [u64; Statistics::NAMES.len()] {
        self.breakers_known().local(place).map_or_else(Default::default, |local| local.statistics_known().values())
    }
}

/// Writes `"upstreams"`, and if the host chooses among several also `"served"` and `"breakers"`.
pub(super) fn write(json: &mut Json, policy: &Policy, now: Option<&UpstreamsNow<'_>>, time: Timestamp) {
    let sums = now.map(|now| Sums::of(policy, now.counted));
    json.list("upstreams", |json| {
        for (place, upstream) in policy.upstreams().iter().enumerate() {
            json.item(|json| {
                json.text("name", upstream.name.as_str());
                if let Some(breaker) = upstream.breaker.and_then(|breaker| policy.breakers().get(breaker)) {
                    json.text("breaker", breaker.name.as_str());
                }
                if let Some(served) = sums.as_ref().and_then(|sums| sums.upstreams.get(place)) {
                    json.number("served", *served);
                }
            });
        }
    });
    if let (Some(now), Some(sums)) = (now, sums) {
        json.object("served", |json| sums.write(json));
        write_breakers(json, now, time);
    }
}

/// What served the clients, summed over all routes.
struct Sums {
    upstreams: Vec<u64>,
    /// In the order of [`ServedBy::OTHERS`].
    others: [u64; ServedBy::OTHERS.len()],
    misses: u64,
    routes_left_out: usize,
}

impl Sums {
    fn of(policy: &Policy, counted: &dyn Counted) -> Self {
        let routes_left_out = policy.routes().len().saturating_sub(MOST_ROUTES);
        let (upstreams, others) = (vec![0; policy.upstreams().len()], [0; ServedBy::OTHERS.len()]);
        let mut sums = Self { upstreams, others, misses: 0, routes_left_out };
        for (index, route) in policy.routes().iter().enumerate().take(MOST_ROUTES) {
            for (place, upstream) in route.upstreams().iter().enumerate() {
                if let Some(sum) = sums.upstreams.get_mut(*upstream) {
                    *sum = sum.saturating_add(counted.served(index, ServedBy::Upstream(place)));
                }
            }
            for (sum, by) in sums.others.iter_mut().zip(ServedBy::OTHERS) {
                *sum = sum.saturating_add(counted.served(index, by));
            }
            sums.misses = sums.misses.saturating_add(counted.misses(index));
        }
        sums
    }

    fn write(&self, json: &mut Json) {
        let upstreams = self.upstreams.iter().fold(0_u64, |sum, served| sum.saturating_add(*served));
        let failed = ServedBy::OTHERS.iter().zip(self.others).filter(|(by, _)| by.is_failed());
        let failed = failed.fold(0_u64, |sum, (_, count)| sum.saturating_add(count));
        let [stale, fixed, unavailable, failure] = self.others;
        let counts = [
            ("upstreams", upstreams),
            ("stale", stale),
            ("static", fixed),
            ("unavailable", unavailable),
            ("failure", failure),
            ("failed", failed),
            ("kept_hits", stale),
            ("kept_misses", self.misses),
        ];
        counts.iter().for_each(|(name, count)| json.number(name, *count));
        match share(stale, stale.saturating_add(self.misses)) {
            Some(percent) => json.plain("kept_hit_rate_percent", &percent),
            None => json.null("kept_hit_rate_percent"),
        }
        json.plain("routes_left_out", &self.routes_left_out);
    }
}

fn write_breakers(json: &mut Json, now: &UpstreamsNow<'_>, time: Timestamp) {
    let breakers = now.known.breakers_known();
    let state = |place: usize| breakers.local(place).map_or(State::Closed, |local| local.state(time));
    // Breakers that are not closed come first, so if the list is too long, closed ones are left out.
    let (closed, other): (Vec<usize>, Vec<usize>) =
        (0..breakers.len()).partition(|place| state(*place) == State::Closed);
    let left_out = breakers.len().saturating_sub(MOST_BREAKERS);
    json.list("breakers", |json| {
        for place in other.into_iter().chain(closed).take(MOST_BREAKERS) {
            if let (Some(name), Some(local)) = (breakers.identity(place), breakers.local(place)) {
                json.item(|json| write_breaker(json, name, local, now.counted.breaker(place), time));
            }
        }
    });
    json.plain("breakers_left_out", &left_out);
}

fn write_breaker(json: &mut Json, name: &str, local: &Local, counts: [u64; Statistics::NAMES.len()], time: Timestamp) {
    let mode = local.rules().mode();
    json.text("name", name);
    json.text("mode", mode.as_str());
    json.text("state", local.state(time).as_str());
    if local.rules().is_shared() {
        json.text("scope", "global");
        json.plain("alone", &!local.is_governed());
    }
    if let Some(since) = since(local, mode) {
        json.number("since_unix_ms", millis(since.since(Timestamp::EPOCH)));
        json.number("for_ms", millis(time.since(since)));
    }
    let window = local.tally();
    json.object("window", |json| {
        json.number("calls", window.calls.into());
        json.number("failures", window.failures.into());
        json.number("slow", window.slow.into());
    });
    for (word, count) in Statistics::NAMES.into_iter().zip(counts) {
        json.number(word, count);
    }
}

/// When the breaker's state began; `None` if it never opened, or the policy alone fixes its state.
fn since(local: &Local, mode: BreakerMode) -> Option<Timestamp> {
    local.shared().since().filter(|_| matches!(mode, BreakerMode::Enforce | BreakerMode::Observe))
}

fn share(part: u64, whole: u64) -> Option<Percent> {
    let share = u128::from(part).saturating_mul(10_000).checked_div(whole.into())?;
    u32::try_from(share).ok().map(Percent)
}

/// Limits the status page to some hundred KB, and to some thousand host calls.
const MOST_BREAKERS: usize = 256;
const MOST_ROUTES: usize = 256;
