//! A key as text, for rate-limit services.

use super::{Address, Client, Value};
use crate::policy::KeyPart;
use crate::request::Locality;
use crate::store::rls::{ADDRESS_KEY, Descriptor};
use std::borrow::Cow;

impl<'a> Client<'_, 'a> {
    /// Adds an entry for each part of a limit's key, under the part's name in the policy. If the request lacks a part,
    /// adds only the address, which is the general fallback.
    pub(crate) fn describe(&self, parts: &'a [KeyPart], descriptor: &mut Descriptor) {
        let parts = if self.missing(parts).is_some() { &[KeyPart::Address] } else { parts };
        for part in parts {
            match self.value(part) {
                Some(Value::Text(_, value)) => descriptor.push(&name(part), &value),
                Some(Value::Address) | None => descriptor.push(ADDRESS_KEY, &self.address_text()),
            }
        }
    }

    fn address_text(&self) -> Cow<'_, [u8]> {
        match self.address().0 {
            Address::V4(address) => Cow::Owned(address.to_string().into_bytes()),
            Address::V6(address) => Cow::Owned(address.to_string().into_bytes()),
            Address::Peer => Cow::Borrowed(self.request.peer().unwrap_or_default()),
            Address::Unknown => Cow::Borrowed(b"unknown"),
        }
    }
}

fn name(part: &KeyPart) -> Cow<'static, str> {
    Cow::Borrowed(match part {
        KeyPart::Address => ADDRESS_KEY,
        KeyPart::Header(name) => return Cow::Owned(["header:", name].concat()),
        KeyPart::Cookie(name) => return Cow::Owned(["cookie:", name].concat()),
        KeyPart::Query(name) => return Cow::Owned(["query:", name].concat()),
        KeyPart::Claim(name) => return Cow::Owned(["claim:", name].concat()),
        KeyPart::Path => "path",
        KeyPart::Method => "method",
        KeyPart::Host => "host",
        KeyPart::Tier => "tier",
        KeyPart::Locality(Locality::Country) => "country",
        KeyPart::Locality(Locality::Region) => "region",
        KeyPart::Locality(Locality::Colo) => "colo",
    })
}
