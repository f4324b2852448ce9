//! 200,000 addresses with room for 10,000: memory use stays constant, and greedy clients stay limited.

use std::fs;

use serde_json::{Value, json};

use super::client::{Connection, Request};
use super::stage::{Stage, limit, policy};

/// Envoy's memory in bytes.
#[derive(Clone, Copy, Debug)]
pub struct Memory {
    /// What Envoy itself has allocated.
    allocated: u64,
    /// The resident memory of the process, V8 included.
    resident: u64,
    /// The part outside Envoy's own allocator: V8 with the memory of the VMs.
    pub of_vms: u64,
}

impl Memory {
    pub async fn of(stage: &Stage) -> Self {
        let memory: Value = serde_json::from_str(&stage.envoy.admin_get("/memory").await.unwrap()).unwrap();
        let bytes = |name: &str| memory[name].as_str().and_then(|bytes| bytes.parse::<u64>().ok()).unwrap();
        let status = fs::read_to_string(format!("/proc/{}/status", stage.envoy.pid())).unwrap();
        let resident =
            status.lines().find_map(|line| line.strip_prefix("VmRSS:")?.strip_suffix("kB")?.trim().parse().ok());
        let resident = resident.map(|kib: u64| kib * 1024).unwrap();
        let of_vms = resident.saturating_sub(bytes("total_physical_bytes"));
        Self { allocated: bytes("allocated"), resident, of_vms }
    }
}

/// Sends one request from each of these numbered addresses, over enough connections to keep both workers busy. All must
/// be admitted, because none of the clients has used anything.
async fn flood(stage: &Stage, clients: std::ops::Range<u32>) {
    let connections = (0..CONNECTIONS).map(|connection| {
        let (to, clients) = (stage.http, clients.clone().skip(connection).step_by(CONNECTIONS));
        tokio::spawn(async move {
            let mut connection = Connection::open(to).await.unwrap();
            for client in clients {
                let address = format!("10.{}.{}.{}", client >> 16, (client >> 8) & 255, client & 255);
                let answer = connection.send(&Request::get("/").from(address)).await.unwrap();
                assert_eq!(answer.status, 200, "client {client}");
            }
        })
    });
    for connection in connections.collect::<Vec<_>>() {
        connection.await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn flood_of_addresses_takes_no_memory_and_frees_no_greedy_client() {
    let mut policy = policy([limit("all", "/**", &["address"], 20)]);
    policy["state"] = json!({ "max_keys": 10_000 });
    // Envoy responds by itself and logs nothing: the test is about the filter.
    let connection_manager = "/static_resources/listeners/0/filter_chains/0/filters/0/typed_config";
    let routes = format!("{connection_manager}/route_config/virtual_hosts/0/routes");
    let direct = json!([{ "match": { "prefix": "/" }, "direct_response": { "status": 200 } }]);
    let stage = Stage::with(&policy, |bootstrap| {
        let bootstrap = bootstrap.set(&routes, direct).unwrap();
        bootstrap.set(&format!("{connection_manager}/access_log"), json!([])).unwrap()
    })
    .await;

    let greedy: Vec<Request> = (1..=5).map(|client| Request::get("/").from(format!("192.0.2.{client}"))).collect();
    for client in &greedy {
        assert_eq!(stage.admitted(client, 25).await, 20);
    }
    // Warms up: every page of the table exists, and every connection has its buffers.
    flood(&stage, 0..WARM).await;
    let warm = Memory::of(&stage).await;
    for part in 1..=CLIENTS / WARM - 1 {
        flood(&stage, part * WARM..(part + 1) * WARM).await;
        for client in &greedy {
            assert_eq!(stage.admitted(client, 2).await, 0, "{client:?} after {} others", (part + 1) * WARM);
        }
    }
    let after = Memory::of(&stage).await;
    eprintln!("memory warm {warm:?}, after {after:?}");
    assert!(after.allocated < warm.allocated + ROOM, "warm {warm:?}, after {after:?}");
    assert!(after.resident < warm.resident + ROOM, "warm {warm:?}, after {after:?}");
    stage.end().await;
}

const CLIENTS: u32 = 200_000;
const WARM: u32 = 40_000;
const CONNECTIONS: usize = 32;
/// A quarter of what 160,000 keys would take in Envoy's shared data, at 100 bytes each.
const ROOM: u64 = 4 << 20;
