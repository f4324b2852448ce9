//! The authority over shared limits, as a Durable Object runs it: it answers one ask, with the account that the object
//! has stored.
//!
//! Nothing is kept here between asks. An instance that fails, or an object that is evicted, loses nothing: the charge
//! is stored before the grant leaves.

use tidegate::authority::{Account, Ask, Grant};

/// The result of an ask.
pub struct Answered {
    account: Account,
    grant: Grant,
}

/// Answers an ask. `account` is the stored account of its key, `None` if there is none. Returns `None` if either cannot
/// be read, for example because another version wrote it.
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
    /// The account to store.
    pub fn account(&self) -> Box<[u8]> {
        self.account.to_bytes().into()
    }

    /// The time from which the account need not be kept, in ms since the Unix epoch.
    pub fn ends_ms(&self) -> u64 {
        self.account.ends_ms()
    }

    /// The grant to send.
    pub fn grant(&self) -> Box<[u8]> {
        self.grant.to_bytes().into()
    }
}
