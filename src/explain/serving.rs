//! Explains in words how a route serves the response to a request.

use core::fmt::{self, Write as _};

use super::shown;
use crate::assets::Assets;
use crate::key::Seed;
use crate::policy::{Policy, Serving};
use crate::request::RequestFacts;

/// Writes how the request's route changes the request and its response, if it does, below the lines about the route.
pub(super) fn write_serving(text: &mut String, policy: &Policy, facts: &dyn RequestFacts) -> fmt::Result {
    let assets = Assets::new(policy, Seed::new([0, 0]));
    let Some(request) = assets.plan(facts, true) else { return Ok(()) };
    let Some(route) = assets.route(&request) else { return Ok(()) };
    let route = route.serving();
    if let Some(target) = &request.target {
        writeln!(text, "  image  the upstream is asked for {}", shown(target))?;
    }
    if let Some(rule) = &route.caching {
        writeln!(text, "  cache  {rule}, if the answer may be cached")?;
    }
    for link in &route.preload {
        writeln!(text, "  page   names {link}")?;
    }
    write_kept(text, route, request.key.is_some())
}

fn write_kept(text: &mut String, route: &Serving, has_key: bool) -> fmt::Result {
    let Some(stale) = route.stale() else { return Ok(()) };
    if !has_key {
        return writeln!(text, "  kept   nothing, since the request has authorization or no-store");
    }
    write!(text, "  kept   a good answer may be served for {stale}")?;
    match route.vary.as_slice() {
        [] => writeln!(text),
        vary => writeln!(text, ", one for each {}", vary.join(", ")),
    }
}
