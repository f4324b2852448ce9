//! Exports counts to Envoy's statistics.
//!
//! Envoy shows a metric as `wasmcustom.NAME`. Labels are written into the name as `.label=value`; the `stats_tags` of
//! the shipped `envoy.yaml` extract them.

mod upstreams;

pub use upstreams::{Totals, UpstreamMetrics};

use crate::host::{self, MetricId, MetricKind};
use tidegate::engine::Load;
use tidegate::metrics::{Counters, Fate, Total};
use tidegate::policy::{Policy, TierIndex};

/// The metrics of one policy, defined when first needed.
#[derive(Default)]
pub struct Metrics {
    /// Metric ids by place: the totals, then the gauges, then the requests by limit, tier and fate.
    ids: Vec<Option<MetricId>>,
    /// The gauges of requests in flight, by limit and tier.
    loads: Vec<LoadGauges>,
    /// What this worker has added to each gauge that sums over workers.
    added: [u64; Gauge::COUNT],
}

/// The gauges of a limit, or of one tier of it if tiers are counted apart.
struct LoadGauges {
    place: (usize, Option<TierIndex>),
    in_flight: Option<MetricId>,
    permits: Option<MetricId>,
    /// What this worker has added, if the gauge sums over workers.
    added: u64,
}

/// The gauges of the whole policy.
#[derive(Clone, Copy)]
pub enum Gauge {
    /// The live keys in the table.
    LiveKeys = 0,
    /// The keys that the table may hold.
    MaxKeys = 1,
    /// The waiting requests.
    Waiting = 2,
    /// The service's health: healthy (0), degraded (1) or critical (2).
    Health = 3,
    /// The open breakers, over all workers, around the store of shared limits and the rate-limit service.
    StoreBreakers = 4,
    /// The shared breakers that currently decide without their authority.
    BreakersAlone = 5,
}

impl Gauge {
    const COUNT: usize = Self::BreakersAlone as usize + 1;
}

impl Metrics {
    /// Adds the counts since the last export to Envoy's counters.
    pub fn export(&mut self, policy: &Policy, counters: &mut Counters) {
        let tiers = policy.tiers().len().max(1);
        let mut place = FIRST_REQUESTS;
        for (index, limit) in policy.limits().iter().enumerate() {
            for tier in (0..tiers).filter_map(TierIndex::new) {
                for fate in Fate::ALL {
                    let count = counters.take_requests(index, tier, fate);
                    if count > 0 {
                        let tier = policy.tiers().get(tier.get()).map_or("default", |tier| tier.as_str());
                        let (limit, decision) = (limit.name().as_str(), fate.as_str());
                        self.add(place, count, || {
                            format!("tidegate_requests_total.limit={limit}.decision={decision}.tier={tier}")
                        });
                    }
                    place = place.saturating_add(1);
                }
            }
        }
        for total in Total::ALL {
            self.add(total as usize, counters.take_total(total), || total_name(total).to_owned());
        }
    }

    /// Sets a gauge.
    pub fn record(&mut self, gauge: Gauge, value: u64) {
        let place = FIRST_GAUGE.saturating_add(gauge as usize);
        if let Some(id) = self.id(place, MetricKind::Gauge, || gauge_name(gauge).to_owned()) {
            // Setting a defined metric cannot fail, and an error could not be reported.
            let _ = host::record(id, value);
        }
    }

    /// Sets the gauges of requests in flight. The gauge of permitted requests is left to a newer policy with a limit of
    /// the same name (`is_replaced`).
    pub fn record_load(&mut self, policy: &Policy, load: Load, is_replaced: impl Fn(&str) -> bool) {
        let place = (load.limit, load.tier);
        let limit = policy.limits().get(load.limit).map_or("", |limit| limit.name().as_str());
        if !self.loads.iter().any(|known| known.place == place) {
            let tier = load.tier.and_then(|tier| policy.tiers().get(tier.get()));
            let tier = tier.map(|tier| format!(".tier={}", tier.as_str())).unwrap_or_default();
            let define = |name| define(MetricKind::Gauge, format!("{name}.limit={limit}{tier}"));
            let [in_flight, permits] = ["tidegate_concurrency_in_flight", "tidegate_concurrency_limit"].map(define);
            self.loads.push(LoadGauges { place, in_flight, permits, added: 0 });
        }
        let Some(known) = self.loads.iter_mut().find(|known| known.place == place) else { return };
        // As above, setting a defined metric cannot fail.
        let permits = known.permits.filter(|_| !is_replaced(limit));
        let _ = permits.map(|id| host::record(id, u64::from(load.permits.get())));
        let in_flight = u64::from(load.in_flight.get());
        match known.in_flight {
            Some(id) if load.of_worker => add_own(id, in_flight, &mut known.added),
            Some(id) => drop(host::record(id, in_flight)),
            None => {}
        }
    }

    /// Updates this worker's part of a gauge that sums over workers.
    pub fn record_own(&mut self, gauge: Gauge, value: u64) {
        let place = FIRST_GAUGE.saturating_add(gauge as usize);
        let id = self.id(place, MetricKind::Gauge, || gauge_name(gauge).to_owned());
        if let (Some(id), Some(added)) = (id, self.added.get_mut(gauge as usize)) {
            add_own(id, value, added);
        }
    }

    /// Subtracts what this worker has added to a gauge.
    pub fn take_back(&mut self, gauge: Gauge) {
        if self.added.get(gauge as usize).is_some_and(|added| *added > 0) {
            self.record_own(gauge, 0);
        }
    }

    /// Zeroes a gauge, if it was ever set.
    pub fn clear(&mut self, gauge: Gauge) {
        if let Some(Some(id)) = self.ids.get(FIRST_GAUGE.saturating_add(gauge as usize)) {
            let _ = host::record(*id, 0);
        }
    }

    /// Subtracts what this worker has added to the gauges of requests in flight, and zeroes those whose limit does not
    /// stay.
    pub fn clear_loads(&mut self, policy: &Policy, stays: impl Fn(&str) -> bool) {
        for LoadGauges { place, in_flight, permits, added } in &mut self.loads {
            if let Some(id) = in_flight.filter(|_| *added > 0) {
                add_own(id, 0, added);
            }
            if !policy.limits().get(place.0).is_some_and(|limit| stays(limit.name().as_str())) {
                for id in in_flight.iter().chain(permits.iter()) {
                    let _ = host::record(*id, 0);
                }
            }
        }
    }

    /// Adds to a counter. A total is defined even while it is zero, so that it can be watched.
    fn add(&mut self, place: usize, count: u64, name: impl FnOnce() -> String) {
        add(self.id(place, MetricKind::Counter, name), count);
    }

    fn id(&mut self, place: usize, kind: MetricKind, name: impl FnOnce() -> String) -> Option<MetricId> {
        id(&mut self.ids, place, kind, name)
    }
}

/// Updates this worker's part of a gauge.
fn add_own(id: MetricId, value: u64, added: &mut u64) {
    let change = value.cast_signed().saturating_sub(added.cast_signed());
    if change != 0 && host::increment(id, change).is_ok() {
        *added = value;
    }
}

fn add(id: Option<MetricId>, count: u64) {
    if let Some(id) = id
        && count > 0
    {
        let _ = host::increment(id, i64::try_from(count).unwrap_or(i64::MAX));
    }
}

/// The metric at this place, defined if it is not yet defined.
fn id(
    ids: &mut Vec<Option<MetricId>>,
    place: usize,
    kind: MetricKind,
    name: impl FnOnce() -> String,
) -> Option<MetricId> {
    if place >= ids.len() {
        ids.resize(place.saturating_add(1), None);
    }
    let id = ids.get_mut(place)?;
    if id.is_none() {
        *id = define(kind, name());
    }
    *id
}

/// Defines a metric. Filters whose `vm_id`s differ share no state, but all of Envoy's metrics by their names: what the shipped
/// configuration does not have is a label.
fn define(kind: MetricKind, mut name: String) -> Option<MetricId> {
    if let Ok(Some(id)) = host::vm_id()
        && !matches!(id.as_slice(), b"" | b"tidegate")
    {
        // A dot would end the label.
        let word = |byte: &u8| if byte.is_ascii_alphanumeric() || *byte == b'-' { char::from(*byte) } else { '_' };
        name.push_str(".vm_id=");
        name.extend(id.iter().take(LONGEST_LABEL).map(word));
    }
    host::define_metric(kind, &name).ok()
}

/// More of a `vm_id` tells nobody more.
const LONGEST_LABEL: usize = 64;

const FIRST_GAUGE: usize = Total::ALL.len();
const FIRST_REQUESTS: usize = FIRST_GAUGE + Gauge::COUNT;

fn gauge_name(gauge: Gauge) -> &'static str {
    match gauge {
        Gauge::LiveKeys => "tidegate_table_live_keys",
        Gauge::MaxKeys => "tidegate_table_max_keys",
        Gauge::Waiting => "tidegate_waiting",
        Gauge::Health => "tidegate_health",
        Gauge::StoreBreakers => "tidegate_store_breakers_open",
        Gauge::BreakersAlone => "tidegate_breakers_alone",
    }
}

fn total_name(total: Total) -> &'static str {
    match total {
        Total::Conflicts => "tidegate_conflicts_total",
        Total::StoreFailures => "tidegate_store_failures_total",
        Total::RefundsLost => "tidegate_refunds_lost_total",
        Total::ReleasesLost => "tidegate_releases_lost_total",
        Total::FreshEvictions => "tidegate_evictions_total.kind=fresh",
        Total::LiveEvictions => "tidegate_evictions_total.kind=live",
        Total::ForgivenDebt => "tidegate_forgiven_debt_255ths_total",
        Total::Maintenance => "tidegate_maintenance_total",
        Total::Denied => "tidegate_denied_total",
        Total::Allowed => "tidegate_allowed_total",
        Total::ShedLow => "tidegate_shed_total.priority=low",
        Total::ShedMedium => "tidegate_shed_total.priority=medium",
        Total::ShedHigh => "tidegate_shed_total.priority=high",
        Total::Kept => "tidegate_kept_total",
        Total::NotKept => "tidegate_not_kept_total",
        Total::KeptEvictions => "tidegate_kept_evictions_total",
        Total::Bans => "tidegate_bans_total",
        Total::PenaltyPermits => "tidegate_penalty_permits_total",
        Total::RoomFull => "tidegate_waits_refused_total.kind=full",
        Total::Displaced => "tidegate_waits_refused_total.kind=displaced",
        Total::Overdue => "tidegate_waits_refused_total.kind=overdue",
        Total::Abandoned => "tidegate_waits_abandoned_total",
        Total::Asks => "tidegate_store_asks_total",
        Total::AskFailures => "tidegate_store_ask_failures_total",
        Total::Awaited => "tidegate_store_waits_total",
        Total::GrantsLost => "tidegate_store_grants_lost_total",
        Total::BreakerRounds => "tidegate_breaker_rounds_total",
        Total::BreakerRoundFailures => "tidegate_breaker_round_failures_total",
        Total::BreakersLearnt => "tidegate_breakers_learnt_total",
    }
}
