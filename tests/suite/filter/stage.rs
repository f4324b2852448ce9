//! Envoy with the filter and a policy, an origin behind it, and the final checks of every test.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::client::{Answer, Connection, Request};
use crate::bootstrap::Bootstrap;
use crate::envoy::{Envoy, Options};
use crate::origin::{Origin, Settings};

/// A running Envoy with the filter, in front of an origin that echoes.
#[derive(Debug)]
pub struct Stage {
    pub origin: Origin,
    pub envoy: Envoy,
    /// The address at which Envoy accepts requests.
    pub http: SocketAddr,
    vms_made: u64,
}

impl Stage {
    /// Starts the shipped bootstrap with this policy.
    pub async fn start(policy: &Value) -> Self {
        Self::with(policy, |bootstrap| bootstrap).await
    }

    /// Starts the shipped bootstrap with this policy and further changes.
    pub async fn with(policy: &Value, change: impl FnOnce(Bootstrap) -> Bootstrap) -> Self {
        Self::of_workers(2, policy, change).await
    }

    /// The same with this many worker threads.
    pub async fn of_workers(workers: u32, policy: &Value, change: impl FnOnce(Bootstrap) -> Bootstrap) -> Self {
        let origin = Origin::start(Settings { echo: true, ..Settings::default() }).unwrap();
        let bootstrap = change(shipped(policy).upstream(origin.addr).unwrap());
        let options = Options { concurrency: workers, ..Options::new(bootstrap.text()) };
        let envoy = Envoy::start(options).await.unwrap_or_else(|error| panic!("{error}"));
        let http = envoy.listener("http").unwrap();
        let vms_made = envoy.stats().await.unwrap()[VMS_MADE];
        Self { origin, envoy, http, vms_made }
    }

    /// Sends one request on a new connection.
    pub async fn ask(&self, request: &Request) -> Answer {
        let answer = Connection::open(self.http).await.unwrap().send(request).await;
        answer.unwrap_or_else(|error| panic!("{error}: {request:?}\n{}", self.envoy.log()))
    }

    /// Sends the request `times` times in sequence, and returns how many were admitted; the others must be refused.
    pub async fn admitted(&self, request: &Request, times: usize) -> usize {
        let mut connection = Connection::open(self.http).await.unwrap();
        let mut admitted = 0;
        for _ in 0..times {
            let answer = connection.send(request).await.unwrap();
            assert!(matches!(answer.status, 200 | 429), "{request:?}: {answer:?}");
            admitted += usize::from(answer.status == 200);
        }
        admitted
    }

    /// The final checks of every test: Envoy is running, and no VM has failed or been recreated. For tests that do not
    /// replace the policy.
    pub async fn end(mut self) {
        assert!(self.envoy.is_running().unwrap(), "{}", self.envoy.log());
        let stats = self.envoy.stats().await.unwrap();
        assert_eq!(stats[VMS_MADE], self.vms_made, "a VM was made anew\n{}", self.envoy.log());
        self.assert_no_vm_failed().await;
    }

    /// Checks Envoy's own count of failed VMs, and its log.
    pub async fn assert_no_vm_failed(&self) {
        let stats = self.envoy.stats().await.unwrap();
        let reloads = stats.iter().filter(|(name, _)| name.contains("vm_reload")).map(|(_, count)| count);
        assert_eq!(reloads.sum::<u64>(), 0, "{}", self.envoy.log());
        let log = self.envoy.log();
        for trouble in ["panicked", "Uncaught RuntimeError"] {
            assert!(!log.contains(trouble), "{log}");
        }
    }
}

/// Polls until the condition holds; fails after 30 s with the name of the condition.
pub async fn eventually(what: &str, mut condition: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(30);
    while !condition().await {
        assert!(Instant::now() < deadline, "never came about: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// The shipped bootstrap with this policy.
pub fn shipped(policy: &Value) -> Bootstrap {
    Bootstrap::shipped().unwrap().policy(&policy.to_string()).unwrap()
}

/// Turns off Envoy's own path normalisation: the filter gets paths as they were sent.
pub fn raw_paths(bootstrap: Bootstrap) -> Bootstrap {
    let connection_manager = "/static_resources/listeners/0/filter_chains/0/filters/0/typed_config";
    let settings = [
        ("normalize_path", json!(false)),
        ("merge_slashes", json!(false)),
        ("path_with_escaped_slashes_action", json!("KEEP_UNCHANGED")),
    ];
    settings.into_iter().fold(bootstrap, |bootstrap, (setting, value)| {
        bootstrap.set(&format!("{connection_manager}/{setting}"), value).unwrap()
    })
}

/// A policy with these limits. It reads client addresses as behind one proxy: Envoy appends the address of the
/// connection, so the entry that a test writes is the second from the right.
pub fn policy(limits: impl IntoIterator<Item = Value>) -> Value {
    json!({
        "version": 1,
        "client": {
            "address": { "header": "x-forwarded-for", "trusted_hops": 2 },
            "claims": { "header": "x-jwt-payload" },
            // The tests play the role of all proxies in front.
            "trusted_headers": ["x-jwt-payload", "x-plan", "x-cost"],
        },
        "limits": limits.into_iter().collect::<Vec<_>>(),
    })
}

/// A limit that returns no permits while a test runs: a token bucket that takes 31 days to fill.
pub fn limit(name: &str, path: &str, key: &[&str], permits: u32) -> Value {
    assert!(permits <= 10_000, "more would come back sooner than one in four minutes");
    json!({
        "name": name, "match": { "path": path }, "key": key, "algorithm": "token-bucket",
        "quota": { "permits": permits, "window": "31d" },
    })
}

const VMS_MADE: &str = "wasm.envoy.wasm.runtime.v8.created";
