//! Redis Cluster: three real nodes, each of which has all keys that the scripts it runs access.

use std::time::{Duration, Instant};

use tidegate::authority::Ask;
use tidegate::policy::Protocol;
use tidegate::store::redis::{Redis, RedisError, key};

use super::front::Front;
use super::process::{Port, RedisServer};
use super::stage::{send, token};
use super::{ALGORITHMS, ask, terms};

/// Three nodes that know each other, each with a third of the slots.
fn cluster() -> [RedisServer; 3] {
    let nodes = [(); 3].map(|()| {
        let bus = Port::hold();
        let server = RedisServer::start(&["--cluster-enabled", "yes", "--cluster-port", &bus.addr.port().to_string()]);
        (server, bus)
    });
    let run = |node: &RedisServer, words: &[&str]| -> String {
        let mut command = redis::cmd("CLUSTER");
        command.arg(words).query(&mut node.connect()).unwrap_or_else(|error| panic!("{words:?}: {error}"))
    };
    for ((node, _), (first, last)) in nodes.iter().zip([("0", "5460"), ("5461", "10922"), ("10923", "16383")]) {
        run(node, &["ADDSLOTSRANGE", first, last]);
        for (other, bus) in &nodes[1..] {
            let (port, bus) = (other.addr().port().to_string(), bus.addr.port().to_string());
            run(&nodes[0].0, &["MEET", "127.0.0.1", &port, &bus]);
        }
    }
    let deadline = Instant::now() + Duration::from_secs(30);
    while !nodes.iter().all(|(node, _)| {
        let info = run(node, &["INFO"]);
        info.contains("cluster_state:ok") && info.contains("cluster_known_nodes:3")
    }) {
        assert!(Instant::now() < deadline, "the nodes do not come together: {}", run(&nodes[0].0, &["INFO"]));
        std::thread::sleep(Duration::from_millis(50));
    }
    nodes.map(|(node, _)| node)
}

/// The outcome of an ask that is sent to this node.
async fn ask_at(node: &Front, ask: &Ask) -> Result<u64, RedisError> {
    let redis = Redis::new(Protocol::Upstash, "", Some(token(Protocol::Upstash))).unwrap();
    let (mut exchange, request) = redis.begin(&mut vec![*ask]).unwrap();
    let mut next = Some(request);
    while let Some(request) = next {
        let (status, body) = send(node.addr, &request, Duration::from_secs(10)).await.unwrap();
        next = exchange.receive(&redis, Some((status, &body[..])));
    }
    exchange.outcomes().next().unwrap().1.map(|grant| grant.drawn)
}

#[tokio::test]
async fn every_script_accesses_one_slot_and_runs_on_its_node() {
    let nodes = cluster();
    let mut fronts = Vec::new();
    for node in &nodes {
        fronts.push(Front::start(node.addr(), token(Protocol::Upstash)).await);
    }
    let mut served = [0; 3];
    for number in 0..60_u64 {
        let ask =
            ask(number.wrapping_mul(0x9e37_79b9_7f4a_7c15), terms(ALGORITHMS[number as usize % 3], 10, 86_400_000), 1);
        let slot: u64 = redis::cmd("CLUSTER").arg("KEYSLOT").arg(key(&ask)).query(&mut nodes[0].connect()).unwrap();
        let home = (slot / 5_461) as usize;
        // Twice, so that existing state is read and written too.
        for seq in 1..=2 {
            assert_eq!(ask_at(&fronts[home], &Ask { seq, ..ask }).await, Ok(seq), "slot {slot}");
        }
        assert_eq!(ask_at(&fronts[(home + 1) % 3], &ask).await, Err(RedisError::Refused("MOVED")), "slot {slot}");
        served[home] += 1;
    }
    assert!(served.iter().all(|asks| *asks > 5), "{served:?}: not every node was tried");
    for (node, asks) in nodes.iter().zip(served) {
        let keys: Vec<String> = redis::cmd("KEYS").arg("*").query(&mut node.connect()).unwrap();
        assert_eq!(keys.len(), asks, "one key for each: {keys:?}");
        assert!(keys.iter().all(|key| key.starts_with("tg:{")), "{keys:?}");
    }
}
