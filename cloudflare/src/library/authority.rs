//! The authority over shared limits and breakers, as a Durable Object: one object per shard of the keys, and one for
//! all breakers. It stores accounts and breaker records; the core computes the answers.

#![allow(missing_docs, reason = "what the macro adds is called by workerd alone")]

use crate::authority::answer_ask;
use crate::shared_breakers::{RECORD_BYTES, answer_reports};
use core::cell::Cell;
use js_sys::Date;
use tidegate::breaker::global::BYTES_OF_REPORT;
use worker::{
    DurableObject, Env, Request, Response, Result, ScheduledTime, SqlStorage, SqlStorageValue, State, durable_object,
};

/// Counts limits of the scope `global`. The Worker whose binding `TIDEGATE_AUTHORITY` names this class lists it in
/// `wrangler.toml` under `new_sqlite_classes`. A crate that links this one must re-export the class.
#[durable_object(alarm)]
pub struct TidegateAuthority {
    state: State,
    /// The number of accounts, once it is known.
    keys: Cell<Option<i64>>,
    /// Whether a cleanup alarm is set, once that is known.
    has_alarm: Cell<Option<bool>>,
}

impl DurableObject for TidegateAuthority {
    fn new(state: State, _env: Env) -> Self {
        Self { state, keys: Cell::new(None), has_alarm: Cell::new(None) }
    }

    /// Answers an ask with a grant. The charge is stored before the grant leaves the object, because the runtime holds
    /// responses back until writes are durable.
    async fn fetch(&self, mut request: Request) -> Result<Response> {
        let ask = request.bytes().await?;
        if request.path() == "/breakers" {
            return match self.agree(&ask)? {
                Some(standings) => Response::from_bytes(standings),
                None => Response::error("the reports are of another version", 400),
            };
        }
        let Some(grant) = self.answer(&ask)? else {
            return Response::error("the ask or the account of its key is of another version", 400);
        };
        if self.has_alarm.get().is_none() {
            self.has_alarm.set(Some(self.state.storage().get_alarm().await?.is_some()));
        }
        if self.has_alarm.get() == Some(false) {
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
    /// Answers a round of breaker reports with the agreed states. One object has all breakers. Their records are few,
    /// so they never expire.
    fn agree(&self, message: &[u8]) -> Result<Option<Vec<u8>>> {
        let sql = self.state.storage().sql();
        let table =
            "CREATE TABLE IF NOT EXISTS breakers (breaker BLOB PRIMARY KEY, record BLOB NOT NULL, at INTEGER NOT NULL)";
        sql.exec(table, None)?;
        let reports = message.get(FIRST_REPORT..).unwrap_or_default().chunks(BYTES_OF_REPORT);
        let keys: Vec<&[u8]> = reports.filter_map(|report| report.get(..KEY_BYTES)).collect();
        let mut before = Vec::new();
        for key in &keys {
            let key = vec![SqlStorageValue::Blob(key.to_vec())];
            let row = sql.exec("SELECT record FROM breakers WHERE breaker = ?", key)?.raw().next().transpose()?;
            match row.as_deref() {
                Some([SqlStorageValue::Blob(record)]) if record.len() == RECORD_BYTES => {
                    before.extend_from_slice(record)
                }
                _ => before.extend_from_slice(&[0; RECORD_BYTES]),
            }
        }
        let now = Date::now();
        let Some(answered) = answer_reports(message, &before, now as u64) else { return Ok(None) };
        let records = answered.records().chunks(RECORD_BYTES).zip(before.chunks(RECORD_BYTES));
        for (key, (record, _)) in keys.iter().zip(records).filter(|(_, (record, before))| record != before) {
            let (key, record) = (SqlStorageValue::Blob(key.to_vec()), SqlStorageValue::Blob(record.to_vec()));
            let row = vec![key, record, SqlStorageValue::Float(now)];
            sql.exec("INSERT OR REPLACE INTO breakers VALUES (?, ?, ?)", row)?;
            sql.exec(
                "DELETE FROM breakers WHERE breaker IN (SELECT breaker FROM breakers ORDER BY at DESC LIMIT -1 OFFSET ?)",
                vec![SqlStorageValue::Integer(MOST_BREAKERS)],
            )?;
        }
        Ok(Some(answered.standings().to_vec()))
    }

    fn answer(&self, ask: &[u8]) -> Result<Option<Vec<u8>>> {
        let Some(key) = ask.get(KEY) else { return Ok(None) };
        let (sql, now, key) = (self.sql()?, Date::now(), || SqlStorageValue::Blob(key.to_vec()));
        let row =
            sql.exec("SELECT account, ends FROM accounts WHERE key = ?", vec![key()])?.raw().next().transpose()?;
        let is_new = row.is_none();
        let before = match row.as_deref() {
            // An expired account may have a format that this version cannot read.
            Some([SqlStorageValue::Blob(account), ends]) if number(ends) > now as i64 => Some(account.as_slice()),
            _ => None,
        };
        let Some(answered) = answer_ask(ask, before, now as u64) else { return Ok(None) };
        if is_new && self.keys.get().is_some_and(|keys| keys >= MOST_KEYS) {
            sql.exec(
                "DELETE FROM accounts WHERE key IN (SELECT key FROM accounts ORDER BY ends LIMIT ?)",
                vec![SqlStorageValue::Integer(EVICTED_AT_ONCE)],
            )?;
            self.count(&sql)?;
        }
        let ends = i64::try_from(answered.ends_ms()).unwrap_or(i64::MAX);
        let row = vec![key(), SqlStorageValue::Blob(answered.account().into()), SqlStorageValue::try_from_i64(ends)?];
        sql.exec("INSERT OR REPLACE INTO accounts VALUES (?, ?, ?)", row)?;
        if is_new {
            self.keys.set(self.keys.get().map(|keys| keys.saturating_add(1)));
        }
        Ok(Some(answered.grant().into()))
    }

    /// The storage, with its table of accounts.
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

    /// Counts the accounts. Returns when the first of them ends.
    fn count(&self, sql: &SqlStorage) -> Result<i64> {
        let row = sql.exec("SELECT count(*), min(ends) FROM accounts", None)?.raw().next().transpose()?;
        let (keys, first) = match row.as_deref() {
            Some([keys, first]) => (number(keys), number(first)),
            _ => (0, 0),
        };
        self.keys.set(Some(keys));
        Ok(first)
    }

    /// Deletes expired accounts, and sets an alarm for the next cleanup if any are left.
    async fn clean(&self) -> Result<()> {
        let (sql, now) = (self.sql()?, Date::now());
        sql.exec("DELETE FROM accounts WHERE ends <= ?", vec![SqlStorageValue::Float(now)])?;
        let first = self.count(&sql)?;
        let has_alarm = self.keys.get().is_some_and(|keys| keys > 0);
        self.has_alarm.set(Some(has_alarm));
        if has_alarm {
            let at = (first as f64).max(now + CLEANED_EVERY_MS);
            self.state.storage().set_alarm(ScheduledTime::new(Date::new(&at.into()))).await
        } else {
            self.state.storage().delete_alarm().await
        }
    }
}

/// A number of a row; zero if it is none.
fn number(value: &SqlStorageValue) -> i64 {
    match value {
        SqlStorageValue::Integer(number) => *number,
        SqlStorageValue::Float(number) => *number as i64,
        _ => 0,
    }
}

/// The layout of a round of reports: offset of the first report, and size of the breaker key at the start of each
/// report. In bytes.
const FIRST_REPORT: usize = 16;
const KEY_BYTES: usize = 8;
/// Twice the number of breakers that a policy can have.
const MOST_BREAKERS: i64 = 8_192;
/// The byte range of the key in an ask.
const KEY: core::ops::Range<usize> = 8..16;
/// The accounts that an object keeps, at some hundred bytes each.
const MOST_KEYS: i64 = 100_000;
/// Evicting in batches means that the accounts are not counted again for every new key.
const EVICTED_AT_ONCE: i64 = 100;
const CLEANED_EVERY_MS: f64 = 60_000.0;
