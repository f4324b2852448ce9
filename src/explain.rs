//! Explains in words what a policy does with one request.

mod routing;
mod serving;

use core::fmt::{self, Write as _};
use std::borrow::Cow;

use crate::access::Entry;
use crate::engine;
use crate::health::Health;
use crate::key::{Address, AddressFrom, Client, Value};
use crate::lookup::Lookup;
use crate::matching::{Mismatch, mismatch};
use crate::mode::Mode;
use crate::number::Number;
use crate::policy::{
    Algorithm, Ban, Cost, CostHeader, Delays, HeaderCondition, HostGlob, KeyPart, Limit, Match, OnExceed,
    OnStoreFailure, PathGlob, Penalty, Policy, Quota, SegmentGlob, SlowDown, TierSource,
};
use crate::request::RequestFacts;
use crate::units::Permits;

/// Explains what `policy` does with the request in `facts`: who the client is, and for each limit whether it applies,
/// which key it charges and what quota the client has, or which condition does not hold. The text has many lines, each
/// with a line break at its end.
#[must_use]
pub fn explain(policy: &Policy, facts: &dyn RequestFacts) -> String {
    let request = Lookup::new(facts);
    let client = Client::new(&request, policy);
    let mut text = String::new();
    // Writing to a string does not fail.
    if write_all(&mut text, policy, &request, &client) == Ok(true) {
        let _ = routing::write_route(&mut text, policy, &request);
        let _ = serving::write_serving(&mut text, policy, facts);
    }
    text
}

/// Writes everything up to the limits and the priority. Returns whether the request gets as far as the routes.
fn write_all<'a>(
    text: &mut String,
    policy: &'a Policy,
    request: &Lookup<'a>,
    client: &Client<'_, 'a>,
) -> Result<bool, fmt::Error> {
    let (address, from) = client.address();
    writeln!(text, "path     {}", shown(request.path()))?;
    writeln!(text, "client   {}, from {}", address_words(address, request, policy), origin_words(from, policy))?;
    if let Some(tier) = policy.tiers.get(usize::from(client.tier().0)) {
        writeln!(text, "tier     {}{}", tier.as_str(), tier_words(policy, request, client, tier.as_str()))?;
    }
    if let Some(page) = policy.status.as_ref().and_then(|status| status.page(request, || client.ip())) {
        writeln!(text, "status   answered with the page {}", page.as_str())?;
        return Ok(false);
    }
    match write_entry(text, policy, request, client)? {
        Reach::Nothing => return Ok(false),
        Reach::Routes => return Ok(true),
        Reach::Limits => {}
    }
    write_shedding(text, policy, request, client)?;
    let mut priority = policy.priorities.get(client.tier().get()).copied().flatten();
    for limit in &policy.limits {
        match mismatch(&limit.matches, request) {
            None => {
                priority = [priority, limit.priority].into_iter().flatten().min();
                write_limit(text, policy, limit, request, client)?;
            }
            Some(reason) => {
                writeln!(text, "\n{} does not apply: {}", limit.name.as_str(), unmet(&limit.matches, reason, request))?;
            }
        }
    }
    if let Some(priority) = priority {
        writeln!(text, "\npriority {}, by its tier or a limit that applies", priority.as_str())?;
    }
    Ok(true)
}

/// Which stages a request gets to after the mode and the lists.
enum Reach {
    /// None: it is refused.
    Nothing,
    /// Its route, past the limits.
    Routes,
    /// All of them.
    Limits,
}

/// Writes what the mode and the lists do with the request. Returns how far it gets.
fn write_entry<'a>(
    text: &mut String,
    policy: &'a Policy,
    request: &Lookup<'a>,
    client: &Client<'_, 'a>,
) -> Result<Reach, fmt::Error> {
    match &policy.mode {
        Mode::Enforce => {}
        Mode::Observe => writeln!(text, "mode     observe: all is counted as below, and every request goes on")?,
        Mode::Strict(percent) => writeln!(text, "mode     strict: quotas are {percent}% of what the policy says")?,
        Mode::Maintenance(maintenance) => {
            let let_in = maintenance.allow_paths.iter().any(|path| mismatch(path, request).is_none())
                || client.ip().is_some_and(|address| maintenance.allow_addresses.contain(address));
            if let_in {
                writeln!(text, "mode     maintenance, but this request is let in")?;
            } else {
                let (status, wait) = (maintenance.status, maintenance.retry_after);
                writeln!(text, "mode     maintenance: refused with {status}, and to come back in {wait}")?;
                return Ok(Reach::Nothing);
            }
        }
    }
    if let Some(entry) = policy.deny.find(client, true) {
        let entry = entry_words(entry);
        if policy.mode == Mode::Observe {
            writeln!(text, "deny     {entry} is on the list: would be refused with 403; meets no limits")?;
            return Ok(Reach::Routes);
        }
        writeln!(text, "deny     {entry} is on the list: refused with 403")?;
        return Ok(Reach::Nothing);
    }
    if let Some(entry) = policy.allow.find(client, false) {
        writeln!(text, "allow    {} is on the list: meets no limits", entry_words(entry))?;
        return Ok(Reach::Routes);
    }
    Ok(Reach::Limits)
}

/// Writes what share of requests like this one is shed while the service is degraded or critical.
fn write_shedding<'a>(
    text: &mut String,
    policy: &'a Policy,
    request: &Lookup<'a>,
    client: &Client<'_, 'a>,
) -> fmt::Result {
    let Some(rules) = &policy.shedding else { return Ok(()) };
    let met = policy.limits.iter().filter(|limit| mismatch(&limit.matches, request).is_none());
    let priority = engine::priority(policy, met, || client.tier());
    let [degraded, critical] = [Health::Degraded, Health::Critical]
        .map(|health| Number::hundredths(rules.at_most(health).share(priority).as_basis_points()));
    let word = priority.as_str();
    writeln!(
        text,
        "shedding as {word}: up to {degraded}% while the service is degraded, {critical}% while it is critical"
    )
}

fn entry_words(entry: Entry<'_>) -> String {
    match entry {
        Entry::Address => "its address".to_owned(),
        Entry::ApiKey => "its API key".to_owned(),
        Entry::Header(name) => format!("its header {name}"),
    }
}

fn write_limit<'a>(
    text: &mut String,
    policy: &Policy,
    limit: &'a Limit,
    request: &Lookup<'a>,
    client: &Client<'_, 'a>,
) -> fmt::Result {
    writeln!(text, "\n{} applies", limit.name.as_str())?;
    let address = || format!("address {}", address_words(client.address().0, request, policy));
    match client.missing(&limit.key) {
        _ if limit.key.is_empty() => writeln!(text, "  key    none: one counter for all")?,
        Some(part) => {
            writeln!(text, "  key    {}, since the request has no {}", address(), part_words(part))?;
            if matches!(part, KeyPart::Cookie(_) | KeyPart::Query(_) | KeyPart::Claim(_)) {
                writeln!(text, "         (what is empty or stands twice counts as absent)")?;
            }
        }
        None => {
            let words = limit.key.iter().map(|part| match client.value(part) {
                Some(Value::Text(_, value)) => format!("{} {}", part_words(part), shown(&value)),
                Some(Value::Address) | None => address(),
            });
            writeln!(text, "  key    {}", words.collect::<Vec<_>>().join(", "))?;
        }
    }
    if let (true, Some(service)) = (limit.by_service, policy.stores().rls()) {
        let (cluster, domain) = (service.cluster(), service.domain());
        let without = match limit.on_store_failure {
            OnStoreFailure::Local => "this instance counts by the quota",
            OnStoreFailure::Allow => "the request goes on",
            OnStoreFailure::Deny => "it is refused with 503",
        };
        writeln!(text, "  asks   the rate-limit service at {cluster}, domain {domain}; while that fails {without}")?;
    }
    if let Some(sharing) = limit.sharing {
        let how = if sharing.exact { "asks for every request" } else { "draws permits ahead" };
        let without = match limit.on_store_failure {
            OnStoreFailure::Local => "counts its share of the quota",
            OnStoreFailure::Allow => "lets the request go on",
            OnStoreFailure::Deny => "refuses it with 503",
        };
        writeln!(text, "  shared by all instances: each {how}; while the store fails it {without}")?;
    }
    for (place, quota) in limit.quotas(client.tier()).iter().enumerate() {
        let label = if place == 0 { "quota" } else { "and  " };
        writeln!(text, "  {label}  {}", quota_words(limit.algorithm, policy.mode.in_force(*quota)))?;
    }
    if let Some(words) = cost_words(&limit.cost, request) {
        writeln!(text, "  cost   {words}")?;
    }
    if matches!(policy.mode, Mode::Strict(_))
        && let Some((_, cost, least)) = policy.shut_when_strict().find(|(shut, ..)| shut.name == limit.name)
    {
        let (cost, least) = (cost.get(), least.get());
        writeln!(text, "  strict lets nothing pass: each costs {cost} or more, and a quota has only {least}")?;
    }
    if !limit.only_on.is_empty() {
        let answers = limit.only_on.iter().map(|answers| match (answers.first, answers.last) {
            (first, last) if first == last => first.to_string(),
            (first, last) => format!("{first} to {last}"),
        });
        writeln!(text, "  counts requests answered with {}", answers.collect::<Vec<_>>().join(", "))?;
    }
    write_over(text, policy, limit)
}

/// Writes what happens to requests near the limit and over it.
fn write_over(text: &mut String, policy: &Policy, limit: &Limit) -> fmt::Result {
    if let Some(Delays { max_delay, slow_down: Some(SlowDown { slow_after, step }), .. }) = limit.delays {
        let after = policy.mode.share(slow_after).get();
        writeln!(
            text,
            "  slows  after {after} permits each one waits {step} longer than the one before, at most {max_delay}"
        )?;
    }
    let over = match (limit.on_exceed, limit.delays) {
        (OnExceed::Delay, Some(Delays { max_delay, max_waiting, .. })) => {
            let wait = "waits for its turn, at most";
            &format!("{wait} {max_delay} and at most {max_waiting} at one time; else refused with 429")
        }
        (OnExceed::Observe, _) => "counted as refused, and goes on",
        _ => "refused with 429",
    };
    writeln!(text, "  over   {over}")?;
    if let Some(Penalty { cost, max }) = limit.penalty {
        let (cost, max) = (cost.get(), max.get());
        writeln!(text, "         and charged {cost} for each refusal, at most {max} in a window of the quota")?;
    }
    if let Some(Ban { after, within, lasts }) = limit.ban {
        writeln!(text, "         and banned for {lasts} after {after} refusals within {within}")?;
    }
    Ok(())
}

fn address_words(address: Address, request: &Lookup<'_>, policy: &Policy) -> String {
    match address {
        Address::V4(address) => address.to_string(),
        Address::V6(address) => format!("{address}/{}", policy.client.address.ipv6_prefix),
        Address::Peer => shown(request.peer().unwrap_or_default()),
        Address::Unknown => "unknown".to_owned(),
    }
}

fn origin_words(from: AddressFrom, policy: &Policy) -> Cow<'static, str> {
    let Some((header, hops)) = &policy.client.address.header else { return Cow::Borrowed("the connection") };
    Cow::Owned(match from {
        AddressFrom::Header => format!("{header}, entry {hops} from the right"),
        AddressFrom::Connection => "the connection".to_owned(),
        AddressFrom::NoHeader => format!("the connection: there is no {header}"),
        AddressFrom::ShortList => format!("the connection: {header} has fewer than {hops} entries"),
        AddressFrom::NoAddress => format!("the connection: entry {hops} from the right of {header} is no address"),
    })
}

fn tier_words<'a>(policy: &'a Policy, request: &Lookup<'a>, client: &Client<'_, 'a>, tier: &str) -> String {
    let Some(source) = &policy.client.tier else { return String::new() };
    match source {
        TierSource::Header(header) => match request.header(header) {
            Some(value) if value == tier.as_bytes() => format!(", from {header}"),
            Some(value) => format!(", the default: {header} is {}, which is no tier", shown(value)),
            None => format!(", the default: there is no {header}"),
        },
        TierSource::Claim(claim) => match client.claim_text(claim) {
            Some(value) if value == tier => format!(", from the claim {claim}"),
            Some(value) => format!(", the default: the claim {claim} is {}, which is no tier", shown(value.as_bytes())),
            None => format!(", the default: there is no claim {claim} that is a text"),
        },
        TierSource::ApiKeys(keys) => match client.api_key() {
            Some(key) if keys.tier(key).is_some() => ", from its API key".to_owned(),
            Some(_) => ", the default: its API key is none of the policy's".to_owned(),
            None => ", the default: it has no API key".to_owned(),
        },
    }
}

fn part_words(part: &KeyPart) -> Cow<'static, str> {
    Cow::Owned(match part {
        KeyPart::Address => return Cow::Borrowed("address"),
        KeyPart::Path => return Cow::Borrowed("path"),
        KeyPart::Method => return Cow::Borrowed("method"),
        KeyPart::Host => return Cow::Borrowed("host"),
        KeyPart::Tier => return Cow::Borrowed("tier"),
        KeyPart::Locality(kind) => return Cow::Borrowed(kind.as_str()),
        KeyPart::Header(name) => format!("header {name}"),
        KeyPart::Cookie(name) => format!("cookie {name}"),
        KeyPart::Query(name) => format!("query parameter {name}"),
        KeyPart::Claim(name) => format!("claim {name}"),
    })
}

fn quota_words(algorithm: Algorithm, quota: Quota) -> String {
    let (permits, window) = (quota.permits.get(), quota.window);
    match algorithm {
        Algorithm::SlidingWindow => format!("{permits} in any {window} (sliding window)"),
        Algorithm::TokenBucket => {
            format!("{permits} per {window}, at most {} at once (token bucket)", quota.burst.get())
        }
        Algorithm::FixedWindow => format!("{permits} in each {window} (fixed window)"),
        Algorithm::Concurrency => match quota.least {
            None => format!("{permits} in flight at once, a lost one for {window} at most (concurrency)"),
            Some(least) => {
                format!("{} to {permits} in flight at once, by how long answers take (concurrency)", least.get())
            }
        },
    }
}

/// What the request costs; `None` if it is the default of one permit.
fn cost_words<'a>(cost: &'a Cost, request: &Lookup<'a>) -> Option<String> {
    Some(match cost {
        Cost::Fixed(Permits::ONE) => return None,
        Cost::Fixed(cost) => cost.get().to_string(),
        Cost::Request(header) => {
            let (value, cost) = (request.header(&header.name), header.read(request.header(&header.name)).get());
            match value {
                Some(value) => format!("{cost}, as {} is {}", header.name, shown(value)),
                None => format!("{cost}, since there is no {}", header.name),
            }
        }
        Cost::Response(CostHeader { name, default, min, max }) => {
            let [default, min, max] = [default, min, max].map(|cost| cost.get());
            format!("what {name} of the answer says, {min} to {max}; {default} when it says nothing")
        }
    })
}

/// Which condition does not hold, with the expected and the actual value.
fn unmet<'a>(rule: &'a Match, reason: Mismatch<'a>, request: &Lookup<'a>) -> String {
    match reason {
        Mismatch::Path => {
            let glob = rule.path.as_ref().map(path_words).unwrap_or_default();
            format!("the path {} does not match {glob}", shown(request.path()))
        }
        Mismatch::Host => {
            let hosts = rule.hosts.iter().map(|host| match host {
                HostGlob::Exact(host) => host.clone(),
                HostGlob::Below(host) => format!("*.{host}"),
            });
            format!("the host {} does not match {}", shown(request.host()), or(hosts))
        }
        Mismatch::Method => {
            format!("the method {} is not {}", shown(request.method()), or(rule.methods.iter().cloned()))
        }
        Mismatch::Header(name) => {
            let wanted = rule.headers.iter().find(|(header, _)| header == name).map(|(_, condition)| condition);
            match (request.header(name), wanted) {
                (Some(value), Some(HeaderCondition::Exact(text))) => {
                    format!("the header {name} is {} and not {}", shown(value), shown(text.as_bytes()))
                }
                (Some(value), Some(HeaderCondition::Glob { prefix, suffix })) => {
                    format!("the header {name} is {} and not {prefix}*{suffix}", shown(value))
                }
                (Some(_), _) => format!("there is a header {name}"),
                (None, _) => format!("there is no header {name}"),
            }
        }
    }
}

fn path_words(glob: &PathGlob) -> String {
    let mut words = String::new();
    for segment in &glob.segments {
        words.push('/');
        match segment {
            // A literal star is escaped, as in the document.
            SegmentGlob::Literal(text) => words.push_str(&String::from_utf8_lossy(text).replace('*', "%2A")),
            SegmentGlob::Star { prefix, suffix } => {
                words.push_str(&String::from_utf8_lossy(prefix));
                words.push('*');
                words.push_str(&String::from_utf8_lossy(suffix));
            }
        }
    }
    match (glob.deep, glob.segments.is_empty()) {
        (true, _) => words + "/**",
        (false, true) => "/".to_owned(),
        (false, false) => words,
    }
}

fn or(choices: impl Iterator<Item = String>) -> String {
    choices.collect::<Vec<_>>().join(" or ")
}

/// Bytes that a client sent, made safe for a terminal: as they are if they are plain, otherwise escaped and in quotes.
fn shown(bytes: &[u8]) -> String {
    let plain = !bytes.is_empty() && bytes.iter().all(|byte| byte.is_ascii_graphic() && !matches!(byte, b'"' | b'\\'));
    if plain { String::from_utf8_lossy(bytes).into_owned() } else { format!("\"{}\"", bytes.escape_ascii()) }
}

#[cfg(test)]
mod tests;
