//! The header fields that tell a client how it stands, on every answer: so what does not change is written once.

use super::PolicyName;
use crate::engine::{Charge, Engine, Plan};
use crate::key;
use crate::limiter::Verdict;
use crate::mode::Mode;
use crate::policy::{Limit, OnExceed, Quota};
use core::fmt::Write;

/// Calls `add` with each header that tells the client how it stands with the limits of this plan, admitted or not.
///
/// `RateLimit-Policy` and `RateLimit` as draft-ietf-httpapi-ratelimit-headers has them: structured fields (RFC 9651), an
/// item a quota, in the policy's order, by the limit's name, and where a limit has several by the name and the window, as
/// in `api/1h`, which is the name of no other limit; quotas in requests; the partition key a hash of the client's key. A
/// window that is no whole number of seconds is rounded up. A quota of requests in flight has the draft's unit for them and
/// no window, and nothing is said of when permits come back, since nobody knows; where their number is found out, the policy
/// tells of the most, as it should not change with every answer. `X-RateLimit-*`, if the policy asks for them, tell of the quota
/// with the fewest permits left, the reset in seconds from now. Limits that only observe are not told of, and under a
/// policy that does none.
pub fn quota_headers(engine: &Engine, plan: &Plan, text: &mut String, add: &mut dyn FnMut(&'static str, &str)) {
    let response = &engine.policy().response;
    let told = || plan.charges().iter().filter(|charge| is_told(engine, charge));
    if engine.policy().mode == Mode::Observe || told().next().is_none() {
        return;
    }
    if response.ratelimit {
        list(text, told(), |charge, text| {
            let item = engine.quota_item(charge, plan.tier())?;
            text.push_str(&item.text);
            Some(())
        });
        add("ratelimit-policy", text);
        list(text, told(), |charge, text| write_limit(engine, plan, charge, text));
        add("ratelimit", text);
    }
    if response.x_ratelimit
        && let Some(least) = told().filter_map(|charge| Told::of(engine, plan, charge)).min_by_key(|it| it.remaining)
    {
        for (name, value) in [
            ("x-ratelimit-limit", least.permits),
            ("x-ratelimit-remaining", least.remaining),
            ("x-ratelimit-reset", least.reset_secs),
        ] {
            text.clear();
            push_number(text, value);
            add(name, text);
        }
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

/// What `write` makes of each charge, if anything, as a list.
fn list<'a>(
    text: &mut String,
    charges: impl Iterator<Item = &'a Charge>,
    write: impl Fn(&Charge, &mut String) -> Option<()>,
) {
    text.clear();
    for charge in charges {
        let before = text.len();
        if before > 0 {
            text.push_str(", ");
        }
        if write(charge, text).is_none() {
            text.truncate(before);
        }
    }
}

/// Appends a number. The standard library's way, made for every format, takes five times as long.
fn push_number(text: &mut String, number: u32) {
    let mut ascii = Ascii([b'0'; 16]);
    let (mut rest, mut first) = (number, ascii.0.len());
    for (at, digit) in ascii.0.iter_mut().enumerate().rev() {
        *digit |= (rest % 10) as u8;
        rest /= 10;
        first = at;
        if rest == 0 {
            break;
        }
    }
    text.push_str(ascii.text().get(first..).unwrap_or_default());
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
    use base64::Engine as _;
    use base64::engine::general_purpose::STANDARD;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn numbers_and_base64_are_written_as_by_anybody(number in prop_oneof![0_u32..2_000, any::<u32>()], bytes: [u8; 8]) {
            let mut text = String::new();
            push_number(&mut text, number);
            prop_assert_eq!(&text, &number.to_string());
            text.clear();
            push_base64(&mut text, bytes);
            prop_assert_eq!(text, STANDARD.encode(bytes));
        }
    }
}
