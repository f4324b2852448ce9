//! Clusters that Envoy does not have. A name that is mistyped looks like an upstream that is down, so the log says which it is:
//! each worker once for each upstream of a policy.

use crate::host::{self, Level};
use tidegate::policy::Policy;

/// The upstreams whose cluster was missed, by their place in the policy.
#[derive(Default)]
pub struct Missing(Vec<usize>);

impl Missing {
    /// Tells that Envoy has no cluster for this upstream, if that was not told before.
    pub fn tell(&mut self, policy: &Policy, upstream: usize) {
        if self.0.contains(&upstream) {
            return;
        }
        self.0.push(upstream);
        if let Some(upstream) = policy.upstreams().get(upstream) {
            let (name, cluster) = (upstream.name().as_str(), upstream.cluster().unwrap_or_default());
            host::log(
                Level::Warn,
                format_args!(
                    "/upstreams/{name}/cluster: Envoy has no cluster {cluster}, and no request reaches this upstream; write the \
                     name of one that it has, or give it one"
                ),
            );
        }
    }
}
