//! The client's identity: a hash that distinguishes the clients of a limit.
//!
//! No string of a client is kept, only [`KeyHash`]es: SipHash-1-3 under a secret [`Seed`], over the identity of the
//! limit and the parts of its key. Each part is hashed with its tag and its length, so that two different lists of
//! parts never have the same bytes: `("ab", "c")` is not `("a", "bc")`, and an address is not a header with the same
//! text.
//!
//! If the request lacks a part, or the part is ambiguous (a cookie that is sent twice), the **whole key falls back to
//! the client's address**, in a hash domain of its own. So it never falls back to a counter that strangers share, and
//! never to none.

mod address;
mod claim;
mod cookie;
mod entries;
mod query;

pub use address::{Address, AddressFrom};

use core::cell::OnceCell;
use core::fmt;
use core::hash::Hasher;
use core::net::{IpAddr, Ipv4Addr};
use std::borrow::Cow;

use sha2::{Digest as _, Sha256};
use siphasher::sip::SipHasher13;

use crate::api_key::Digest;
use crate::lookup::Lookup;
use crate::policy::{self, Algorithm, KeyPart, Limit, Name, Policy, TierIndex, TierSource};
use crate::request::Locality;

/// The hash that stands for one client of one limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyHash(u64);

impl KeyHash {
    /// A hash made elsewhere.
    #[must_use]
    pub const fn from_bits(bits: u64) -> Self {
        Self(bits)
    }

    /// The bits.
    #[must_use]
    pub const fn get(self) -> u64 {
        self.0
    }

    /// The key of an entry kept beside the client's account: on the same page, with the search beginning in the same
    /// group, but with another tag.
    #[must_use]
    pub const fn companion(self, of: Companion) -> Self {
        Self(self.0 ^ (of as u32 as u64))
    }
}

/// The entries that may be kept beside a client's account. The numbers change the tag of a key, its 32 lowest bits.
/// Like any tag, the result equals another client's with a chance of one in 2^32.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Companion {
    /// The number of its refusals, or the end of its ban.
    Ban = 0x9e37_79b9,
    /// The permits that it was charged for refused requests.
    Penalty = 0x85eb_ca6b,
    /// An adaptive limit's estimate of how many requests may be in flight.
    Estimate = 0xc2b2_ae35,
    /// The samples for the next estimate.
    Samples = 0x27d4_eb2f,
    /// The samples of requests that began while few were in flight, if the limit only observes.
    Quiet = 0x1656_67b1,
    /// The requests in flight that a limit would have refused, but only observes.
    Beyond = 0xd3a2_646d,
}

/// The secret key of the hashes, from the system's random source. Whoever knows it can choose keys that collide.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Seed([u64; 2]);

impl Seed {
    /// A seed of these random bits.
    #[must_use]
    pub const fn new(bits: [u64; 2]) -> Self {
        Self(bits)
    }

    /// A seed of these random bytes.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 16]) -> Self {
        let bits = u128::from_le_bytes(bytes);
        Self([bits as u64, (bits >> 64) as u64])
    }

    /// The seed of the keys that instances share, so that all of them know a client by the same key. It is derived from
    /// a secret that they already share and outsiders do not know, such as the token of their store. Without a secret
    /// it is always the same; anyone who reads this can then choose keys that collide in the store, and nothing else.
    #[must_use]
    pub fn shared(secret: &[u8]) -> Self {
        let digest = Sha256::new().chain_update(b"tidegate: the seed of shared keys\0").chain_update(secret).finalize();
        let mut bytes = [0; 16];
        bytes.iter_mut().zip(digest).for_each(|(byte, of)| *byte = of);
        Self::from_bytes(bytes)
    }

    /// The key under which this instance keeps what it knows of a shared key.
    pub(crate) fn rekey(self, shared: KeyHash) -> KeyHash {
        KeyHash(self.hasher_of(DOMAIN_SHARED, shared.0).finish())
    }

    /// The key of the breaker with this identity. An empty identity gives the key under which all of them are kept.
    pub(crate) fn breaker(self, identity: &str) -> KeyHash {
        let mut hasher = self.hasher(DOMAIN_BREAKER);
        hasher.write(identity.as_bytes());
        KeyHash(hasher.finish())
    }

    pub(crate) fn hasher(self, domain: u8) -> SipHasher13 {
        let mut hasher = SipHasher13::new_with_keys(self.0[0], self.0[1]);
        hasher.write_u8(domain);
        hasher
    }

    /// A hasher that has been given the domain and a number.
    fn hasher_of(self, domain: u8, number: u64) -> SipHasher13 {
        let mut hasher = self.hasher(domain);
        hasher.write_u64(number);
        hasher
    }
}

/// Hides the bits, which are secret.
impl fmt::Debug for Seed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Seed(..)")
    }
}

/// The keys of one quota: all that its clients' keys have in common is hashed in advance.
#[derive(Clone, Debug)]
pub struct Keys {
    seed: Seed,
    identity: u64,
    /// Has been given everything but the address that an IPv4 client's key ends with.
    of_ipv4: SipHasher13,
}

impl Keys {
    /// The keys of a quota with this `identity` (see [`identity`]).
    #[must_use]
    pub fn new(seed: Seed, identity: u64) -> Self {
        let mut of_ipv4 = seed.hasher_of(DOMAIN_KEY, identity);
        write_kind(&mut of_ipv4, TAG_ADDRESS, 4);
        Self { seed, identity, of_ipv4 }
    }

    /// The quota's identity.
    #[must_use]
    pub const fn identity(&self) -> u64 {
        self.identity
    }

    /// The key of the client at this IPv4 address, if the limit's key is the address alone. It is the most common kind,
    /// and the same that [`Client::key`] makes. The address is hashed as a word, which never lies in memory: bytes that
    /// are written there one by one, and read back as a word, wait until all writes before them are done.
    #[must_use]
    pub fn of_ipv4(&self, address: Ipv4Addr) -> KeyHash {
        let mut hasher = self.of_ipv4;
        hasher.write_u32(u32::from_le_bytes(address.octets()));
        KeyHash(hasher.finish())
    }

    /// The key under which the quota counts all requests together, or all of the tier with this name. It equals any
    /// client's key for the empty key, or for the key `tier`.
    #[must_use]
    pub(crate) fn of_all(&self, tier: Option<&str>) -> KeyHash {
        let mut hasher = self.seed.hasher_of(DOMAIN_KEY, self.identity);
        if let Some(tier) = tier {
            write(&mut hasher, TAG_TIER, tier.as_bytes());
        }
        KeyHash(hasher.finish())
    }
}

/// Identifies a limit across policies: a hash of its name, key and algorithm, and for a concurrency limit of its lease.
/// A new policy keeps the counts of limits for which these are unchanged. Each quota of a limit has an identity of its
/// own, by its `place` from 0; the first quota's is that of a limit with one quota.
#[must_use]
pub fn identity(limit: &Limit, place: u8) -> u64 {
    // Not keyed: it must be the same in every instance, and the author of a policy has nothing to gain from a
    // collision.
    let mut hasher = Seed([0, 0]).hasher(DOMAIN_IDENTITY);
    write(&mut hasher, 0, limit.name.as_str().as_bytes());
    let algorithm = match limit.algorithm {
        Algorithm::SlidingWindow => 1,
        Algorithm::TokenBucket => 2,
        Algorithm::FixedWindow => 3,
        Algorithm::Concurrency => 4,
    };
    hasher.write(&[algorithm]);
    // Permits are counted in epochs of half a lease. With another lease, the same epochs would mean other times.
    if let (Algorithm::Concurrency, Some(quota)) = (limit.algorithm, limit.quotas.iter().flatten().next()) {
        hasher.write(&quota.window.as_nanos().to_le_bytes());
    }
    if place > 0 {
        write(&mut hasher, TAG_PLACE, &[place]);
    }
    for part in &limit.key {
        let (tag, name) = match part {
            KeyPart::Address => (TAG_ADDRESS, ""),
            KeyPart::Header(name) => (TAG_HEADER, name.as_str()),
            KeyPart::Cookie(name) => (TAG_COOKIE, name.as_str()),
            KeyPart::Query(name) => (TAG_QUERY, name.as_str()),
            KeyPart::Claim(name) => (TAG_CLAIM_TEXT, name.as_str()),
            KeyPart::Path => (TAG_PATH, ""),
            KeyPart::Method => (TAG_METHOD, ""),
            KeyPart::Host => (TAG_HOST, ""),
            KeyPart::Tier => (TAG_TIER, ""),
            KeyPart::Locality(kind) => (tag_of(*kind), ""),
        };
        write(&mut hasher, tag, name.as_bytes());
    }
    hasher.finish()
}

/// The partition key that a client sees (`pk` of the `RateLimit` field). It is the same for the same key, and reveals
/// neither the key's hash nor its place in a table.
#[must_use]
pub fn partition(seed: Seed, key: KeyHash) -> [u8; 8] {
    seed.hasher_of(DOMAIN_PARTITION, key.0).finish().to_be_bytes()
}

/// The client of one request. Its address, tier and claims are determined once, when they are first needed.
pub struct Client<'r, 'a> {
    request: &'r Lookup<'a>,
    rules: &'a policy::Client,
    tiers: &'a [Name],
    address: OnceCell<(Option<IpAddr>, AddressFrom)>,
    tier: OnceCell<TierIndex>,
    claims: OnceCell<Option<Vec<u8>>>,
    api_key: OnceCell<Option<Digest>>,
}

/// The value of a key part that the request has.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Value<'v> {
    /// The client's address.
    Address,
    /// Anything else: a tag that distinguishes kinds of parts with the same text, and the text.
    Text(u8, Cow<'v, [u8]>),
}

impl<'r, 'a> Client<'r, 'a> {
    /// The client of `request`, by the rules of `policy`.
    #[must_use]
    pub fn new(request: &'r Lookup<'a>, policy: &'a Policy) -> Self {
        Self::with_rules(request, &policy.client, &policy.tiers)
    }

    pub(crate) fn with_rules(request: &'r Lookup<'a>, rules: &'a policy::Client, tiers: &'a [Name]) -> Self {
        let (address, tier, claims) = (OnceCell::new(), OnceCell::new(), OnceCell::new());
        Self { request, rules, tiers, address, tier, claims, api_key: OnceCell::new() }
    }

    /// The request.
    #[must_use]
    pub fn request(&self) -> &'r Lookup<'a> {
        self.request
    }

    /// The client's address, and where it was found.
    #[must_use]
    pub fn address(&self) -> (Address, AddressFrom) {
        let (address, from) = self.located();
        (address::client(address, self.request, self.rules.address.ipv6_prefix), from)
    }

    /// The client's whole address, if it has one.
    #[must_use]
    pub fn ip(&self) -> Option<IpAddr> {
        self.located().0
    }

    fn located(&self) -> (Option<IpAddr>, AddressFrom) {
        *self.address.get_or_init(|| address::find(self.request, &self.rules.address))
    }

    /// The unparsed value of the header that carries the API key.
    #[must_use]
    pub fn api_key_header(&self) -> Option<&'r [u8]> {
        self.request.header(self.rules.api_key_header.as_ref()?)
    }

    /// The hash of the client's API key, if it has sent one.
    #[must_use]
    pub fn api_key(&self) -> Option<Digest> {
        *self.api_key.get_or_init(|| Digest::of(self.api_key_header()?))
    }

    /// The client's tier: named by a header or claim, or assigned to its API key. The policy's default if there is no
    /// such tier.
    #[must_use]
    pub fn tier(&self) -> TierIndex {
        *self.tier.get_or_init(|| self.named_tier().unwrap_or(self.rules.default_tier))
    }

    /// The client's key among those of a quota. It consists of these parts.
    #[must_use]
    pub fn key(&self, keys: &Keys, parts: &'a [KeyPart]) -> KeyHash {
        if let ([KeyPart::Address], Address::V4(address)) = (parts, self.address().0) {
            return keys.of_ipv4(address);
        }
        let whole = self.hash(keys, DOMAIN_KEY, parts);
        let hash = whole.or_else(|| self.hash(keys, DOMAIN_FALLBACK, &[KeyPart::Address]));
        // There is always a hash, because an address is never absent: an unknown address has a hash too.
        KeyHash(hash.unwrap_or(keys.identity))
    }

    /// The first of `parts` that the request lacks, which makes the key fall back to the address.
    #[must_use]
    pub fn missing(&self, parts: &'a [KeyPart]) -> Option<&'a KeyPart> {
        parts.iter().find(|part| self.value(part).is_none())
    }

    /// The value of one part; `None` if the request lacks it.
    pub(crate) fn value(&self, part: &'a KeyPart) -> Option<Value<'_>> {
        let (tag, text) = match part {
            KeyPart::Address => return Some(Value::Address),
            KeyPart::Header(name) => (TAG_HEADER, Cow::Borrowed(self.request.header(name)?)),
            KeyPart::Cookie(name) => (TAG_COOKIE, Cow::Borrowed(cookie::find(self.request.header("cookie")?, name)?)),
            KeyPart::Query(name) => (TAG_QUERY, query::find(self.request.query()?, name)?),
            KeyPart::Claim(name) => match claim::find(self.claims()?, name)? {
                claim::Scalar::Text(text) => (TAG_CLAIM_TEXT, Cow::Owned(text.into_bytes())),
                claim::Scalar::Other(text) => (TAG_CLAIM_OTHER, Cow::Owned(text.into_bytes())),
            },
            KeyPart::Path => (TAG_PATH, Cow::Borrowed(self.request.path())),
            KeyPart::Method => (TAG_METHOD, Cow::Borrowed(self.request.method())),
            KeyPart::Host => (TAG_HOST, Cow::Borrowed(self.request.host())),
            // The name, not the index, so that the counts survive a reordering of the tiers.
            KeyPart::Tier => return Some(Value::Text(TAG_TIER, Cow::Borrowed(self.tier_name()))),
            KeyPart::Locality(kind) => (tag_of(*kind), Cow::Borrowed(self.request.locality(*kind)?)),
        };
        // An empty value distinguishes no client, so it counts as absent.
        (!text.is_empty()).then_some(Value::Text(tag, text))
    }

    fn hash(&self, keys: &Keys, domain: u8, parts: &'a [KeyPart]) -> Option<u64> {
        let mut hasher = keys.seed.hasher_of(domain, keys.identity);
        for part in parts {
            match self.value(part)? {
                Value::Address => self.write_address(&mut hasher),
                Value::Text(tag, text) => write(&mut hasher, tag, &text),
            }
        }
        Some(hasher.finish())
    }

    fn write_address(&self, hasher: &mut SipHasher13) {
        match self.address().0 {
            Address::V4(address) => write(hasher, TAG_ADDRESS, &address.octets()),
            Address::V6(address) => write(hasher, TAG_ADDRESS, &address.octets()),
            Address::Peer => write(hasher, TAG_PEER, self.request.peer().unwrap_or_default()),
            Address::Unknown => write(hasher, TAG_UNKNOWN, b""),
        }
    }

    /// The claim with this name, if it is a string.
    pub(crate) fn claim_text(&self, name: &str) -> Option<String> {
        match claim::find(self.claims()?, name)? {
            claim::Scalar::Text(text) => Some(text),
            claim::Scalar::Other(_) => None,
        }
    }

    fn named_tier(&self) -> Option<TierIndex> {
        match self.rules.tier.as_ref()? {
            TierSource::Header(header) => self.tier_of(self.request.header(header)?),
            TierSource::Claim(claim) => self.tier_of(self.claim_text(claim)?.as_bytes()),
            TierSource::ApiKeys(keys) => keys.tier(self.api_key()?),
        }
    }

    fn tier_of(&self, name: &[u8]) -> Option<TierIndex> {
        TierIndex::new(self.tiers.iter().position(|tier| tier.as_str().as_bytes() == name)?)
    }

    fn tier_name(&self) -> &'a [u8] {
        self.tiers.get(usize::from(self.tier().0)).map_or(b"", |tier| tier.as_str().as_bytes())
    }

    fn claims(&self) -> Option<&[u8]> {
        let decode = || claim::decode(self.request.header(self.rules.claims_header.as_ref()?)?);
        self.claims.get_or_init(decode).as_deref()
    }
}

/// The decoded value of the parameter `name` of a query; `None` if it is absent, empty or given twice.
pub(crate) fn query_value<'q>(query: &'q [u8], name: &str) -> Option<Cow<'q, [u8]>> {
    query::find(query, name)
}

/// Hashes one part: its tag, its length and its bytes.
pub(crate) fn write(hasher: &mut SipHasher13, tag: u8, bytes: &[u8]) {
    write_kind(hasher, tag, bytes.len());
    hasher.write(bytes);
}

/// What comes before the bytes of a part: its tag and its length.
fn write_kind(hasher: &mut SipHasher13, tag: u8, length: usize) {
    hasher.write_u8(tag);
    hasher.write_u64(length as u64);
}

const fn tag_of(locality: Locality) -> u8 {
    match locality {
        Locality::Country => TAG_COUNTRY,
        Locality::Region => TAG_REGION,
        Locality::Colo => TAG_COLO,
    }
}

/// The purpose of a hash: the first byte that is hashed.
const DOMAIN_IDENTITY: u8 = 1;
const DOMAIN_KEY: u8 = 2;
const DOMAIN_FALLBACK: u8 = 3;
const DOMAIN_PARTITION: u8 = 4;
const DOMAIN_SHARED: u8 = 5;
const DOMAIN_BREAKER: u8 = 6;
// 20 to 22 belong to `stale`.

/// The kind of a part. These numbers enter every key that is counted: a new kind needs a new number.
const TAG_ADDRESS: u8 = 1;
const TAG_PEER: u8 = 2;
const TAG_UNKNOWN: u8 = 3;
const TAG_HEADER: u8 = 4;
const TAG_COOKIE: u8 = 5;
const TAG_QUERY: u8 = 6;
const TAG_CLAIM_TEXT: u8 = 7;
const TAG_CLAIM_OTHER: u8 = 8;
const TAG_PATH: u8 = 9;
const TAG_METHOD: u8 = 10;
const TAG_HOST: u8 = 11;
const TAG_TIER: u8 = 12;
const TAG_COUNTRY: u8 = 13;
const TAG_PLACE: u8 = 14;
const TAG_REGION: u8 = 15;
const TAG_COLO: u8 = 16;

#[cfg(test)]
mod tests;
