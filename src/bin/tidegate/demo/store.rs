//! A real redis-server and a real Webdis as child processes that always end with their parent.
//!
//! Shared by the demo, the benchmarks and the test suite. Unix only.

#![allow(dead_code, reason = "the demo, the benchmarks and the suite each use a part of the rig")]

use std::fs::File;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::net::TcpSocket;

use super::envoy::guarded_child::GuardedChild;

/// A port that stays reserved while no server listens there.
#[derive(Debug)]
pub struct Port {
    /// Keeps the system from giving the port to another socket.
    _held: TcpSocket,
    /// Its address, on the loopback.
    pub addr: SocketAddr,
}

impl Port {
    /// Reserves a free port.
    pub fn hold() -> io::Result<Self> {
        let held = TcpSocket::new_v4()?;
        // Without this, no server could listen at the reserved port.
        held.set_reuseaddr(true)?;
        held.bind((Ipv4Addr::LOCALHOST, 0).into())?;
        let addr = held.local_addr()?;
        Ok(Self { _held: held, addr })
    }
}

/// A redis-server without persistence. It can be killed and restarted.
#[derive(Debug)]
pub struct RedisServer {
    port: Port,
    directory: TempDir,
    options: Vec<String>,
    process: Option<GuardedChild>,
}

impl RedisServer {
    /// Starts a redis-server with additional options.
    pub fn start(options: &[&str]) -> io::Result<Self> {
        let directory = TempDir::with_prefix("tidegate-redis-")?;
        let options = options.iter().map(|option| (*option).to_owned()).collect();
        let mut server = Self { port: Port::hold()?, directory, options, process: None };
        server.restart()?;
        Ok(server)
    }

    /// The address at which it listens.
    #[must_use]
    pub fn addr(&self) -> SocketAddr {
        self.port.addr
    }

    /// The process id while it runs.
    #[must_use]
    pub fn id(&self) -> Option<u32> {
        self.process.as_ref().map(GuardedChild::id)
    }

    /// Kills it if it runs, and starts it again, empty, at the same address.
    pub fn restart(&mut self) -> io::Result<()> {
        self.kill();
        let mut command = Command::new("redis-server");
        command
            .args(["--port", &self.addr().port().to_string(), "--bind", "127.0.0.1"])
            .args(["--save", "", "--appendonly", "no", "--dir"])
            .arg(self.directory.path())
            .args(&self.options);
        self.process = Some(started(&mut command, self.addr(), &self.directory.path().join("log"))?);
        Ok(())
    }

    /// Kills it.
    pub fn kill(&mut self) {
        self.process = None;
    }
}

/// A running Webdis.
#[derive(Debug)]
pub struct Webdis {
    port: Port,
    _directory: TempDir,
    _process: GuardedChild,
}

impl Webdis {
    /// Starts a Webdis in front of this Redis. If there is a password, requests must carry it.
    pub fn start(redis: SocketAddr, password: Option<&str>) -> io::Result<Self> {
        let port = Port::hold()?;
        let directory = TempDir::with_prefix("tidegate-webdis-")?;
        let list = match password {
            Some(password) => json!([{ "disabled": ["*"] }, { "http_basic_auth": password, "enabled": ["*"] }]),
            None => json!([{ "disabled": ["DEBUG"] }]),
        };
        let settings: Value = json!({
            "redis_host": redis.ip(),
            "redis_port": redis.port(),
            "http_host": port.addr.ip(),
            "http_port": port.addr.port(),
            "threads": 2,
            "daemonize": false,
            "database": 0,
            "acl": list,
            "logfile": directory.path().join("webdis.log"),
        });
        let file = directory.path().join("webdis.json");
        std::fs::write(&file, settings.to_string())?;
        let process = started(Command::new("webdis").arg(file), port.addr, &directory.path().join("log"))?;
        Ok(Self { port, _directory: directory, _process: process })
    }

    /// The address at which it listens.
    #[must_use]
    pub fn addr(&self) -> SocketAddr {
        self.port.addr
    }
}

/// Starts a process and waits until it accepts connections.
pub fn started(command: &mut Command, addr: SocketAddr, log: &Path) -> io::Result<GuardedChild> {
    let output = File::create(log)?;
    command.stdout(output.try_clone()?).stderr(output);
    let program = command.get_program().to_string_lossy().into_owned();
    let failed = |problem: &str| {
        let said = std::fs::read_to_string(log).unwrap_or_default();
        io::Error::other(format!("{program} {problem}: {said}"))
    };
    let mut process = GuardedChild::spawn(command).map_err(|error| failed(&format!("does not start ({error})")))?;
    let deadline = Instant::now() + READY_WITHIN;
    while TcpStream::connect(addr).is_err() {
        if process.exited()?.is_some() {
            return Err(failed("has ended"));
        }
        if Instant::now() >= deadline {
            return Err(failed("takes no connections"));
        }
        std::thread::sleep(POLL);
    }
    Ok(process)
}

const READY_WITHIN: Duration = Duration::from_secs(20);
const POLL: Duration = Duration::from_millis(10);
