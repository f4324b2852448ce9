//! Limits shared by many isolates: the asks for the authority, and the requests that wait for its answers.
//!
//! No request can wake another one, because timers and promises of workerd belong to one request. The request that
//! sends an ask awaits the answer; the others that wait for the same key poll every few milliseconds.

use crate::gate::{Gate, Work};
use crate::host::Request;
use crate::task::Task;
use crate::verdict::Verdict;
use std::rc::Rc;
use tidegate::authority::{Ask, Grant, Instance};
use tidegate::engine::{Answer, Engine};
use tidegate::lease::Leases;
use tidegate::units::{Span, Timestamp};

/// An ask to be sent to a Durable Object.
pub struct ObjectAsk {
    gate: Rc<Gate>,
    ask: Ask,
}

/// The asks to send to the authority.
pub enum Asks {
    /// To Durable Objects, one ask at a time.
    Objects(Vec<ObjectAsk>),
    /// To Redis, by these calls.
    Redis(Vec<Task>),
}

/// A request that waits for the authority. Dropped when it has its verdict, or when its client has gone.
pub struct GrantWait {
    gate: Rc<Gate>,
    id: u32,
}

/// The leases of this isolate, with an authority to ask if the policy has shared limits.
///
/// # Errors
/// There is no random source.
pub fn leases(engine: &Engine, has_authority: bool) -> Result<Leases, String> {
    // The isolate's own limits count in its own memory, so there is nothing to lease for them.
    let mut leases = Leases::none();
    if has_authority {
        let mut bits = [0; 8];
        getrandom::fill(&mut bits).map_err(|error| format!("tidegate: no random source: {error}"))?;
        if let Some(global) = engine.sharing(Instance::new(u64::from_le_bytes(bits)), DEADLINE) {
            leases.share(global);
        }
    }
    Ok(leases)
}

impl ObjectAsk {
    /// The message to send.
    pub fn message(&self) -> Box<[u8]> {
        self.ask.to_bytes().into()
    }

    /// Which of `shards` objects counts the key.
    pub fn shard(&self, shards: u32) -> u32 {
        self.ask.key.get().checked_rem(u64::from(shards)).and_then(|shard| u32::try_from(shard).ok()).unwrap_or(0)
    }

    /// Handles the answer; `None` if there will be none.
    pub fn done(self, grant: Option<&[u8]>, now: Timestamp) {
        let answer = Answer::to(&self.ask, grant.and_then(Grant::from_bytes));
        let Work { store, leases, counters, .. } = &mut *self.gate.work();
        self.gate.engine.granted(&answer, leases, store, counters, now);
    }
}

impl GrantWait {
    /// How long an answer of the authority is awaited, in ms.
    pub fn deadline_ms(&self) -> u32 {
        let work = self.gate.work();
        work.leases.global_ref().map_or(0, |global| millis(global.rules().deadline))
    }

    /// The verdict, [`Verdict::Pending`] while the request has to wait.
    pub fn verdict(&mut self, request: &Request, now: Timestamp) -> Verdict {
        let since = {
            let work = &mut *self.gate.work();
            tend(&self.gate.engine, work, now);
            while let Some(wake) = work.leases.global().and_then(|global| global.ready()) {
                work.woken.insert(wake.id, wake.since);
            }
            work.woken.remove(&self.id)
        };
        since.map_or(Verdict::Pending, |since| self.gate.judge(request, Some((self.id, since)), now))
    }

    /// Lets the request of the decided plan wait. One that has waited before continues to wait under its number.
    pub fn enter(gate: &Rc<Gate>, work: &mut Work, resumed: Option<u32>) -> Verdict {
        let id = resumed.unwrap_or_else(|| work.next_id());
        gate.engine.await_grant(&work.plan, id, &mut work.leases);
        match resumed {
            Some(_) => Verdict::Pending,
            None => Verdict::AwaitsGrant(Self { gate: Rc::clone(gate), id }),
        }
    }
}

impl Drop for GrantWait {
    fn drop(&mut self) {
        let work = &mut *self.gate.work();
        work.woken.remove(&self.id);
        if let Some(global) = work.leases.global() {
            global.leave(self.id);
        }
    }
}

/// The asks to send to Durable Objects now.
pub fn object_asks(gate: &Rc<Gate>, now: Timestamp) -> Vec<ObjectAsk> {
    let mut asks = Vec::new();
    if let Some(global) = gate.work().leases.global() {
        global.asks(now, &mut asks);
    }
    asks.into_iter().map(|ask| ObjectAsk { gate: Rc::clone(gate), ask }).collect()
}

/// Does what is due. Returns in how many ms more is due; `None` while nothing is pending.
pub fn tend(engine: &Engine, work: &mut Work, now: Timestamp) -> Option<u32> {
    let Work { store, leases, counters, .. } = work;
    if leases.global_ref()?.next_due(now) == Some(Span::ZERO) {
        engine.tend(leases, store, counters, now);
    }
    leases.global_ref()?.next_due(now).map(millis)
}

fn millis(span: Span) -> u32 {
    u32::try_from(span.as_nanos().div_ceil(NANOS_PER_MILLI)).unwrap_or(u32::MAX)
}

/// How long an answer of the authority is awaited, unless the policy says otherwise.
pub const DEADLINE: Span = Span::from_millis(50);
const NANOS_PER_MILLI: u64 = 1_000_000;
