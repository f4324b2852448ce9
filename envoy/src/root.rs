//! The plugin: reads the policy, creates the streams, and exports metrics on a tick.

use crate::filter;
use crate::host::{self, Level};
use crate::instance::{Instance, Others};
use crate::streams::Streams;
use crate::{authority, breakers, leaving, rls, structure, waiting};
use std::rc::Rc;
use tidegate::lease::LEASE_IDLE;
use tidegate::policy::{Policy, Upstream};
use tidegate::status::Fingerprint;
use tidegate::store::rls::RlsError;
use tidegate::units::{Span, Timestamp};

/// One configuration of the plugin in one VM. A new policy arrives as a new root. The old root keeps the old policy
/// until its streams have ended.
#[derive(Default)]
pub struct Root {
    instance: Option<Rc<Instance>>,
}

impl Root {
    /// Reads the policy and puts it in force. Returns whether it is valid; its errors have been logged.
    pub fn configure(&mut self) -> bool {
        match read_policy() {
            Ok(instance) => {
                let limits = instance.engine.policy().limits().len();
                host::log(Level::Info, format_args!("policy in force, limits: {limits}"));
                let now = Timestamp::from_nanos(host::now_ns());
                instance.work.borrow_mut().alarm.start(now);
                self.instance = Some(Rc::new(instance));
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

    /// The policy in force, for a new stream.
    pub fn in_force(&self) -> Option<Rc<Instance>> {
        self.instance.clone()
    }

    /// Ends the waits and leases that are due and exchanges breaker states with other workers and instances. Once a
    /// second, also exports metrics and renews what streams hold.
    pub fn tick(&mut self, streams: &mut Streams, others: &Others) {
        let Some(instance) = self.instance.clone() else { return };
        let now = Timestamp::from_nanos(host::now_ns());
        waiting::finish_due(&instance, streams, now);
        filter::make_due_calls(&instance, streams, now);
        authority::tend(&instance, streams, now);
        instance.work.borrow_mut().tick_breakers(now);
        breakers::send_round(&mut instance.work.borrow_mut(), now);
        let leases_are_out = instance.end_leases(LEASE_IDLE, now);
        if instance.work.borrow_mut().alarm.exports(now) {
            instance.export(others, now);
            streams.renew();
        }
        let work = &mut *instance.work.borrow_mut();
        let due = work.next_due(now).into_iter().chain(leases_are_out.then_some(LEASE_IDLE)).min();
        work.alarm.set(due, true, now);
        #[cfg(feature = "test-clock")]
        crate::clock::ticked(now);
    }

    /// Passes the response to a call to its caller: the store of shared limits or breakers, or a stream that called an
    /// upstream.
    pub fn call_answered(&mut self, streams: &mut Streams, token: u32, lines: u32, size: usize) {
        if let Some(instance) = &self.instance
            && !authority::call_answered(instance, streams, token, lines, size)
            && !breakers::call_answered(instance, token, lines, size)
        {
            filter::call_answered(instance, streams, token, lines, size);
        }
    }

    /// Passes the answer of the rate-limit service to the stream that waits for it.
    pub fn grpc_answered(&mut self, streams: &mut Streams, token: u32, end: Result<usize, RlsError>) {
        if let Some(instance) = &self.instance {
            rls::answered(instance, streams, token, end);
        }
    }

    /// Returns the leases, exports the last counts, and clears gauges. `others` are the policies that stay in this VM.
    pub fn end(&mut self, others: impl Iterator<Item = Rc<Instance>>) {
        let Some(instance) = &self.instance else { return };
        let (others, now) = (others.collect::<Vec<_>>(), Timestamp::from_nanos(host::now_ns()));
        instance.end_leases(Span::ZERO, now);
        let worst = others.iter().filter_map(|other| other.health()).max();
        instance.export(&Others { worst, newer: others.clone() }, now);
        leaving::clear_gauges(instance, &others);
    }
}

fn read_policy() -> Result<Instance, Vec<String>> {
    let bytes = match host::configuration() {
        Ok(Some(bytes)) => bytes,
        Ok(None) => {
            return Err(vec!["there is no policy; put the policy's JSON into the plugin's `configuration`".to_owned()]);
        }
        Err(error) => return Err(vec![format!("cannot be read: {error}")]),
    };
    // A JSON text is never also a Struct: both may begin with a line break, but a Struct then has a control character
    // that JSON does not allow.
    let text = match structure::to_json(&bytes) {
        Some(json) => json,
        None => String::from_utf8(bytes)
            .map_err(|error| vec![format!("the configuration is no Struct, and as a text not UTF-8: {error}")])?,
    };
    let policy =
        Policy::parse(&text).map_err(|problems| problems.iter().map(ToString::to_string).collect::<Vec<_>>())?;
    let mut problems: Vec<String> =
        policy.routed_upstreams().filter(|it| it.cluster().is_none()).map(no_cluster).collect();
    let authority = authority::of(&policy).unwrap_or_else(|problem| {
        problems.push(problem);
        None
    });
    if problems.is_empty() { Ok(Instance::new(policy, Fingerprint::of(&text), authority)) } else { Err(problems) }
}

fn no_cluster(upstream: &Upstream) -> String {
    format!(
        "/upstreams/{}/cluster: a route leads to this upstream, and Envoy knows upstreams by their clusters; write the name \
         of one",
        upstream.name().as_str()
    )
}
