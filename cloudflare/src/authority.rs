//! The authority over shared limits, as a Durable Object runs it: one ask, on the account as the object has stored it.
//!
//! Nothing is kept here between asks. An instance that fails, or an object that is evicted, has lost nothing: what was granted is
//! stored before the grant leaves.

use tidegate::authority::{Account, Ask, Grant};
use wasm_bindgen::prelude::*;

/// What came of an ask.
#[wasm_bindgen]
pub struct Settled {
    account: Account,
    grant: Grant,
}

/// Answers an ask by the account of its key, `undefined` if there is none. `undefined` when either is not to be understood, as when
/// it was written by another version.
#[wasm_bindgen]
pub fn settle(ask: &[u8], account: Option<Box<[u8]>>, now_ms: f64) -> Option<Settled> {
    let mut account = match account {
        Some(bytes) => Account::from_bytes(&bytes)?,
        None => Account::default(),
    };
    let ask = Ask::from_bytes(ask)?;
    #[cfg(feature = "panic-on-header")]
    crate::trap::spring_for(&ask);
    let grant = account.answer(&ask, now_ms as u64);
    Some(Settled { account, grant })
}

#[wasm_bindgen]
impl Settled {
    /// The account, to be stored.
    #[wasm_bindgen(getter)]
    pub fn account(&self) -> Box<[u8]> {
        self.account.to_bytes().into()
    }

    /// From when on, in ms since the Unix epoch, the account need not be kept.
    #[wasm_bindgen(getter)]
    pub fn ends_ms(&self) -> f64 {
        self.account.ends_ms() as f64
    }

    /// The grant, to be sent.
    #[wasm_bindgen(getter)]
    pub fn grant(&self) -> Box<[u8]> {
        self.grant.to_bytes().into()
    }
}
