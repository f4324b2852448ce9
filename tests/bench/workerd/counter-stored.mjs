// The same object, but it stores its counts, so that eviction loses nothing.
import { Authority as Plain } from "./counter.mjs";

export { default } from "./counter.mjs";

export class Authority extends Plain {
  constructor(ctx, env) {
    super(ctx, env);
    this.sql = ctx.storage.sql;
    this.sql.exec("CREATE TABLE IF NOT EXISTS counts (key TEXT PRIMARY KEY, used INTEGER NOT NULL, ends INTEGER NOT NULL)");
  }

  count(key) {
    const admitted = super.count(key);
    const { used, ends } = this.counts.get(key);
    this.sql.exec("INSERT OR REPLACE INTO counts VALUES (?, ?, ?)", key, used, ends);
    return admitted;
  }
}
