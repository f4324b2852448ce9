//! The demo's redis-server and Webdis, wrapped for tests: every error fails the test.

use std::net::SocketAddr;
use std::process::Command;
use std::time::Duration;

pub use crate::store::Webdis;

use crate::store;

/// A port that stays reserved, even while nothing listens on it.
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

/// A running redis-server without persistence.
pub struct RedisServer(store::RedisServer);

impl RedisServer {
    pub fn start(options: &[&str]) -> Self {
        Self(store::RedisServer::start(options).unwrap_or_else(|error| panic!("{error}; see `make test`")))
    }

    /// The address that it listens on.
    pub fn addr(&self) -> SocketAddr {
        self.0.addr()
    }

    /// Kills it, if it runs, and starts it again on the same port, with no data.
    pub fn restart(&mut self) {
        self.0.restart().unwrap();
    }

    pub fn kill(&mut self) {
        self.0.kill();
    }

    /// Suspends it until the result is dropped.
    pub fn pause(&self) -> Paused {
        let id = self.0.id().unwrap().to_string();
        signal("-STOP", &id);
        Paused { id }
    }

    /// A new connection.
    pub fn connect(&self) -> redis::Connection {
        let client = redis::Client::open(format!("redis://{}/", self.addr())).unwrap();
        client.get_connection_with_timeout(Duration::from_secs(10)).unwrap()
    }
}

/// A suspended process, which resumes when this is dropped.
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
