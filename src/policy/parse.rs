//! From the document to the policy: the checks that concern more than one field.
//!
//! Every check runs on the fields that could be read, so one error does not hide others. A missing value has already
//! been reported when it was read; each `?` in this file only passes that on.

use super::access;
use super::all_or_none::AllOrNone;
use super::client::{Trusted, client, expect_api_keys_of_lists, expect_tiers, no_claims, tier_index};
use super::concurrency;
use super::cost::cost;
use super::delay::delays;
use super::document::{self, Document};
use super::error::{Path, PolicyErrors, Problems};
use super::health;
use super::json::{Node, quoted};
use super::nearest;
use super::quota;
use super::refusal;
use super::routing;
use super::schema::Declared as _;
use super::serving;
use super::shapes::OneOf;
use super::status;
use super::stores;
use super::value::{Items, View};
use super::{KeyPart, Limit, Match, Name, Policy, Priority, Response, TierSource};
use crate::mode::ModeWord;

/// Reads the text of a policy document. `mode`, if given, replaces the document's mode.
pub(super) fn policy(text: &str, mode: Option<ModeWord>) -> Result<Policy, PolicyErrors> {
    let node = Node::parse(text)?;
    let mut problems = Problems::default();
    duplicates(&node, &Path::Root, &mut problems);
    let document = Document::SHAPE.read(&node, &Path::Root, &mut problems);
    let policy = View::of(&document).and_then(|document| checked(document, mode, &mut problems));
    problems.or_errors(policy)
}

/// Reports every field that occurs twice in an object.
fn duplicates(node: &Node, at: &Path<'_>, problems: &mut Problems) {
    match node {
        Node::List(nodes) => {
            nodes.iter().enumerate().for_each(|(index, node)| duplicates(node, &at.item(index), problems));
        }
        Node::Object(fields) => {
            let mut seen: Vec<&str> = Vec::new();
            for (index, (name, node)) in fields.iter().enumerate() {
                // The names in `api_keys` may be API keys, written by mistake in place of their hashes.
                let is_hidden = matches!(at, Path::Field(_, "api_keys"));
                let (at, told) = if is_hidden { (at.item(index), "") } else { (at.field(name), name.as_str()) };
                match seen.binary_search(&name.as_str()) {
                    Ok(_) => {
                        let problem = &["the field ", &quoted(told), " appears twice"];
                        let hidden = &["this field appears twice"];
                        problems.report(&at, if is_hidden { hidden } else { &problem[..] }, &["remove one of them"]);
                    }
                    Err(place) if index < MAX_COMPARED => seen.insert(place, name),
                    Err(_) => {}
                }
                duplicates(node, &at, problems);
            }
        }
        _ => {}
    }
}

fn checked(document: View<'_, Document>, mode: Option<ModeWord>, problems: &mut Problems) -> Option<Policy> {
    let root = Path::Root;
    let routing = routing::routing(document, problems);
    let kept = serving::kept_bytes(document, problems);
    // If none of the tiers could be read, references to tiers cannot be checked.
    let tiers = document.tiers().filter(|set| set.is_empty() || set.known().next().is_some());
    let tiers: Option<Vec<Name>> = tiers.map(|set| set.known().cloned().collect());
    let claims = document.client().is_none_or(|client| !matches!(client.claims(), Some(None)));
    let client = document.client().and_then(|it| client(it, tiers.as_deref(), &root.field("client"), problems));
    let priorities = priorities(document, tiers.as_deref(), &root.field("priorities"), problems);
    let trusted = document.client().map(Trusted::of);
    let at = root.field("limits");
    let mut names = UniqueNames::default();
    let mut limits = AllOrNone::new();
    for (index, item) in document.limits()?.iter().enumerate() {
        let at = at.item(index);
        if let Some(name) = item.and_then(View::<document::Limit>::name) {
            names.add(name, index, &at.field("name"), problems);
        }
        if let (Some(item), Some(trusted)) = (item, &trusted) {
            trusted.expect_cost(item, &at, problems);
        }
        limits.add(item.and_then(|item| limit(item, document, tiers.as_deref(), claims, &at, problems)));
    }
    let (mode, strict) = (access::mode(document, mode), access::strict(document));
    expect_api_keys_of_lists(document, problems);
    let (deny, allow) = (document.deny().and_then(access::list), document.allow().and_then(access::list));
    let health = health::health(document, problems);
    let shedding = health::shedding(document, problems);
    let status = status::status(document, problems);
    let stores = stores::stores(document, problems);
    let response = document.response()?;
    let (client, mut routing) = (client?, routing?);
    if let Some(TierSource::Header(tier)) = &client.tier {
        routing.vary_by(tier);
    }
    Some(Policy {
        client,
        tiers: tiers?,
        priorities: priorities?,
        max_keys: document.state()?.max_keys()?,
        limits: limits.all()?,
        mode: mode?,
        strict: strict?,
        deny: deny?,
        allow: allow?,
        routing: routing.into(),
        kept: kept?,
        response: Response {
            ratelimit: response.ratelimit()?,
            x_ratelimit: response.x_ratelimit()?,
            x_tidegate: response.x_tidegate()?,
        },
        health: health?,
        shedding: shedding?,
        status: status?,
        stores: stores?,
        on_failure: document.on_failure()?,
    })
}

/// The priority of each tier; `None` for a tier without one.
fn priorities(
    document: View<'_, Document>,
    tiers: Option<&[Name]>,
    at: &Path<'_>,
    problems: &mut Problems,
) -> Option<Vec<Option<Priority>>> {
    let by_tier = document.priorities()?;
    let mut priorities = vec![None; tiers.map_or(0, <[_]>::len)];
    if !by_tier.is_empty() {
        expect_tiers(tiers, at, problems);
    }
    for (name, priority) in by_tier.iter() {
        let index = match tiers {
            Some(tiers) if !tiers.is_empty() => tier_index(name, tiers, &at.field(name.as_str()), problems),
            _ => None,
        };
        if let Some(place) = index.and_then(|index| priorities.get_mut(index.get())) {
            *place = priority;
        }
    }
    Some(priorities)
}

fn limit(
    document: View<'_, document::Limit>,
    whole: View<'_, Document>,
    tiers: Option<&[Name]>,
    claims: bool,
    at: &Path<'_>,
    problems: &mut Problems,
) -> Option<Limit> {
    let algorithm = document.algorithm();
    let matches = document.matches().and_then(|it| matches(it, &at.field("match"), problems));
    let key = document.key().map(|set| key(&set, tiers, claims, &at.field("key"), problems));
    let one = document.quota().flatten().and_then(|it| quota::one(it, algorithm, &at.field("quota"), problems));
    let several = document.quotas().flatten();
    let several = several.and_then(|it| quota::several(&it, algorithm, &at.field("quotas"), problems));
    let base = one.map(|quota| vec![quota]).or(several);
    let at_tiers = at.field("by_tier");
    let by_tier = document.by_tier()?;
    let mut quotas = vec![base; tiers.map_or(1, |tiers| tiers.len().max(1))];
    if !by_tier.is_empty() {
        expect_tiers(tiers, &at_tiers, problems);
    }
    for (name, item) in by_tier.iter() {
        let at = at_tiers.field(name.as_str());
        let index = match tiers {
            Some(tiers) if !tiers.is_empty() => tier_index(name, tiers, &at, problems),
            _ => None,
        };
        let of_tier = match item {
            Some(OneOf::First(item)) => quota::one(item, algorithm, &at, problems).map(|quota| vec![quota]),
            Some(OneOf::Second(items)) => quota::several(&items, algorithm, &at, problems),
            None => None,
        };
        if let Some(place) = index.and_then(|index| quotas.get_mut(usize::from(index.0))) {
            *place = of_tier;
        }
    }
    let cost = document.cost().and_then(|it| cost(it, &at.field("cost"), problems));
    if let Some(cost) = &cost {
        quota::check_cost(cost.least(), &quotas, &at.field("cost"), problems);
    }
    let lease = concurrency::check(document, algorithm, at, problems);
    let delays = delays(document, &quotas, at, problems);
    let penalty = refusal::penalty(document, cost.as_ref(), &quotas, &at.field("penalty"), problems);
    let ban = refusal::ban(document, key.as_deref(), &at.field("ban"), problems);
    let sharing = stores::sharing(document, &quotas, at, problems);
    let by_service = stores::by_service(document, whole, at, problems);
    Some(Limit {
        name: document.name()?.clone(),
        matches: matches?,
        key: key?,
        algorithm: algorithm?,
        quotas: concurrency::leased(quotas.into_iter().collect::<Option<_>>()?, lease?),
        cost: cost?,
        only_on: document.only_on()?.map(|answers| answers.known().copied().collect()).unwrap_or_default(),
        on_exceed: document.on_exceed()?,
        delays: delays?,
        priority: document.priority()?,
        penalty: penalty?,
        ban: ban?,
        on_store_failure: document.on_store_failure()?,
        sharing: sharing?,
        by_service: by_service?,
    })
}

fn key(
    parts: &Items<'_, KeyPart>,
    tiers: Option<&[Name]>,
    claims: bool,
    at: &Path<'_>,
    problems: &mut Problems,
) -> Vec<KeyPart> {
    for (index, part) in parts.iter().enumerate() {
        match part {
            Some(KeyPart::Claim(_)) if !claims => no_claims(&at.item(index), problems),
            Some(KeyPart::Tier) => expect_tiers(tiers, &at.item(index), problems),
            _ => {}
        }
    }
    parts.known().cloned().collect()
}

pub(super) fn matches(document: View<'_, document::Match>, at: &Path<'_>, problems: &mut Problems) -> Option<Match> {
    let at = at.field("headers");
    let mut headers: Vec<(String, Option<_>)> = Vec::new();
    for (name, condition) in document.headers()?.iter() {
        let lower = name.to_ascii_lowercase();
        if headers.iter().any(|(other, _)| *other == lower) {
            problems.report(
                &at.field(name),
                &["the header ", &quoted(&lower), " appears twice, in letters of different case"],
                &["remove one of them: the case of a header's name means nothing"],
            );
        }
        headers.push((lower, condition.cloned()));
    }
    Some(Match {
        path: document.path()?.cloned(),
        methods: document.methods()?.iter().flat_map(|set| set.known()).map(str::to_owned).collect(),
        hosts: document.hosts()?.iter().flat_map(|set| set.known()).cloned().collect(),
        headers: headers.into_iter().map(|(name, condition)| Some((name, condition?))).collect::<Option<_>>()?,
    })
}

/// The names of a list's items in order, each with the index of its item.
#[derive(Default)]
pub(super) struct UniqueNames<'v>(Vec<(&'v Name, usize)>);

impl<'v> UniqueNames<'v> {
    /// Adds the name of the item at `index`. Reports a name that an earlier item has.
    pub(super) fn add(&mut self, name: &'v Name, index: usize, at: &Path<'_>, problems: &mut Problems) {
        match self.0.binary_search_by(|(taken, _)| taken.as_str().cmp(name.as_str())) {
            Err(place) => self.0.insert(place, (name, index)),
            Ok(place) => {
                let first = self.0.get(place).map_or(0, |(_, first)| *first).to_string();
                let problem = &["item ", &first, " has the name ", &quoted(name.as_str()), " already"];
                problems.report(at, problem, &["give every item a name of its own"]);
            }
        }
    }
}

/// Reports a reference to a name that does not exist.
pub(super) fn unknown(what: &str, name: &Name, known: &[&Name], at: &Path<'_>, problems: &mut Problems) {
    if problems.is_full() {
        return;
    }
    let known: Vec<_> = known.iter().map(|name| name.as_str()).collect();
    let hint = match known.as_slice() {
        [] => ["the policy has no ", what, "s: add one of this name"].concat(),
        known => nearest::hint(name.as_str(), &["the ", what, "s are"].concat(), known),
    };
    problems.report(at, &["there is no ", what, " ", &quoted(name.as_str())], &[&hint]);
}

/// How many fields of an object are compared to find duplicates. Each insertion into the sorted list moves the names
/// behind it. No valid object has more fields than this, and an object with more is reported in any case.
const MAX_COMPARED: usize = 10_000;
