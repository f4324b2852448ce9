//! A real Envoy as a child process: started from a bootstrap, queried through its admin interface, and always ended
//! with its parent.
//!
//! Shared by the demo and the test suite. Unix only, like Envoy.

#![allow(dead_code, reason = "the demo and the suite each use a part of the rig")]

// The path is explicit because several programs include this file, and each would look for its modules elsewhere.
#[path = "guarded_child.rs"]
pub mod guarded_child;

use std::collections::BTreeMap;
use std::fs::File;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::time::{Duration, Instant};
use std::{fmt, fs, io};

use bytes::Bytes;
use http_body_util::{BodyExt, Empty};
use hyper::{Method, Request};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tempfile::TempDir;

use guarded_child::GuardedChild;

/// A running Envoy. Dropping it kills the process and removes its directory.
#[derive(Debug)]
pub struct Envoy {
    process: GuardedChild,
    admin: SocketAddr,
    listeners: BTreeMap<String, SocketAddr>,
    directory: TempDir,
}

/// How to start Envoy.
#[derive(Clone, Debug)]
pub struct Options {
    /// The bootstrap's text, YAML or JSON. Ports may be 0; the admin's should be.
    pub bootstrap: String,
    /// Worker threads.
    pub concurrency: u32,
    /// Envoy's log level: `warn`, `info`, `debug`, ...
    pub log_level: String,
    /// How long the connections of a replaced listener may go on, in seconds.
    pub drain_s: u32,
}

impl Options {
    /// Two workers, log level `info`, five seconds of draining.
    pub fn new(bootstrap: impl Into<String>) -> Self {
        Self { bootstrap: bootstrap.into(), concurrency: 2, log_level: "info".to_owned(), drain_s: 5 }
    }
}

/// Why Envoy did not start or respond.
#[derive(Debug)]
pub enum Error {
    /// There is no Envoy at this path.
    Missing(PathBuf),
    /// Envoy ended during its start, or rejected the bootstrap.
    Exited {
        /// Its exit code, or the signal that ended it.
        how: ExitStatus,
        /// The end of its log.
        log: String,
    },
    /// Envoy did not become ready in time.
    NotReady {
        /// The end of its log.
        log: String,
    },
    /// The admin interface did not respond as expected.
    Admin {
        /// The requested path.
        path: String,
        /// What went wrong.
        problem: String,
    },
    /// There is no listener of this name.
    NoListener(String),
    /// The operating system reported an error.
    Io {
        /// The operation that failed.
        doing: &'static str,
        /// The error.
        source: io::Error,
    },
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing(path) => {
                write!(f, "no Envoy at {}: run `make setup`, or name one in {ENVOY_VARIABLE}", path.display())
            }
            Self::Exited { how, log } => write!(f, "Envoy did not start ({how}); its log ends with:\n{log}"),
            Self::NotReady { log } => {
                write!(f, "Envoy was not ready within {} s; its log ends with:\n{log}", READY_WITHIN.as_secs())
            }
            Self::Admin { path, problem } => write!(f, "Envoy's admin interface at {path}: {problem}"),
            Self::NoListener(name) => write!(f, "Envoy has no listener named {name}"),
            Self::Io { doing, source } => write!(f, "cannot {doing}: {source}"),
        }
    }
}

impl std::error::Error for Error {}

impl Envoy {
    /// Starts Envoy and waits until it accepts requests.
    pub async fn start(options: Options) -> Result<Self, Error> {
        let directory = TempDir::with_prefix("tidegate-envoy-").map_err(io_error("make a directory for Envoy"))?;
        let at = |name: &str| directory.path().join(name);
        let mut command = command(directory.path(), &options)?;
        command
            .args(["--concurrency", &options.concurrency.to_string()])
            .args(["--drain-time-s", &options.drain_s.to_string()])
            .arg("--admin-address-path")
            .arg(at(ADMIN_ADDRESS))
            .arg("--log-path")
            .arg(at(LOG))
            .stdout(File::create(at(ACCESS_LOG)).map_err(io_error("make Envoy's access log"))?)
            .stderr(File::create(at(STDERR)).map_err(io_error("make Envoy's error log"))?);
        let mut process = GuardedChild::spawn(&mut command).map_err(io_error("start Envoy"))?;
        let admin = ready(&mut process, directory.path()).await?;
        let mut envoy = Self { process, admin, listeners: BTreeMap::new(), directory };
        envoy.refresh_listeners().await?;
        Ok(envoy)
    }

    /// Lets Envoy validate a bootstrap, including the start of the filter, without accepting requests.
    pub async fn validate(bootstrap: &str) -> Result<(), Error> {
        let directory = TempDir::with_prefix("tidegate-envoy-").map_err(io_error("make a directory for Envoy"))?;
        let mut command = command(directory.path(), &Options::new(bootstrap))?;
        let log = File::create(directory.path().join(LOG)).map_err(io_error("make Envoy's log"))?;
        let errors = log.try_clone().map_err(io_error("make Envoy's log"))?;
        let command = command.args(["--mode", "validate"]).stdout(log).stderr(errors);
        let mut process = GuardedChild::spawn(command).map_err(io_error("start Envoy"))?;
        let deadline = Instant::now() + READY_WITHIN;
        while Instant::now() < deadline {
            match process.exited().map_err(io_error("wait for Envoy"))? {
                Some(how) if how.success() => return Ok(()),
                Some(how) => return Err(Error::Exited { how, log: tail(directory.path()) }),
                None => tokio::time::sleep(POLL).await,
            }
        }
        Err(Error::NotReady { log: tail(directory.path()) })
    }

    /// The address of the listener of this name.
    pub fn listener(&self, name: &str) -> Result<SocketAddr, Error> {
        self.listeners.get(name).copied().ok_or_else(|| Error::NoListener(name.to_owned()))
    }

    /// The address of the admin interface.
    #[must_use]
    pub fn admin(&self) -> SocketAddr {
        self.admin
    }

    /// Envoy's process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.process.id()
    }

    /// Whether Envoy still runs.
    pub fn is_running(&mut self) -> Result<bool, Error> {
        self.process.exited().map(|exited| exited.is_none()).map_err(io_error("wait for Envoy"))
    }

    /// Sends a GET to the admin interface, and returns the body of its response.
    pub async fn admin_get(&self, path: &str) -> Result<String, Error> {
        ask(self.admin, Method::GET, path).await
    }

    /// Sends a POST to the admin interface, and returns the body of its response.
    pub async fn admin_post(&self, path: &str) -> Result<String, Error> {
        ask(self.admin, Method::POST, path).await
    }

    /// All counters and gauges by their full names. Envoy merges its threads' counts within milliseconds.
    pub async fn stats(&self) -> Result<BTreeMap<String, u64>, Error> {
        let path = "/stats?format=json";
        let answer = parse(path, &self.admin_get(path).await?)?;
        let stats = answer.get("stats").and_then(Value::as_array).into_iter().flatten();
        Ok(stats
            .filter_map(|stat| Some((stat.get("name")?.as_str()?.to_owned(), stat.get("value")?.as_u64()?)))
            .collect())
    }

    /// Envoy's log so far, with what it wrote to standard error. Lines arrive within 50 ms.
    #[must_use]
    pub fn log(&self) -> String {
        log(self.directory.path())
    }

    /// Waits until the log contains this text. `false` after five seconds.
    pub async fn logged(&self, text: &str) -> bool {
        becomes_true(|| self.log().contains(text)).await
    }

    /// Waits until the access log contains this text. `false` after five seconds.
    pub async fn access_logged(&self, text: &str) -> bool {
        becomes_true(|| self.access_log().contains(text)).await
    }

    /// The access log so far. Lines arrive within 50 ms.
    #[must_use]
    pub fn access_log(&self) -> String {
        read(&self.directory.path().join(ACCESS_LOG))
    }

    /// Reads the listeners' addresses again, after listeners were added or removed.
    pub async fn refresh_listeners(&mut self) -> Result<(), Error> {
        let path = "/listeners?format=json";
        let answer = parse(path, &self.admin_get(path).await?)?;
        let statuses = answer.get("listener_statuses").and_then(Value::as_array).into_iter().flatten();
        self.listeners = statuses.filter_map(named_address).collect();
        Ok(())
    }
}

fn command(directory: &Path, options: &Options) -> Result<Command, Error> {
    let program = std::env::var_os(ENVOY_VARIABLE).map_or_else(|| PathBuf::from(ENVOY_DEFAULT), PathBuf::from);
    if !program.is_file() {
        return Err(Error::Missing(program));
    }
    // JSON is YAML too, so the extension fits both.
    let bootstrap = directory.join("bootstrap.yaml");
    fs::write(&bootstrap, &options.bootstrap).map_err(io_error("write Envoy's bootstrap"))?;
    let mut command = Command::new(program);
    command
        .arg("--config-path")
        .arg(bootstrap)
        .args(["--log-level", &options.log_level, "--file-flush-interval-msec", "50"])
        // With hot restart, several Envoys on one machine would take each other for their predecessor.
        .arg("--disable-hot-restart");
    Ok(command)
}

async fn ready(process: &mut GuardedChild, directory: &Path) -> Result<SocketAddr, Error> {
    let deadline = Instant::now() + READY_WITHIN;
    while Instant::now() < deadline {
        if let Some(how) = process.exited().map_err(io_error("wait for Envoy"))? {
            return Err(Error::Exited { how, log: tail(directory) });
        }
        if let Ok(admin) = read(&directory.join(ADMIN_ADDRESS)).trim().parse()
            && ask(admin, Method::GET, "/ready").await.is_ok()
        {
            return Ok(admin);
        }
        tokio::time::sleep(POLL).await;
    }
    Err(Error::NotReady { log: tail(directory) })
}

async fn becomes_true(mut condition: impl FnMut() -> bool) -> bool {
    let deadline = Instant::now() + LOGGED_WITHIN;
    while !condition() {
        if Instant::now() >= deadline {
            return false;
        }
        tokio::time::sleep(POLL).await;
    }
    true
}

async fn ask(admin: SocketAddr, method: Method, path: &str) -> Result<String, Error> {
    let problem = |problem: String| Error::Admin { path: path.to_owned(), problem };
    match tokio::time::timeout(ADMIN_WITHIN, exchange(admin, method, path)).await {
        Ok(Ok((200, body))) => Ok(body),
        Ok(Ok((status, body))) => Err(problem(format!("status {status}: {body}"))),
        Ok(Err(e)) => Err(problem(e.to_string())),
        Err(_) => Err(problem(format!("no answer within {} s", ADMIN_WITHIN.as_secs()))),
    }
}

async fn exchange(
    admin: SocketAddr,
    method: Method,
    path: &str,
) -> Result<(u16, String), Box<dyn std::error::Error + Send + Sync>> {
    let stream = tokio::net::TcpStream::connect(admin).await?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let connection = tokio::spawn(connection);
    let request = Request::builder().method(method).uri(path).header("host", "admin").body(Empty::<Bytes>::new())?;
    let response = sender.send_request(request).await?;
    let status = response.status().as_u16();
    let body = response.into_body().collect().await?.to_bytes();
    connection.abort();
    Ok((status, String::from_utf8_lossy(&body).into_owned()))
}

fn named_address(status: &Value) -> Option<(String, SocketAddr)> {
    let address = status.pointer("/local_address/socket_address")?;
    let port = u16::try_from(address.get("port_value")?.as_u64()?).ok()?;
    let address = address.get("address")?.as_str()?.parse().ok()?;
    Some((status.get("name")?.as_str()?.to_owned(), SocketAddr::new(address, port)))
}

fn parse(path: &str, text: &str) -> Result<Value, Error> {
    serde_json::from_str(text).map_err(|e| Error::Admin { path: path.to_owned(), problem: e.to_string() })
}

/// The end of the log, without the lines of level `info` if there are others: Envoy lists its extensions over many
/// lines.
fn tail(directory: &Path) -> String {
    let log = log(directory);
    let mut lines: Vec<&str> = log.lines().filter(|line| !line.contains("][info][")).collect();
    if lines.is_empty() {
        lines = log.lines().collect();
    }
    lines.get(lines.len().saturating_sub(TAIL_LINES)..).unwrap_or_default().join("\n")
}

fn log(directory: &Path) -> String {
    read(&directory.join(LOG)) + &read(&directory.join(STDERR))
}

fn read(path: &Path) -> String {
    fs::read(path).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
}

fn io_error(doing: &'static str) -> impl FnOnce(io::Error) -> Error {
    move |source| Error::Io { doing, source }
}

const ENVOY_VARIABLE: &str = "TIDEGATE_ENVOY";
/// The link to Envoy that `make setup` makes, relative to the root of the repository.
const ENVOY_DEFAULT: &str = ".tools/envoy";
const ADMIN_ADDRESS: &str = "admin-address";
const LOG: &str = "envoy.log";
const STDERR: &str = "stderr.log";
const ACCESS_LOG: &str = "access.log";
/// Envoy is ready within 0.2 s on an idle machine. A busy machine gets a hundred times as long.
const READY_WITHIN: Duration = Duration::from_secs(20);
const ADMIN_WITHIN: Duration = Duration::from_secs(10);
const LOGGED_WITHIN: Duration = Duration::from_secs(5);
const POLL: Duration = Duration::from_millis(10);
/// Enough for the errors of a policy, a few dozen lines, and Envoy's own messages after them.
const TAIL_LINES: usize = 60;
