//! The rig's redis-server and Webdis, as tests want them: what goes wrong fails the test.

use std::net::SocketAddr;
use std::process::Command;
use std::time::Duration;

pub use crate::store::Webdis;

use crate::store;

/// A port that is ours, also while nobody listens there.
pub struct Port {
    _held: store::Port,
    pub addr: SocketAddr,
}

impl Port {
    pub fn hold() -> Self {
        let held = store::Port::hold().unwrap();
        Self { addr: held.addr, _held: held }
    }
}

/// A running redis-server, which keeps nothing on disk.
pub struct RedisServer(store::RedisServer);

impl RedisServer {
    pub fn start(options: &[&str]) -> Self {
        Self(store::RedisServer::start(options).unwrap_or_else(|error| panic!("{error}; see `make test`")))
    }

    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        self.0.addr()
    }

    /// Kills it, if it runs, and starts it again at the same place: empty.
    pub fn restart(&mut self) {
        self.0.restart().unwrap();
    }

    pub fn kill(&mut self) {
        self.0.kill();
    }

    /// Stops it without ending it, as long as the answer lives.
    pub fn pause(&self) -> Paused {
        let id = self.0.id().unwrap().to_string();
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

fn signal(signal: &str, id: &str) {
    assert!(Command::new("kill").args([signal, id]).status().unwrap().success());
}
