//! Forwards a request to its upstreams. Envoy's router calls the first one, whose cluster a header names. The filter
//! itself calls further ones, while Envoy holds the failure of the first.

use crate::host::{self, HostError, Level, Map};
use crate::instance::Work;
use crate::saved::Saved;
use tidegate::fallback::{Context, Ended, Progress, Step, Upstreams};
use tidegate::policy::{CallEnd, Policy};
use tidegate::request::RequestFacts;
use tidegate::stale::serve::Why;
use tidegate::units::{Span, Timestamp};

/// A request's progress along its upstreams.
#[derive(Default)]
pub struct Chain {
    progress: Option<Progress>,
    saved: Option<Saved>,
    further: Further,
}

/// The state of the call to a further upstream.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum Further {
    #[default]
    Nothing,
    /// The next upstream is called after a wait.
    Waits(Call),
    /// The response to this call is awaited.
    Asks(u32),
}

/// A call to make.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Call {
    pub upstream: usize,
    pub timeout: Option<Span>,
}

impl Chain {
    /// Starts a request along a route, and names the first upstream to Envoy's router if there is one to call.
    /// `is_whole`: the request has no body.
    pub fn begin<'p>(
        &mut self,
        policy: &'p Policy,
        work: &mut Work,
        (route, is_whole): (usize, bool),
        now: Timestamp,
    ) -> Step<'p> {
        let keeps = policy.routes().get(route).is_some_and(|route| route.serving().stale().is_some());
        if is_whole && (keeps || Upstreams::repeats(policy, route)) {
            self.saved = Saved::new().ok();
        }
        let method = self.saved.as_ref().map(RequestFacts::method);
        let (progress, step) = work.upstreams_around(now, |upstreams, context| {
            upstreams.begin(policy, route, method.as_deref(), is_whole, context)
        });
        self.progress = Some(progress);
        if let Step::Send { upstream, timeout, .. } = step {
            name_upstream(policy, Call { upstream, timeout });
        }
        if work.upstreams.woken() {
            work.alarm.set(work.next_due(now), false, now);
        }
        step
    }

    /// The request as it was sent, if it may be needed again.
    pub fn saved(&self) -> Option<&Saved> {
        self.saved.as_ref()
    }

    /// The upstream whose response is awaited.
    pub fn upstream(&self) -> Option<usize> {
        self.progress.as_ref().and_then(Progress::upstream)
    }

    /// Whether the response of an upstream is awaited.
    pub fn awaits_answer(&self) -> bool {
        self.upstream().is_some()
    }

    /// The request's progress along its route, if it takes one.
    pub fn progress(&mut self) -> Option<&mut Progress> {
        self.progress.as_mut()
    }

    /// Why the client gets a kept response; `None` for a request without a route.
    pub fn why(&self) -> Option<Why> {
        self.progress.as_ref().map(Progress::why)
    }

    /// Notes that the whole request has been sent.
    pub fn sent(&mut self, now: Timestamp) {
        if let Some(progress) = &mut self.progress {
            progress.sent(now);
        }
    }

    /// Handles the end of the current call.
    pub fn ended<'p>(&mut self, policy: &'p Policy, work: &mut Work, ended: Ended, now: Timestamp) -> Step<'p> {
        self.further = Further::Nothing;
        let Some(progress) = &mut self.progress else { return Step::Deliver };
        work.upstreams_around(now, |upstreams, context| upstreams.ended(policy, progress, ended, context))
    }

    /// Calls a further upstream.
    ///
    /// # Errors
    /// How the call ended, if it could not even begin.
    pub fn ask(&mut self, policy: &Policy, work: &mut Work, call: Call, stream: u32) -> Result<(), CallEnd> {
        let cluster = policy.upstreams().get(call.upstream).and_then(|upstream| upstream.cluster());
        let (Some(cluster), Some(saved)) = (cluster, &self.saved) else { return Err(CallEnd::NotConnected) };
        let timeout_ms = call.timeout.map_or(CALL_TIMEOUT_MS, millis);
        let token = host::call(cluster, &saved.to_send(), &[], timeout_ms).map_err(|error| {
            if error == HostError::BAD_ARGUMENT {
                work.clusters.missing(policy, call.upstream);
            }
            CallEnd::NotConnected
        })?;
        work.calls.push((token, stream));
        self.further = Further::Asks(token);
        Ok(())
    }

    /// Delays a call to a further upstream.
    pub fn delay(&mut self, call: Call) {
        self.further = Further::Waits(call);
    }

    /// Takes the delayed call.
    pub fn take_delayed(&mut self) -> Option<Call> {
        let Further::Waits(call) = self.further else { return None };
        self.further = Further::Nothing;
        Some(call)
    }

    /// Ends the forwarding of a request whose stream has ended.
    pub fn end(&mut self, work: &mut Work, stream: u32, now: Timestamp) {
        match self.further {
            Further::Nothing => {}
            Further::Waits(_) => work.retries.retain(|(_, other)| *other != stream),
            Further::Asks(token) => work.calls.retain(|(other, _)| *other != token),
        }
        if let Some(progress) = &mut self.progress {
            work.upstreams_around(now, |upstreams, context: &mut Context<'_, _>| {
                upstreams.abandoned(progress, context)
            });
        }
    }
}

fn name_upstream(policy: &Policy, call: Call) {
    let cluster = policy.upstreams().get(call.upstream).and_then(|upstream| upstream.cluster()).unwrap_or_default();
    let named = host::replace_header(Map::Request, UPSTREAM_HEADER, cluster).and_then(|()| match call.timeout {
        // This is the time until the response begins, so a long body is not cut off.
        Some(timeout) => host::replace_header(Map::Request, TIMEOUT_HEADER, millis(timeout).to_string()),
        None => Ok(()),
    });
    if let Err(error) = named {
        host::log(Level::Error, format_args!("cannot choose an upstream: {error}"));
    }
}

/// At least 1 ms: zero would mean no timeout.
fn millis(span: Span) -> u32 {
    u32::try_from(span.as_nanos().div_ceil(1_000_000)).unwrap_or(u32::MAX).max(1)
}

/// The header that names the upstream to Envoy's routes.
pub const UPSTREAM_HEADER: &str = "x-tidegate-upstream";

/// The header that tells Envoy's router how long a try may take until its response begins.
const TIMEOUT_HEADER: &str = "x-envoy-upstream-rq-per-try-timeout-ms";

/// The timeout of a call in ms if the policy does not say: the default of Envoy's routes.
const CALL_TIMEOUT_MS: u32 = 15_000;
