//! The real redis-server and the real Webdis as child processes.

use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use tempfile::TempDir;
use tokio::net::TcpSocket;

use crate::envoy::leash::Leashed;

/// A port that is ours, also while nobody listens there.
pub struct Port {
    /// Holds it, so that no other socket of this machine is given it.
    _held: TcpSocket,
    pub addr: SocketAddr,
}

impl Port {
    pub fn hold() -> Self {
        let held = TcpSocket::new_v4().unwrap();
        // Otherwise nobody could listen at a port that is held.
        held.set_reuseaddr(true).unwrap();
        held.bind((Ipv4Addr::LOCALHOST, 0).into()).unwrap();
        let addr = held.local_addr().unwrap();
        Self { _held: held, addr }
    }
}

/// A running redis-server, which keeps nothing on disk.
pub struct RedisServer {
    port: Port,
    directory: TempDir,
    options: Vec<String>,
    process: Option<Leashed>,
}

impl RedisServer {
    pub fn start(options: &[&str]) -> Self {
        let directory = TempDir::with_prefix("tidegate-redis-").unwrap();
        let options = options.iter().map(|option| (*option).to_owned()).collect();
        let mut server = Self { port: Port::hold(), directory, options, process: None };
        server.restart();
        server
    }

    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        self.port.addr
    }

    /// Kills it, if it runs, and starts it again at the same place: empty.
    pub fn restart(&mut self) {
        self.kill();
        let mut command = Command::new("redis-server");
        command
            .args(["--port", &self.addr().port().to_string(), "--bind", "127.0.0.1"])
            .args(["--save", "", "--appendonly", "no", "--dir"])
            .arg(self.directory.path())
            .args(&self.options);
        self.process = Some(started(&mut command, self.addr(), &self.directory.path().join("log")));
    }

    pub fn kill(&mut self) {
        self.process = None;
    }

    /// Stops it without ending it, as long as the answer lives.
    pub fn pause(&self) -> Paused {
        let id = self.process.as_ref().unwrap().id().to_string();
        signal("-STOP", &id);
        Paused { id }
    }

    /// A connection of its own.
    pub fn connect(&self) -> redis::Connection {
        let client = redis::Client::open(format!("redis://{}/", self.addr())).unwrap();
        client.get_connection_with_timeout(Duration::from_secs(10)).unwrap()
    }
}

/// A process that stands still until this is dropped.
pub struct Paused {
    id: String,
}

impl Drop for Paused {
    fn drop(&mut self) {
        signal("-CONT", &self.id);
    }
}

/// A running Webdis.
pub struct Webdis {
    port: Port,
    _directory: TempDir,
    _process: Leashed,
}

impl Webdis {
    /// Before this Redis; whoever comes must know the password, if there is one.
    pub fn start(redis: SocketAddr, password: Option<&str>) -> Self {
        let port = Port::hold();
        let directory = TempDir::with_prefix("tidegate-webdis-").unwrap();
        let mut list = serde_json::json!([{ "disabled": ["DEBUG"] }]);
        if let Some(password) = password {
            list = serde_json::json!([{ "disabled": ["*"] }, { "http_basic_auth": password, "enabled": ["*"] }]);
        }
        let settings = serde_json::json!({
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
        std::fs::write(&file, settings.to_string()).unwrap();
        let process = started(Command::new("webdis").arg(file), port.addr, &directory.path().join("log"));
        Self { port, _directory: directory, _process: process }
    }

    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        self.port.addr
    }
}

/// The process, once it takes connections.
fn started(command: &mut Command, addr: SocketAddr, log: &Path) -> Leashed {
    let output = std::fs::File::create(log).unwrap();
    command.stdout(output.try_clone().unwrap()).stderr(output);
    let program = command.get_program().to_string_lossy().into_owned();
    let mut process = Leashed::spawn(command).unwrap_or_else(|error| panic!("{program}: {error}; see `make test`"));
    let deadline = Instant::now() + READY_WITHIN;
    while TcpStream::connect(addr).is_err() {
        let said = || std::fs::read_to_string(log).unwrap_or_default();
        assert_eq!(process.exited().unwrap(), None, "{program} has ended: {}", said());
        assert!(Instant::now() < deadline, "{program} takes no connections: {}", said());
        std::thread::sleep(POLL);
    }
    process
}

fn signal(signal: &str, id: &str) {
    assert!(Command::new("kill").args([signal, id]).status().unwrap().success());
}

const READY_WITHIN: Duration = Duration::from_secs(20);
const POLL: Duration = Duration::from_millis(10);
