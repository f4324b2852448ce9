//! The plugin: reads the policy, makes the streams, exports on a tick.

use crate::filter::Filter;
use crate::health;
use crate::host::{self, Level};
use crate::instance::Instance;
use crate::metrics::Gauge;
use crate::structure;
use std::rc::Rc;
use tidegate::policy::Policy;
use tidegate::status::Fingerprint;
use tidegate::units::Timestamp;

/// One configuration of the plugin in one VM. A new policy comes as a new root; the old one goes on with the old
/// policy until its streams have ended.
#[derive(Default)]
pub struct Root {
    instance: Option<Rc<Instance>>,
}

impl Root {
    /// Reads the policy and puts it in force. Answers whether it is good; what is bad about it has been logged.
    pub fn configure(&mut self) -> bool {
        match read_policy() {
            Ok((policy, fingerprint)) => {
                for part in policy.not_acted_on() {
                    host::log(
                        Level::Warn,
                        format_args!("\"{part}\" is checked, but this version does not act on it yet"),
                    );
                }
                host::log(Level::Info, format_args!("policy in force, limits: {}", policy.limits().len()));
                self.instance = Some(Rc::new(Instance::new(policy, fingerprint)));
                if let Err(error) = host::set_tick_period_ms(EXPORT_PERIOD_MS) {
                    host::log(Level::Warn, format_args!("no ticks, so no statistics: {error}"));
                }
                true
            }
            Err(problems) => {
                for problem in problems {
                    host::log(Level::Error, format_args!("policy error: {problem}"));
                }
                false
            }
        }
    }

    /// A new stream under the policy in force.
    pub fn stream(&self) -> Option<Filter> {
        self.instance.clone().map(Filter::new)
    }

    /// Adds what was counted since the last time to Envoy's statistics, and to what all workers know of the service.
    pub fn export(&mut self) {
        let Some(instance) = &self.instance else { return };
        let work = &mut *instance.work.borrow_mut();
        work.metrics.export(instance.engine.policy(), &mut work.counters);
        let live = work.survey.step(&mut work.store, Timestamp::from_nanos(host::now_ns()));
        work.live_keys = live;
        if let Some(monitor) = &mut work.monitor {
            health::share(monitor, &mut work.bytes);
            work.metrics.record(Gauge::Health, monitor.standing().health as u64);
        }
        work.metrics.record(Gauge::LiveKeys, live);
        work.metrics.record(Gauge::MaxKeys, u64::from(instance.engine.policy().max_keys()));
    }
}

fn read_policy() -> Result<(Policy, Fingerprint), Vec<String>> {
    let bytes = match host::configuration() {
        Ok(Some(bytes)) => bytes,
        Ok(None) => {
            return Err(vec!["there is none; put the policy's JSON into the plugin's `configuration`".to_owned()]);
        }
        Err(error) => return Err(vec![format!("cannot be read: {error}")]),
    };
    // A JSON text is never a Struct too: after the line break that both may begin with, a Struct's bytes have a control
    // character that JSON does not bear.
    let text = match structure::to_json(&bytes) {
        Some(json) => json,
        None => String::from_utf8(bytes)
            .map_err(|error| vec![format!("the configuration is no Struct, and as a text not UTF-8: {error}")])?,
    };
    match Policy::parse(&text) {
        Ok(policy) => Ok((policy, Fingerprint::of(&text))),
        Err(problems) => Err(problems.iter().map(ToString::to_string).collect()),
    }
}

/// How often counters reach Envoy's statistics.
const EXPORT_PERIOD_MS: u32 = 1_000;
