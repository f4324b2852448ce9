//! The alternative: Envoy asks a service about every request, and the service asks Redis.

use std::io;
use std::net::SocketAddr;
use std::process::Command;

use serde_json::{Value, json};
use tempfile::TempDir;

use super::envoy::guarded_child::GuardedChild;
use super::store::{Port, started};

/// A running service of [rate-limiter-flexible](https://www.npmjs.com/package/rate-limiter-flexible), with a fixed
/// window of one second that starts with its first request.
pub struct Limiter {
    port: Port,
    _log: TempDir,
    _process: GuardedChild,
}

impl Limiter {
    /// Starts a service that admits this many requests per second, with this Redis.
    pub fn start(redis: SocketAddr, permits: u64) -> io::Result<Self> {
        let (port, log) = (Port::hold()?, TempDir::with_prefix("tidegate-limiter-")?);
        let mut command = Command::new("node");
        command.env("NODE_PATH", "cloudflare/node_modules").arg("tests/bench/shared/limiter.cjs");
        command.args([port.addr.port().to_string(), redis.port().to_string(), permits.to_string()]);
        let process = started(&mut command, port.addr, &log.path().join("log"))?;
        Ok(Self { port, _log: log, _process: process })
    }

    /// The address that it listens on.
    pub fn addr(&self) -> SocketAddr {
        self.port.addr
    }
}

/// Envoy's filter that asks the service behind a cluster, and responds itself if the service fails.
pub fn ext_authz(cluster: &str) -> Value {
    json!({ "name": "envoy.filters.http.ext_authz", "typed_config": {
        "@type": "type.googleapis.com/envoy.extensions.filters.http.ext_authz.v3.ExtAuthz",
        "http_service": { "server_uri": { "uri": "http://limiter.example", "cluster": cluster, "timeout": "1s" } },
    } })
}
