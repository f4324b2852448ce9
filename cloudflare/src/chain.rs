//! Forwards a request to its upstreams: the core says which upstream is next, and this module calls it.

use crate::facts::Facts;
use crate::gate::{Gate, draw};
use crate::host::{Call, Request, Response, Url};
use crate::now;
use crate::serving::Serving;
use crate::task::{pause, settled};
use std::cell::RefCell;
use std::rc::Rc;
use tidegate::fallback::{Context, Ended, MemoryLedgers, Progress, Step, TICK, Upstreams};
use tidegate::path::escaped_for_parsers;
use tidegate::policy::{CallEnd, Policy};
use tidegate::stale::serve::Why;
use tidegate::units::{Span, Timestamp};
use wasm_bindgen::JsCast;

/// What this isolate knows about the upstreams.
pub struct Known {
    upstreams: Upstreams,
    /// Where breakers publish their state. The ledgers outlive the policy, so a new policy's breakers continue from
    /// them.
    ledgers: Rc<RefCell<MemoryLedgers>>,
    ticked: Timestamp,
}

/// A request's progress along its upstreams. If it is dropped during a call, the breaker learns that the call was
/// abandoned.
pub struct Chain {
    gate: Rc<Gate>,
    progress: Progress,
}

impl Known {
    /// All upstreams start as healthy, except where the ledgers say otherwise.
    pub fn new(upstreams: Upstreams, ledgers: &Rc<RefCell<MemoryLedgers>>) -> Self {
        Self { upstreams, ledgers: Rc::clone(ledgers), ticked: Timestamp::EPOCH }
    }

    pub fn upstreams(&self) -> &Upstreams {
        &self.upstreams
    }

    /// Runs `act` on the upstreams, after the tick if that is due: a Worker has no timer of its own for it.
    pub fn act<T>(
        &mut self,
        now: Timestamp,
        act: impl FnOnce(&mut Upstreams, &mut Context<'_, MemoryLedgers>) -> T,
    ) -> T {
        let mut context = Context { ledgers: &mut *self.ledgers.borrow_mut(), draw: draw(), now };
        if now < self.ticked || now >= self.ticked.after(TICK) {
            self.ticked = now;
            self.upstreams.tick(&mut context);
        }
        act(&mut self.upstreams, &mut context)
    }
}

impl Chain {
    /// Starts a request along a route.
    pub fn begin<'p>(gate: &Rc<Gate>, policy: &'p Policy, route: usize, request: &Request) -> (Self, Step<'p>) {
        // A body can be read only once, so a request with a body is not retried.
        let method = request.body().is_null().then(|| request.method());
        let method = method.as_ref().map(String::as_bytes);
        let known = &mut gate.work().known;
        // Nor does a Worker see when the client has sent all of the body.
        let sent = method.is_some();
        let (progress, step) =
            known.act(now(), |upstreams, context| upstreams.begin(policy, route, method, sent, context));
        (Self { gate: Rc::clone(gate), progress }, step)
    }

    /// Waits for `wait`, then calls an upstream. The target is the request's own, unless the route replaces it.
    ///
    /// # Errors
    /// How the call ended, if there was no response.
    pub async fn ask(
        &self,
        request: &Request,
        serving: &Serving,
        (upstream, timeout, wait): (usize, Option<Span>, Span),
    ) -> Result<Response, CallEnd> {
        if wait >= SHORTEST_WAIT {
            pause(wait).await;
        }
        let base = self.gate.engine.policy().upstreams().get(upstream).and_then(|upstream| upstream.url());
        let aimed = aim(request, base, serving.target()).map_err(|_| CallEnd::NotConnected)?;
        let call = Call::new(aimed.as_ref().unwrap_or(request), timeout, serving.cf_options());
        match settled(call.answer.clone()).await {
            Ok(answer) => Ok(answer.unchecked_into()),
            Err(_) if call.timed_out() => Err(CallEnd::TimedOut),
            Err(_) => Err(CallEnd::Unanswered),
        }
    }

    /// Handles the end of the current call.
    pub fn ended<'p>(&mut self, policy: &'p Policy, ended: Ended) -> Step<'p> {
        let progress = &mut self.progress;
        self.gate.work().known.act(now(), |upstreams, context| upstreams.ended(policy, progress, ended, context))
    }

    /// Why the client gets a kept response.
    pub fn why(&self) -> Why {
        self.progress.why()
    }

    /// Records that the client gets a kept response.
    pub fn kept(&mut self) {
        self.gate.work().known.upstreams.kept(&mut self.progress);
    }

    /// The next step if nothing was kept for the request.
    pub fn last<'p>(&mut self, policy: &'p Policy) -> Step<'p> {
        self.gate.work().known.upstreams.last(policy, &mut self.progress)
    }

    /// Describes how the client is served, for the `x-tidegate` field.
    pub fn describe(&self, policy: &Policy) -> String {
        self.gate.work().known.upstreams.describe(policy, &self.progress, now())
    }
}

impl Drop for Chain {
    fn drop(&mut self) {
        if self.progress.upstream().is_some() {
            let progress = &mut self.progress;
            self.gate.work().known.act(now(), |upstreams, context| upstreams.abandoned(progress, context));
        }
    }
}

/// The request for the upstream with this base URL; `None` if it goes to its own URL unchanged. An upstream without a
/// URL is the zone's own origin.
fn aim(request: &Request, base: Option<&str>, target: Option<&[u8]>) -> Result<Option<Request>, wasm_bindgen::JsValue> {
    let facts = Facts::new(request);
    if base.is_none() && target.is_none() {
        return Ok(None);
    }
    let base = base.map_or_else(|| facts.origin(), |base| base.trim_end_matches('/'));
    let target = target.map_or(facts.target().into(), String::from_utf8_lossy);
    // Parsed before it is appended to the base: the parser takes `%2e%2e` for `..`, by which a client could leave the
    // base's path.
    let url = Url::parsed(&["http://a", &escaped_for_parsers(&target)].concat())?;
    Request::aimed(&[base, &url.pathname(), &url.search()].concat(), request).map(Some)
}

/// workerd's clock cannot measure less.
const SHORTEST_WAIT: Span = Span::from_millis(1);
