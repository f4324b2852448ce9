// The authority over limits that are shared: a Durable Object for each part of the keys, and one for all breakers. It stores accounts and
// records, and asks the core.
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
    /** Whether an alarm is set; `undefined` while that is not known. */
    this.hasAlarm = undefined;
  }

  /**
   * Answers an ask with a grant. What it charges is stored before the answer leaves: the runtime holds it back until then. Throws
   * when the core fails, and then nothing is stored.
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
    // What has ended may be of a version that nobody knows any more.
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
   * Answers a round of reports on breakers with what stands. Throws when the core fails, and then nothing is stored. All breakers are in
   * one object, and their records stay: they are few.
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

  /** Makes room for a key. What ends first is nearest to one that was never used. */
  #evict() {
    this.sql.exec("DELETE FROM accounts WHERE key IN (SELECT key FROM accounts ORDER BY ends LIMIT ?)", EVICTED_AT_ONCE);
    this.keys = this.sql.exec("SELECT count(*) AS keys FROM accounts").one().keys;
  }

  /** Forgets what has ended, and comes back for the rest. */
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

/** Where the key stands in an ask. */
const KEY = [8, 16];
/** In a round of reports: where the first one stands, how long each is, and its breaker's key, with which it begins. */
const [FIRST_REPORT, REPORT, KEY_BYTES] = [16, 56, 8];
/** How long the record of a breaker is. */
const RECORD = 64;
/** As many as two policies can have. */
const MOST_BREAKERS = 8_192;
/** So many accounts an object keeps, of some hundred bytes each. */
const MOST_KEYS = 100_000;
/** So many are forgotten at a time when there are more, so that it is not for every new key that the rest are counted. */
const EVICTED_AT_ONCE = 100;
const CLEANED_EVERY_MS = 60_000;
