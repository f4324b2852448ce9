//! What routes say of the answers they serve: what caches are told, images in the client's format and width, what a page
//! will need, and which answers are kept.
//!
//! [`Assets::plan`] looks at a request that goes on to an upstream, [`Assets::edits`] and [`Assets::keeping`] at its
//! answer. All of it is for `GET` and `HEAD` alone.

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
use crate::stale::{AnswerKey, Keeping, Keyed};

/// The routes of a policy, as far as their answers are concerned.
#[derive(Debug)]
pub struct Assets {
    matcher: Matcher,
    routing: Arc<Routing>,
    /// Whether any route says anything.
    serves: bool,
    keyed: Keyed,
    /// The headers by which services tell one client from another.
    personal: Vec<String>,
}

/// A request to a route that says something of its answers.
#[derive(Debug, PartialEq, Eq)]
pub struct AssetRequest {
    route: usize,
    /// What the upstream is to be asked for in place of what the client has: an image in a format and width.
    pub target: Option<Vec<u8>>,
    /// The same in the terms of Cloudflare's image service, where the policy says that the zone has it: there, this is to be
    /// asked for in place of the target, which tells kept answers apart all the same.
    pub image: Option<Image>,
    /// Under which key an answer is kept and served; `None` when none is, for this request.
    pub key: Option<AnswerKey>,
    /// Whether the target may depend on what the client accepts, so that caches have to know.
    varies: bool,
    is_get: bool,
    /// Whether the request says who its client is, so that the answer may be for that one alone.
    personal: bool,
}

impl Assets {
    /// The routes of `policy`, whose answers are kept under keys that are hashed so.
    #[must_use]
    pub fn new(policy: &Policy, keyed: impl Into<Keyed>) -> Self {
        let routes = policy.routes();
        let matcher = Matcher::new(routes.iter().map(|route| &route.matches));
        let serves = routes.iter().any(|route| route.serving.affects_responses());
        let policy::Client { api_key_header, claims_header, .. } = &policy.client;
        let mut personal = PERSONAL.map(str::to_owned).to_vec();
        personal.extend([api_key_header, claims_header].into_iter().flatten().cloned());
        Self { matcher, routing: policy.routing.clone(), serves, keyed: keyed.into(), personal }
    }

    /// Whether no route says anything, so that no request need be looked at.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        !self.serves
    }

    /// Whether answers are kept at all.
    #[must_use]
    pub fn keeps(&self) -> bool {
        self.routing.routes.iter().any(|route| route.serving.stale.is_some())
    }

    /// What is to be done for the request; `None` when its route, the first that matches, says nothing of its answers.
    ///
    /// A request with `Authorization` has no key: its answer is not kept, and it is not served one that was. Nor has one that
    /// is not `whole`, whose header does not end it: a body is in no key, and services may answer by it.
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

    /// How the header of the request's answer is to be changed.
    #[must_use]
    pub fn edits(&self, request: &AssetRequest, answer: &Answer<'_>) -> Vec<Edit> {
        let mut edits = Vec::new();
        let Some(route) = self.route(request).map(|route| &route.serving) else { return edits };
        if let Some(rule) = &route.caching {
            edits.extend(caching::cache_control(rule, answer));
        }
        if let Some(variants) = route.variants.as_ref().filter(|_| request.varies) {
            edits.extend(caching::vary(variants.asks_for(), answer));
        }
        edits.extend(caching::preload(&route.preload, answer));
        edits
    }

    /// By what the request's answer is kept; `None` when none is. The answer is to be shown to it after the edits.
    #[must_use]
    pub fn keeping(&self, request: &AssetRequest) -> Option<Keeping<'_>> {
        let route = &self.route(request)?.serving;
        let variants = route.variants.as_ref().filter(|_| request.varies);
        Some(Keeping {
            key: request.key.filter(|_| request.is_get)?,
            stale: route.stale?,
            vary: &route.vary,
            in_target: variants.map_or(&[], |variants| variants.asks_for()),
            // Who says for how long caches keep a route's answers says that they are for all.
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

/// Whether the request allows that its answer is kept, and that it is served a kept one.
fn may_be_kept(request: &Lookup<'_>) -> bool {
    let no_store = |value| crate::stale::directives(value).any(|directive| directive.is("no-store"));
    request.header("authorization").is_none() && !request.header("cache-control").is_some_and(no_store)
}

#[cfg(test)]
mod tests;
