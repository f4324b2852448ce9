//! Reads the document's mode with its settings, and its deny and allow lists.

use super::document::{self, Document};
use super::hint::hint;
use super::shapes::Text;
use super::value::{Value, View};
use super::{Match, PathGlob, TierIndex};
use crate::access::{AccessList, HeaderValues};
use crate::api_key::ApiKeys;
use crate::mode::{Maintenance, Mode, ModeWord};
use crate::network::{Network, Networks, NotANetwork};

/// The mode that the document names, or `instead` if given. The settings of all modes are checked, whichever is in
/// force.
pub(super) fn mode(document: View<'_, Document>, instead: Option<ModeWord>) -> Option<Mode> {
    let maintenance = document.maintenance().and_then(maintenance);
    let (strict, maintenance) = (strict(document)?, maintenance?);
    let said = document.mode()?;
    Some(match instead.unwrap_or(said) {
        ModeWord::Enforce => Mode::Enforce,
        ModeWord::Observe => Mode::Observe,
        ModeWord::Strict => Mode::Strict(strict),
        ModeWord::Maintenance => Mode::Maintenance(maintenance),
    })
}

/// The share of each quota that the mode `strict` leaves, in percent.
pub(super) fn strict(document: View<'_, Document>) -> Option<u8> {
    u8::try_from(document.strict()?.factor_percent()?).ok()
}

fn maintenance(document: View<'_, document::Maintenance>) -> Option<Maintenance> {
    let at_path = |path: &PathGlob| Match { path: Some(path.clone()), ..Match::default() };
    let content_type = document.content_type()?.to_owned();
    Some(Maintenance {
        status: u16::try_from(document.status()?).ok()?,
        retry_after: document.retry_after()?,
        page: document.body()?.map(|body| (content_type, body.to_owned())),
        allow_paths: document.allow_paths()?.known().map(at_path).collect(),
        allow_addresses: Networks::new(document.allow_addresses()?.known().copied()),
    })
}

/// A list of clients. A header's name in two spellings gives two lists of values, and a client may be on either.
pub(super) fn list(document: View<'_, document::AccessList>) -> Option<AccessList> {
    let mut headers = Vec::new();
    for (name, values) in document.headers()?.iter() {
        headers.push(HeaderValues::new(name, values?.known().map(str::to_owned)));
    }
    // Lists of clients do not use the tier.
    let api_keys = document.api_keys()?.known().map(|key| (*key, TierIndex::default()));
    Some(AccessList {
        addresses: Networks::new(document.addresses()?.known().copied()),
        api_keys: ApiKeys::new(api_keys),
        headers,
    })
}

/// A header's value, compared literally.
pub(super) enum HeaderValue {}

impl Text for HeaderValue {
    const WHAT: &str = "a header's value";
    const PATTERN: Option<&str> = Some(r"^(?![ ])[^\x00-\x1f\x7f-\x9f]+$(?<![ ])");
    const CHARS: (u32, u32) = (1, 1_024);
    const HINT: &str = "write the value without spaces around it; a \"*\" stands for itself here";

    type Parsed = str;

    fn parse(text: &str) -> Result<Value, Option<String>> {
        let right = text.trim_matches(' ') == text && !text.chars().any(char::is_control);
        right.then(|| Value::Text(text.to_owned())).ok_or(None)
    }
}

impl Text for Network {
    const WHAT: &str = "an address or a network";
    const PATTERN: Option<&str> = Some("^[0-9A-Fa-f:.]+(/[0-9]{1,3})?$");
    const CHARS: (u32, u32) = (2, 49);
    const HINT: &str = "write an address or a network, as in \"192.0.2.7\", \"10.0.0.0/8\" or \"2001:db8::/32\"";

    type Parsed = Self;

    fn parse(text: &str) -> Result<Value, Option<String>> {
        Self::parse(text).map(Value::Network).map_err(|error| match error {
            NotANetwork::Address => None,
            NotANetwork::Prefix(longest) => {
                hint(|| ["write a prefix length from 0 to ", &longest.to_string(), " after the slash"].concat())
            }
            NotANetwork::HostBits(network) => hint(|| {
                let address = text.split('/').next().unwrap_or_default();
                let network = network.to_string();
                ["write \"", &network, "\" for the whole network, or \"", address, "\" for the one address"].concat()
            }),
        })
    }
}
