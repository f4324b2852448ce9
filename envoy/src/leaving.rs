//! Clears gauges when a policy goes. Envoy keeps showing each gauge as it was last set, so a breaker that was open when
//! its upstream was removed would show as open forever.
//!
//! Another worker may still have streams under the policy. It sets its gauges again, and clears them at its own end.

use crate::instance::Instance;
use crate::metrics::Gauge;
use std::rc::Rc;

/// Subtracts what this worker has added to gauges, and zeroes the gauges that none of the `others` has.
pub fn clear_gauges(instance: &Instance, others: &[Rc<Instance>]) {
    let work = &mut *instance.work.borrow_mut();
    for gauge in [Gauge::Waiting, Gauge::StoreBreakers] {
        work.metrics.take_back(gauge);
    }
    if !others.iter().any(|other| other.work.borrow().monitor.is_some()) {
        work.metrics.clear(Gauge::Health);
    }
    if !others.iter().any(|other| other.work.borrow().upstreams.alone().is_some()) {
        work.metrics.clear(Gauge::BreakersAlone);
    }
    work.metrics.clear_loads(instance.engine.policy(), |name| {
        let mut limits = others.iter().flat_map(|other| other.engine.policy().limits());
        limits.any(|limit| limit.name().as_str() == name)
    });
    work.upstream_metrics.clear(&work.upstreams, |name| {
        others.iter().any(|other| {
            let work = other.work.borrow();
            let breakers = work.upstreams.breakers_known();
            (0..breakers.len()).any(|at| breakers.identity(at) == Some(name))
        })
    });
}
