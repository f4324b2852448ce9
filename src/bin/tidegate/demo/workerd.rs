//! A running workerd with two locations of the Worker that share its Durable Objects, and a third Worker without
//! Tidegate.

use std::fs::{self, File};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};
use std::{fmt, io};

use super::envoy::guarded_child::GuardedChild;
use tempfile::TempDir;

/// A running workerd. Dropping it kills the process and removes its directory.
#[derive(Debug)]
pub struct Workerd {
    _process: GuardedChild,
    _directory: TempDir,
    /// The addresses of the two locations.
    pub locations: [SocketAddr; 2],
    /// The address of the Worker without Tidegate, which lets everything pass.
    pub bypass: SocketAddr,
}

/// Why workerd did not start.
#[derive(Debug)]
pub enum Error {
    /// The Worker was not built.
    NoWorker(String),
    /// Its files could not be written, or the process could not be started.
    Io(io::Error),
    /// It ended, or did not listen in time. Its log.
    Silent(String),
}

impl Workerd {
    /// Starts the Worker with this policy, from the directory that `make build` writes, in front of an origin.
    pub async fn start(built: &Path, policy: &str, origin: SocketAddr) -> Result<Self, Error> {
        // In memory if possible: Durable Objects wait for the disk at each charge, which is not what the demo measures.
        let below = Some(Path::new(MEMORY)).filter(|path| path.is_dir());
        let below = below.map_or_else(std::env::temp_dir, Path::to_owned);
        let directory = TempDir::with_prefix_in("tidegate-workerd-", below).map_err(Error::Io)?;
        let at = |name: &str| directory.path().join(name);
        let modules = modules(built).map_err(|error| Error::NoWorker(format!("{}: {error}", built.display())))?;
        for name in ["pkg", "disk"] {
            fs::create_dir(at(name)).map_err(Error::Io)?;
        }
        for name in &modules {
            fs::copy(built.join(name), at(name)).map_err(Error::Io)?;
        }
        fs::write(at("policy.json"), policy).map_err(Error::Io)?;
        fs::write(at("config.capnp"), config(&modules, &at("disk"), origin)).map_err(Error::Io)?;
        let mut command = Command::new(PROGRAM);
        command.args(["serve", "--control-fd=1"]).arg(at("config.capnp"));
        command.stdout(File::create(at("control")).map_err(Error::Io)?);
        command.stderr(File::create(at("log")).map_err(Error::Io)?);
        let mut process = GuardedChild::spawn(&mut command).map_err(Error::Io)?;
        let deadline = Instant::now() + READY_WITHIN;
        while Instant::now() < deadline && process.exited().map_err(Error::Io)?.is_none() {
            let said = fs::read_to_string(at("control")).map_err(Error::Io)?;
            let place = |name: &str| Some(SocketAddr::from((Ipv4Addr::LOCALHOST, port(&said, name)?)));
            if let [Some(one), Some(other), Some(bypass)] = ["hel", "rkv", "bypass"].map(place) {
                return Ok(Self { _process: process, _directory: directory, locations: [one, other], bypass });
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Err(Error::Silent(fs::read_to_string(at("log")).unwrap_or_default()))
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoWorker(problem) => write!(f, "no Worker in {problem}: run `make setup build`"),
            Self::Io(error) => write!(f, "cannot start workerd: {error}"),
            Self::Silent(log) => write!(f, "workerd does not listen: {}", log.trim()),
        }
    }
}

/// The Worker's files, relative to its directory, without the policy.
fn modules(built: &Path) -> io::Result<Vec<String>> {
    let mut names = vec!["pkg/tidegate.js".to_owned(), "pkg/tidegate_bg.wasm".to_owned()];
    for entry in fs::read_dir(built)? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        // The first module is the Worker's entry point.
        match name.as_str() {
            "entry.mjs" => names.insert(0, name),
            _ if name.ends_with(".mjs") => names.push(name),
            _ => {}
        }
    }
    Ok(names)
}

/// The port of a socket, from workerd's reports of the sockets that it listens at.
fn port(said: &str, name: &str) -> Option<u16> {
    let of = |event: &serde_json::Value| event.get("socket").and_then(serde_json::Value::as_str) == Some(name);
    let mut events = said.lines().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
    u16::try_from(events.find(of)?.get("port")?.as_u64()?).ok()
}

/// The configuration of workerd, in Cap'n Proto.
fn config(modules: &[String], disk: &Path, origin: SocketAddr) -> String {
    let module = |name: &String| {
        let kind = if name.ends_with(".wasm") { "wasm" } else { "esModule" };
        format!("(name = \"{name}\", {kind} = embed \"{name}\")")
    };
    let disk = disk.display();
    let list = modules.iter().map(module).collect::<Vec<_>>().join(", ");
    let worker = |name: &str, namespace: &str, more: &str| {
        format!(
            "const {name} :Workerd.Worker = (
  modules = [{list}, (name = \"policy.json\", json = embed \"policy.json\")],
  compatibilityDate = \"{DATE}\", compatibilityFlags = [\"enable_request_signal\"], globalOutbound = \"origin\",
  bindings = [(name = \"TIDEGATE_AUTHORITY\", durableObjectNamespace = ({namespace}))],{more}
);\n"
        )
    };
    let class = "className = \"TidegateAuthority\"";
    let objects = format!(
        "\n  durableObjectNamespaces = [({class}, uniqueKey = \"tidegate\", enableSql = true)],
  durableObjectStorage = (localDisk = \"disk\"),"
    );
    let names = ["hel", "rkv", "bypass"];
    let services = names.map(|name| format!("(name = \"{name}\", worker = .{name})")).join(", ");
    let sockets = names
        .map(|name| format!("(name = \"{name}\", address = \"127.0.0.1:0\", http = (), service = \"{name}\")"))
        .join(", ");
    [
        "using Workerd = import \"/workerd/workerd.capnp\";\n",
        &format!(
            "const config :Workerd.Config = (
  services = [{services}, (name = \"disk\", disk = (path = \"{disk}\", writable = true)),
    (name = \"origin\", external = (address = \"{origin}\", http = ()))],
  sockets = [{sockets}],
);\n"
        ),
        &worker("hel", class, &objects),
        &worker("rkv", &format!("{class}, serviceName = \"hel\""), ""),
        &format!(
            "const bypass :Workerd.Worker = (
  modules = [(name = \"bypass.mjs\", esModule = \"export default {{ fetch: (request) => fetch(request) }};\")],
  compatibilityDate = \"{DATE}\", globalOutbound = \"origin\",
);\n"
        ),
    ]
    .concat()
}

/// One of the Worker's tools that `make setup` fetches.
const PROGRAM: &str = "cloudflare/node_modules/.bin/workerd";
const MEMORY: &str = "/dev/shm";
const DATE: &str = "2026-04-01";
const READY_WITHIN: Duration = Duration::from_secs(20);
