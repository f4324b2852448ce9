//! Where a request goes: the first upstream of the first route that matches, by its `url`.

use crate::facts::Facts;
use tidegate::lookup::Lookup;
use tidegate::matching::Matcher;
use tidegate::policy::Policy;

/// The routes of a policy.
pub struct Upstreams {
    matcher: Matcher,
    /// The base URL of each route's upstream, without a slash at the end, where it has one.
    bases: Vec<Option<String>>,
}

impl Upstreams {
    /// The routes of `policy`.
    pub fn new(policy: &Policy) -> Self {
        let routes = policy.routes();
        let base = |index: &usize| Some(policy.upstreams().get(*index)?.url()?.trim_end_matches('/').to_owned());
        Self {
            matcher: Matcher::new(routes.iter().map(tidegate::policy::Route::matches)),
            bases: routes.iter().map(|route| route.upstreams().iter().find_map(base)).collect(),
        }
    }

    /// The URL to ask for what the request asks for; `None` when no route is for it, and it goes to the zone's own origin.
    pub fn target(&self, facts: &Facts<'_>) -> Option<String> {
        if self.bases.is_empty() {
            return None;
        }
        let mut found = Vec::new();
        let request = Lookup::new(facts);
        self.matcher.find(&request, &mut found);
        let base = self.bases.get(usize::try_from(*found.first()?).ok()?)?.as_ref()?;
        Some([base, facts.target()].concat())
    }
}
