//! Networks of addresses, and tables of them that a few comparisons search.

use core::cmp::Reverse;
use core::fmt;
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::collections::BinaryHeap;

/// An address, or all addresses that begin with the same bits (CIDR, RFC 4632).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Network {
    /// The first address. The bits after the prefix are zero.
    address: IpAddr,
    /// How many leading bits are shared: at most 32 for IPv4, 128 for IPv6.
    prefix: u8,
}

/// Why a text is not a network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotANetwork {
    /// It does not begin with an address.
    Address,
    /// Its prefix length is invalid, or longer than its address. This is the longest.
    Prefix(u8),
    /// Bits after the prefix are set. This network contains the address.
    HostBits(Network),
}

impl Network {
    /// Parses `192.0.2.7`, `10.0.0.0/8` or `2001:db8::/32`. An IPv4 network in IPv6 notation (`::ffff:10.0.0.0/104`)
    /// becomes that IPv4 network, as such addresses do everywhere.
    ///
    /// # Errors
    /// What is wrong with the text.
    pub fn parse(text: &str) -> Result<Self, NotANetwork> {
        let (address, prefix) = match text.split_once('/') {
            Some((address, prefix)) => (address, Some(prefix)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().map_err(|_| NotANetwork::Address)?;
        let longest = longest_prefix(address);
        let digits = |prefix: &&str| matches!(prefix.len(), 1..=3) && prefix.bytes().all(|byte| byte.is_ascii_digit());
        let prefix = match prefix {
            None => longest,
            Some(prefix) => Some(prefix)
                .filter(digits)
                .and_then(|prefix| prefix.parse().ok())
                .filter(|prefix| *prefix <= longest)
                .ok_or(NotANetwork::Prefix(longest))?,
        };
        let network = Self { address: masked(address, prefix), prefix };
        if network.address == address { Ok(network.canonical()) } else { Err(NotANetwork::HostBits(network)) }
    }

    /// The IPv4 network for an IPv6 network that contains only IPv4-mapped addresses.
    fn canonical(self) -> Self {
        match (self.address.to_canonical(), self.prefix.checked_sub(MAPPED_BITS)) {
            (address @ IpAddr::V4(_), Some(prefix)) if self.address.is_ipv6() => Self { address, prefix },
            _ => self,
        }
    }

    /// Whether the address is in the network. No IPv6 network contains IPv4 addresses.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        address.is_ipv4() == self.address.is_ipv4() && masked(address, self.prefix) == self.address
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix)
    }
}

/// Many networks, as sorted and disjoint ranges. Finding an address among ten thousand takes sixteen comparisons.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Networks {
    v4: Vec<(u32, u32)>,
    v6: Vec<(u128, u128)>,
}

impl Networks {
    /// The table of these networks, in any order. They may contain one another.
    pub fn new(networks: impl IntoIterator<Item = Network>) -> Self {
        // Both kinds are sorted as 128-bit numbers: a second sort for the 32-bit ones would be a third of this code.
        let (mut v4, mut v6) = (BinaryHeap::new(), BinaryHeap::new());
        for network in networks {
            match network.address {
                IpAddr::V4(first) => {
                    let last = first.to_bits() | host_bits_v4(network.prefix);
                    v4.push((u128::from(first.to_bits()), Reverse(u128::from(last))));
                }
                IpAddr::V6(first) => {
                    v6.push((first.to_bits(), Reverse(first.to_bits() | host_bits_v6(network.prefix))))
                }
            }
        }
        let v4 = merged(v4).into_iter().map(|(first, last)| (first as u32, last as u32));
        Self { v4: v4.collect(), v6: merged(v6) }
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.v4.is_empty() && self.v6.is_empty()
    }

    /// Whether the address is in one of the networks.
    #[must_use]
    pub fn contain(&self, address: IpAddr) -> bool {
        match address.to_canonical() {
            IpAddr::V4(address) => covers(&self.v4, address.to_bits()),
            IpAddr::V6(address) => covers(&self.v6, address.to_bits()),
        }
    }

    /// The ranges of this table that lie within a range of `other`, each as its first and last address.
    pub(crate) fn ranges_within(&self, other: &Self) -> impl Iterator<Item = (IpAddr, IpAddr)> {
        let v4 = self.v4.iter().filter(|range| lies_in(&other.v4, **range));
        let v6 = self.v6.iter().filter(|range| lies_in(&other.v6, **range));
        let v4 = v4.map(|(first, last)| (Ipv4Addr::from_bits(*first).into(), Ipv4Addr::from_bits(*last).into()));
        v4.chain(v6.map(|(first, last)| (Ipv6Addr::from_bits(*first).into(), Ipv6Addr::from_bits(*last).into())))
    }
}

/// Sorts the ranges and merges those that overlap. Networks either contain one another or are disjoint.
fn merged(ranges: BinaryHeap<(u128, Reverse<u128>)>) -> Vec<(u128, u128)> {
    // Of two ranges with the same beginning, the longer comes first and absorbs the shorter.
    let mut ranges: Vec<_> = ranges.into_sorted_vec().into_iter().map(|(first, Reverse(last))| (first, last)).collect();
    ranges.dedup_by(|next, kept| next.0 <= kept.1);
    ranges.shrink_to_fit();
    ranges
}

fn covers<T: Ord + Copy>(ranges: &[(T, T)], address: T) -> bool {
    let after = ranges.partition_point(|(first, _)| *first <= address);
    after.checked_sub(1).and_then(|place| ranges.get(place)).is_some_and(|(_, last)| address <= *last)
}

/// Whether the whole range lies in one of these.
fn lies_in<T: Ord>(ranges: &[(T, T)], (first, last): (T, T)) -> bool {
    ranges.iter().any(|(from, to)| *from <= first && last <= *to)
}

fn longest_prefix(address: IpAddr) -> u8 {
    if address.is_ipv4() { 32 } else { 128 }
}

fn masked(address: IpAddr, prefix: u8) -> IpAddr {
    match address {
        IpAddr::V4(address) => IpAddr::V4(Ipv4Addr::from_bits(address.to_bits() & !host_bits_v4(prefix))),
        IpAddr::V6(address) => IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() & !host_bits_v6(prefix))),
    }
}

fn host_bits_v4(prefix: u8) -> u32 {
    u32::MAX.checked_shr(prefix.into()).unwrap_or(0)
}

fn host_bits_v6(prefix: u8) -> u128 {
    u128::MAX.checked_shr(prefix.into()).unwrap_or(0)
}

/// The bits before an IPv4 address that is mapped into IPv6 (RFC 4291 section 2.5.5.2).
const MAPPED_BITS: u8 = 96;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_network_is_an_address_and_how_many_bits_count() {
        for (text, network) in [
            ("192.0.2.7", "192.0.2.7/32"),
            ("10.0.0.0/8", "10.0.0.0/8"),
            ("0.0.0.0/0", "0.0.0.0/0"),
            ("2001:DB8::/32", "2001:db8::/32"),
            ("::1", "::1/128"),
            ("::/0", "::/0"),
            ("::ffff:10.0.0.0/104", "10.0.0.0/8"),
            ("::ffff:192.0.2.7", "192.0.2.7/32"),
        ] {
            assert_eq!(Network::parse(text).map(|network| network.to_string()), Ok(network.to_owned()), "{text}");
        }
        for (text, error) in [
            ("", NotANetwork::Address),
            ("10/8", NotANetwork::Address),
            ("192.0.2.7:80", NotANetwork::Address),
            ("[::1]", NotANetwork::Address),
            ("10.0.0.0/33", NotANetwork::Prefix(32)),
            ("10.0.0.0/", NotANetwork::Prefix(32)),
            ("10.0.0.0/+8", NotANetwork::Prefix(32)),
            ("::/129", NotANetwork::Prefix(128)),
            ("::/999", NotANetwork::Prefix(128)),
            ("10.1.2.3/8", NotANetwork::HostBits(Network::parse("10.0.0.0/8").unwrap())),
            ("2001:db8::1/32", NotANetwork::HostBits(Network::parse("2001:db8::/32").unwrap())),
        ] {
            assert_eq!(Network::parse(text), Err(error), "{text}");
        }
    }

    #[test]
    fn one_of_ten_thousand_is_found_in_as_many_comparisons_as_its_number_has_bits() {
        use crate::sorted::counted::{Counted, comparisons};
        let ranges: Vec<_> = (0..10_000).map(|range| (Counted(range * 4), Counted(range * 4 + 2))).collect();
        for address in 0..40_000 {
            let count = comparisons(|| assert_eq!(covers(&ranges, Counted(address)), address % 4 < 3, "{address}"));
            // Fifteen to find the last range that begins at or before the address, and one to compare its end.
            assert!(count <= 16, "{count} for {address}");
        }
    }

    /// Addresses and prefixes close to one another, so that networks contain one another and addresses lie at their
    /// ends.
    fn near() -> impl Strategy<Value = (IpAddr, u8)> {
        let v4 = (0_u32..64, 24_u8..=32).prop_map(|(low, prefix)| {
            (IpAddr::V4(Ipv4Addr::from_bits(0x0a00_0000 | low.rotate_right(low % 3 * 8))), prefix)
        });
        let v6 = (0_u128..64, 120_u8..=128)
            .prop_map(|(low, prefix)| (IpAddr::V6(Ipv6Addr::from_bits(0x2001_0db8 << 96 | low)), prefix));
        let any = (any::<u128>(), 0_u8..=128).prop_map(|(bits, prefix)| (Ipv6Addr::from_bits(bits).into(), prefix));
        prop_oneof![4 => v4, 4 => v6, 1 => any]
    }

    proptest! {
        #[test]
        fn a_table_answers_as_asking_each_network_does(
            networks in prop::collection::vec(near(), 0..40),
            asked in prop::collection::vec(near(), 1..60),
        ) {
            let networks: Vec<Network> =
                networks.into_iter().map(|(at, prefix)| Network { address: masked(at, prefix), prefix }).collect();
            let table = Networks::new(networks.iter().copied());
            for (address, _) in asked {
                prop_assert_eq!(table.contain(address), networks.iter().any(|network| network.contains(address)));
            }
        }

        #[test]
        fn any_text_is_answered_and_a_network_is_read_as_it_is_printed(text in ".{0,60}", (at, prefix) in near()) {
            let _ = Network::parse(&text);
            let network = Network { address: masked(at, prefix), prefix };
            prop_assert_eq!(Network::parse(&network.to_string()), Ok(network));
        }
    }
}
