//! One request's way to its upstreams, as Envoy goes it: the first is asked by Envoy's own router, which a header tells the
//! cluster, and further ones by calls of the filter, while Envoy holds the failure of the first.

use crate::host::{self, HostError, Level, Map};
use crate::instance::Work;
use crate::saved::Saved;
use tidegate::fallback::{Context, Ended, Progress, Step, Upstreams};
use tidegate::policy::{CallEnd, Policy};
use tidegate::request::RequestFacts;
use tidegate::stale::serve::Why;
use tidegate::units::{Span, Timestamp};

/// How far a request has come on its way.
#[derive(Default)]
pub struct Chain {
    progress: Option<Progress>,
    saved: Option<Saved>,
    further: Further,
}

/// What is under way beyond the first upstream.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum Further {
    #[default]
    Nothing,
    /// The next is asked after a wait.
    Waits(Call),
    /// The answer to this call is awaited.
    Asks(u32),
}

/// A call to be made.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Call {
    pub upstream: usize,
    pub timeout: Option<Span>,
}

impl Chain {
    /// Begins the way of a request along a route, and tells Envoy's router the first upstream if there is one to ask. The
    /// request may be whole, with nothing after its header.
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
            tell_router(policy, Call { upstream, timeout });
        }
        if work.upstreams.woken() {
            work.alarm.set(work.next_due(now), false, now);
        }
        step
    }

    /// The request as it was sent, where it may be needed again.
    pub fn saved(&self) -> Option<&Saved> {
        self.saved.as_ref()
    }

    /// The upstream whose answer is awaited.
    pub fn upstream(&self) -> Option<usize> {
        self.progress.as_ref().and_then(Progress::upstream)
    }

    /// Whether the answer of an upstream is awaited.
    pub fn awaits_answer(&self) -> bool {
        self.upstream().is_some()
    }

    /// Whether anybody was asked at all.
    pub fn progress(&mut self) -> Option<&mut Progress> {
        self.progress.as_mut()
    }

    /// Why the client is to get what was kept; `None` for a request that takes no route.
    pub fn why(&self) -> Option<Why> {
        self.progress.as_ref().map(Progress::why)
    }

    /// Takes in that all of the request has passed.
    pub fn sent(&mut self, now: Timestamp) {
        if let Some(progress) = &mut self.progress {
            progress.sent(now);
        }
    }

    /// Takes in how the call at hand ended.
    pub fn ended<'p>(&mut self, policy: &'p Policy, work: &mut Work, ended: Ended, now: Timestamp) -> Step<'p> {
        self.further = Further::Nothing;
        let Some(progress) = &mut self.progress else { return Step::Deliver };
        work.upstreams_around(now, |upstreams, context| upstreams.ended(policy, progress, ended, context))
    }

    /// Asks a further upstream.
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

    /// Has a further upstream asked later.
    pub fn wait(&mut self, call: Call) {
        self.further = Further::Waits(call);
    }

    /// The call that was to wait.
    pub fn waited(&mut self) -> Option<Call> {
        let Further::Waits(call) = self.further else { return None };
        self.further = Further::Nothing;
        Some(call)
    }

    /// Ends the way of a request whose stream has ended.
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

fn tell_router(policy: &Policy, call: Call) {
    let cluster = policy.upstreams().get(call.upstream).and_then(|upstream| upstream.cluster()).unwrap_or_default();
    let told = host::replace_header(Map::Request, UPSTREAM_HEADER, cluster).and_then(|()| match call.timeout {
        // The time until the answer begins: a long body is not cut.
        Some(timeout) => host::replace_header(Map::Request, TIMEOUT_HEADER, millis(timeout).to_string()),
        None => Ok(()),
    });
    if let Err(error) = told {
        host::log(Level::Error, format_args!("cannot choose an upstream: {error}"));
    }
}

/// At least one: none would be for ever.
fn millis(span: Span) -> u32 {
    u32::try_from(span.as_nanos().div_ceil(1_000_000)).unwrap_or(u32::MAX).max(1)
}

/// The header by which the filter tells Envoy's routes the upstream.
pub const UPSTREAM_HEADER: &str = "x-tidegate-upstream";

/// The header by which Envoy's router is told how long a try may take until its answer begins.
const TIMEOUT_HEADER: &str = "x-envoy-upstream-rq-per-try-timeout-ms";

/// How long a call may take where the policy does not say: as long as Envoy's routes let a request take.
const CALL_TIMEOUT_MS: u32 = 15_000;
