// A hand-written limit that isolates share: a plain Durable Object that counts in its memory.
import { DurableObject } from "cloudflare:workers";

const SHARDS = 32;
const PERMITS = 100_000_000;
const WINDOW_MS = 60_000;

export class Authority extends DurableObject {
  counts = new Map();

  count(key) {
    const now = Date.now();
    let count = this.counts.get(key);
    if (count === undefined || count.ends <= now) this.counts.set(key, (count = { used: 0, ends: now + WINDOW_MS }));
    count.used += 1;
    return count.used <= PERMITS;
  }
}

/** A cheap hash that spreads keys over the objects. */
function shard(key) {
  let hash = 0;
  for (let at = 0; at < key.length; at += 1) hash = (hash * 31 + key.charCodeAt(at)) | 0;
  return (hash >>> 0) % SHARDS;
}

export default {
  async fetch(request, env) {
    const key = request.headers.get("cf-connecting-ip");
    const authority = env.AUTHORITY.get(env.AUTHORITY.idFromName(`shard-${shard(key)}`));
    if (await authority.count(key)) return new Response("ok");
    return new Response("too many requests", { status: 429 });
  },
};
