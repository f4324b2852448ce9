//! Envoys that share a Redis.

use std::net::SocketAddr;
use std::time::Duration;

use serde_json::{Value, json};
use tidegate::policy::Protocol;

use super::proxy::Proxy;
use crate::bootstrap::Bootstrap;
use crate::filter::client::{Connection, Request};
use crate::filter::concurrency::patient;
use crate::filter::stage::{Stage, policy};
use crate::redis::front::Front;
use crate::redis::process::{Paused, RedisServer, Webdis};
use crate::redis::stage::token;

/// Envoys, a Redis, its front, and a proxy between them.
pub struct Sharing {
    pub envoys: Vec<Stage>,
    pub redis: RedisServer,
    pub paused: Option<Paused>,
    pub proxy: Proxy,
    pub webdis: Option<Webdis>,
    _front: Option<Front>,
}

/// How they share.
pub struct Setup {
    pub protocol: Protocol,
    pub envoys: usize,
    pub workers: u32,
    /// Whether every other Envoy gets the token from its VM's environment and not from the policy.
    pub token_in_environment: bool,
    /// Fields of the policy's `stores` beside `redis`.
    pub stores: Value,
    pub limits: Vec<Value>,
    /// Further parts of the policy.
    pub more: Value,
    /// Further clusters of each Envoy.
    pub clusters: Vec<(&'static str, SocketAddr)>,
}

impl Setup {
    /// Two Envoys with these limits, and a deadline for the store that suits a busy machine.
    pub fn of(limits: impl IntoIterator<Item = Value>) -> Self {
        Self {
            protocol: Protocol::Upstash,
            envoys: 2,
            workers: 1,
            token_in_environment: false,
            stores: json!({ "deadline": "5s" }),
            limits: limits.into_iter().collect(),
            more: json!({}),
            clusters: Vec::new(),
        }
    }
}

/// A shared limit that returns no permits while a test runs.
pub fn shared(permits: u32) -> Value {
    json!({
        "name": "shared", "match": { "path": "/**" }, "key": [], "algorithm": "sliding-window", "scope": "global",
        "quota": { "permits": permits, "window": "31d" }, "on_store_failure": "deny",
    })
}

impl Sharing {
    pub async fn start(setup: &Setup) -> Self {
        Self::with(setup, None).await
    }

    /// The same in front of this origin, whose responses may take any time.
    pub async fn before(setup: &Setup, origin: SocketAddr) -> Self {
        Self::with(setup, Some(origin)).await
    }

    async fn with(setup: &Setup, origin: Option<SocketAddr>) -> Self {
        let redis = RedisServer::start(&[]);
        let (protocol, secret) = (setup.protocol, token(setup.protocol));
        let (front, webdis) = match protocol {
            Protocol::Upstash => (Some(Front::start(redis.addr(), secret).await), None),
            Protocol::Webdis => (None, Some(Webdis::start(redis.addr(), Some(secret)).unwrap())),
        };
        let behind = front.as_ref().map(|front| front.addr).or(webdis.as_ref().map(Webdis::addr)).unwrap();
        let proxy = Proxy::start(behind).await;
        let mut envoys = Vec::new();
        for number in 0..setup.envoys {
            let mut policy = policy(setup.limits.clone());
            let mut stores = setup.stores.clone();
            let word = if protocol == Protocol::Upstash { "upstash" } else { "webdis" };
            stores["redis"] = json!({ "protocol": word, "cluster": "redis" });
            let in_environment = setup.token_in_environment && number % 2 == 1;
            let (field, value) = if in_environment { ("token_env", "STORE_TOKEN") } else { ("token", secret) };
            stores["redis"][field] = json!(value);
            policy["stores"] = stores;
            for (part, value) in setup.more.as_object().unwrap() {
                policy[part] = value.clone();
            }
            let envoy = Stage::of_workers(setup.workers, &policy, |bootstrap| {
                let bootstrap = bootstrap.with_cluster("redis", proxy.addr).unwrap();
                let with = |bootstrap: Bootstrap, (name, address): &(&str, _)| bootstrap.with_cluster(name, *address);
                let bootstrap =
                    setup.clusters.iter().fold(bootstrap, |bootstrap, cluster| with(bootstrap, cluster).unwrap());
                let bootstrap = match origin {
                    Some(origin) => patient(bootstrap.upstream(origin).unwrap()),
                    None => bootstrap,
                };
                let variables = json!({ "key_values": { "STORE_TOKEN": secret } });
                if in_environment { bootstrap.environment(variables).unwrap() } else { bootstrap }
            });
            envoys.push(envoy.await);
        }
        Self { envoys, redis, paused: None, proxy, webdis, _front: front }
    }

    /// How many of `each` requests every Envoy admitted. The others must be refused with 429.
    pub async fn admitted(&self, each: usize) -> Vec<usize> {
        let mut admitted = vec![0; self.envoys.len()];
        let mut connections = Vec::new();
        for envoy in &self.envoys {
            connections.push(Connection::open(envoy.http).await.unwrap());
        }
        for _ in 0..each {
            for (connection, admitted) in connections.iter_mut().zip(&mut admitted) {
                let answer = connection.send(&Request::get("/")).await.unwrap();
                assert!(matches!(answer.status, 200 | 429), "{answer:?}");
                *admitted += usize::from(answer.status == 200);
            }
        }
        admitted
    }

    /// Sends requests until all Envoys together have admitted this many; fails after some time.
    pub async fn use_up(&self, permits: usize) {
        let mut used = 0;
        let deadline = std::time::Instant::now() + Duration::from_secs(30);
        while used < permits {
            assert!(std::time::Instant::now() < deadline, "{used} of {permits} were admitted, and no more");
            used += self.admitted(5).await.iter().sum::<usize>();
        }
        assert_eq!(used, permits);
    }

    /// A counter or gauge of the filter, summed over all Envoys.
    pub async fn metric(&self, name: &str) -> u64 {
        let mut sum = 0;
        for envoy in &self.envoys {
            sum += envoy.envoy.stats().await.unwrap().get(&format!("wasmcustom.{name}")).copied().unwrap_or(0);
        }
        sum
    }

    /// See [`Stage::end`].
    pub async fn end(self) {
        for envoy in self.envoys {
            let secret = token(Protocol::Upstash);
            assert!(!envoy.envoy.log().contains(secret), "a secret in the log");
            envoy.end().await;
        }
    }
}
