//! Header fields that tell a client its quota and what is left of it. They are on every response, so the unchanging
//! parts are formatted once.

use super::PolicyName;
use super::backwards::Backwards;
use crate::engine::{Charge, Engine, Plan};
use crate::key;
use crate::limiter::Verdict;
use crate::policy::{Limit, OnExceed, Quota};
use core::fmt::Write;

/// Header fields for a response: their names, and their values in one text. These two buffers are reused from request
/// to request.
#[derive(Clone, Debug, Default)]
pub struct Fields {
    /// Each name, and the end of its value in the text.
    names: Vec<(&'static str, usize)>,
    /// As bytes, because digits that are written one by one would have to be checked as UTF-8 again.
    text: Vec<u8>,
}

impl Fields {
    /// Adds the rate-limit fields for the limits of this plan, whether the request was admitted or not. Limits that
    /// only observe get none, nor does any limit of a policy in mode `observe`.
    ///
    /// `RateLimit-Policy` and `RateLimit` follow draft-ietf-httpapi-ratelimit-headers: structured fields (RFC 9651)
    /// with an item for each quota, in the policy's order. An item is named by the limit; if that has several quotas,
    /// by the limit and the window, as in `api/1h`, which cannot be the name of another limit. Quotas are in requests.
    /// The partition key is a hash of the client's key. A window is rounded up to whole seconds. A quota of requests in
    /// flight has the draft's unit for them, no window, and no time of reset, because that is unknown. If its number is
    /// adaptive, the policy states the maximum, so it does not change with every response.
    ///
    /// `X-RateLimit-*`, if the policy asks for them, describe the quota with the fewest permits left, with the reset in
    /// seconds from now.
    pub fn push_limits(&mut self, engine: &Engine, plan: &Plan) {
        let policy = engine.policy();
        if !engine.tells_limits() {
            return;
        }
        if policy.response.ratelimit {
            self.push_policies(engine, plan);
            self.push_left(engine, plan);
        }
        if policy.response.x_ratelimit {
            self.push_x_ratelimit(engine, plan);
        }
    }

    /// Adds a field.
    pub fn push(&mut self, name: &'static str, value: &str) {
        self.text.extend_from_slice(value.as_bytes());
        self.end(name);
    }

    /// The fields, in order.
    pub fn iter(&self) -> impl Iterator<Item = (&'static str, &str)> {
        self.lines().map(|(name, value)| (name, str::from_utf8(value).unwrap_or_default()))
    }

    /// The same, as the bytes that hosts take.
    pub fn lines(&self) -> impl Iterator<Item = (&'static str, &[u8])> {
        let mut begin = 0;
        self.names.iter().map(move |&(name, end)| {
            let value = self.text.get(begin..end).unwrap_or_default();
            begin = end;
            (name, value)
        })
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.names.is_empty()
    }

    /// Drops the fields, but not their memory.
    pub fn clear(&mut self) {
        self.names.clear();
        self.text.clear();
    }

    fn push_policies(&mut self, engine: &Engine, plan: &Plan) {
        let begin = self.text.len();
        for (_, item) in reported(engine, plan) {
            self.separate(begin);
            self.text.extend_from_slice(item.policy.as_bytes());
        }
        self.end_list("ratelimit-policy", begin);
    }

    fn push_left(&mut self, engine: &Engine, plan: &Plan) {
        let begin = self.text.len();
        for (charge, item) in reported(engine, plan) {
            let Some(left) = Left::of(engine, plan, charge) else { continue };
            self.separate(begin);
            self.text.extend_from_slice(item.left.as_bytes());
            let mut rest = Backwards::new();
            rest.put(b":");
            rest.put_base64(key::partition(engine.seed(), charge.key()));
            rest.put(b";pk=:");
            if item.resets {
                rest.put_number(left.reset_secs);
                rest.put(b";t=");
            }
            rest.put_number(left.remaining);
            self.text.extend_from_slice(rest.as_bytes());
        }
        self.end_list("ratelimit", begin);
    }

    #[inline(never)]
    fn push_x_ratelimit(&mut self, engine: &Engine, plan: &Plan) {
        let states = reported(engine, plan).filter_map(|(charge, _)| {
            let quotas = engine.policy().limits.get(charge.limit())?.quotas(plan.tier());
            Some((quotas.get(charge.quota())?.permits.get(), Left::of(engine, plan, charge)?))
        });
        let Some((permits, left)) = states.min_by_key(|(_, left)| left.remaining) else { return };
        for (name, value) in [
            ("x-ratelimit-limit", permits),
            ("x-ratelimit-remaining", left.remaining),
            ("x-ratelimit-reset", left.reset_secs),
        ] {
            let mut digits = Backwards::new();
            digits.put_number(value);
            self.text.extend_from_slice(digits.as_bytes());
            self.end(name);
        }
    }

    /// Separates the next item of the list that begins here from those before it.
    fn separate(&mut self, begin: usize) {
        if self.text.len() > begin {
            self.text.extend_from_slice(b", ");
        }
    }

    /// Ends a list field: no field if the list is empty.
    fn end_list(&mut self, name: &'static str, begin: usize) {
        if self.text.len() > begin {
            self.end(name);
        }
    }

    /// Ends the field of this name at the current end of the text.
    fn end(&mut self, name: &'static str) {
        self.names.push((name, self.text.len()));
    }
}

/// What clients are told of a quota, as far as it never changes.
#[derive(Debug)]
pub(crate) struct QuotaItem {
    /// The quota as `RateLimit-Policy` names it: `"api";q=100;w=60`.
    policy: Box<str>,
    /// The beginning of its item in `RateLimit`: `"api";r=`.
    left: Box<str>,
    /// Whether there is a time of reset.
    resets: bool,
    /// Whether clients are told of the quota at all.
    is_reported: bool,
}

impl QuotaItem {
    /// The item for `quota`, one of the `quotas` of this limit.
    pub(crate) fn new(limit: &Limit, quotas: &[Quota], quota: &Quota) -> Self {
        let name = PolicyName(limit.name.as_str(), (quotas.len() > 1).then_some(quota.window));
        let mut policy = format!("\"{name}\";q={}", quota.permits.get());
        if limit.holds() {
            policy.push_str(";qu=\"concurrent-requests\"");
        } else {
            // Writing to a string cannot fail.
            let _ = write!(policy, ";w={}", quota.window.as_secs_ceil());
        }
        Self {
            policy: policy.into(),
            left: format!("\"{name}\";r=").into(),
            resets: !limit.holds(),
            is_reported: limit.on_exceed != OnExceed::Observe,
        }
    }
}

/// What a client has left of one quota.
struct Left {
    remaining: u32,
    reset_secs: u32,
}

impl Left {
    fn of(engine: &Engine, plan: &Plan, charge: &Charge) -> Option<Self> {
        let standing = engine.standing(plan, charge)?;
        let reset = match charge.outcome()?.verdict {
            Verdict::Refuse { retry_after: Some(wait) } => wait.max(charge.ban().unwrap_or_default()),
            _ => standing.reset_after,
        };
        // Windows are at most a month long.
        let reset_secs = u32::try_from(reset.as_secs_ceil()).unwrap_or(u32::MAX);
        Some(Self { remaining: standing.remaining.get(), reset_secs })
    }
}

/// The charges that clients are told of: only limits that are enforced, and whose state was available.
fn reported<'a>(engine: &'a Engine, plan: &'a Plan) -> impl Iterator<Item = (&'a Charge, &'a QuotaItem)> {
    let known = plan.charges().iter().filter(|charge| charge.outcome().is_some());
    let items = known.filter_map(|charge| Some((charge, engine.quota_item(charge, plan.tier())?)));
    items.filter(|(_, item)| item.is_reported)
}
