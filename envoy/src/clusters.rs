//! Logs where Envoy's clusters and routes do not fit the policy, because no response shows it: a missing cluster looks
//! like an upstream that is down, and routes that ignore the filter's header send requests to another cluster. Each
//! worker logs each problem once per upstream of a policy.

use crate::chain::UPSTREAM_HEADER;
use crate::host::{self, Level};
use tidegate::policy::Policy;

/// For each upstream of the policy, whether the problem was already looked for.
#[derive(Default)]
pub struct Clusters {
    missed: Vec<bool>,
    looked_at: Vec<bool>,
}

impl Clusters {
    /// Logs that Envoy has no cluster for this upstream.
    pub fn missing(&mut self, policy: &Policy, upstream: usize) {
        if let Some((name, cluster)) = first(&mut self.missed, policy, upstream) {
            let problem = format_args!(
                "/upstreams/{name}/cluster: Envoy has no cluster {cluster}, and no request reaches this upstream; write the name \
                 of one that it has, or give it one"
            );
            host::log(Level::Warn, problem);
        }
    }

    /// Checks that the current stream went to the cluster of this upstream.
    pub fn look_at(&mut self, policy: &Policy, upstream: usize) {
        if let Some((name, cluster)) = first(&mut self.looked_at, policy, upstream)
            && let Some(taken) = host::cluster().ok().flatten()
            && taken != cluster.as_bytes()
        {
            let taken = String::from_utf8_lossy(&taken);
            let problem = format_args!(
                "/upstreams/{name}/cluster: a request for cluster {cluster} went to {taken}, as one of Envoy's routes says; have a \
                 route before it that matches {UPSTREAM_HEADER} and reads it as `cluster_header`"
            );
            host::log(Level::Warn, problem);
        }
    }
}

/// The name and the cluster of an upstream, the first time that it is asked for.
fn first<'p>(told: &mut Vec<bool>, policy: &'p Policy, upstream: usize) -> Option<(&'p str, &'p str)> {
    if told.is_empty() {
        told.resize(policy.upstreams().len(), false);
    }
    if core::mem::replace(told.get_mut(upstream)?, true) {
        return None;
    }
    let upstream = policy.upstreams().get(upstream)?;
    Some((upstream.name().as_str(), upstream.cluster()?))
}
