// The authority over limits that are shared: a Durable Object for each part of the keys. It stores accounts, and asks the core.
import { DurableObject } from "cloudflare:workers";
import { guard } from "./instance.mjs";

export class TidegateAuthority extends DurableObject {
  constructor(ctx, env) {
    super(ctx, env);
    this.sql = ctx.storage.sql;
    this.sql.exec("CREATE TABLE IF NOT EXISTS accounts (key BLOB PRIMARY KEY, account BLOB NOT NULL, ends INTEGER NOT NULL)");
    this.sql.exec("CREATE INDEX IF NOT EXISTS ends ON accounts (ends)");
    this.keys = this.sql.exec("SELECT count(*) AS keys FROM accounts").one().keys;
    /** Whether an alarm is set; `undefined` while that is not known. */
    this.isSet = undefined;
  }

  /**
   * Answers an ask with a grant. What it charges is stored before the answer leaves: the runtime holds it back until then. Throws
   * when the core fails, and then nothing is stored.
   */
  async ask(ask) {
    const grant = this.#settle(ask);
    this.isSet ??= (await this.ctx.storage.getAlarm()) !== null;
    if (!this.isSet) await this.#clean();
    return grant;
  }

  #settle(ask) {
    const key = ask.slice(...KEY);
    const now = Date.now();
    const [row] = this.sql.exec("SELECT account, ends FROM accounts WHERE key = ?", key);
    // What has ended may be of a version that nobody knows any more.
    const before = row && row.ends > now ? new Uint8Array(row.account) : undefined;
    const { account, ends, grant } = guard()((core) => {
      const settled = core.settle(ask, before, now);
      if (settled === undefined) return {};
      const { account, ends_ms: ends, grant } = settled;
      settled.free();
      return { account, ends, grant };
    });
    if (grant === undefined) throw new Error("the ask or the account of its key is of another version");
    if (row === undefined && this.keys >= MOST_KEYS) this.#forget();
    this.sql.exec("INSERT OR REPLACE INTO accounts VALUES (?, ?, ?)", key, account, ends);
    if (row === undefined) this.keys += 1;
    return grant;
  }

  /** Makes room for a key. What ends first is nearest to one that was never used. */
  #forget() {
    this.sql.exec("DELETE FROM accounts WHERE key IN (SELECT key FROM accounts ORDER BY ends LIMIT ?)", FORGOTTEN);
    this.keys = this.sql.exec("SELECT count(*) AS keys FROM accounts").one().keys;
  }

  /** Forgets what has ended, and comes back for the rest. */
  async #clean() {
    this.sql.exec("DELETE FROM accounts WHERE ends <= ?", Date.now());
    const { keys, first } = this.sql.exec("SELECT count(*) AS keys, min(ends) AS first FROM accounts").one();
    this.keys = keys;
    this.isSet = keys > 0;
    if (this.isSet) await this.ctx.storage.setAlarm(Math.max(first, Date.now() + CLEANED_EVERY_MS));
    else await this.ctx.storage.deleteAlarm();
  }

  alarm() {
    return this.#clean();
  }
}

/** Where the key stands in an ask. */
const KEY = [8, 16];
/** So many accounts an object keeps, of some hundred bytes each. */
const MOST_KEYS = 100_000;
/** So many are forgotten at a time when there are more, so that it is not for every new key that the rest are counted. */
const FORGOTTEN = 100;
const CLEANED_EVERY_MS = 60_000;
