//! Malformed `X-Forwarded-For` headers, checked against the address parsers of the standard library.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use super::dice::Dice;
use super::{Raw, cases};
use crate::harness::engine;
use tidegate::engine::Engine;
use tidegate::key::{Address, AddressFrom, Client};
use tidegate::lookup::Lookup;

const ENTRIES: [&str; 34] = [
    "192.0.2.7",
    "192.0.2.7:80",
    "192.0.2.7:65536",
    "255.255.255.255:99999",
    "2001:db8::1",
    "[2001:db8::1]",
    "[2001:db8::1]:443",
    "2001:DB8:0:0:0:0:0:1",
    "::",
    "[::]:0",
    "::1",
    "::ffff:192.0.2.7",
    "[::ffff:192.0.2.7]:80",
    "::1.2.3.4",
    "64:ff9b::192.0.2.7",
    "fe80::1%eth0",
    "[fe80::1%25eth0]:80",
    "fe80::1%%",
    "1:2:3:4:5:6:7:8",
    "1:2:3:4:5:6:7:8:9",
    "unknown",
    "_hidden",
    "for=192.0.2.60;proto=http",
    "for=\"[2001:db8:cafe::17]:4711\"",
    "",
    " ",
    "192.168.001.1",
    "0x7f.1",
    "127.1",
    "2130706433",
    "1.2.3.4.",
    "256.1.1.1",
    "/run/envoy.sock",
    "\u{ff11}.0.0.1",
];
const TOKENS: [&str; 16] = [",", ",", ".", ":", "::", "[", "]", "%", "/", " ", "\t", "ffff:", "0", "255", "\"", "="];

fn trusting(hops: usize) -> Engine {
    engine(&format!(
        r#"{{ "version": 1, "client": {{ "address": {{ "header": "x-forwarded-for", "trusted_hops": {hops},
        "ipv6_prefix": 128 }} }}, "limits": [{{ "name": "a", "quota": {{ "permits": 1, "window": "1s" }} }}] }}"#
    ))
}

fn found(engine: &Engine, list: &[u8]) -> (Option<IpAddr>, AddressFrom) {
    let request = Raw { peer: Some(b"203.0.113.77:1".to_vec()), ..Raw::default() }.with("x-forwarded-for", list);
    let lookup = Lookup::new(&request);
    let (address, from) = Client::new(&lookup, engine.policy()).address();
    let address = match address {
        Address::V4(address) => Some(IpAddr::V4(address)),
        Address::V6(address) => Some(IpAddr::V6(address)),
        Address::Peer | Address::Unknown => None,
    };
    (address, from)
}

fn list(dice: &mut Dice) -> Vec<u8> {
    let mut list = dice.list(&ENTRIES, &[",", ", ", " ,", ",,", "\t,"], 6);
    dice.mutate(&mut list, &TOKENS);
    list
}

#[test]
fn entries_before_the_trusted_hop_are_ignored() {
    let engines: Vec<_> = (1..=4).map(trusting).collect();
    cases("addresses: trust", |dice| {
        let hops = 1 + dice.below(4);
        let engine = &engines[hops - 1];
        let mut header = list(dice);
        // At least as many entries as hops; forged entries go in front of them.
        while header.iter().filter(|byte| **byte == b',').count() + 1 < hops {
            header.extend_from_slice(b",192.0.2.1");
        }
        let honest = found(engine, &header);
        assert_ne!(honest.1, AddressFrom::ShortList);
        let lies = [dice.bytes(40), list(dice), b"198.51.100.66".to_vec()];
        for lie in lies {
            // The blanks of an entry belong to it: a forged entry ends at its comma.
            let forged = [&lie[..], b",", &header].concat();
            assert_eq!(found(engine, &forged), honest, "{} with {}", header.escape_ascii(), lie.escape_ascii());
        }
    });
}

#[test]
fn addresses_are_those_that_the_standard_library_reads() {
    let engine = trusting(1);
    cases("addresses: std", |dice| {
        let header = list(dice);
        let entry = header.rsplit(|byte| *byte == b',').next().unwrap();
        let blank = |byte: &u8| matches!(byte, b' ' | b'\t');
        let begin = entry.iter().position(|byte| !blank(byte)).unwrap_or(entry.len());
        let end = entry.iter().rposition(|byte| !blank(byte)).map_or(begin, |end| end + 1);
        let entry = &entry[begin..end];
        let (address, from) = found(&engine, &header);
        let shown = entry.escape_ascii();
        let by_std = str::from_utf8(entry).ok().and_then(|text| {
            text.parse::<IpAddr>().or_else(|_| text.parse::<SocketAddr>().map(|socket| socket.ip())).ok()
        });
        if let Some(by_std) = by_std {
            assert_eq!((address, from), (Some(by_std.to_canonical()), AddressFrom::Header), "{shown}");
        }
        if from == AddressFrom::Header {
            assert_eq!(address, bare(entry).map(|address| address.to_canonical()), "{shown}");
        } else {
            assert_eq!((address, by_std), (Some([203, 0, 113, 77].into()), None), "{shown}");
        }
    });
}

/// An entry without port, brackets and zone, as the standard library reads it.
fn bare(entry: &[u8]) -> Option<IpAddr> {
    let inner = entry.strip_prefix(b"[").unwrap_or(entry);
    let inner = inner.split(|byte| matches!(byte, b']' | b'%')).next()?;
    let text = str::from_utf8(inner).ok()?;
    match text.split_once(':') {
        Some((address, port)) if !port.contains(':') => address.parse().ok(),
        Some(_) => text.parse::<Ipv6Addr>().ok().map(IpAddr::V6),
        None => text.parse().ok(),
    }
}
