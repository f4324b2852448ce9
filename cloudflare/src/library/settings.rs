//! The policy and the mode in force: from the KV namespace, or else from the build.

use super::bindings::{Bindings, Kv, settled, with_timeout};
use super::{breakers, is_lately};
use crate::host::{self, Response};
use crate::order::{self, Change};
use crate::{cache, isolate, now};
use core::cell::RefCell;
use js_sys::{Array, Promise};
use tidegate::policy::OnFailure;
use tidegate::units::{Span, Timestamp};
use wasm_bindgen::{JsCast, JsValue};
use worker::Context;

/// The settings of an isolate.
struct Known {
    /// The policy that the Worker was built with; `None` before the first request.
    built: Option<String>,
    /// What KV held at the last read: the policy, the mode, and the suffix of the cache's name.
    last_read: [Option<String>; 3],
    /// Whether KV has been read once, so that requests need not wait for it.
    has_read: bool,
    /// When KV was last read.
    read_at: Timestamp,
    /// The policy and the mode in force.
    in_force: Option<(String, String)>,
    on_failure: OnFailure,
}

thread_local! {
    static KNOWN: RefCell<Known> = const {
        RefCell::new(Known {
            built: None,
            last_read: [None, None, None],
            has_read: false,
            read_at: Timestamp::EPOCH,
            in_force: None,
            on_failure: OnFailure::Pass,
        })
    };
}

/// What happens to a request that cannot be decided, per the policy in force.
pub fn on_failure() -> OnFailure {
    KNOWN.with_borrow(|known| known.on_failure)
}

/// Prepares the isolate for a request. Requests wait until KV has been read once; later reads run beside requests.
pub async fn prepare(policy: &str, bindings: &Bindings, ctx: &Context) {
    let env = &bindings.env;
    let Some(kv) = &bindings.kv else {
        if remember_built(policy) {
            apply(env);
        }
        return;
    };
    let kv = kv.clone();
    if !KNOWN.with_borrow(|known| known.has_read) {
        let is_new = read_kv(&kv).await;
        let is_first = remember_built(policy);
        if is_first || is_new {
            apply(env);
        }
        if is_first {
            ctx.wait_until(async move { breakers::receive(&kv).await });
        }
    } else if is_due() {
        let env = env.clone();
        ctx.wait_until(async move {
            if read_kv(&kv).await {
                apply(&env);
            }
            breakers::receive(&kv).await;
        });
    }
}

/// Remembers the policy that the Worker was built with. Returns whether this was the first call.
fn remember_built(policy: &str) -> bool {
    KNOWN.with_borrow_mut(|known| {
        let is_first = known.built.is_none();
        if is_first {
            known.built = Some(policy.to_owned());
        }
        is_first
    })
}

fn is_due() -> bool {
    !is_lately(KNOWN.with_borrow(|known| known.read_at), READ_EVERY)
}

/// Reads KV. Returns whether anything has changed.
async fn read_kv(kv: &Kv) -> bool {
    // Set first, so that no other request reads as well.
    KNOWN.with_borrow_mut(|known| known.read_at = now());
    let read = read(kv).await;
    KNOWN.with_borrow_mut(|known| known.has_read = true);
    match read {
        Ok(read) => KNOWN.with_borrow_mut(|known| {
            let is_new = known.last_read != read;
            known.last_read = read;
            is_new
        }),
        Err(error) => {
            host::log_error(&format!("tidegate: KV cannot be read, what was in force stays: {error:?}"));
            false
        }
    }
}

async fn read(kv: &Kv) -> Result<[Option<String>; 3], JsValue> {
    let values = Array::new();
    for key in ["policy", "mode", "purge"] {
        values.push(&kv.get(key)?.into());
    }
    let values: Array = with_timeout(READ_TIMEOUT, &Promise::all(&values)).await?.dyn_into()?;
    Ok([0, 1, 2].map(|at| values.get(at).as_string()))
}

/// Puts in force what was read last. A bad policy or mode is logged, and the previous one stays in force; without a
/// previous policy, the built-in one is used.
fn apply(env: &JsValue) {
    KNOWN.with_borrow_mut(|known| {
        let [policy, mode, purge] = &known.last_read;
        cache::set_cache_suffix(purge.as_deref().unwrap_or_default());
        let built = known.built.as_deref().unwrap_or_default();
        let policy = policy.as_deref().unwrap_or(built);
        let before = known.in_force.take();
        let mut mode = mode.as_deref().unwrap_or_default();
        if let Err(problem) = isolate::mode_of(mode) {
            host::log_error(&problem);
            mode = before.as_ref().map_or("", |(_, mode)| mode);
        }
        let is_in_force = |policy: &str| before.as_ref().is_some_and(|(before, of)| before == policy && of == mode);
        // A mode takes effect even if the policy read with it is bad: operators need it most when something is wrong.
        let before_it = before.as_ref().map(|(before, _)| before.as_str());
        let candidates = [before_it, Some(built)].into_iter().flatten().filter(|other| *other != policy);
        let taken = core::iter::once(policy).chain(candidates).find(|candidate| {
            if is_in_force(candidate) {
                return true;
            }
            match isolate::configure(candidate, mode, env) {
                Ok(on_failure) => known.on_failure = on_failure,
                Err(problems) => {
                    host::log_error(&problems);
                    return false;
                }
            }
            true
        });
        match taken {
            None => host::log_error("tidegate: without a policy every request passes"),
            Some(taken) if taken == policy => {}
            Some(_) if before.is_some() => host::log_error("tidegate: the policy before stays in force"),
            Some(_) => host::log_error("tidegate: KV's policy is bad, the one that is built in is in force"),
        }
        known.in_force = taken.map(|policy| (policy.to_owned(), mode.to_owned()));
    });
}

/// Writes an operator's change to KV. It takes effect here with the next request, if KV shows it by then.
pub async fn store_change(change: &Change, bindings: &Bindings) -> Response {
    let Some(kv) = &bindings.kv else {
        return order::change_response(Some("there is no KV namespace bound as TIDEGATE to keep it"));
    };
    let (key, value) = (change.key(), change.value(now()));
    let kept = match &value {
        Some(value) => kv.put(key, value),
        None => kv.delete(key),
    };
    let kept = match kept {
        Ok(kept) => settled(kept).await,
        Err(error) => Err(error),
    };
    if let Err(error) = kept {
        return order::change_response(Some(&format!("KV does not keep it: {error:?}")));
    }
    host::log_warning(&match value {
        Some(value) => format!("tidegate: an operator has set {key} to {value}"),
        None => format!("tidegate: an operator has cleared {key}"),
    });
    KNOWN.with_borrow_mut(|known| known.read_at = Timestamp::EPOCH);
    order::change_response(None)
}

/// KV shows a new value everywhere within a minute, so reading more often has no use.
const READ_EVERY: Span = Span::from_secs(30);
/// The longest time that the first request waits for KV.
const READ_TIMEOUT: Span = Span::from_secs(1);
