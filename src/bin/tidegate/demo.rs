//! `tidegate demo`: a traffic spike and an outage against a real Envoy or workerd, with Tidegate and without.

mod bootstrap;
mod envoy;
mod global;
mod load;
mod locations;
mod origin;
mod outage;
mod population;
mod screen;
mod store;
mod summary;
mod tally;
mod view;
mod workerd;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;
use std::{fmt, fs, io};

use bootstrap::{Bootstrap, BootstrapError};
use clap::{Args, ValueEnum};
use envoy::Envoy;
use global::Global;
use load::Load;
use origin::{Origin, Settings};
use outage::Outage;
use population::{ACTS, Act};
use summary::Outcome;
use tally::Tally;
use tokio::signal::unix::{SignalKind, signal};
use view::View;
use workerd::Workerd;

/// Show a traffic spike and an outage against a real Envoy, with the filter and without, or against workerd.
///
/// The spike: an origin with a fixed capacity, Envoy in front of it, and three acts of traffic. The outage: a CDN that
/// fails in three ways, then its origin fails too, then both recover. Everything runs on the loopback, and every number
/// is measured live.
#[derive(Args, Debug)]
pub struct Demo {
    /// Play only this act.
    #[arg(long, value_name = "ACT")]
    act: Option<Part>,
    /// How long each act of the spike lasts, in seconds.
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=600), value_name = "S")]
    act_seconds: u64,
    /// How long each phase of the outage and of the shared quota lasts, in seconds. The recovery lasts until the
    /// breaker is closed, and Redis is stopped for 5 s.
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u64).range(1..=600), value_name = "S")]
    phase_seconds: u64,
    /// After the acts, keep everything running until Ctrl-C, and print commands to try.
    #[arg(long)]
    keep: bool,
    /// Print a line every second instead of a live view. This is the default if the output is not a terminal.
    #[arg(long)]
    plain: bool,
    /// The filter that `make build` builds.
    #[arg(long, default_value = "dist/envoy/tidegate.wasm", value_name = "FILE")]
    wasm: PathBuf,
    /// The policy of the spike.
    #[arg(long, default_value = "tests/policies/demo.json", value_name = "FILE")]
    policy: PathBuf,
    /// Play against workerd instead of Envoy, with two locations of the Worker.
    #[arg(long)]
    cloudflare: bool,
    /// The Worker that `make build` builds.
    #[arg(long, default_value = "dist/cloudflare", value_name = "DIRECTORY")]
    worker: PathBuf,
    /// The policy of the spike for the Worker.
    #[arg(long, default_value = "tests/policies/demo-cloudflare.json", value_name = "FILE")]
    worker_policy: PathBuf,
    /// The policy of the outage, with `x_tidegate` and upstreams named `cdn` and `origin`.
    #[arg(long, default_value = "tests/policies/outage.json", value_name = "FILE")]
    outage_policy: PathBuf,
    /// The policy of the shared quota, with a Webdis store whose cluster is `redis`.
    #[arg(long, default_value = "tests/policies/global.json", value_name = "FILE")]
    global_policy: PathBuf,
}

/// An act that can be played alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Part {
    /// Three acts of traffic to an origin with a fixed capacity.
    Spike,
    /// A CDN that fails, and then its origin.
    Outage,
    /// Three Envoys that share one quota through Redis. Needs redis-server and webdis, and is played only if named.
    Global,
}

impl Demo {
    /// Runs the demo to its end, or until Ctrl-C.
    pub fn run(self) -> ExitCode {
        let runtime = match tokio::runtime::Runtime::new() {
            Ok(runtime) => runtime,
            Err(error) => return fail(&error.to_string()),
        };
        let ended = runtime.block_on(async {
            tokio::select! {
                ended = self.play() => ended,
                interrupted = interrupted() => interrupted.and(Err(Error::Interrupted)),
            }
        });
        match ended {
            Ok(()) => ExitCode::SUCCESS,
            Err(Error::Interrupted) => {
                println!();
                // As shells report it: 128 plus the number of SIGINT.
                ExitCode::from(130)
            }
            Err(error) => fail(&error.to_string()),
        }
    }

    async fn play(&self) -> Result<(), Error> {
        if self.cloudflare && self.act == Some(Part::Global) {
            return Err(Error::NoSuchAct);
        }
        if !self.cloudflare && !self.wasm.is_file() {
            return Err(Error::NoFilter(self.wasm.clone()));
        }
        if self.act == Some(Part::Global) {
            return self.play_global().await;
        }
        let plays = |part| self.act.is_none_or(|only| only == part);
        let spike = if plays(Part::Spike) { Some(self.play_spike().await?) } else { None };
        // Without `--keep`, the spike's servers end here, because they would load the machine during the outage.
        let spike = spike.filter(|_| self.keep);
        let outage = if plays(Part::Outage) { Some(self.play_outage().await?) } else { None };
        if self.keep {
            spike.iter().for_each(Stage::print_commands);
            outage.iter().for_each(Outage::print_commands);
            interrupted().await?;
            println!();
        }
        Ok(())
    }

    async fn play_global(&self) -> Result<(), Error> {
        let lasting = Duration::from_secs(self.phase_seconds);
        let mut global = Global::set_up(&self.wasm, &self.global_policy, self.plain, lasting).await?;
        global.play().await?;
        if self.keep {
            global.print_commands();
            interrupted().await?;
            println!();
        }
        Ok(())
    }

    async fn play_outage(&self) -> Result<Outage, Error> {
        let lasting = Duration::from_secs(self.phase_seconds);
        let mut outage = if self.cloudflare {
            Outage::set_up_workerd(&self.worker, &self.outage_policy, self.plain, lasting)?
        } else {
            Outage::set_up(&self.wasm, &self.outage_policy, self.plain, lasting).await?
        };
        outage.play().await?;
        Ok(outage)
    }

    async fn play_spike(&self) -> Result<Stage, Error> {
        let stage = Stage::set_up(self).await?;
        println!(
            "An origin that works on {} requests at once, {} ms each, so {} a second; before it {}.",
            ORIGIN.capacity,
            ORIGIN.latency.as_millis(),
            ORIGIN.capacity as u128 * 1_000 / ORIGIN.latency.as_millis().max(1),
            stage.host.describe(),
        );
        let mut outcomes = Vec::new();
        for (number, act) in (1..).zip(ACTS) {
            outcomes.push(self.play_act(&stage, act, number).await?);
        }
        let stats = match &stage.host {
            Host::Envoy(envoy) => Some(envoy.stats().await.map_err(Error::Envoy)?),
            Host::Workerd(_) => None,
        };
        summary::print(&outcomes, stats.as_ref());
        Ok(stage)
    }

    async fn play_act(&self, stage: &Stage, act: Act, number: usize) -> Result<Outcome, Error> {
        let lasting = Duration::from_secs(self.act_seconds);
        let tallies: Option<Vec<Arc<Tally>>> = act.groups.iter().map(|_| Tally::new().map(Arc::new)).collect();
        let tallies = tallies.ok_or(Error::Histogram)?;
        let load = Load::new();
        stage.origin.reset_peaks();
        let before = stage.origin.stats();
        let mut view = View::new(self.plain, act, number, lasting, before);
        let run = load.run(if act.filtered { &stage.http } else { &stage.bypass }, act.groups, &tallies, lasting);
        tokio::pin!(run);
        let mut redraw = tokio::time::interval(view.period());
        // The first tick is immediate, and there is nothing to see yet.
        redraw.tick().await;
        let latest = loop {
            tokio::select! {
                latest = &mut run => break latest,
                _ = redraw.tick() => view.draw(&tallies, stage.origin.stats(), &ORIGIN),
            }
        };
        view.draw(&tallies, stage.origin.stats(), &ORIGIN);
        let counts = tallies.iter().map(|tally| tally.counts()).collect();
        Ok(Outcome { act, counts, latest, origin: stage.origin.stats().since(&before) })
    }
}

/// The servers of the spike. Dropping it ends them.
struct Stage {
    origin: Origin,
    host: Host,
    /// The addresses that apply the policy. Requests go to them in rotation.
    http: Vec<SocketAddr>,
    /// The address that does not apply the policy.
    bypass: [SocketAddr; 1],
}

/// The host in front of the origin.
enum Host {
    Envoy(Envoy),
    Workerd(Workerd),
}

impl Host {
    fn describe(&self) -> String {
        match self {
            Self::Envoy(_) => format!("Envoy with {WORKERS} workers"),
            Self::Workerd(_) => "workerd with two locations of the Worker, whose clients come by both".to_owned(),
        }
    }
}

impl Stage {
    async fn set_up(demo: &Demo) -> Result<Self, Error> {
        if demo.cloudflare {
            return Self::set_up_workerd(demo).await;
        }
        let policy = fs::read_to_string(&demo.policy).map_err(|e| Error::Policy(demo.policy.clone(), e))?;
        let origin = Origin::start(ORIGIN).map_err(Error::Origin)?;
        let bootstrap = Bootstrap::shipped()
            .and_then(|shipped| shipped.wasm(&demo.wasm))
            .and_then(|shipped| shipped.policy(&policy))
            .and_then(|shipped| shipped.upstream(origin.addr))
            .and_then(Bootstrap::with_bypass_listener)
            .map_err(Error::Bootstrap)?;
        let options = envoy::Options { concurrency: WORKERS, ..envoy::Options::new(bootstrap.text()) };
        let envoy = Envoy::start(options).await.map_err(Error::Envoy)?;
        let http = envoy.listener("http").map_err(Error::Envoy)?;
        let bypass = envoy.listener("bypass").map_err(Error::Envoy)?;
        Ok(Self { origin, host: Host::Envoy(envoy), http: vec![http], bypass: [bypass] })
    }

    async fn set_up_workerd(demo: &Demo) -> Result<Self, Error> {
        let policy =
            fs::read_to_string(&demo.worker_policy).map_err(|e| Error::Policy(demo.worker_policy.clone(), e))?;
        let origin = Origin::start(ORIGIN).map_err(Error::Origin)?;
        let workerd = Workerd::start(&demo.worker, &policy, origin.addr).await.map_err(Error::Workerd)?;
        let (http, bypass) = (workerd.locations.to_vec(), [workerd.bypass]);
        Ok(Self { origin, host: Host::Workerd(workerd), http, bypass })
    }

    fn print_commands(&self) {
        let [bypass] = self.bypass;
        match &self.host {
            Host::Envoy(envoy) => self.http.iter().for_each(|http| print_commands(*http, bypass, envoy.admin())),
            Host::Workerd(workerd) => {
                let [one, other] = workerd.locations;
                println!(
                    "\nStill up, until Ctrl-C. Thirty requests of one client, by both locations: together twenty pass.
    for i in $(seq 15); do for at in {one} {other}; do curl -s -o /dev/null -w '%{{http_code}} ' -H 'x-forwarded-for: 203.0.113.7' http://$at/api/items; done; done; echo\n
  Past the Worker:
    curl -i http://{bypass}/api/items"
                );
            }
        }
    }
}

fn print_commands(http: SocketAddr, bypass: SocketAddr, admin: SocketAddr) {
    println!(
            "\nStill up, until Ctrl-C. Try:\n
  One request of an anonymous client, and its RateLimit fields:
    curl -i -H 'x-forwarded-for: 203.0.113.7' http://{http}/api/items\n
  Thirty of them: the first twenty pass.
    for i in $(seq 30); do curl -s -o /dev/null -w '%{{http_code}} ' -H 'x-forwarded-for: 203.0.113.7' http://{http}/api/items; done; echo\n
  The same from a client of the premium tier: all pass.
    for i in $(seq 30); do curl -s -o /dev/null -w '%{{http_code}} ' -H 'x-plan: premium' -H 'x-forwarded-for: 203.0.113.8' http://{http}/api/items; done; echo\n
  What the origin receives:
    curl -s http://{http}/echo\n
  Past the filter:
    curl -i http://{bypass}/api/items\n
  The filter's metrics:
    curl -s http://{admin}/stats/prometheus | grep ^tidegate"
        );
}

/// Why the demo could not be played to its end.
#[derive(Debug)]
enum Error {
    NoFilter(PathBuf),
    Policy(PathBuf, io::Error),
    Origin(io::Error),
    Bootstrap(BootstrapError),
    Envoy(envoy::Error),
    Workerd(workerd::Error),
    Locations(io::Error),
    Store(io::Error),
    NoSuchAct,
    Histogram,
    Signals(io::Error),
    Interrupted,
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoFilter(path) => write!(f, "no filter at {}: run `make setup build`", path.display()),
            Self::Policy(path, error) => write!(f, "cannot read the policy {}: {error}", path.display()),
            Self::Origin(error) => write!(f, "cannot start the origin or the CDN: {error}"),
            Self::Bootstrap(error) => error.fmt(f),
            Self::Envoy(error) => error.fmt(f),
            Self::Workerd(error) => error.fmt(f),
            Self::Locations(error) => write!(f, "cannot start workerd: {error}"),
            Self::Store(error) => write!(f, "cannot start the store: {error}; run `make redis`"),
            Self::NoSuchAct => write!(f, "the shared quota is played by Envoys alone: leave --cloudflare out"),
            Self::Histogram => write!(f, "cannot make a histogram of latencies"),
            Self::Signals(error) => write!(f, "cannot listen for signals: {error}"),
            Self::Interrupted => write!(f, "interrupted"),
        }
    }
}

async fn interrupted() -> Result<(), Error> {
    let mut terminate = signal(SignalKind::terminate()).map_err(Error::Signals)?;
    tokio::select! {
        interrupt = tokio::signal::ctrl_c() => interrupt.map_err(Error::Signals),
        _ = terminate.recv() => Ok(()),
    }
}

fn fail(problem: &str) -> ExitCode {
    eprintln!("tidegate demo: {problem}");
    ExitCode::FAILURE
}

const WORKERS: u32 = 2;
/// 500 requests a second, and a queue for 0.8 s of them. Even a small laptop has enough CPU left for Envoy and the
/// clients, which run on the same machine.
const ORIGIN: Settings = Settings {
    capacity: 25,
    queue: 400,
    queue_timeout: Duration::from_secs(2),
    latency: Duration::from_millis(50),
    failure_basis_points: 0,
    echo: false,
};
