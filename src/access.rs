//! Lists of clients that meet no limits, or that are refused: by address and by the value of a header.

use core::net::IpAddr;
use std::collections::BinaryHeap;

use crate::lookup::{Lookup, trim_blanks};
use crate::network::Networks;

/// A list of clients.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AccessList {
    /// By address.
    pub(crate) addresses: Networks,
    /// By header.
    pub(crate) headers: Vec<HeaderValues>,
}

/// Values of one header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeaderValues {
    /// The header, lower case.
    name: String,
    /// The values, sorted: one is found in fourteen comparisons among ten thousand.
    values: Vec<String>,
}

/// What of a request stands in a list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Entry<'l> {
    /// The client's address.
    Address,
    /// The value of this header.
    Header(&'l str),
}

impl AccessList {
    /// What of a request stands here, asking the host for no more than the list has. `address` is the client's, whole.
    ///
    /// With `parts`, so does a header whose value is a list of which one item stands here: a value that is to be
    /// refused must not pass by being sent along with another.
    pub(crate) fn find<'a>(
        &'a self,
        request: &Lookup<'a>,
        address: impl FnOnce() -> Option<IpAddr>,
        parts: bool,
    ) -> Option<Entry<'a>> {
        if !self.addresses.is_empty() && address().is_some_and(|address| self.addresses.contain(address)) {
            return Some(Entry::Address);
        }
        let header = self.headers.iter().find(|header| {
            let Some(value) = request.header(&header.name) else { return false };
            header.has(value) || (parts && value.split(|&byte| byte == b',').any(|item| header.has(trim_blanks(item))))
        });
        header.map(|header| Entry::Header(&header.name))
    }
}

impl HeaderValues {
    /// These values, in any order, of the header `name`.
    pub(crate) fn new(name: &str, values: impl IntoIterator<Item = String>) -> Self {
        // A heap sorts in little code; the filter has no other use for a sort.
        let mut values = values.into_iter().collect::<BinaryHeap<_>>().into_sorted_vec();
        values.dedup();
        values.shrink_to_fit();
        Self { name: name.to_ascii_lowercase(), values }
    }

    fn has(&self, value: &[u8]) -> bool {
        self.values.binary_search_by(|known| known.as_bytes().cmp(value)).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lookup::recorded::Recorded;
    use crate::network::Network;
    use proptest::prelude::*;

    fn list(networks: &[&str], headers: &[(&str, &[&str])]) -> AccessList {
        let values =
            |(name, values): &(&str, &[&str])| HeaderValues::new(name, values.iter().map(|value| (*value).to_owned()));
        AccessList {
            addresses: Networks::new(networks.iter().map(|network| Network::parse(network).unwrap())),
            headers: headers.iter().map(values).collect(),
        }
    }

    #[test]
    fn a_client_is_found_by_its_address_or_by_a_header() {
        let list = list(&["10.0.0.0/8"], &[("X-Api-Key", &["b", "a"]), ("x-team", &["red"])]);
        let found = |request: &Recorded, address: &str, parts| {
            let request = Lookup::new(request);
            list.find(&request, || address.parse().ok(), parts).map(|entry| format!("{entry:?}"))
        };
        let plain = Recorded::get("/");
        assert_eq!(found(&plain, "10.1.2.3", false).as_deref(), Some("Address"));
        assert_eq!(found(&plain, "192.0.2.1", false), None);
        assert_eq!(found(&plain, "", false), None);
        for (value, whole, parts) in
            [("a", true, true), ("A", false, false), ("x,b ,y", false, true), ("ab", false, false)]
        {
            let request = Recorded::get("/").with("x-api-key", value);
            let entry = Some("Header(\"x-api-key\")");
            assert_eq!(found(&request, "", false).as_deref(), entry.filter(|_| whole), "{value}");
            assert_eq!(found(&request, "", true).as_deref(), entry.filter(|_| parts), "{value}");
        }
    }

    #[test]
    fn an_empty_list_asks_for_nothing() {
        let request = Recorded::get("/");
        let request = Lookup::new(&request);
        assert_eq!(AccessList::default().find(&request, || unreachable!("no address is needed"), true), None);
    }

    proptest! {
        #[test]
        fn values_are_found_as_by_asking_each(
            values in prop::collection::vec("[a-c]{1,3}", 0..40),
            asked in prop::collection::vec("[a-d]{0,4}", 1..40),
        ) {
            let list = HeaderValues::new("x", values.iter().cloned());
            for value in asked {
                prop_assert_eq!(list.has(value.as_bytes()), values.contains(&value));
            }
        }
    }
}
