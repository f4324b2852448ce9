//! Upstreams, breakers and routes: what no single field of them can tell.

use super::Name;
use super::document::{Breaker, Document, Route, Upstream};
use super::error::{Path, Problems};
use super::parse::{Taken, unknown};
use super::value::Of;

/// Reports what is wrong between the fields of these parts.
pub(super) fn check(document: Of<'_, Document>, problems: &mut Problems) {
    let root = Path::Root;
    let breakers = document.breakers().map(|map| map.names().collect::<Vec<_>>());
    for (name, upstream) in document.upstreams().iter().flat_map(|map| map.iter()) {
        if let Some(it) = upstream {
            check_upstream(it, breakers.as_deref(), &root.field("upstreams").field(name.as_str()), problems);
        }
    }
    for (name, breaker) in document.breakers().iter().flat_map(|map| map.iter()) {
        if let Some(it) = breaker {
            check_breaker(it, &root.field("breakers").field(name.as_str()), problems);
        }
    }
    let upstreams = document.upstreams().map(|map| map.names().collect::<Vec<_>>());
    let mut names = Taken::default();
    for (index, route) in document.routes().iter().flat_map(|list| list.iter()).enumerate() {
        let (at, Some(route)) = (root.field("routes"), route) else { continue };
        let at = at.item(index);
        if let Some(name) = route.name() {
            names.take(name, index, &at.field("name"), problems);
        }
        check_route(route, upstreams.as_deref(), &at, problems);
    }
}

fn check_upstream(upstream: Of<'_, Upstream>, breakers: Option<&[&Name]>, at: &Path<'_>, problems: &mut Problems) {
    if matches!((upstream.cluster(), upstream.url()), (Some(None), Some(None))) {
        problems.report(
            at,
            &["the upstream says nowhere to go"],
            &["write its \"cluster\" for Envoy, its \"url\" for Cloudflare Workers, or both"],
        );
    }
    if let (Some(Some(breaker)), Some(known)) = (upstream.breaker(), breakers)
        && !known.contains(&breaker)
    {
        unknown("breaker", breaker, known, &at.field("breaker"), problems);
    }
}

fn check_breaker(breaker: Of<'_, Breaker>, at: &Path<'_>, problems: &mut Problems) {
    if matches!((breaker.slow_call(), breaker.slow_rate_percent()), (Some(None), Some(Some(_)))) {
        problems.report(
            &at.field("slow_rate_percent"),
            &["the breaker does not say when a call is slow"],
            &["write \"slow_call\" as well, as in \"2s\""],
        );
    }
    if let Some(open) = breaker.open()
        && let (Some(initial), Some(max)) = (open.initial(), open.max())
        && initial > max
    {
        let (initial, max) = (initial.to_string(), max.to_string());
        problems.report(
            &at.field("open").field("max"),
            &[&max, " is less than the initial ", &initial],
            &["write at least \"", &initial, "\""],
        );
    }
}

fn check_route(route: Of<'_, Route>, upstreams: Option<&[&Name]>, at: &Path<'_>, problems: &mut Problems) {
    let at = at.field("upstreams");
    for (index, upstream) in route.upstreams().iter().flat_map(|set| set.iter()).enumerate() {
        if let (Some(upstream), Some(known)) = (upstream, upstreams)
            && !known.contains(&upstream)
        {
            unknown("upstream", upstream, known, &at.item(index), problems);
        }
    }
}
