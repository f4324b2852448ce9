//! An outage against a real Envoy or workerd: a CDN fails in three ways, then its origin fails too, then both recover.

mod load;
mod phases;
mod server;
mod summary;
mod tally;
mod view;

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use console::style;
use serde_json::Value;
use tokio::time::{Interval, interval, sleep};

use super::bootstrap::{Bootstrap, BootstrapError};
use super::envoy::{self, Envoy};
use super::locations::Locations;
use super::{Error, WORKERS};
use load::Load;
use phases::{PHASES, Phase};
use server::Server;
use summary::Outcome;
use tally::Tally;
use view::View;

/// The servers of the outage. Dropping it ends them.
pub struct Outage {
    cdn: Server,
    origin: Server,
    host: Host,
    filtered: Load,
    unfiltered: Load,
    plain: bool,
    lasting: Duration,
}

/// The host in front of the CDN and the origin.
enum Host {
    Envoy(Envoy),
    Workerd { _locations: Locations },
}

/// The state of the load that continues from phase to phase.
struct Schedule {
    began: Instant,
    ticks: Interval,
    sent: u64,
    latest: Duration,
    closed: bool,
}

impl Outage {
    /// Starts a CDN, an origin, and Envoy in front of them. `lasting` is the duration of a phase.
    pub async fn set_up(wasm: &Path, policy: &Path, plain: bool, lasting: Duration) -> Result<Self, Error> {
        let document = fs::read_to_string(policy).map_err(|e| Error::Policy(policy.to_owned(), e))?;
        let cdn = Server::start().map_err(Error::Origin)?;
        let origin = Server::start().map_err(Error::Origin)?;
        let bootstrap = bootstrap(wasm, &document, &cdn, &origin).map_err(Error::Bootstrap)?;
        let options = envoy::Options { concurrency: WORKERS, ..envoy::Options::new(bootstrap.text()) };
        let envoy = Envoy::start(options).await.map_err(Error::Envoy)?;
        let filtered = Load::new([envoy.listener("http").map_err(Error::Envoy)?], true);
        let unfiltered = Load::new([envoy.listener("bypass").map_err(Error::Envoy)?], false);
        Ok(Self { cdn, origin, host: Host::Envoy(envoy), filtered, unfiltered, plain, lasting })
    }

    /// The same with two locations of the Worker in place of Envoy. Each has a breaker of its own, as in production
    /// until they hear of each other.
    pub fn set_up_workerd(worker: &Path, policy: &Path, plain: bool, lasting: Duration) -> Result<Self, Error> {
        let document = fs::read_to_string(policy).map_err(|e| Error::Policy(policy.to_owned(), e))?;
        let cdn = Server::start().map_err(Error::Origin)?;
        let origin = Server::start().map_err(Error::Origin)?;
        let policy = with_urls(&document, &[("cdn", &cdn), ("origin", &origin)])
            .map_err(|error| Error::Policy(policy.to_owned(), error.into()))?;
        let locations = Locations::start(worker, &policy).map_err(Error::Locations)?;
        let (filtered, unfiltered) = (Load::new(locations.addrs, true), Load::new([cdn.addr()], false));
        Ok(Self { cdn, origin, host: Host::Workerd { _locations: locations }, filtered, unfiltered, plain, lasting })
    }

    /// Plays all phases and prints their results.
    pub async fn play(&mut self) -> Result<(), Error> {
        println!("\n{}", style("The outage: assets come from a CDN, and from an origin when it fails").bold());
        println!(
            "{RATE} requests a second {}, and as many past it to the CDN alone. Rates are per second.\n",
            match self.host {
                Host::Envoy(_) => "through the filter",
                Host::Workerd { .. } => "by turns through two locations of the Worker, each with a breaker of its own",
            }
        );
        let mut schedule = Schedule {
            began: Instant::now(),
            ticks: interval(Duration::from_secs(1) / RATE),
            sent: 0,
            latest: Duration::ZERO,
            closed: true,
        };
        let mut played = Vec::new();
        for (number, phase) in (1..).zip(PHASES) {
            let tallies = self.play_phase(phase, number, &mut schedule).await?;
            played.push((phase, tallies));
        }
        self.filtered.ended().await;
        self.unfiltered.ended().await;
        let outcome = |(phase, [filtered, unfiltered]): (Phase, [Arc<Tally>; 2])| Outcome {
            phase,
            filtered: filtered.counts(),
            unfiltered: unfiltered.counts(),
        };
        let outcomes: Vec<Outcome> = played.into_iter().map(outcome).collect();
        summary::print(&outcomes, schedule.latest, schedule.closed);
        Ok(())
    }

    async fn play_phase(
        &mut self,
        phase: Phase,
        number: usize,
        schedule: &mut Schedule,
    ) -> Result<[Arc<Tally>; 2], Error> {
        self.cdn.set_fault(phase.cdn).map_err(Error::Origin)?;
        self.origin.set_fault(phase.origin).map_err(Error::Origin)?;
        let [filtered, unfiltered] = [Arc::new(Tally::default()), Arc::new(Tally::default())];
        let mut view = View::new(self.plain, phase, number, schedule.began);
        let mut redraw = interval(view.period());
        // The first tick is immediate, and there is nothing to see yet.
        redraw.tick().await;
        let over = self.over(phase);
        tokio::pin!(over);
        loop {
            tokio::select! {
                closed = &mut over => {
                    schedule.closed &= closed?;
                    break;
                }
                due = schedule.ticks.tick() => {
                    schedule.latest = schedule.latest.max(due.elapsed());
                    self.filtered.send(schedule.sent, due, &filtered);
                    self.unfiltered.send(schedule.sent, due, &unfiltered);
                    schedule.sent += 1;
                }
                _ = redraw.tick() => view.draw(&filtered, &unfiltered, self.unfiltered.waiting()),
            }
        }
        view.end(&filtered, &unfiltered, self.unfiltered.waiting());
        Ok([filtered, unfiltered])
    }

    /// Waits until the phase is over. `false` if it waits for the CDN's breaker to close, and the breaker has not
    /// closed in time.
    async fn over(&self, phase: Phase) -> Result<bool, Error> {
        sleep(self.lasting).await;
        if !phase.until_closed {
            return Ok(true);
        }
        let began = Instant::now();
        while began.elapsed() < CLOSED_WITHIN {
            if self.has_closed().await? {
                return Ok(true);
            }
            sleep(Duration::from_millis(200)).await;
        }
        Ok(false)
    }

    /// Whether the CDN's breaker is closed in every location.
    async fn has_closed(&self) -> Result<bool, Error> {
        match &self.host {
            Host::Envoy(envoy) => {
                let stats = envoy.stats().await.map_err(Error::Envoy)?;
                Ok(stats.get("wasmcustom.tidegate_breaker_state.breaker=cdn") == Some(&0))
            }
            // A Worker shows its breakers only in responses.
            Host::Workerd { .. } => Ok(self.filtered.all_report("cdn:closed").await),
        }
    }

    /// Prints commands to try while everything keeps running.
    pub fn print_commands(&self) {
        println!(
            "\nThe CDN and the origin are still up, until Ctrl-C. Try:\n\n  An asset, who served it, and the breakers:"
        );
        for http in self.filtered.to() {
            println!("    curl -s -o /dev/null -D - http://{http}/assets/1.css");
        }
        if let Host::Envoy(envoy) = &self.host {
            let admin = envoy.admin();
            println!(
                "\n  How the breakers stand, and who served how many:
    curl -s http://{admin}/stats/prometheus | grep -e ^tidegate_breaker -e ^tidegate_served"
            );
        }
    }
}

/// The policy with the URLs of its upstreams, which a Worker needs.
fn with_urls(document: &str, upstreams: &[(&str, &Server)]) -> serde_json::Result<String> {
    let mut document: Value = serde_json::from_str(document)?;
    for (name, server) in upstreams {
        if let Some(Value::Object(upstream)) = document.pointer_mut(&format!("/upstreams/{name}")) {
            upstream.insert("url".to_owned(), format!("http://{}", server.addr()).into());
        }
    }
    Ok(document.to_string())
}

/// The shipped bootstrap with both upstreams, and a listener without the filter that leads to the CDN alone.
fn bootstrap(wasm: &Path, policy: &str, cdn: &Server, origin: &Server) -> Result<Bootstrap, BootstrapError> {
    Bootstrap::shipped()?
        .wasm(wasm)?
        .policy(policy)?
        .upstream(origin.addr())?
        .with_cluster("cdn", cdn.addr())?
        // A cluster of its own, so that requests past the filter take no connections from the others.
        .with_cluster("cdn-alone", cdn.addr())?
        .with_bypass_listener()?
        .set(BYPASS_CLUSTER, "cdn-alone".into())
}

const BYPASS_CLUSTER: &str = "/static_resources/listeners/1/filter_chains/0/filters/0/typed_config/route_config\
                              /virtual_hosts/0/routes/1/route/cluster";
/// Low enough for a small laptop, and high enough to show every state of a breaker.
const RATE: u32 = 100;
/// The policy's breaker is open for 1 s and ramps for 3 s, so this allows several relapses on a busy machine.
const CLOSED_WITHIN: Duration = Duration::from_secs(30);
