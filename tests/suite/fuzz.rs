//! Hostile input, tens of thousands of cases mutated from valid input, checked against invariants and against parsers
//! of the standard library and serde_json. (`policy/mutation.rs` fuzzes policy documents.)
//!
//! The seed is fixed, so runs are reproducible; `TIDEGATE_FUZZ_SEED` and `TIDEGATE_FUZZ_CASES` override it. A failure
//! prints both.

pub mod dice;

mod addresses;
mod claims;
mod networks;
mod pairs;
mod redis;
mod requests;

use std::borrow::Cow;

use tidegate::engine::{Engine, Plan};
use tidegate::key::KeyHash;
use tidegate::request::RequestFacts;

use dice::Dice;

/// Runs a check on many cases, each with its own random source.
pub fn cases(name: &str, mut check: impl FnMut(&mut Dice)) {
    let number = |name: &str| std::env::var(name).ok().map(|text| text.parse::<u64>().expect("a number"));
    let seed = number("TIDEGATE_FUZZ_SEED").unwrap_or(SEED);
    for case in 0..number("TIDEGATE_FUZZ_CASES").unwrap_or(10_000) {
        let report = FailureReport { name, seed, case };
        check(&mut Dice::new(seed.wrapping_add(case.wrapping_mul(0x9e37_79b9_7f4a_7c15))));
        std::mem::forget(report);
    }
}

/// Prints the case if its check panics.
struct FailureReport<'n> {
    name: &'n str,
    seed: u64,
    case: u64,
}

impl Drop for FailureReport<'_> {
    fn drop(&mut self) {
        eprintln!("{}: case {} of TIDEGATE_FUZZ_SEED={} failed", self.name, self.case, self.seed);
    }
}

/// A request whose facts can be any bytes.
#[derive(Clone, Debug, Default)]
pub struct Raw {
    pub method: Vec<u8>,
    pub path: Vec<u8>,
    pub authority: Vec<u8>,
    pub peer: Option<Vec<u8>>,
    pub headers: Vec<(&'static str, Vec<u8>)>,
}

impl Raw {
    pub fn with(mut self, name: &'static str, value: impl AsRef<[u8]>) -> Self {
        self.headers.push((name, value.as_ref().to_vec()));
        self
    }
}

impl RequestFacts for Raw {
    fn method(&self) -> Cow<'_, [u8]> {
        Cow::Borrowed(&self.method)
    }

    fn path(&self) -> Cow<'_, [u8]> {
        Cow::Borrowed(&self.path)
    }

    fn authority(&self) -> Cow<'_, [u8]> {
        Cow::Borrowed(&self.authority)
    }

    fn peer(&self) -> Option<Cow<'_, [u8]>> {
        self.peer.as_deref().map(Cow::Borrowed)
    }

    fn header(&self, name: &str) -> Option<Cow<'_, [u8]>> {
        let values: Vec<_> =
            self.headers.iter().filter(|(named, _)| *named == name).map(|(_, value)| &**value).collect();
        (!values.is_empty()).then(|| Cow::Owned(values.join(&b',')))
    }
}

/// The key that the first limit charges for a request.
fn key(engine: &Engine, request: &Raw) -> KeyHash {
    let mut plan = Plan::new();
    engine.plan(request, &mut plan);
    plan.charges()[0].key()
}

/// The engine of a policy with one limit of this key.
fn keyed_by(part: &str) -> Engine {
    crate::harness::engine(&format!(
        r#"{{ "version": 1, "client": {{ "claims": {{ "header": "x-claims" }}, "trusted_headers": ["x-claims"] }},
        "limits": [{{ "name": "api", "key": ["{part}"], "quota": {{ "permits": 1, "window": "1s" }} }}] }}"#
    ))
}

const SEED: u64 = 20_260_701;
