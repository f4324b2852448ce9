//! The client's address: from the list that trusted proxies keep, or the connection's own.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use core::str;

use crate::lookup::{Lookup, trim_blanks};
use crate::policy::AddressSource;

/// A client's identity by its address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Address {
    /// An IPv4 address, or one written as an IPv6 address (`::ffff:192.0.2.7`).
    V4(Ipv4Addr),
    /// The leading bits of an IPv6 address, as many as the policy says. The other bits are zero.
    V6(Ipv6Addr),
    /// The connection has a name that is no IP address, such as a Unix socket's. That name identifies the client.
    Peer,
    /// The host knows no address. All such clients count as one.
    Unknown,
}

/// Where a client's address was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AddressFrom {
    /// In the header that the policy names.
    Header,
    /// It is the connection's: the policy names no header.
    Connection,
    /// It is the connection's: the header is absent.
    NoHeader,
    /// It is the connection's: the header's list is shorter than the number of trusted proxies, so the request did not
    /// pass through all of them.
    ShortList,
    /// It is the connection's: the list entry at the trusted position is no address.
    NoAddress,
}

/// The address of the client of `request`.
///
/// Each proxy appends its caller's address to the header's list. Counted from the right, as many entries as there are
/// trusted proxies come from these proxies, and the client wrote the others. So nothing that a client puts in front has
/// an effect. Empty entries count: no trusted proxy writes one, and skipping them would move the count into the
/// client's part.
pub(super) fn find<'a>(request: &Lookup<'a>, source: &'a AddressSource) -> (Option<IpAddr>, AddressFrom) {
    let from = match &source.header {
        None => AddressFrom::Connection,
        Some((header, hops)) => match request.header(header).map(|list| entry(list, *hops)) {
            None => AddressFrom::NoHeader,
            Some(None) => AddressFrom::ShortList,
            Some(Some(entry)) => match parse(entry) {
                Some(address) => return (Some(address), AddressFrom::Header),
                None => AddressFrom::NoAddress,
            },
        },
    };
    (request.peer().and_then(parse), from)
}

/// The client's identity, given its address.
pub(super) fn client(address: Option<IpAddr>, request: &Lookup<'_>, ipv6_prefix: u8) -> Address {
    match address {
        Some(address) => grouped(address, ipv6_prefix),
        None if request.peer().is_some() => Address::Peer,
        None => Address::Unknown,
    }
}

/// The entry of a comma-joined list that is the `hops`-th from the right.
fn entry(list: &[u8], hops: u8) -> Option<&[u8]> {
    list.rsplit(|&byte| byte == b',').nth(usize::from(hops).checked_sub(1)?)
}

/// An address with or without a port: `192.0.2.7`, `192.0.2.7:80`, `2001:db8::1`, `[2001:db8::1]`, `[2001:db8::1]:80`,
/// an IPv6 address also with a zone (`fe80::1%eth0`), which is dropped.
fn parse(text: &[u8]) -> Option<IpAddr> {
    let text = trim_blanks(text);
    if let Some((address, rest)) = leading_v4(text)
        && (rest.is_empty() || is_port(rest))
    {
        return Some(IpAddr::V4(address));
    }
    if let Some(bracketed) = text.strip_prefix(b"[") {
        let end = bracketed.iter().position(|&byte| byte == b']')?;
        let (address, rest) = bracketed.split_at_checked(end)?;
        let rest = rest.strip_prefix(b"]")?;
        return (rest.is_empty() || is_port(rest)).then(|| parse_v6(address))?;
    }
    parse_v6(text)
}

/// Whether `text` is a colon and a port number. `:` alone is not; `::1` is an address.
fn is_port(text: &[u8]) -> bool {
    text.strip_prefix(b":").is_some_and(|port| matches!(port.len(), 1..=5) && port.iter().all(u8::is_ascii_digit))
}

/// The IPv4 address that `text` begins with, and the rest. Almost every request has one; the standard library's parser
/// would first need a check for UTF-8.
fn leading_v4(text: &[u8]) -> Option<(Ipv4Addr, &[u8])> {
    let (mut address, mut rest) = (0, text);
    for to_come in [3, 2, 1, 0] {
        let (octet, after) = leading_octet(rest)?;
        address = (address << 8) | octet;
        rest = if to_come > 0 { after.strip_prefix(b".")? } else { after };
    }
    Some((Ipv4Addr::from_bits(address), rest))
}

/// The number up to 255 that `text` begins with, and the rest. A number with a leading zero is invalid, because some
/// parsers read it as octal.
fn leading_octet(text: &[u8]) -> Option<(u32, &[u8])> {
    let [first @ b'0'..=b'9', rest @ ..] = text else { return None };
    let (mut octet, mut rest) = (u32::from(first & 15), rest);
    while let [digit @ b'0'..=b'9', after @ ..] = rest {
        let longer = octet.wrapping_mul(10).wrapping_add(u32::from(digit & 15));
        if octet == 0 || longer > 255 {
            return None;
        }
        (octet, rest) = (longer, after);
    }
    Some((octet, rest))
}

fn parse_v6(text: &[u8]) -> Option<IpAddr> {
    let address = text.split(|&byte| byte == b'%').next()?;
    if address.len() > V6_MAX_LEN {
        return None;
    }
    str::from_utf8(address).ok()?.parse::<Ipv6Addr>().ok().map(|address| address.to_canonical())
}

fn grouped(address: IpAddr, ipv6_prefix: u8) -> Address {
    match address {
        IpAddr::V4(address) => Address::V4(address),
        IpAddr::V6(address) => {
            let host_bits = u32::from(128_u8.saturating_sub(ipv6_prefix));
            let mask = u128::MAX.checked_shl(host_bits).unwrap_or(0);
            Address::V6(Ipv6Addr::from_bits(address.to_bits() & mask))
        }
    }
}

/// The longest IPv6 address in text: eight groups of four digits, the last two groups as an IPv4 address.
const V6_MAX_LEN: usize = 45;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lookup::recorded::Recorded;
    use proptest::prelude::*;

    #[test]
    fn an_address_is_read_however_it_is_written() {
        for (text, address) in [
            ("192.0.2.7", Some("192.0.2.7")),
            (" 192.0.2.7:80\t", Some("192.0.2.7")),
            ("2001:db8::1", Some("2001:db8::1")),
            ("[2001:DB8::1]", Some("2001:db8::1")),
            ("[2001:db8::1]:443", Some("2001:db8::1")),
            ("::", Some("::")),
            ("::1", Some("::1")),
            ("1::", Some("1::")),
            ("fe80::1%eth0", Some("fe80::1")),
            ("[fe80::1%25eth0]:80", Some("fe80::1")),
            ("::ffff:192.0.2.7", Some("192.0.2.7")),
            ("[::ffff:192.0.2.7]:80", Some("192.0.2.7")),
            ("0000:0000:0000:0000:0000:ffff:255.255.255.255", Some("255.255.255.255")),
            ("", None),
            ("-", None),
            ("unknown", None),
            ("192.0.2", None),
            ("192.0.2.07", None),
            ("192.0.2.0", Some("192.0.2.0")),
            ("192.0.2.00", None),
            ("192.0.2.256", None),
            ("192.0.2.1000", None),
            ("192.0..7", None),
            ("192.0.2.7.", None),
            (".0.2.7", None),
            ("192.0.2.7:", None),
            ("192.0.2.7:x", None),
            ("192.0.2.7:123456", None),
            ("192.0.2.7%eth0", None),
            ("[192.0.2.7]", None),
            ("[::1", None),
            ("[::1]x", None),
            ("[::1]80", None),
            ("/run/envoy.sock", None),
            ("\u{ff11}.0.0.1", None),
        ] {
            assert_eq!(parse(text.as_bytes()), address.map(|address| address.parse().unwrap()), "{text}");
        }
    }

    #[test]
    fn only_what_the_trusted_proxies_wrote_is_believed() {
        use AddressFrom::{Connection, Header, NoAddress, NoHeader, ShortList};
        for (list, hops, address, from) in [
            (Some("198.51.100.1"), 0, "192.0.2.7", Connection),
            (None, 1, "192.0.2.7", NoHeader),
            (Some("198.51.100.1"), 1, "198.51.100.1", Header),
            (Some("203.0.113.1, 198.51.100.1"), 1, "198.51.100.1", Header),
            (Some("203.0.113.1, 198.51.100.1"), 2, "203.0.113.1", Header),
            (Some("203.0.113.1, 198.51.100.1"), 3, "192.0.2.7", ShortList),
            (Some("203.0.113.1,, 198.51.100.1"), 2, "192.0.2.7", NoAddress),
            (Some("203.0.113.1, garbage"), 1, "192.0.2.7", NoAddress),
            (Some(""), 1, "192.0.2.7", NoAddress),
            (Some(""), 2, "192.0.2.7", ShortList),
        ] {
            let mut facts = Recorded::get("/").from("192.0.2.7:4711");
            if let Some(list) = list {
                facts = facts.with("x-forwarded-for", list);
            }
            let expected = (Address::V4(address.parse().unwrap()), from);
            assert_eq!(found(&facts, &source(hops, 64)), expected, "{list:?} {hops}");
        }
    }

    #[test]
    fn ipv6_clients_are_told_apart_by_their_prefix() {
        for (address, prefix, masked) in [
            ("2001:db8:1:2:3:4:5:6", 64, "2001:db8:1:2::"),
            ("2001:db8:1:2ff:3:4:5:6", 56, "2001:db8:1:200::"),
            ("2001:db8::1", 128, "2001:db8::1"),
            ("ffff::", 1, "8000::"),
        ] {
            let facts = Recorded::get("/").from(address);
            let (address_found, _) = found(&facts, &source(0, prefix));
            assert_eq!(address_found, Address::V6(masked.parse().unwrap()), "{address}/{prefix}");
        }
    }

    #[test]
    fn a_connection_without_an_ip_address_is_known_by_its_name() {
        let socket = Recorded::get("/").from("/run/app.sock");
        assert_eq!(found(&socket, &source(0, 64)), (Address::Peer, AddressFrom::Connection));
        let nothing = Recorded::get("/");
        assert_eq!(found(&nothing, &source(1, 64)), (Address::Unknown, AddressFrom::NoHeader));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(1_000))]

        #[test]
        fn a_forged_list_in_front_changes_nothing(
            forged in prop::collection::vec(any::<u8>(), 0..64),
            trusted in prop::array::uniform3(
                prop::sample::select(vec!["198.51.100.1", " ::1", "[2001:db8::1]:80", "x", ""]),
            ),
            hops in 1_usize..4,
        ) {
            let source = source(u8::try_from(hops).unwrap(), 64);
            let honest = Recorded::get("/").from("192.0.2.7").with("x-forwarded-for", trusted.join(","));
            let list = [&forged, b",".as_slice(), trusted.join(",").as_bytes()].concat();
            let lying = Recorded::get("/").from("192.0.2.7").with("x-forwarded-for", list);
            prop_assert_eq!(find(&Lookup::new(&lying), &source), find(&Lookup::new(&honest), &source));
        }

        #[test]
        fn every_address_is_read_as_it_is_printed(bits in any::<u128>(), v4 in any::<u32>(), port in any::<u16>()) {
            let v6 = Ipv6Addr::from_bits(bits);
            let v4 = Ipv4Addr::from_bits(v4);
            prop_assert_eq!(parse(v6.to_string().as_bytes()), Some(v6.to_canonical()));
            prop_assert_eq!(parse(format!("[{v6}]:{port}").as_bytes()), Some(v6.to_canonical()));
            prop_assert_eq!(parse(format!("{v4}:{port}").as_bytes()), Some(IpAddr::V4(v4)));
        }

        #[test]
        fn what_looks_like_an_ipv4_address_is_what_the_standard_library_takes_for_one(text in "([0-9]{0,4}[.]?){0,5}") {
            let expected = text.parse::<Ipv4Addr>().ok().map(IpAddr::V4);
            prop_assert_eq!(parse(text.as_bytes()), expected, "{}", text);
        }

        #[test]
        fn nor_does_a_foreign_byte_pass(address in any::<u32>(), at in 0_usize..16, byte in any::<u8>()) {
            // A colon may begin a port.
            prop_assume!(byte != b':');
            let mut text = Ipv4Addr::from_bits(address).to_string().into_bytes();
            text.insert(at.min(text.len()), byte);
            let expected = str::from_utf8(trim_blanks(&text)).ok().and_then(|text| text.parse::<Ipv4Addr>().ok());
            prop_assert_eq!(parse(&text), expected.map(IpAddr::V4), "{:?}", text);
        }
    }

    fn found(facts: &Recorded, source: &AddressSource) -> (Address, AddressFrom) {
        let request = Lookup::new(facts);
        let (address, from) = find(&request, source);
        (client(address, &request, source.ipv6_prefix), from)
    }

    fn source(hops: u8, ipv6_prefix: u8) -> AddressSource {
        AddressSource { header: (hops > 0).then(|| ("x-forwarded-for".to_owned(), hops)), ipv6_prefix }
    }
}
