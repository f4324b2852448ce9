//! One quota for three Envoys, counted by one Redis: uneven load that shifts, and a Redis that stops and restarts
//! empty.

mod view;

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use console::style;

use super::Error;
use super::bootstrap::{Bootstrap, BootstrapError};
use super::envoy::{self, Envoy};
use super::load::Load;
use super::origin::{Origin, Settings};
use super::population::Group;
use super::store::{RedisServer, Webdis};
use super::tally::Tally;
use view::View;

/// The servers of this act. Dropping it ends them.
pub struct Global {
    _origin: Origin,
    redis: RedisServer,
    _webdis: Webdis,
    envoys: [Envoy; ENVOYS],
    to: [SocketAddr; ENVOYS],
    plain: bool,
    lasting: Duration,
}

/// A part of the act.
#[derive(Clone, Copy, Debug)]
pub struct Phase {
    /// The title in the view and in the summary.
    pub title: &'static str,
    /// Each Envoy's share of the load, in percent.
    shares: [u32; ENVOYS],
    /// Whether Redis runs.
    pub counts: bool,
    /// A fixed duration; `None` for that of the command line.
    lasts: Option<Duration>,
}

impl Global {
    /// Starts an origin, Redis with Webdis in front of it, and three Envoys. `lasting` is the duration of a phase.
    pub async fn set_up(wasm: &Path, policy: &Path, plain: bool, lasting: Duration) -> Result<Self, Error> {
        let document = fs::read_to_string(policy).map_err(|e| Error::Policy(policy.to_owned(), e))?;
        let origin = Origin::start(Settings::default()).map_err(Error::Origin)?;
        let redis = RedisServer::start(&[]).map_err(Error::Store)?;
        let webdis = Webdis::start(redis.addr(), None).map_err(Error::Store)?;
        let bootstrap = bootstrap(wasm, &document, origin.addr, webdis.addr()).map_err(Error::Bootstrap)?;
        let options = envoy::Options { concurrency: 1, ..envoy::Options::new(bootstrap.text()) };
        let start = || Envoy::start(options.clone());
        let envoys = [start().await, start().await, start().await];
        let [one, two, three] = envoys.map(|envoy| envoy.map_err(Error::Envoy));
        let envoys = [one?, two?, three?];
        let [one, two, three] = envoys.each_ref().map(|envoy| envoy.listener("http").map_err(Error::Envoy));
        let to = [one?, two?, three?];
        Ok(Self { _origin: origin, redis, _webdis: webdis, envoys, to, plain, lasting })
    }

    /// Plays all phases and prints their results.
    pub async fn play(&mut self) -> Result<(), Error> {
        println!("\n{}", style(format!("One quota of {QUOTA} a second for three Envoys, counted by one Redis")).bold());
        println!("{RATE} requests a second, unevenly spread. Rates are per second.\n");
        let mut outcomes = Vec::new();
        for (number, phase) in (1..).zip(PHASES) {
            if phase.counts && self.redis.id().is_none() {
                self.redis.restart().map_err(Error::Store)?;
            } else if !phase.counts {
                self.redis.kill();
            }
            let calls = self.store_calls().await?;
            let mut view = View::new(self.plain, phase, number);
            let tallies = self.play_phase(phase, &mut view).await?;
            outcomes.push(view.end(&tallies, self.store_calls().await?.saturating_sub(calls)));
        }
        view::print_summary(&outcomes);
        Ok(())
    }

    async fn play_phase(&self, phase: Phase, view: &mut View) -> Result<[Arc<Tally>; ENVOYS], Error> {
        let tally = || Tally::new().map(Arc::new).ok_or(Error::Histogram);
        let tallies = [tally()?, tally()?, tally()?];
        let lasting = phase.lasts.unwrap_or(self.lasting);
        let loads = [Load::new(), Load::new(), Load::new()];
        let groups = phase.shares.map(|share| [Group { requests_per_s: RATE * share / 100, ..CLIENTS }]);
        let run = |at: usize| loads[at].run(&self.to[at..=at], &groups[at], &tallies[at..=at], lasting);
        let run = async { tokio::join!(run(0), run(1), run(2)) };
        tokio::pin!(run);
        let mut redraw = tokio::time::interval(Duration::from_secs(1));
        // The first tick is immediate, and there is nothing to see yet.
        redraw.tick().await;
        loop {
            tokio::select! {
                _ = &mut run => return Ok(tallies.clone()),
                _ = redraw.tick() => view.draw(&tallies),
            }
        }
    }

    /// The number of calls that the Envoys have made to the store.
    async fn store_calls(&self) -> Result<u64, Error> {
        let mut sum: u64 = 0;
        for envoy in &self.envoys {
            let stats = envoy.stats().await.map_err(Error::Envoy)?;
            sum = sum.saturating_add(stats.get(STORE_CALLS).copied().unwrap_or(0));
        }
        Ok(sum)
    }

    /// Prints commands to try while everything keeps running.
    pub fn print_commands(&self) {
        let [one, two, three] = self.to;
        println!(
            "\nRedis and the three Envoys are still up, until Ctrl-C. Try:\n
  One request to each, and what is left of the quota they share:
    for at in {one} {two} {three}; do curl -si http://$at/api/items | grep -i ^ratelimit; done\n
  What Redis knows:
    redis-cli -p {} --scan\n
  The filter's metrics of the store:
    curl -s http://{}/stats/prometheus | grep ^tidegate_store",
            self.redis.addr().port(),
            self.envoys[0].admin(),
        );
    }
}

/// The shipped bootstrap with the store's cluster.
fn bootstrap(wasm: &Path, policy: &str, origin: SocketAddr, webdis: SocketAddr) -> Result<Bootstrap, BootstrapError> {
    Bootstrap::shipped()?.wasm(wasm)?.policy(policy)?.upstream(origin)?.with_cluster("redis", webdis)
}

const ENVOYS: usize = 3;
/// The quota of the policy, in requests a second.
const QUOTA: u64 = 1_000;
/// One and a half times the quota. A small laptop can still send it.
const RATE: u32 = 1_500;
const CLIENTS: Group = Group {
    name: "clients",
    plan: None,
    clients: 100,
    requests_per_s: RATE,
    first_address: Ipv4Addr::new(10, 6, 0, 0),
    usual: true,
};
const PHASES: [Phase; 4] = [
    Phase { title: "80, 15 and 5 percent of the load", shares: [80, 15, 5], counts: true, lasts: None },
    Phase { title: "it turns over: 5, 15 and 80 percent", shares: [5, 15, 80], counts: true, lasts: None },
    Phase { title: "Redis is stopped", shares: [5, 15, 80], counts: false, lasts: Some(Duration::from_secs(5)) },
    Phase { title: "Redis is back, and has forgotten all", shares: [5, 15, 80], counts: true, lasts: None },
];
const STORE_CALLS: &str = "cluster.redis.upstream_rq_total";
