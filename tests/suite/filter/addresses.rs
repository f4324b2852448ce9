//! Which address a request counts for, and that a client cannot choose it.

use std::net::{IpAddr, Ipv4Addr};

use serde_json::json;

use super::client::{Connection, Request};
use super::stage::{Stage, limit, policy};

/// What a client may write before the entry that the proxy in front of Envoy appends.
const FORGERIES: [&[&[u8]]; 9] = [
    &[b"10.0.0.1"],
    &[b"192.0.2.2"],
    &[b"10.0.0.1, 10.0.0.2, 10.0.0.3"],
    &[b"10.0.0.1", b"10.0.0.2", b"10.0.0.3"],
    &[b""],
    &[b",,,, ,"],
    &[b"unknown, \"quoted, comma\", for=1.2.3.4"],
    &[b"\xff\xfe, \x80"],
    &[b"2001:db8::1", b"", b"[::1]:80"],
];

#[tokio::test]
async fn forged_forwarded_for_does_not_change_the_key_of_a_client_behind_a_proxy() {
    let stage = Stage::start(&policy([limit("all", "/**", &["address"], 2)])).await;
    assert_eq!(stage.admitted(&Request::get("/").from("192.0.2.1"), 3).await, 2);
    for lines in FORGERIES {
        // The proxy appends to the last line, or adds a line of its own: the list is the same.
        let forged = lines.iter().fold(Request::get("/"), Request::from);
        assert_eq!(stage.admitted(&forged.clone().from("192.0.2.1"), 1).await, 0, "{lines:?}");
        let (last, before) = lines.split_last().unwrap();
        let forged = before.iter().fold(Request::get("/"), Request::from);
        assert_eq!(stage.admitted(&forged.from([last, &b", 192.0.2.1"[..]].concat()), 1).await, 0, "{lines:?}");
    }
    assert_eq!(stage.admitted(&Request::get("/").from("192.0.2.1, 192.0.2.2"), 3).await, 2, "another client");
    stage.end().await;
}

#[tokio::test]
async fn forged_forwarded_for_does_not_change_the_key_of_a_client_that_connects_to_envoy_itself() {
    let mut policy = policy([limit("all", "/**", &["address"], 2)]);
    policy["client"]["address"]["trusted_hops"] = json!(1);
    let stage = Stage::start(&policy).await;
    assert_eq!(stage.admitted(&Request::get("/"), 3).await, 2);
    for lines in FORGERIES {
        let forged = lines.iter().fold(Request::get("/"), Request::from);
        assert_eq!(stage.admitted(&forged, 1).await, 0, "{lines:?}");
    }
    stage.end().await;
}

#[tokio::test]
async fn list_shorter_than_the_trusted_proxies_counts_for_the_connection() {
    let mut policy = policy([limit("all", "/**", &["address"], 2)]);
    policy["client"]["address"]["trusted_hops"] = json!(4);
    let stage = Stage::start(&policy).await;
    // With Envoy's own entry these are three.
    assert_eq!(stage.admitted(&Request::get("/").from("192.0.2.1, 192.0.2.2"), 3).await, 2);
    assert_eq!(stage.admitted(&Request::get("/").from("192.0.2.3"), 1).await, 0);
    assert_eq!(stage.admitted(&Request::get("/"), 1).await, 0);
    // Four entries are enough.
    assert_eq!(stage.admitted(&Request::get("/").from("192.0.2.1, 192.0.2.2, 192.0.2.3"), 3).await, 2);
    stage.end().await;
}

#[tokio::test]
async fn ipv6_clients_are_one_per_prefix_however_they_are_written() {
    let mut policy = policy([limit("all", "/**", &["address"], 2)]);
    policy["client"]["address"]["ipv6_prefix"] = json!(64);
    let stage = Stage::start(&policy).await;
    assert_eq!(stage.admitted(&Request::get("/").from("2001:db8:0:1::1"), 3).await, 2);
    for same in [
        "2001:db8:0:1::2",
        "2001:DB8:0000:1:ffff::",
        "[2001:db8:0:1::1]",
        "[2001:db8:0:1::1]:443",
        "2001:db8::1:0:0:0:9",
    ] {
        assert_eq!(stage.admitted(&Request::get("/").from(same), 1).await, 0, "{same}");
    }
    assert_eq!(stage.admitted(&Request::get("/").from("2001:db8:0:2::1"), 3).await, 2);
    // An IPv4 address and its IPv4-mapped IPv6 form are the same client.
    assert_eq!(stage.admitted(&Request::get("/").from("192.0.2.1"), 3).await, 2);
    assert_eq!(stage.admitted(&Request::get("/").from("::ffff:192.0.2.1"), 1).await, 0);
    assert_eq!(stage.admitted(&Request::get("/").from("::ffff:192.0.2.2"), 1).await, 1);
    stage.end().await;
}

#[tokio::test]
async fn without_a_header_the_connection_counts_and_no_header_changes_that() {
    let mut policy = policy([limit("all", "/**", &["address"], 2)]);
    policy["client"] = json!({});
    let stage = Stage::start(&policy).await;
    let statuses = async |address: [u8; 4], request: Request| {
        let mut statuses = Vec::new();
        for _ in 0..3 {
            // A new connection for each: the port is not part of the address.
            let from = IpAddr::V4(Ipv4Addr::from(address));
            let mut connection = Connection::open_from(from, stage.http).await.unwrap();
            statuses.push(connection.send(&request).await.unwrap().status);
        }
        statuses
    };
    assert_eq!(statuses([127, 0, 0, 2], Request::get("/")).await, [200, 200, 429]);
    let forged = Request::get("/").from("127.0.0.9").with("x-real-ip", "127.0.0.9").with("forwarded", "for=127.0.0.9");
    assert_eq!(statuses([127, 0, 0, 2], forged).await, [429, 429, 429]);
    assert_eq!(statuses([127, 0, 0, 3], Request::get("/")).await, [200, 200, 429]);
    stage.end().await;
}

#[tokio::test]
async fn clients_that_connect_over_ipv6_are_counted_by_their_address() {
    if std::net::TcpListener::bind("[::1]:0").is_err() {
        eprintln!("this machine has no ::1: not tried");
        return;
    }
    let mut policy = policy([limit("all", "/**", &["address"], 2)]);
    policy["client"] = json!({});
    let address = "/static_resources/listeners/0/address/socket_address/address";
    let stage = Stage::with(&policy, |bootstrap| bootstrap.set(address, json!("::1")).unwrap()).await;
    assert!(stage.http.is_ipv6());
    assert_eq!(stage.admitted(&Request::get("/"), 3).await, 2);
    assert_eq!(stage.admitted(&Request::get("/").from("::2"), 1).await, 0);
    stage.end().await;
}
