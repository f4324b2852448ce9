//! Header fields that tell a client its quota and what is left of it. They are on every response, so the unchanging
//! parts are formatted once.

use super::PolicyName;
use crate::engine::{Charge, Engine, Plan};
use crate::key;
use crate::limiter::Verdict;
use crate::mode::Mode;
use crate::policy::{Limit, OnExceed, Quota};
use core::fmt::Write;

/// Header fields for a response: their names, and their values in one string. These two buffers are reused from request
/// to request.
#[derive(Clone, Debug, Default)]
pub struct Fields {
    /// Each name, and the end of its value in the text.
    names: Vec<(&'static str, usize)>,
    text: String,
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
        if policy.mode == Mode::Observe {
            return;
        }
        if policy.response.ratelimit {
            self.list("ratelimit-policy", engine, plan, |charge, text| {
                text.push_str(&engine.quota_item(charge, plan.tier())?.text);
                Some(())
            });
            self.list("ratelimit", engine, plan, |charge, text| write_limit(engine, plan, charge, text));
        }
        if policy.response.x_ratelimit {
            self.push_x_ratelimit(engine, plan);
        }
    }

    /// Adds a field.
    pub fn push(&mut self, name: &'static str, value: &str) {
        self.text.push_str(value);
        self.end(name);
    }

    /// The fields, in order.
    pub fn iter(&self) -> impl Iterator<Item = (&'static str, &str)> {
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

    /// Adds a list field with what `write` appends for each reported quota; no field if the list is empty.
    fn list(
        &mut self,
        name: &'static str,
        engine: &Engine,
        plan: &Plan,
        write: impl Fn(&Charge, &mut String) -> Option<()>,
    ) {
        let begin = self.text.len();
        for charge in plan.charges().iter().filter(|charge| is_reported(engine, charge)) {
            let before = self.text.len();
            if before > begin {
                self.text.push_str(", ");
            }
            if write(charge, &mut self.text).is_none() {
                self.text.truncate(before);
            }
        }
        if self.text.len() > begin {
            self.end(name);
        }
    }

    #[inline(never)]
    fn push_x_ratelimit(&mut self, engine: &Engine, plan: &Plan) {
        let states = plan.charges().iter().filter(|charge| is_reported(engine, charge));
        let states = states.filter_map(|charge| QuotaState::of(engine, plan, charge));
        let Some(least) = states.min_by_key(|state| state.remaining) else { return };
        for (name, value) in [
            ("x-ratelimit-limit", least.permits),
            ("x-ratelimit-remaining", least.remaining),
            ("x-ratelimit-reset", least.reset_secs),
        ] {
            push_number(&mut self.text, value);
            self.end(name);
        }
    }

    /// Ends the field of this name at the current end of the text.
    fn end(&mut self, name: &'static str) {
        self.names.push((name, self.text.len()));
    }
}

/// A quota as `RateLimit-Policy` names it: `"api";q=100;w=60`.
#[derive(Debug)]
pub(crate) struct QuotaItem {
    text: String,
    /// The length of the name in it, with its quotes.
    name: usize,
}

impl QuotaItem {
    /// The item for `quota`, one of the `quotas` of this limit.
    pub(crate) fn new(limit: &Limit, quotas: &[Quota], quota: &Quota) -> Self {
        let window = (quotas.len() > 1).then_some(quota.window);
        let mut text = format!("\"{}\";q={}", PolicyName(limit.name.as_str(), window), quota.permits.get());
        let name = text.find(';').unwrap_or(text.len());
        if limit.holds() {
            text.push_str(";qu=\"concurrent-requests\"");
        } else {
            // Writing to a string cannot fail.
            let _ = write!(text, ";w={}", quota.window.as_secs_ceil());
        }
        Self { text, name }
    }

    fn name(&self) -> &str {
        self.text.get(..self.name).unwrap_or_default()
    }
}

/// What a client has left of one quota.
struct QuotaState {
    permits: u32,
    remaining: u32,
    reset_secs: u32,
}

impl QuotaState {
    fn of(engine: &Engine, plan: &Plan, charge: &Charge) -> Option<Self> {
        let quotas = engine.policy().limits.get(charge.limit())?.quotas(plan.tier());
        let standing = engine.standing(plan, charge)?;
        let reset = match charge.outcome()?.verdict {
            Verdict::Refuse { retry_after: Some(wait) } => wait.max(charge.ban().unwrap_or_default()),
            _ => standing.reset_after,
        };
        Some(Self {
            permits: quotas.get(charge.quota())?.permits.get(),
            remaining: standing.remaining.get(),
            // Windows are at most a month long.
            reset_secs: u32::try_from(reset.as_secs_ceil()).unwrap_or(u32::MAX),
        })
    }
}

/// Only limits that are enforced, and whose state was available, are reported.
fn is_reported(engine: &Engine, charge: &Charge) -> bool {
    let limit = engine.policy().limits.get(charge.limit());
    charge.outcome().is_some() && limit.is_some_and(|limit| limit.on_exceed != OnExceed::Observe)
}

fn write_limit(engine: &Engine, plan: &Plan, charge: &Charge, text: &mut String) -> Option<()> {
    let (item, state) = (engine.quota_item(charge, plan.tier())?, QuotaState::of(engine, plan, charge)?);
    text.push_str(item.name());
    text.push_str(";r=");
    push_number(text, state.remaining);
    if !engine.policy().limits.get(charge.limit())?.holds() {
        text.push_str(";t=");
        push_number(text, state.reset_secs);
    }
    text.push_str(";pk=:");
    push_base64(text, key::partition(engine.seed(), charge.key()));
    text.push(':');
    Some(())
}

/// Appends a number. The standard library's formatting is more general and slower.
fn push_number(text: &mut String, number: u32) {
    text.push_str(itoa::Buffer::new().format(number));
}

/// Appends eight bytes in base64 (RFC 4648 section 4).
fn push_base64(text: &mut String, bytes: [u8; 8]) {
    const ALPHABET: [u8; 64] = *b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut bits = u64::from_be_bytes(bytes);
    let mut ascii = Ascii([b'='; 16]);
    // Sixty-four bits are ten digits and two thirds of one, whose rest is the zeros that are shifted in.
    for digit in ascii.0.iter_mut().take(11) {
        *digit = ALPHABET.get((bits >> 58) as usize).copied().unwrap_or(b'=');
        bits <<= 6;
    }
    text.push_str(ascii.text().get(..12).unwrap_or_default());
}

/// A short text. With this size and alignment it is checked as UTF-8 in one or two steps. Checking byte by byte would
/// take longer than writing it.
#[repr(align(16))]
struct Ascii([u8; 16]);

impl Ascii {
    fn text(&self) -> &str {
        str::from_utf8(&self.0).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use base64ct::{Base64, Encoding};
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn numbers_and_base64_are_written_as_by_anybody(number in prop_oneof![0_u32..2_000, any::<u32>()], bytes: [u8; 8]) {
            let mut text = String::new();
            push_number(&mut text, number);
            prop_assert_eq!(&text, &number.to_string());
            text.clear();
            push_base64(&mut text, bytes);
            prop_assert_eq!(text, Base64::encode_string(&bytes));
        }
    }
}
