// Breaker states that isolates and locations publish to each other through KV, all under one key.
import { breakers_to_publish, has_breaker_changes, publishing_failed, receive_breakers } from "./pkg/tidegate.js";
import { quietly } from "./instance.mjs";

let publishedAt = -Infinity;

/** Reads the published breaker states and applies them. */
export async function receive(env, guarded) {
  const text = await env.TIDEGATE.get(KEY);
  if (text !== null) guarded(() => receive_breakers(text, Date.now()));
}

/** Publishes breaker states if a breaker here has opened or closed, at most once a second. */
export function publish(env, ctx, guarded) {
  if (Math.abs(Date.now() - publishedAt) < PUBLISHED_EVERY_MS) return;
  quietly(() => {
    if (!guarded(has_breaker_changes)) return;
    publishedAt = Date.now();
    ctx.waitUntil(write(env, guarded));
  });
}

async function write(env, guarded) {
  try {
    // Merge first: writing replaces the states that others have published meanwhile.
    await receive(env, guarded);
    const text = guarded(() => breakers_to_publish(Date.now()));
    if (text === undefined) return;
    await env.TIDEGATE.put(KEY, text);
    guarded(() => receive_breakers(text, Date.now()));
  } catch (error) {
    // KV accepts one write per second and key, and another location may have used it.
    console.warn(`tidegate: other locations are told of breakers later: ${error}`);
    quietly(() => guarded(publishing_failed));
  }
}

const KEY = "breakers";
/** KV accepts one write per second and key. */
const PUBLISHED_EVERY_MS = 1_000;
