//! The header fields that tell a client how it stands, on every answer: so what does not change is written once.

use super::PolicyName;
use crate::engine::{Charge, Engine, Plan};
use crate::key;
use crate::limiter::Verdict;
use crate::mode::Mode;
use crate::policy::{Limit, OnExceed, Quota};
use core::fmt::Write;

/// Header fields that wait for an answer: names, and values that stand one behind the other in one text. So they are two pieces
/// of memory, which serve one request after another.
#[derive(Clone, Debug, Default)]
pub struct Fields {
    /// Each name, and where its value ends.
    names: Vec<(&'static str, usize)>,
    text: String,
}

impl Fields {
    /// Adds the fields that tell the client how it stands with the limits of this plan, admitted or not.
    ///
    /// `RateLimit-Policy` and `RateLimit` as draft-ietf-httpapi-ratelimit-headers has them: structured fields (RFC 9651), an
    /// item a quota, in the policy's order, by the limit's name, and where a limit has several by the name and the window, as
    /// in `api/1h`, which is the name of no other limit; quotas in requests; the partition key a hash of the client's key. A
    /// window that is no whole number of seconds is rounded up. A quota of requests in flight has the draft's unit for them and
    /// no window, and nothing is said of when permits come back, since nobody knows; where their number is found out, the policy
    /// tells of the most, as it should not change with every answer. `X-RateLimit-*`, if the policy asks for them, tell of the
    /// quota with the fewest permits left, the reset in seconds from now. Limits that only observe are not told of, and under a
    /// policy that does none.
    pub fn tell(&mut self, engine: &Engine, plan: &Plan) {
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
            self.tell_least(engine, plan);
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

    /// Adds what `write` makes of each quota that the client is told of, as a list; no field if that is empty.
    fn list(
        &mut self,
        name: &'static str,
        engine: &Engine,
        plan: &Plan,
        write: impl Fn(&Charge, &mut String) -> Option<()>,
    ) {
        let begin = self.text.len();
        for charge in plan.charges().iter().filter(|charge| is_told(engine, charge)) {
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
    fn tell_least(&mut self, engine: &Engine, plan: &Plan) {
        let told = plan.charges().iter().filter(|charge| is_told(engine, charge));
        let told = told.filter_map(|charge| Told::of(engine, plan, charge));
        let Some(least) = told.min_by_key(|told| told.remaining) else { return };
        for (name, value) in [
            ("x-ratelimit-limit", least.permits),
            ("x-ratelimit-remaining", least.remaining),
            ("x-ratelimit-reset", least.reset_secs),
        ] {
            push_number(&mut self.text, value);
            self.end(name);
        }
    }

    /// The field of this name ends where the text ends.
    fn end(&mut self, name: &'static str) {
        self.names.push((name, self.text.len()));
    }
}

/// A quota as `RateLimit-Policy` names it: `"api";q=100;w=60`.
#[derive(Debug)]
pub(crate) struct QuotaItem {
    text: String,
    /// How much of that is the name, with its quotes.
    name: usize,
}

impl QuotaItem {
    /// The item of `quota`, one of these `quotas` of the limit of this name.
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

/// How a client stands with one quota.
struct Told {
    permits: u32,
    remaining: u32,
    reset_secs: u32,
}

impl Told {
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
            // Windows are a month long at most.
            reset_secs: u32::try_from(reset.as_secs_ceil()).unwrap_or(u32::MAX),
        })
    }
}

/// Clients are told of limits that act, and whose state could be had.
fn is_told(engine: &Engine, charge: &Charge) -> bool {
    let limit = engine.policy().limits.get(charge.limit());
    charge.outcome().is_some() && limit.is_some_and(|limit| limit.on_exceed != OnExceed::Observe)
}

fn write_limit(engine: &Engine, plan: &Plan, charge: &Charge, text: &mut String) -> Option<()> {
    let (item, told) = (engine.quota_item(charge, plan.tier())?, Told::of(engine, plan, charge)?);
    text.push_str(item.name());
    text.push_str(";r=");
    push_number(text, told.remaining);
    if !engine.policy().limits.get(charge.limit())?.holds() {
        text.push_str(";t=");
        push_number(text, told.reset_secs);
    }
    text.push_str(";pk=:");
    push_base64(text, key::partition(engine.seed(), charge.key()));
    text.push(':');
    Some(())
}

/// Appends a number. The standard library's way is made for every format, and takes longer.
fn push_number(text: &mut String, number: u32) {
    text.push_str(itoa::Buffer::new().format(number));
}

/// Appends eight bytes in base64 (RFC 4648 section 4).
fn push_base64(text: &mut String, bytes: [u8; 8]) {
    const ALPHABET: [u8; 64] = *b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut bits = u64::from_be_bytes(bytes);
    let mut ascii = Ascii([b'='; 16]);
    // Sixty-four bits are ten of these digits and two thirds of one; what is shifted in fills that with zeros.
    for digit in ascii.0.iter_mut().take(11) {
        *digit = ALPHABET.get((bits >> 58) as usize).copied().unwrap_or(b'=');
        bits <<= 6;
    }
    text.push_str(ascii.text().get(..12).unwrap_or_default());
}

/// A little text. As long and aligned as this, it is checked as UTF-8 in one or two steps, and not byte after byte, which
/// would take longer than to write it.
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
