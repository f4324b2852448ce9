//! Reads how clients are identified, and checks that no client can forge what the policy relies on.

use super::document::{self, Document};
use super::error::{Path, Problems};
use super::json::quoted;
use super::parse::unknown;
use super::shapes::{OneOf, Text};
use super::value::{Items, Value, View};
use super::{AddressSource, Client, Name, TierIndex, TierSource};
use crate::api_key::{ApiKeys, Digest};

/// Reads how the client of a request is identified.
pub(super) fn client(
    document: View<'_, document::Client>,
    tiers: Option<&[Name]>,
    at: &Path<'_>,
    problems: &mut Problems,
) -> Option<Client> {
    let address = document.address().and_then(|it| address(it, &at.field("address"), problems));
    let trusted = Trusted::of(document);
    let claims = document.claims()?;
    if let Some(Some(header)) = claims.map(View::<document::Claims>::header) {
        trusted.expect(header, &at.field("claims").field("header"), problems);
    }
    let tier = document.tier()?;
    let source = tier.map_or(Some(None), |tier| source(tier, document, tiers, &at.field("tier"), problems));
    let default_tier = match (tier.map_or(Some(None), View::<document::Tier>::default)?, tiers) {
        (Some(name), Some(tiers)) if !tiers.is_empty() => {
            tier_index(name, tiers, &at.field("tier").field("default"), problems).unwrap_or_default()
        }
        _ => TierIndex::default(),
    };
    let lower = |header: Option<&str>| header.map(str::to_ascii_lowercase);
    Some(Client {
        address: address?,
        tier: source?,
        default_tier,
        claims_header: lower(claims.map_or(Some(None), |claims| claims.header().map(Some))?),
        api_key_header: lower(document.api_key()?.map_or(Some(None), |api_key| api_key.header().map(Some))?),
    })
}

/// Where to find the client's tier.
fn source(
    tier: View<'_, document::Tier>,
    client: View<'_, document::Client>,
    tiers: Option<&[Name]>,
    at: &Path<'_>,
    problems: &mut Problems,
) -> Option<Option<TierSource>> {
    expect_tiers(tiers, at, problems);
    let (header, claim, api_keys) = (tier.header(), tier.claim(), tier.api_keys());
    let there = [
        ("header", matches!(header, Some(Some(_)))),
        ("claim", matches!(claim, Some(Some(_)))),
        ("api_keys", matches!(api_keys, Some(Some(_)))),
    ];
    let mut there = there.into_iter().filter_map(|(field, is_there)| is_there.then_some(field));
    if let (Some(first), Some(second)) = (there.next(), there.next()) {
        let problem = &["there is ", &quoted(first), " already"];
        problems.report(&at.field(second), problem, &["remove one of the two"]);
    }
    if let Some(Some(header)) = header {
        Trusted::of(client).expect(header, &at.field("header"), problems);
    }
    if matches!((claim, client.claims()), (Some(Some(_)), Some(None))) {
        no_claims(&at.field("claim"), problems);
    }
    let api_keys = match api_keys {
        Some(Some(entries)) => {
            let at = at.field("api_keys");
            expect_api_key(client, &at, problems);
            let mut keys = Vec::new();
            for (digest, name) in entries.iter() {
                let tiers = tiers.filter(|tiers| !tiers.is_empty());
                let index = name.zip(tiers).and_then(|(name, tiers)| {
                    let index = tiers.iter().position(|tier| tier == name).and_then(TierIndex::new);
                    index.or_else(|| tier_index(name, tiers, &at.field(&digest.to_string()), problems))
                });
                keys.push(index.map(|index| (*digest, index)));
            }
            Some(keys.into_iter().collect::<Option<Vec<_>>>()?)
        }
        Some(None) => None,
        None => return None,
    };
    Some(match (header?, claim?, api_keys) {
        (Some(header), ..) => Some(TierSource::Header(header.to_ascii_lowercase())),
        (None, Some(claim), _) => Some(TierSource::Claim(claim.to_owned())),
        (None, None, api_keys) => api_keys.map(|keys| TierSource::ApiKeys(ApiKeys::new(keys))),
    })
}

/// The headers that no client can set: `trusted_headers`. `None` if the list could not be read.
pub(super) struct Trusted<'v>(Option<Items<'v, super::text::HeaderName>>);

impl<'v> Trusted<'v> {
    /// The headers that the document lists.
    pub(super) fn of(client: View<'v, document::Client>) -> Self {
        Self(client.trusted_headers())
    }

    /// Reports a header that must be trusted and is not listed.
    pub(super) fn expect(&self, header: &str, at: &Path<'_>, problems: &mut Problems) {
        // If the list, or one of its items, could not be read, the header may be in it.
        let Some(trusted) = &self.0 else { return };
        if trusted.iter().any(|name| name.is_none_or(|name| name.eq_ignore_ascii_case(header))) {
            return;
        }
        let header = quoted(&header.to_ascii_lowercase());
        let problem = &["the header ", &header, " is whatever the client sends"];
        let hint = "if a proxy of your own sets it on every request and drops what clients send, say so in \"client\": {\"trusted_headers\": [";
        problems.report(at, problem, &[hint, &header, "]}"]);
    }

    /// Reports a cost in a request header that clients can set.
    pub(super) fn expect_cost(&self, limit: View<'_, document::Limit>, at: &Path<'_>, problems: &mut Problems) {
        if let Some(OneOf::Second(cost)) = limit.cost()
            && let Some(Some(header)) = cost.request_header()
        {
            self.expect(header, &at.field("cost").field("request_header"), problems);
        }
    }
}

/// Reports a use of claims in a policy that does not say where to find them.
pub(super) fn no_claims(at: &Path<'_>, problems: &mut Problems) {
    problems.report(
        at,
        &["the policy does not say where claims stand"],
        &["name the header with the verified JWT payload in \"client\": {\"claims\": {\"header\": \"...\"}}"],
    );
}

/// Reports a use of API keys in a policy that does not say where to find them.
fn expect_api_key(client: View<'_, document::Client>, at: &Path<'_>, problems: &mut Problems) {
    if matches!(client.api_key(), Some(None)) {
        problems.report(
            at,
            &["the policy does not say where API keys stand"],
            &["name their header in \"client\": {\"api_key\": {\"header\": \"...\"}}"],
        );
    }
}

/// Reports API keys on `deny` or `allow` in a policy that does not say where to find them.
pub(super) fn expect_api_keys_of_lists(document: View<'_, Document>, problems: &mut Problems) {
    let Some(client) = document.client() else { return };
    for (name, list) in [("deny", document.deny()), ("allow", document.allow())] {
        if list.and_then(View::<document::AccessList>::api_keys).is_some_and(|keys| !keys.is_empty()) {
            expect_api_key(client, &Path::Root.field(name).field("api_keys"), problems);
        }
    }
}

fn address(document: View<'_, document::Address>, at: &Path<'_>, problems: &mut Problems) -> Option<AddressSource> {
    let header = match (document.header()?, document.trusted_hops()?) {
        (Some(header), Some(hops)) if hops > 0 => Some((header.to_ascii_lowercase(), u8::try_from(hops).ok()?)),
        (Some(_), None) => {
            problems.report(
                &at.field("trusted_hops"),
                &["a header without trusted hops would be whatever the client wrote"],
                &["write how many proxies of your own append to the header, 1 to 16, or 0 for the connection's address"],
            );
            None
        }
        (None, Some(hops)) if hops > 0 => {
            problems.report(
                &at.field("header"),
                &["trusted hops are counted in a header, and none is named"],
                &["write the header to which your proxies append, as in \"x-forwarded-for\""],
            );
            None
        }
        _ => None,
    };
    Some(AddressSource { header, ipv6_prefix: u8::try_from(document.ipv6_prefix()?).ok()? })
}

/// Reports a use of tiers in a policy that has none.
pub(super) fn expect_tiers(tiers: Option<&[Name]>, at: &Path<'_>, problems: &mut Problems) {
    if tiers.is_some_and(<[_]>::is_empty) {
        problems.report(at, &["the policy has no tiers"], &["name them in \"tiers\", or remove this"]);
    }
}

/// The tier with this name. Reports a name that does not exist.
pub(super) fn tier_index(name: &Name, tiers: &[Name], at: &Path<'_>, problems: &mut Problems) -> Option<TierIndex> {
    let index = tiers.iter().position(|tier| tier == name);
    if index.is_none() {
        let known: Vec<_> = tiers.iter().collect();
        unknown("tier", name, &known, at, problems);
    }
    index.and_then(|index| u8::try_from(index).ok()).map(TierIndex)
}

impl Text for Digest {
    const WHAT: &str = "a SHA-256 hash";
    const PATTERN: Option<&str> = Some("^[0-9a-f]{64}$");
    const CHARS: (u32, u32) = (64, 64);
    const HINT: &str = "write 64 lower-case hex digits, as `printf %s KEY | sha256sum` prints them";
    const SECRET: bool = true;

    type Parsed = Self;

    fn parse(text: &str) -> Result<Value, Option<String>> {
        Self::parse(text).map(Value::Digest).ok_or(None)
    }
}

/// The name of a claim, or the path to it: names separated by dots.
pub(super) enum ClaimName {}

impl Text for ClaimName {
    const WHAT: &str = "the name of a claim";
    const PATTERN: Option<&str> = Some(r"^[^\x00-\x20\x7f-\x9f]+$");
    const CHARS: (u32, u32) = (1, 128);
    const HINT: &str = "write a name without spaces, as in \"plan\" or \"org.plan\"";

    type Parsed = str;

    fn parse(text: &str) -> Result<Value, Option<String>> {
        let right = !text.contains(|c: char| c == ' ' || c.is_control());
        right.then(|| Value::Text(text.to_owned())).ok_or(None)
    }
}
