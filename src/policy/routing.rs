//! Where requests can go: upstreams, the settings of their breakers, and routes.

use super::all_or_none::AllOrNone;
use super::document::{self, Document};
use super::error::{Path, Problems};
use super::failures::Failures;
use super::parse::{UniqueNames, matches, unknown};
use super::retries::{Retries, retries};
use super::value::View;
use super::{Breaker, Match, Name, Serving, breaker, serving};
use crate::units::Span;

/// Upstreams, the settings of their breakers, and routes.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Routing {
    /// Ordered by name.
    pub(crate) upstreams: Vec<Upstream>,
    /// Ordered by name.
    pub(crate) breakers: Vec<Breaker>,
    /// In the document's order. A request takes the first that matches.
    pub(crate) routes: Vec<Route>,
}

/// A place that requests can go to. It has a cluster, a URL, or both.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Upstream {
    pub(crate) name: Name,
    /// The name of the cluster in Envoy.
    pub(crate) cluster: Option<String>,
    /// The base URL, for Cloudflare Workers.
    pub(crate) url: Option<String>,
    /// How long the upstream may take until its response begins.
    pub(crate) timeout: Option<Span>,
    /// The settings of its breaker, as an index into the policy's breakers.
    pub(crate) breaker: Option<usize>,
}

/// Which upstreams serve which requests.
#[derive(Clone, Debug, PartialEq)]
pub struct Route {
    pub(crate) name: Name,
    pub(crate) matches: Match,
    /// Indexes into the policy's upstreams, in the order of preference; at least one, at most 16.
    pub(crate) upstreams: Vec<usize>,
    pub(crate) fallback: Option<Fallback>,
    /// How the route serves responses.
    pub(crate) serving: Serving,
}

/// What happens when an upstream fails.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fallback {
    /// Which failures lead to the next upstream.
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

    /// Which requests the route applies to.
    #[must_use]
    pub fn matches(&self) -> &Match {
        &self.matches
    }

    /// What happens when an upstream fails.
    #[must_use]
    pub fn fallback(&self) -> Option<&Fallback> {
        self.fallback.as_ref()
    }

    /// How the route serves responses.
    #[must_use]
    pub fn serving(&self) -> &Serving {
        &self.serving
    }

    /// Indexes into the policy's upstreams, in the order of preference.
    #[must_use]
    pub fn upstreams(&self) -> &[usize] {
        &self.upstreams
    }
}

/// Reads upstreams, breakers and routes, and checks as much of them as could be read.
pub(super) fn routing(document: View<'_, Document>, problems: &mut Problems) -> Option<Routing> {
    let root = Path::Root;
    // The order of a map's fields has no meaning, so they are sorted by name.
    let settings = document.breakers().map(|map| in_order(map.names()));
    let mut breakers = AllOrNone::new();
    for (name, it) in document.breakers().iter().flat_map(|map| map.iter()) {
        let breaker =
            it.and_then(|it| breaker::breaker(name, it, &root.field("breakers").field(name.as_str()), problems));
        breakers.add_sorted(breaker, |breaker: &Breaker| &breaker.name);
    }
    let known = document.upstreams().map(|map| in_order(map.names()));
    let mut upstreams = AllOrNone::new();
    for (name, it) in document.upstreams().iter().flat_map(|map| map.iter()) {
        let at = root.field("upstreams");
        let upstream = it.and_then(|it| upstream(name, it, settings.as_deref(), &at.field(name.as_str()), problems));
        upstreams.add_sorted(upstream, |upstream: &Upstream| &upstream.name);
    }
    let at = root.field("routes");
    let (mut routes, mut names) = (AllOrNone::new(), UniqueNames::default());
    for (index, item) in document.routes()?.iter().enumerate() {
        let at = at.item(index);
        if let Some(name) = item.and_then(View::<document::Route>::name) {
            names.add(name, index, &at.field("name"), problems);
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

    /// The settings of an upstream's breaker.
    pub(crate) fn breaker_settings(&self, upstream: usize) -> Option<&Breaker> {
        self.breakers.get(self.upstreams.get(upstream)?.breaker?)
    }

    /// The number of breakers: one for each upstream, or for each route to it with `per_route`.
    fn breakers(&self) -> usize {
        let has =
            |upstream: usize, per_route| self.breaker_settings(upstream).is_some_and(|it| it.per_route == per_route);
        let shared = (0..self.upstreams.len()).filter(|upstream| has(*upstream, false));
        let of_routes = self.routes.iter().flat_map(|route| &route.upstreams).filter(|upstream| has(**upstream, true));
        shared.count().saturating_add(of_routes.count())
    }
}

fn upstream(
    name: &Name,
    document: View<'_, document::Upstream>,
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
    document: View<'_, document::Route>,
    known: Option<&[&Name]>,
    at: &Path<'_>,
    problems: &mut Problems,
) -> Option<Route> {
    let matches = document.matches().and_then(|it| matches(it, &at.field("match"), problems));
    let mut upstreams = AllOrNone::new();
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

fn fallback(document: View<'_, document::Fallback>, at: &Path<'_>, problems: &mut Problems) -> Option<Fallback> {
    let retries = retries(document, at, problems);
    let attempts = document.attempts()?.unwrap_or(MAX_ATTEMPTS);
    Some(Fallback { on: Failures::of(&document.on()?), attempts, retries: retries? })
}

/// The index of a name in the sorted list of known names. Reports a name that is not there.
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

/// The names, sorted.
fn in_order<'v>(names: impl Iterator<Item = &'v Name>) -> Vec<&'v Name> {
    let mut sorted = Vec::new();
    names.for_each(|name| sorted.insert(sorted.partition_point(|other| *other < name), name));
    sorted
}

/// The most upstreams of a route.
const MAX_ATTEMPTS: u32 = 16;

/// Each breaker takes a KiB or more of every worker's memory.
const MAX_BREAKERS: usize = 4_096;
