//! Lists of clients, which meet no limits or are refused: by address, by API key and by the value of a header.

use crate::api_key::ApiKeys;
use crate::key::Client;
use crate::lookup::trim_blanks;
use crate::network::Networks;
use crate::sorted::{find, sorted};

/// A list of clients.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AccessList {
    pub(crate) addresses: Networks,
    pub(crate) api_keys: ApiKeys,
    pub(crate) headers: Vec<HeaderValues>,
}

/// Values of one header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeaderValues {
    /// The header, lower case.
    name: String,
    /// The values, sorted.
    values: Vec<String>,
}

/// The part of a request that is on a list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Entry<'l> {
    /// The client's address.
    Address,
    /// The API key.
    ApiKey,
    /// The value of this header.
    Header(&'l str),
}

impl AccessList {
    /// Whether the list is empty.
    #[must_use]
    pub(crate) fn is_empty(&self) -> bool {
        self.addresses.is_empty() && self.api_keys.is_empty() && self.headers.is_empty()
    }

    /// Finds the part of a client's request that is on the list. Asks the host for nothing that the list does not need.
    ///
    /// With `parts`, a header also counts if its value is a comma-separated list with one item on this list: a refused
    /// value must not pass by being sent together with another.
    pub(crate) fn find<'a>(&'a self, client: &Client<'_, 'a>, parts: bool) -> Option<Entry<'a>> {
        if !self.addresses.is_empty() && client.ip().is_some_and(|address| self.addresses.contain(address)) {
            return Some(Entry::Address);
        }
        let of_client = || client.api_key().and_then(|key| self.api_keys.tier(key)).is_some();
        let in_list = || parts && client.api_key_header().is_some_and(|value| self.api_keys.contains_item_of(value));
        if !self.api_keys.is_empty() && (of_client() || in_list()) {
            return Some(Entry::ApiKey);
        }
        let request = client.request();
        let header = self.headers.iter().find(|header| {
            let Some(value) = request.header(&header.name) else { return false };
            header.has(value) || (parts && value.split(|&byte| byte == b',').any(|item| header.has(trim_blanks(item))))
        });
        header.map(|header| Entry::Header(&header.name))
    }

    /// The headers of which a value is on both lists.
    pub(crate) fn headers_shared_with(&self, other: &Self) -> impl Iterator<Item = &str> {
        let is_in = |header: &&HeaderValues| {
            let mut same = other.headers.iter().filter(|other| other.name == header.name);
            same.any(|other| header.values.iter().any(|value| other.has(value.as_bytes())))
        };
        self.headers.iter().filter(is_in).map(|header| header.name.as_str())
    }
}

impl HeaderValues {
    /// These values, in any order, of the header `name`.
    pub(crate) fn new(name: &str, values: impl IntoIterator<Item = String>) -> Self {
        Self { name: name.to_ascii_lowercase(), values: sorted(values) }
    }

    fn has(&self, value: &[u8]) -> bool {
        find(&self.values, value, String::as_bytes).is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api_key::Digest;
    use crate::lookup::Lookup;
    use crate::lookup::recorded::Recorded;
    use crate::network::Network;
    use crate::policy::{self, AddressSource, TierIndex};

    fn list(networks: &[&str], headers: &[(&str, &[&str])]) -> AccessList {
        let values =
            |(name, values): &(&str, &[&str])| HeaderValues::new(name, values.iter().map(|value| (*value).to_owned()));
        AccessList {
            addresses: Networks::new(networks.iter().map(|network| Network::parse(network).unwrap())),
            headers: headers.iter().map(values).collect(),
            api_keys: ApiKeys::default(),
        }
    }

    fn rules() -> policy::Client {
        policy::Client {
            address: AddressSource { header: None, ipv6_prefix: 64 },
            tier: None,
            default_tier: TierIndex::default(),
            claims_header: None,
            api_key_header: Some("x-api-key".to_owned()),
        }
    }

    #[test]
    fn a_client_is_found_by_its_address_or_by_a_header() {
        let list = list(&["10.0.0.0/8"], &[("X-Api-Key", &["b", "a"]), ("x-team", &["red"])]);
        let found = |request: &Recorded, address: &str, parts| {
            let request = request.clone().from(address);
            let (request, rules) = (Lookup::new(&request), rules());
            list.find(&Client::with_rules(&request, &rules, &[]), parts).map(|entry| format!("{entry:?}"))
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
        let (lookup, rules) = (Lookup::new(&request), rules());
        assert_eq!(AccessList::default().find(&Client::with_rules(&lookup, &rules, &[]), true), None);
        assert_eq!(request.asked(), [""; 0]);
    }

    #[test]
    fn a_client_is_found_by_the_hash_of_its_api_key() {
        let key = (Digest::of(b"k1").unwrap(), TierIndex::default());
        let list = AccessList { api_keys: ApiKeys::new([key]), ..AccessList::default() };
        let rules = rules();
        for (value, whole, parts) in
            [(" k1 ", true, true), ("K1", false, false), ("x,k1 ,y", false, true), ("", false, false)]
        {
            let request = Recorded::get("/").with("x-api-key", value);
            let lookup = Lookup::new(&request);
            let client = Client::with_rules(&lookup, &rules, &[]);
            assert_eq!(list.find(&client, false), Some(Entry::ApiKey).filter(|_| whole), "{value}");
            assert_eq!(list.find(&client, true), Some(Entry::ApiKey).filter(|_| parts), "{value}");
        }
    }
}
