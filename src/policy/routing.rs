//! Where requests can go: upstreams, the patterns of their breakers, and the routes that lead to them.

use super::document::{self, Document};
use super::error::{Path, Problems};
use super::failures::Failures;
use super::gathered::Gathered;
use super::parse::{Taken, matches, unknown};
use super::retries::{Retries, retries};
use super::value::Of;
use super::{Breaker, Match, Name, Serving, breaker, serving};
use crate::units::Span;

/// Where requests can go.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Routing {
    /// By name.
    pub(crate) upstreams: Vec<Upstream>,
    /// By name.
    pub(crate) breakers: Vec<Breaker>,
    /// In the document's order. The first that matches is taken.
    pub(crate) routes: Vec<Route>,
}

/// Where requests can go. At least one of the two addresses is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Upstream {
    pub(crate) name: Name,
    /// The name of the cluster in Envoy.
    pub(crate) cluster: Option<String>,
    /// The base URL, for Cloudflare Workers.
    pub(crate) url: Option<String>,
    /// How long an answer may take.
    pub(crate) timeout: Option<Span>,
    /// The pattern of its breaker, as an index into the policy's.
    pub(crate) breaker: Option<usize>,
}

/// Which upstreams serve which requests.
#[derive(Clone, Debug, PartialEq)]
pub struct Route {
    pub(crate) name: Name,
    pub(crate) matches: Match,
    /// In the order of preference, as indexes into the policy's upstreams; at least one, at most 16.
    pub(crate) upstreams: Vec<usize>,
    pub(crate) fallback: Option<Fallback>,
    /// What it says of its answers.
    pub(crate) serving: Serving,
}

/// What happens when an upstream fails.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fallback {
    /// When that is.
    pub(crate) on: Failures,
    /// How many upstreams are tried at most, `1..=16`.
    pub(crate) attempts: u32,
    pub(crate) retries: Retries,
}

impl Upstream {
    /// The upstream's name.
    #[must_use]
    pub fn name(&self) -> &Name {
        &self.name
    }

    /// The name of the cluster in Envoy.
    #[must_use]
    pub fn cluster(&self) -> Option<&str> {
        self.cluster.as_deref()
    }

    /// The base URL, for Cloudflare Workers.
    #[must_use]
    pub fn url(&self) -> Option<&str> {
        self.url.as_deref()
    }
}

impl Route {
    /// The route's name.
    #[must_use]
    pub fn name(&self) -> &Name {
        &self.name
    }

    /// Which requests it is for.
    #[must_use]
    pub fn matches(&self) -> &Match {
        &self.matches
    }

    /// What happens when an upstream fails.
    #[must_use]
    pub fn fallback(&self) -> Option<&Fallback> {
        self.fallback.as_ref()
    }

    /// What the route says of its answers.
    #[must_use]
    pub fn serving(&self) -> &Serving {
        &self.serving
    }

    /// The upstreams in the order of preference, as indexes into the policy's.
    #[must_use]
    pub fn upstreams(&self) -> &[usize] {
        &self.upstreams
    }
}

/// What the document says of these parts, checked as far as it could be read.
pub(super) fn routing(document: Of<'_, Document>, problems: &mut Problems) -> Option<Routing> {
    let root = Path::Root;
    // Maps are kept in the order of names: the document's means nothing.
    let patterns = document.breakers().map(|map| in_order(map.names()));
    let mut breakers = Gathered::new();
    for (name, it) in document.breakers().iter().flat_map(|map| map.iter()) {
        let breaker =
            it.and_then(|it| breaker::breaker(name, it, &root.field("breakers").field(name.as_str()), problems));
        breakers.add_by(breaker, |breaker: &Breaker| &breaker.name);
    }
    let known = document.upstreams().map(|map| in_order(map.names()));
    let mut upstreams = Gathered::new();
    for (name, it) in document.upstreams().iter().flat_map(|map| map.iter()) {
        let at = root.field("upstreams");
        let upstream = it.and_then(|it| upstream(name, it, patterns.as_deref(), &at.field(name.as_str()), problems));
        upstreams.add_by(upstream, |upstream: &Upstream| &upstream.name);
    }
    let at = root.field("routes");
    let (mut routes, mut names) = (Gathered::new(), Taken::default());
    for (index, item) in document.routes()?.iter().enumerate() {
        let at = at.item(index);
        if let Some(name) = item.and_then(Of::<document::Route>::name) {
            names.take(name, index, &at.field("name"), problems);
        }
        routes.add(item.and_then(|item| route(item, known.as_deref(), &at, problems)));
    }
    let routing = Routing { upstreams: upstreams.all()?, breakers: breakers.all()?, routes: routes.all()? };
    let breakers = routing.breakers();
    if breakers > MAX_BREAKERS {
        problems.report(
            &root.field("breakers"),
            &[&format!("upstreams and routes together have {breakers} breakers, more than {MAX_BREAKERS}")],
            &["leave out \"per_route\" where many routes lead to one upstream"],
        );
    }
    Some(routing)
}

impl Routing {
    /// Keeps responses apart by a header by which services may respond differently without saying so in `Vary`.
    pub(super) fn vary_by(&mut self, header: &str) {
        for route in &mut self.routes {
            let vary = &mut route.serving.vary;
            if !vary.iter().any(|name| name == header) {
                vary.push(header.to_owned());
            }
        }
    }

    /// The pattern of an upstream's breaker.
    pub(crate) fn pattern(&self, upstream: usize) -> Option<&Breaker> {
        self.breakers.get(self.upstreams.get(upstream)?.breaker?)
    }

    /// How many breakers all upstreams and routes have.
    fn breakers(&self) -> usize {
        let has = |upstream: usize, per_route| self.pattern(upstream).is_some_and(|it| it.per_route == per_route);
        let shared = (0..self.upstreams.len()).filter(|upstream| has(*upstream, false));
        let of_routes = self.routes.iter().flat_map(|route| &route.upstreams).filter(|upstream| has(**upstream, true));
        shared.count().saturating_add(of_routes.count())
    }
}

fn upstream(
    name: &Name,
    document: Of<'_, document::Upstream>,
    breakers: Option<&[&Name]>,
    at: &Path<'_>,
    problems: &mut Problems,
) -> Option<Upstream> {
    if matches!((document.cluster(), document.url()), (Some(None), Some(None))) {
        problems.report(
            at,
            &["the upstream says nowhere to go"],
            &["write its \"cluster\" for Envoy, its \"url\" for Cloudflare Workers, or both"],
        );
    }
    let breaker = match document.breaker() {
        Some(Some(name)) => reference("breaker", name, breakers, &at.field("breaker"), problems).map(Some),
        other => other.map(|_| None),
    };
    Some(Upstream {
        name: name.clone(),
        cluster: document.cluster()?.map(str::to_owned),
        url: document.url()?.map(str::to_owned),
        timeout: document.timeout()?,
        breaker: breaker?,
    })
}

fn route(
    document: Of<'_, document::Route>,
    known: Option<&[&Name]>,
    at: &Path<'_>,
    problems: &mut Problems,
) -> Option<Route> {
    let matches = document.matches().and_then(|it| matches(it, &at.field("match"), problems));
    let mut upstreams = Gathered::new();
    for (index, name) in document.upstreams().iter().flat_map(|set| set.iter()).enumerate() {
        let at = at.field("upstreams");
        upstreams.add(name.and_then(|name| reference("upstream", name, known, &at.item(index), problems)));
    }
    let serving = serving::serving(document, at, problems);
    let fallback = match document.fallback() {
        Some(Some(it)) => fallback(it, &at.field("fallback"), problems).map(Some),
        other => other.map(|_| None),
    };
    document.upstreams()?;
    Some(Route {
        name: document.name()?.clone(),
        matches: matches?,
        upstreams: upstreams.all()?,
        fallback: fallback?,
        serving: serving?,
    })
}

fn fallback(document: Of<'_, document::Fallback>, at: &Path<'_>, problems: &mut Problems) -> Option<Fallback> {
    let retries = retries(document, at, problems);
    let attempts = document.attempts()?.unwrap_or(MAX_ATTEMPTS);
    Some(Fallback { on: Failures::of(&document.on()?), attempts, retries: retries? })
}

/// The place of a name among those known, in order; one that is not there is reported.
fn reference(
    what: &str,
    name: &Name,
    known: Option<&[&Name]>,
    at: &Path<'_>,
    problems: &mut Problems,
) -> Option<usize> {
    let known = known?;
    let place = known.binary_search(&name).ok();
    if place.is_none() {
        unknown(what, name, known, at, problems);
    }
    place
}

/// The names in order.
fn in_order<'v>(names: impl Iterator<Item = &'v Name>) -> Vec<&'v Name> {
    let mut sorted = Vec::new();
    names.for_each(|name| sorted.insert(sorted.partition_point(|other| *other < name), name));
    sorted
}

/// A route has no more upstreams than these.
const MAX_ATTEMPTS: u32 = 16;

/// Each takes a KiB or more of every worker's memory.
const MAX_BREAKERS: usize = 4_096;
