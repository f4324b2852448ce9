//! One quota for three Envoys: how much of it is used, how many requests wait for Redis, how often Redis is called, and
//! the latency that this adds. It compares permits drawn ahead with a call per request, with a separate limit per
//! Envoy, and with a service that Envoy asks about every request.
//!
//! `make bench` runs it. Each contender has three Envoys with one worker each. The contenders alternate in several
//! rounds, under twice the load that the quota admits, split 80, 15 and 5 percent. For bounds that must hold, the
//! result is the worst round; for all else the median. Latencies are those of admitted requests, counted from the time
//! at which each should have been sent.

#![allow(clippy::disallowed_methods, reason = "a benchmark needs the real clock")]
#![allow(missing_docs, reason = "a program, not a library")]

#[path = "../../src/bin/tidegate/demo/bootstrap.rs"]
mod bootstrap;
#[path = "../../src/bin/tidegate/demo/envoy.rs"]
mod envoy;
#[path = "shared/foreign.rs"]
mod foreign;
#[path = "../../src/bin/tidegate/demo/load.rs"]
mod load;
#[path = "../../src/bin/tidegate/demo/origin.rs"]
mod origin;
#[allow(dead_code, reason = "the demo has acts besides")]
#[path = "../../src/bin/tidegate/demo/population.rs"]
mod population;
#[path = "../../src/bin/tidegate/demo/store.rs"]
mod store;
#[allow(dead_code, reason = "the demo shows more of it")]
#[path = "../../src/bin/tidegate/demo/tally.rs"]
mod tally;

use std::error::Error;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use bootstrap::Bootstrap;
use envoy::{Envoy, Options};
use foreign::{Limiter, ext_authz};
use load::Load;
use origin::{Origin, Settings};
use population::Group;
use serde_json::json;
use store::{RedisServer, Webdis};
use tally::Tally;

/// Three Envoys with one policy.
struct Contender {
    name: &'static str,
    /// The total that may be admitted, as a multiple of the quota.
    quotas: u64,
    envoys: Vec<Envoy>,
    to: Vec<SocketAddr>,
    rounds: Vec<Round>,
}

/// The results of a round.
struct Round {
    used: f64,
    /// The most requests that the quota admits, for comparison with `admitted`.
    most: f64,
    admitted: u64,
    failed: u64,
    waited_percent: f64,
    calls_per_1000: f64,
    p50_us: f64,
    p99_us: f64,
    late_us: f64,
}

fn policy(name: &str) -> String {
    let scope = match name {
        OWN => json!({ "scope": "instance" }),
        EXACT => json!({ "scope": "global", "sharing": "exact" }),
        BUCKET => json!({ "scope": "global", "algorithm": "token-bucket" }),
        SMALL => json!({ "scope": "global", "algorithm": "token-bucket",
            "quota": { "permits": QUOTA, "window": "1s", "burst": SMALL_BURST } }),
        _ => json!({ "scope": "global" }),
    };
    let mut limit = json!({
        "name": "api", "key": [], "on_store_failure": "deny", "quota": { "permits": QUOTA, "window": "1s" },
    });
    for (field, value) in scope.as_object().into_iter().flatten() {
        limit[field] = value.clone();
    }
    let stores = json!({ "redis": { "protocol": "webdis", "cluster": "redis" }, "deadline": "1s" });
    json!({ "version": 1, "stores": stores, "limits": [limit] }).to_string()
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let smoke = !std::env::args().any(|argument| argument == "--bench");
    let (rounds, lasting) = if smoke { (1, 1) } else { (ROUNDS, LASTING_S) };
    let lasting = Duration::from_secs(lasting);
    let origin = Origin::start(Settings::default())?;
    let redis = RedisServer::start(&[])?;
    let webdis = Webdis::start(redis.addr(), None)?;
    let shipped = Bootstrap::shipped()?.wasm(Path::new("dist/envoy/tidegate.wasm"))?.upstream(origin.addr)?;
    let shipped = shipped.set(ACCESS_LOG, json!([]))?;
    let limiter = Limiter::start(redis.addr(), QUOTA)?;
    let mut contenders = Vec::new();
    for (name, quotas) in CONTENDERS {
        let shipped = shipped.clone();
        let bootstrap = match name {
            FOREIGN => shipped.with_cluster("redis", limiter.addr())?.set(FILTER, ext_authz("redis"))?,
            _ => shipped.with_cluster("redis", webdis.addr())?.policy(&policy(name))?,
        };
        let (mut envoys, mut to) = (Vec::new(), Vec::new());
        for _ in 0..SHARES.len() {
            let options = Options { concurrency: 1, log_level: "error".to_owned(), ..Options::new(bootstrap.text()) };
            let envoy = Envoy::start(options).await?;
            to.push(envoy.listener("http")?);
            envoys.push(envoy);
        }
        contenders.push(Contender { name, quotas, envoys, to, rounds: Vec::new() });
    }
    for _ in 0..rounds {
        for contender in &mut contenders {
            // Warms up, and lets permits of the round before expire.
            contender.run(Duration::from_secs(1)).await?;
            let round = contender.run(lasting).await?;
            contender.rounds.push(round);
        }
    }
    print(&contenders, rounds, lasting);
    Ok(())
}

impl Contender {
    async fn run(&self, lasting: Duration) -> Result<Round, Box<dyn Error>> {
        let tallies = (0..SHARES.len()).map(|_| Tally::new().map(Arc::new)).collect::<Option<Vec<_>>>();
        let tallies = tallies.ok_or("no histogram")?;
        let before = self.stats().await?;
        let (began, began_s) = (Instant::now(), now_s()?);
        let mut running = Vec::new();
        for ((share, to), tally) in SHARES.iter().zip(&self.to).zip(&tallies) {
            let group = [Group { requests_per_s: RATE * share / 100, ..CLIENTS }];
            let (to, tally) = (*to, [Arc::clone(tally)]);
            running.push(tokio::spawn(async move { Load::new().run(&[to], &group, &tally, lasting).await }));
        }
        let mut late = Duration::ZERO;
        for run in running {
            late = late.max(run.await?);
        }
        let most = match self.name {
            // A bucket's content, and the refill until the last response. Permits may be used up to 100 ms after they
            // were granted.
            SMALL => SMALL_BURST as f64 + QUOTA as f64 * (began.elapsed().as_secs_f64() + 0.1),
            // Each calendar window admits at most one quota, and a full bucket no more than that.
            _ => (QUOTA * (now_s()? - began_s + 1) * self.quotas) as f64,
        };
        // Counters are exported once a second.
        tokio::time::sleep(Duration::from_millis(1_500)).await;
        let after = self.stats().await?;
        let counts: Vec<_> = tallies.iter().map(|tally| tally.counts()).collect();
        let admitted: u64 = counts.iter().map(|counts| counts.served).sum();
        let offered: u64 = counts.iter().map(|counts| counts.offered).sum();
        let slowest = |pick: fn(&tally::Counts) -> Option<Duration>| {
            counts.iter().filter_map(pick).max().unwrap_or_default().as_secs_f64() * 1e6
        };
        Ok(Round {
            used: admitted as f64 / (QUOTA * self.quotas) as f64 / lasting.as_secs_f64(),
            most,
            admitted,
            failed: counts.iter().map(|counts| counts.failed).sum(),
            // Every request waits for the service's answer.
            waited_percent: if self.name == FOREIGN {
                100.0
            } else {
                100.0 * (after[0] - before[0]) as f64 / offered as f64
            },
            calls_per_1000: 1_000.0 * (after[1] - before[1]) as f64 / offered as f64,
            p50_us: slowest(|counts| counts.p50),
            p99_us: slowest(|counts| counts.p99),
            late_us: late.as_secs_f64() * 1e6,
        })
    }

    /// The number of requests that waited for the store, and the number of calls to it.
    async fn stats(&self) -> Result<[u64; 2], Box<dyn Error>> {
        let mut sums = [0; 2];
        for envoy in &self.envoys {
            let stats = envoy.stats().await?;
            for (sum, name) in sums.iter_mut().zip(["wasmcustom.tidegate_store_waits_total", STORE_CALLS]) {
                *sum += stats.get(name).copied().unwrap_or(0);
            }
        }
        Ok(sums)
    }
}

fn now_s() -> Result<u64, Box<dyn Error>> {
    Ok(SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?.as_secs())
}

fn print(contenders: &[Contender], rounds: usize, lasting: Duration) {
    println!(
        "one quota of {QUOTA} a second for three Envoys, {RATE} requests a second; {rounds} rounds of {} s",
        lasting.as_secs()
    );
    let head = ["used", "waited", "calls per 1000", "p50 us", "p99 us", "failed", "above"];
    print!("{:<26}", "");
    println!("{}", head.map(|head| format!("{head:>15}")).concat());
    for contender in contenders {
        let median = |field: fn(&Round) -> f64| {
            let mut all: Vec<f64> = contender.rounds.iter().map(field).collect();
            all.sort_by(f64::total_cmp);
            all[all.len() / 2]
        };
        let above = contender.rounds.iter().map(|round| round.admitted as f64 - round.most).fold(f64::MIN, f64::max);
        let failed: u64 = contender.rounds.iter().map(|round| round.failed).sum();
        println!(
            "{:<26}{:>14.1}%{:>14.2}%{:>15.1}{:>15.0}{:>15.0}{failed:>15}{:>15.0}",
            contender.name,
            100.0 * median(|round| round.used),
            median(|round| round.waited_percent),
            median(|round| round.calls_per_1000),
            median(|round| round.p50_us),
            median(|round| round.p99_us),
            above.max(0.0),
        );
    }
    let late = contenders.iter().flat_map(|contender| &contender.rounds).map(|round| round.late_us);
    println!(
        "above: permits beyond the quota in the worst round. The latest request was sent {:.0} us late.",
        late.fold(0.0, f64::max)
    );
}

const OWN: &str = "its own limit each";
const BUCKET: &str = "drawn ahead, token bucket";
const SMALL: &str = "the same, a small burst";
const EXACT: &str = "a call for each request";
const FOREIGN: &str = "rate-limiter-flexible";
/// Name, and the number of quotas that the three Envoys have together.
const CONTENDERS: [(&str, u64); 6] =
    [(OWN, 3), ("permits drawn ahead", 1), (BUCKET, 1), (SMALL, 1), (EXACT, 1), (FOREIGN, 1)];
const SHARES: [u32; 3] = [80, 15, 5];
const QUOTA: u64 = 1_000;
const SMALL_BURST: u64 = 100;
const RATE: u32 = 2_000;
const CLIENTS: Group = Group {
    name: "clients",
    plan: None,
    clients: 100,
    requests_per_s: RATE,
    first_address: Ipv4Addr::new(10, 6, 0, 0),
    usual: true,
};
const ROUNDS: usize = 3;
const LASTING_S: u64 = 5;
/// The calls to Redis, or to the service in its place.
const STORE_CALLS: &str = "cluster.redis.upstream_rq_total";
const FILTER: &str = "/static_resources/listeners/0/filter_chains/0/filters/0/typed_config/http_filters/0";
const ACCESS_LOG: &str = "/static_resources/listeners/0/filter_chains/0/filters/0/typed_config/access_log";
