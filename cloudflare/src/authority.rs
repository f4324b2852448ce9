//! The authority over shared limits, as a Durable Object runs it: one ask, on the account as the object has stored it.
//!
//! Nothing is kept here between asks. An instance that fails, or an object that is evicted, has lost nothing: what was granted is
//! stored before the grant leaves.

use tidegate::authority::{Account, Ask, Grant};

/// What came of an ask.
pub struct Answered {
    account: Account,
    grant: Grant,
}

/// Answers an ask by the account of its key, `None` if there is none. `None` when either is not to be understood, as when
/// it was written by another version.
pub fn answer_ask(ask: &[u8], account: Option<&[u8]>, now_ms: u64) -> Option<Answered> {
    let mut account = match account {
        Some(bytes) => Account::from_bytes(bytes)?,
        None => Account::default(),
    };
    let ask = Ask::from_bytes(ask)?;
    #[cfg(feature = "panic-on-header")]
    crate::trap::panic_if_ask_says(&ask);
    let grant = account.answer(&ask, now_ms);
    Some(Answered { account, grant })
}

impl Answered {
    /// The account, to be stored.
    pub fn account(&self) -> Box<[u8]> {
        self.account.to_bytes().into()
    }

    /// From when on, in ms since the Unix epoch, the account need not be kept.
    pub fn ends_ms(&self) -> u64 {
        self.account.ends_ms()
    }

    /// The grant, to be sent.
    pub fn grant(&self) -> Box<[u8]> {
        self.grant.to_bytes().into()
    }
}
