// The authority over shared limits and breakers, as a Durable Object: one object per shard of the keys, and one for all
// breakers. It stores accounts and breaker records; the core computes the answers.
import { DurableObject } from "cloudflare:workers";
import { guard } from "./instance.mjs";
import { answer_ask, answer_reports } from "./pkg/tidegate.js";

export class TidegateAuthority extends DurableObject {
  constructor(ctx, env) {
    super(ctx, env);
    this.sql = ctx.storage.sql;
    this.sql.exec("CREATE TABLE IF NOT EXISTS accounts (key BLOB PRIMARY KEY, account BLOB NOT NULL, ends INTEGER NOT NULL)");
    this.sql.exec("CREATE INDEX IF NOT EXISTS ends ON accounts (ends)");
    this.sql.exec("CREATE TABLE IF NOT EXISTS breakers (breaker BLOB PRIMARY KEY, record BLOB NOT NULL, at INTEGER NOT NULL)");
    this.keys = this.sql.exec("SELECT count(*) AS keys FROM accounts").one().keys;
    /** Whether a cleanup alarm is set; `undefined` until the storage was asked. */
    this.hasAlarm = undefined;
  }

  /**
   * Answers an ask with a grant. The charge is stored before the grant leaves the object, because the runtime holds
   * responses back until writes are durable. Throws if the core fails; nothing is stored then.
   */
  async ask(ask) {
    const grant = this.#answer(ask);
    this.hasAlarm ??= (await this.ctx.storage.getAlarm()) !== null;
    if (!this.hasAlarm) await this.#clean();
    return grant;
  }

  #answer(ask) {
    const key = ask.slice(...KEY);
    const now = Date.now();
    const [row] = this.sql.exec("SELECT account, ends FROM accounts WHERE key = ?", key);
    // An expired account may have a format that this version cannot read.
    const before = row && row.ends > now ? new Uint8Array(row.account) : undefined;
    const answered = guard()(() => answer_ask(ask, before, now));
    if (answered === undefined) throw new Error("the ask or the account of its key is of another version");
    const [account, ends, grant] = answered;
    if (row === undefined && this.keys >= MOST_KEYS) this.#evict();
    this.sql.exec("INSERT OR REPLACE INTO accounts VALUES (?, ?, ?)", key, account, ends);
    if (row === undefined) this.keys += 1;
    return grant;
  }

  /**
   * Answers a round of breaker reports with the agreed states. Throws if the core fails; nothing is stored then. One
   * object has all breakers. Their records are few, so they never expire.
   */
  agree(message) {
    const breakers = [];
    for (let at = FIRST_REPORT; at < message.length; at += REPORT) breakers.push(message.slice(at, at + KEY_BYTES));
    const before = new Uint8Array(breakers.length * RECORD);
    breakers.forEach((breaker, place) => {
      const [row] = this.sql.exec("SELECT record FROM breakers WHERE breaker = ?", breaker);
      if (row?.record.byteLength === RECORD) before.set(new Uint8Array(row.record), place * RECORD);
    });
    const now = Date.now();
    const answered = guard()(() => answer_reports(message, before, now));
    if (answered === undefined) throw new Error("the reports are of another version");
    const [records, standings] = answered;
    breakers.forEach((breaker, place) => {
      const [from, to] = [place * RECORD, (place + 1) * RECORD];
      if (records.subarray(from, to).every((byte, at) => byte === before[from + at])) return;
      this.sql.exec("INSERT OR REPLACE INTO breakers VALUES (?, ?, ?)", breaker, records.slice(from, to), now);
      this.sql.exec("DELETE FROM breakers WHERE breaker IN (SELECT breaker FROM breakers ORDER BY at DESC LIMIT -1 OFFSET ?)", MOST_BREAKERS);
    });
    return standings;
  }

  /** Makes room for a new key. The accounts that end first are the closest to a fresh account. */
  #evict() {
    this.sql.exec("DELETE FROM accounts WHERE key IN (SELECT key FROM accounts ORDER BY ends LIMIT ?)", EVICTED_AT_ONCE);
    this.keys = this.sql.exec("SELECT count(*) AS keys FROM accounts").one().keys;
  }

  /** Deletes expired accounts, and sets an alarm for the next cleanup if any are left. */
  async #clean() {
    this.sql.exec("DELETE FROM accounts WHERE ends <= ?", Date.now());
    const { keys, first } = this.sql.exec("SELECT count(*) AS keys, min(ends) AS first FROM accounts").one();
    this.keys = keys;
    this.hasAlarm = keys > 0;
    if (this.hasAlarm) await this.ctx.storage.setAlarm(Math.max(first, Date.now() + CLEANED_EVERY_MS));
    else await this.ctx.storage.deleteAlarm();
  }

  alarm() {
    return this.#clean();
  }
}

/** The byte range of the key in an ask. */
const KEY = [8, 16];
/**
 * The layout of a round of reports: offset of the first report, size of a report, size of the breaker key at its start.
 * In bytes.
 */
const [FIRST_REPORT, REPORT, KEY_BYTES] = [16, 56, 8];
/** The size of a breaker's record, in bytes. */
const RECORD = 64;
/** Twice the number of breakers that a policy can have. */
const MOST_BREAKERS = 8_192;
/** The accounts that an object keeps, at some hundred bytes each. */
const MOST_KEYS = 100_000;
/** Evicting in batches means that the accounts are not counted again for every new key. */
const EVICTED_AT_ONCE = 100;
const CLEANED_EVERY_MS = 60_000;
