//! Lists of networks, checked against the standard library's addresses and plain arithmetic.

use std::net::IpAddr;

use super::cases;
use super::dice::Dice;
use tidegate::network::{Network, Networks};

const NETWORKS: [&str; 14] = [
    "192.0.2.7",
    "10.0.0.0/8",
    "0.0.0.0/0",
    "10.128.0.0/9",
    "192.0.2.0/31",
    "2001:db8::/32",
    "::/0",
    "::1",
    "::1/128",
    "::ffff:10.0.0.0/104",
    "::ffff:0:0/96",
    "::ffff:192.0.2.7",
    "fe80::/10",
    "10.1.2.3/8",
];
const TOKENS: [&str; 12] = ["/", "/0", "/32", "/128", "/129", "/+8", "::", ":", ".", "0", "ffff:", "-"];

/// The bits of an address as IPv6, computed in a different way than in the core.
fn bits(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => address.to_ipv6_mapped().to_bits(),
        IpAddr::V6(address) => address.to_bits(),
    }
}

fn naive(text: &str) -> Option<(u128, u32)> {
    let (address, prefix) = text.split_once('/').map_or((text, None), |(address, prefix)| (address, Some(prefix)));
    let address: IpAddr = address.parse().ok()?;
    let (longest, offset) = if address.is_ipv4() { (32, 96) } else { (128, 0) };
    let prefix = match prefix {
        None => longest,
        Some(digits) if (1..=3).contains(&digits.len()) && digits.bytes().all(|byte| byte.is_ascii_digit()) => {
            digits.parse::<u32>().ok().filter(|prefix| *prefix <= longest)?
        }
        Some(_) => return None,
    } + offset;
    let host = u128::MAX.checked_shr(prefix).unwrap_or(0);
    (bits(address) & host == 0).then_some((bits(address), prefix))
}

/// Whether the network contains the address. IPv4 addresses are in no IPv6 network that is wider than the mapped range.
fn holds((first, prefix): (u128, u32), address: IpAddr) -> bool {
    let v4 = |bits: u128| bits >> 32 == 0xffff;
    let of_v4 = prefix >= 96 && v4(first);
    let same = prefix == 0 || (bits(address) ^ first) >> (128 - prefix) == 0;
    v4(bits(address)) == of_v4 && same
}

fn text(dice: &mut Dice) -> String {
    let mut text = dice.pick(&NETWORKS).as_bytes().to_vec();
    dice.mutate(&mut text, &TOKENS);
    String::from_utf8_lossy(&text).into_owned()
}

#[test]
fn networks_are_parsed_and_matched_as_by_plain_arithmetic() {
    cases("networks", |dice| {
        let texts: Vec<_> = (0..dice.below(12)).map(|_| text(dice)).collect();
        let mut networks = Vec::new();
        for text in &texts {
            let read = Network::parse(text);
            assert_eq!(read.is_ok(), naive(text).is_some(), "{text}");
            if let Ok(network) = read {
                assert_eq!(Network::parse(&network.to_string()), Ok(network), "{text}");
                networks.push((network, naive(text).unwrap()));
            }
        }
        let table = Networks::new(networks.iter().map(|(network, _)| *network));
        for _ in 0..8 {
            // Near the edge of one of the networks, or anywhere.
            let near = if networks.is_empty() { 0 } else { networks[dice.below(networks.len())].1.0 };
            let bits = match dice.below(4) {
                0 => u128::from(dice.next()) << 64 | u128::from(dice.next()),
                _ => near ^ (1_u128 << dice.below(128)) & if dice.one_in(2) { u128::MAX } else { 0xffff_ffff },
            };
            let address = IpAddr::V6(bits.into());
            let mut held = false;
            for (network, naive) in &networks {
                assert_eq!(network.contains(address), holds(*naive, address), "{network} {address}");
                held |= network.contains(address);
            }
            assert_eq!(table.contain(address), held, "{texts:?} {address}");
        }
    });
}
