//! The authority over limits that are shared: a Durable Object for each part of the keys. It stores accounts, and asks the core.

#![allow(missing_docs, reason = "what the macro adds is called by workerd alone")]

use crate::authority::settle;
use core::cell::Cell;
use js_sys::Date;
use worker::{
    DurableObject, Env, Request, Response, Result, ScheduledTime, SqlStorage, SqlStorageValue, State, durable_object,
};

/// Counts limits of the scope `global`. The Worker whose binding `TIDEGATE_AUTHORITY` names the class has it in `wrangler.toml` under
/// `new_sqlite_classes`; whoever links this crate exports it.
#[durable_object(alarm)]
pub struct TidegateAuthority {
    state: State,
    /// How many accounts there are, once that is known.
    keys: Cell<Option<i64>>,
    /// Whether an alarm is set, once that is known.
    is_set: Cell<Option<bool>>,
}

impl DurableObject for TidegateAuthority {
    fn new(state: State, _env: Env) -> Self {
        Self { state, keys: Cell::new(None), is_set: Cell::new(None) }
    }

    /// Answers an ask with a grant. What it charges is stored before the answer leaves: the runtime holds it back until then.
    async fn fetch(&self, mut request: Request) -> Result<Response> {
        let ask = request.bytes().await?;
        let Some(grant) = self.settle(&ask)? else {
            return Response::error("the ask or the account of its key is of another version", 400);
        };
        if self.is_set.get().is_none() {
            self.is_set.set(Some(self.state.storage().get_alarm().await?.is_some()));
        }
        if self.is_set.get() == Some(false) {
            self.clean().await?;
        }
        Response::from_bytes(grant)
    }

    async fn alarm(&self) -> Result<Response> {
        self.clean().await?;
        Response::empty()
    }
}

impl TidegateAuthority {
    fn settle(&self, ask: &[u8]) -> Result<Option<Vec<u8>>> {
        let Some(key) = ask.get(KEY) else { return Ok(None) };
        let (sql, now, key) = (self.sql()?, Date::now(), || SqlStorageValue::Blob(key.to_vec()));
        let row =
            sql.exec("SELECT account, ends FROM accounts WHERE key = ?", vec![key()])?.raw().next().transpose()?;
        let is_new = row.is_none();
        let before = match row.as_deref() {
            // What has ended may be of a version that nobody knows any more.
            Some([SqlStorageValue::Blob(account), ends]) if number(ends) > now as i64 => Some(account.as_slice()),
            _ => None,
        };
        let Some(settled) = settle(ask, before, now as u64) else { return Ok(None) };
        if is_new && self.keys.get().is_some_and(|keys| keys >= MOST_KEYS) {
            sql.exec(
                "DELETE FROM accounts WHERE key IN (SELECT key FROM accounts ORDER BY ends LIMIT ?)",
                vec![SqlStorageValue::Integer(FORGOTTEN)],
            )?;
            self.count(&sql)?;
        }
        let ends = i64::try_from(settled.ends_ms()).unwrap_or(i64::MAX);
        let row = vec![key(), SqlStorageValue::Blob(settled.account().into()), SqlStorageValue::try_from_i64(ends)?];
        sql.exec("INSERT OR REPLACE INTO accounts VALUES (?, ?, ?)", row)?;
        if is_new {
            self.keys.set(self.keys.get().map(|keys| keys.saturating_add(1)));
        }
        Ok(Some(settled.grant().into()))
    }

    /// The storage, with its table.
    fn sql(&self) -> Result<SqlStorage> {
        let sql = self.state.storage().sql();
        if self.keys.get().is_none() {
            sql.exec(
                "CREATE TABLE IF NOT EXISTS accounts (key BLOB PRIMARY KEY, account BLOB NOT NULL, ends INTEGER NOT NULL)",
                None,
            )?;
            sql.exec("CREATE INDEX IF NOT EXISTS ends ON accounts (ends)", None)?;
            self.count(&sql)?;
        }
        Ok(sql)
    }

    /// Counts the accounts. Answers when the first of them ends.
    fn count(&self, sql: &SqlStorage) -> Result<i64> {
        let row = sql.exec("SELECT count(*), min(ends) FROM accounts", None)?.raw().next().transpose()?;
        let (keys, first) = match row.as_deref() {
            Some([keys, first]) => (number(keys), number(first)),
            _ => (0, 0),
        };
        self.keys.set(Some(keys));
        Ok(first)
    }

    /// Forgets what has ended, and comes back for the rest.
    async fn clean(&self) -> Result<()> {
        let (sql, now) = (self.sql()?, Date::now());
        sql.exec("DELETE FROM accounts WHERE ends <= ?", vec![SqlStorageValue::Float(now)])?;
        let first = self.count(&sql)?;
        let is_set = self.keys.get().is_some_and(|keys| keys > 0);
        self.is_set.set(Some(is_set));
        if is_set {
            let at = (first as f64).max(now + CLEANED_EVERY_MS);
            self.state.storage().set_alarm(ScheduledTime::new(Date::new(&at.into()))).await
        } else {
            self.state.storage().delete_alarm().await
        }
    }
}

/// A number of a row; zero where it has none.
fn number(value: &SqlStorageValue) -> i64 {
    match value {
        SqlStorageValue::Integer(number) => *number,
        SqlStorageValue::Float(number) => *number as i64,
        _ => 0,
    }
}

/// Where the key stands in an ask.
const KEY: core::ops::Range<usize> = 8..16;
/// So many accounts an object keeps, of some hundred bytes each.
const MOST_KEYS: i64 = 100_000;
/// So many are forgotten at a time when there are more, so that it is not for every new key that the rest are counted.
const FORGOTTEN: i64 = 100;
const CLEANED_EVERY_MS: f64 = 60_000.0;
