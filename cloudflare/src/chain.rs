//! A request's way to its upstreams: the core says who is asked next, and here it is done.

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

/// What this isolate knows of the upstreams.
pub struct Known {
    upstreams: Upstreams,
    /// Where breakers publish. They outlive the policy, and a new one's breakers go on from there.
    ledgers: Rc<RefCell<MemoryLedgers>>,
    ticked: Timestamp,
}

/// How far a request has come on its way. Dropped while an upstream is being asked, it tells the breaker so.
pub struct Chain {
    gate: Rc<Gate>,
    progress: Progress,
}

impl Known {
    /// All upstreams are well, but for what is published.
    pub fn new(upstreams: Upstreams, ledgers: &Rc<RefCell<MemoryLedgers>>) -> Self {
        Self { upstreams, ledgers: Rc::clone(ledgers), ticked: Timestamp::EPOCH }
    }

    /// The upstreams.
    pub fn upstreams(&self) -> &Upstreams {
        &self.upstreams
    }

    /// Has the upstreams do something, after what was due by the time: there is nobody else to see to that.
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
    /// Begins the way of a request along a route.
    pub fn begin<'p>(gate: &Rc<Gate>, policy: &'p Policy, route: usize, request: &Request) -> (Self, Step<'p>) {
        // A body can be read once.
        let method = request.body().is_null().then(|| request.method());
        let method = method.as_ref().map(String::as_bytes);
        let known = &mut gate.work().known;
        // Nor is seen here when its client has sent all of it.
        let sent = method.is_some();
        let (progress, step) =
            known.act(now(), |upstreams, context| upstreams.begin(policy, route, method, sent, context));
        (Self { gate: Rc::clone(gate), progress }, step)
    }

    /// Asks an upstream for what the request asks for, or its route in place of that, after a wait.
    ///
    /// # Errors
    /// How the call ended, if there is no answer.
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
        let call = Call::new(aimed.as_ref().unwrap_or(request), timeout, serving.wishes());
        match settled(call.answer.clone()).await {
            Ok(answer) => Ok(answer.unchecked_into()),
            Err(_) if call.took_too_long() => Err(CallEnd::TimedOut),
            Err(_) => Err(CallEnd::Unanswered),
        }
    }

    /// Takes in how the call at hand ended.
    pub fn ended<'p>(&mut self, policy: &'p Policy, ended: Ended) -> Step<'p> {
        let progress = &mut self.progress;
        self.gate.work().known.act(now(), |upstreams, context| upstreams.ended(policy, progress, ended, context))
    }

    /// Why the client is to get what was kept.
    pub fn why(&self) -> Why {
        self.progress.why()
    }

    /// Notes that the client gets what was kept.
    pub fn kept(&mut self) {
        self.gate.work().known.upstreams.kept(&mut self.progress);
    }

    /// What a client gets for whom nothing was kept.
    pub fn last<'p>(&mut self, policy: &'p Policy) -> Step<'p> {
        self.gate.work().known.upstreams.last(policy, &mut self.progress)
    }

    /// How the client is served, in words.
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

/// The request as it goes to the upstream with this base URL; `None` when that is where it goes anyhow. An upstream without a
/// URL is the zone's own origin.
fn aim(request: &Request, base: Option<&str>, target: Option<&[u8]>) -> Result<Option<Request>, wasm_bindgen::JsValue> {
    let facts = Facts::new(request);
    if base.is_none() && target.is_none() {
        return Ok(None);
    }
    let base = base.map_or_else(|| facts.origin(), |base| base.trim_end_matches('/'));
    let target = target.map_or(facts.target().into(), String::from_utf8_lossy);
    // Read before it stands behind the base: the parser takes `%2e%2e` for `..`, by which a client would leave the base's path.
    let url = Url::parsed(&["http://a", &escaped_for_parsers(&target)].concat())?;
    Request::aimed(&[base, &url.pathname(), &url.search()].concat(), request).map(Some)
}

/// What workerd's clock cannot tell is not waited for.
const SHORTEST_WAIT: Span = Span::from_millis(1);
