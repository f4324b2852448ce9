//! Explains in words where a request goes.

use core::fmt::{self, Write as _};

use crate::lookup::Lookup;
use crate::matching::mismatch;
use crate::mode::Mode;
use crate::policy::{Policy, Route};

/// Writes the request's route, which is the first that matches, and its upstreams.
pub(super) fn write_route<'a>(text: &mut String, policy: &'a Policy, request: &Lookup<'a>) -> fmt::Result {
    let Some(route) = policy.routes().iter().find(|route| mismatch(&route.matches, request).is_none()) else {
        return Ok(());
    };
    writeln!(text, "\nroute {} serves it", route.name.as_str())?;
    let named = |place: &usize| {
        let upstream = policy.upstreams().get(*place)?;
        let name = upstream.name.as_str();
        Some(match policy.routing.breaker_settings(*place) {
            Some(breaker) if breaker.is_shared() => {
                format!("{name} (breaker {}, of all instances together)", breaker.name.as_str())
            }
            Some(breaker) => format!("{name} (breaker {})", breaker.name.as_str()),
            None => name.to_owned(),
        })
    };
    let upstreams: Vec<String> = route.upstreams.iter().filter_map(named).collect();
    writeln!(text, "  to     {}", upstreams.join(", else "))?;
    write_again(text, policy, route, request)
}

fn write_again(text: &mut String, policy: &Policy, route: &Route, request: &Lookup<'_>) -> fmt::Result {
    let Some(fallback) = &route.fallback else { return Ok(()) };
    if policy.mode == Mode::Observe {
        return writeln!(text, "  again  never, since the policy only observes");
    }
    let most = route.upstreams.len().min(usize::try_from(fallback.attempts).unwrap_or(usize::MAX));
    if !fallback.retries.methods.iter().any(|method| method.as_bytes() == request.method()) {
        writeln!(text, "  again  never, for this method")?;
    } else if most > 1 {
        writeln!(text, "  again  if it has no body and an upstream fails, up to {most} upstreams in all")?;
    }
    match &route.serving.fixed {
        Some(fixed) => writeln!(text, "  last   the static answer, {}", fixed.status),
        None => Ok(()),
    }
}
