//! The response rules of routes: caching, images in the client's format and width, preload links, and which responses
//! are kept.
//!
//! [`Assets::plan`] inspects a request that goes to an upstream, [`Assets::edits`] and [`Assets::keeping`] its
//! response. All rules apply to `GET` and `HEAD` only.

pub(crate) mod accept;
mod answer;
mod caching;
mod variants;

pub use answer::Answer;
pub use caching::Edit;
pub use variants::Image;

use std::sync::Arc;

use crate::lookup::Lookup;
use crate::matching::Matcher;
use crate::policy::{self, Policy, Route, Routing};
use crate::request::RequestFacts;
use crate::stale::{AnswerKey, Keeping, KeyHasher};

/// The response rules of a policy's routes.
#[derive(Debug)]
pub struct Assets {
    matcher: Matcher,
    routing: Arc<Routing>,
    /// Whether any route has a response rule.
    serves: bool,
    keyed: KeyHasher,
    /// The headers by which services distinguish clients.
    personal: Vec<String>,
}

/// A request to a route with response rules.
#[derive(Debug, PartialEq, Eq)]
pub struct AssetRequest {
    route: usize,
    /// The target to request in place of the client's: an image in a format and width.
    pub target: Option<Vec<u8>>,
    /// The same for Cloudflare's image service, if the policy says that the zone has it. The host then requests this in
    /// place of the target; the target still identifies the kept response.
    pub image: Option<Image>,
    /// The key of the kept response; `None` if none may be kept or served for this request.
    pub key: Option<AnswerKey>,
    /// Whether the target may depend on what the client accepts, which caches must know.
    varies: bool,
    is_get: bool,
    /// Whether the request identifies its client, so the response may be for that client alone.
    personal: bool,
}

impl Assets {
    /// The routes of `policy`, with keys of kept responses that are hashed by `keyed`.
    #[must_use]
    pub fn new(policy: &Policy, keyed: impl Into<KeyHasher>) -> Self {
        let routes = policy.routes();
        let matcher = Matcher::new(routes.iter().map(|route| &route.matches));
        let serves = routes.iter().any(|route| route.serving.affects_responses());
        let policy::Client { api_key_header, claims_header, .. } = &policy.client;
        let mut personal = PERSONAL.map(str::to_owned).to_vec();
        personal.extend([api_key_header, claims_header].into_iter().flatten().cloned());
        Self { matcher, routing: policy.routing.clone(), serves, keyed: keyed.into(), personal }
    }

    /// Whether no route has a response rule, so requests need not be inspected.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        !self.serves
    }

    /// Whether any route keeps responses.
    #[must_use]
    pub fn keeps(&self) -> bool {
        self.routing.routes.iter().any(|route| route.serving.stale.is_some())
    }

    /// What to do for the request; `None` if its route, the first that matches, has no response rules.
    ///
    /// A request with `Authorization` has no key: its response is not kept, and it is not served a kept one. The same
    /// holds for a request that is not `whole`, which means that it has more than a header: the key does not cover a
    /// body, on which the response may depend.
    #[must_use]
    pub fn plan(&self, facts: &dyn RequestFacts, whole: bool) -> Option<AssetRequest> {
        if self.is_empty() {
            return None;
        }
        let request = Lookup::new(facts);
        let mut found = Vec::new();
        self.matcher.find(&request, &mut found);
        let index = usize::try_from(*found.first()?).ok()?;
        let route = self.routing.routes.get(index).filter(|route| route.serving.affects_responses())?;
        let serving = &route.serving;
        let is_get = request.method() == b"GET";
        if !is_get && request.method() != b"HEAD" {
            return None;
        }
        let variants = serving.variants.as_ref().filter(|variants| variants.is_for(&request));
        let target = variants.and_then(|variants| variants.target(&request));
        let image = variants.filter(|_| target.is_some()).and_then(|variants| variants.image(&request));
        let key = serving.stale.filter(|_| whole && may_be_kept(&request)).map(|_| {
            let (of_client, authority) = (facts.path(), facts.authority());
            let target = target.as_deref().unwrap_or(&of_client);
            let version = serving.version.as_deref().unwrap_or_default();
            AnswerKey::new(self.keyed, route.name.as_str(), version, &request, (&authority, target), &serving.vary)
        });
        let personal = key.is_some() && self.personal.iter().any(|name| request.header(name).is_some());
        Some(AssetRequest { route: index, target, image, key, varies: variants.is_some(), is_get, personal })
    }

    /// The changes to the header of the response.
    #[must_use]
    pub fn edits(&self, request: &AssetRequest, answer: &Answer<'_>) -> Vec<Edit> {
        let mut edits = Vec::new();
        let Some(route) = self.route(request).map(|route| &route.serving) else { return edits };
        if let Some(rule) = &route.caching {
            edits.extend(caching::cache_control(rule, answer));
        }
        if let Some(variants) = route.variants.as_ref().filter(|_| request.varies) {
            edits.extend(caching::vary(variants.vary_headers(), answer));
        }
        edits.extend(caching::preload(&route.preload, answer));
        edits
    }

    /// The rules for keeping the response; `None` if it is not kept. Apply them to the response after the edits.
    #[must_use]
    pub fn keeping(&self, request: &AssetRequest) -> Option<Keeping<'_>> {
        let route = &self.route(request)?.serving;
        let variants = route.variants.as_ref().filter(|_| request.varies);
        Some(Keeping {
            key: request.key.filter(|_| request.is_get)?,
            stale: route.stale?,
            vary: &route.vary,
            in_target: variants.map_or(&[], |variants| variants.vary_headers()),
            // A route with a caching rule thereby declares its responses the same for all clients.
            personal: request.personal && route.caching.is_none(),
        })
    }

    /// The request's route.
    #[must_use]
    pub fn route(&self, request: &AssetRequest) -> Option<&Route> {
        self.routing.routes.get(request.route)
    }
}

/// By these headers services tell clients apart whatever the policy says. Envoy sends the second for clients with a certificate.
const PERSONAL: [&str; 2] = ["cookie", "x-forwarded-client-cert"];

/// Whether the request allows its response to be kept, and a kept one to be served.
fn may_be_kept(request: &Lookup<'_>) -> bool {
    let no_store = |value| crate::stale::directives(value).any(|directive| directive.is("no-store"));
    request.header("authorization").is_none() && !request.header("cache-control").is_some_and(no_store)
}

#[cfg(test)]
mod tests;
