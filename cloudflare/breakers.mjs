// What isolates and locations tell each other of their breakers, through KV: all of it under one key.
import { breakers_to_publish, has_breaker_changes, publishing_failed, receive_breakers } from "./pkg/tidegate.js";
import { quietly } from "./instance.mjs";

let publishedAt = -Infinity;

/** Lets breakers learn what others have told. */
export async function receive(env, guarded) {
  const text = await env.TIDEGATE.get(KEY);
  if (text !== null) guarded(() => receive_breakers(text, Date.now()));
}

/** Tells others when a breaker here has opened or closed, at most once a second. */
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
    // What others have told meanwhile stays.
    await receive(env, guarded);
    const text = guarded(() => breakers_to_publish(Date.now()));
    if (text === undefined) return;
    await env.TIDEGATE.put(KEY, text);
    guarded(() => receive_breakers(text, Date.now()));
  } catch (error) {
    // KV takes one write a second for a key, and another location may have had it.
    console.warn(`tidegate: other locations are told of breakers later: ${error}`);
    quietly(() => guarded(publishing_failed));
  }
}

const KEY = "breakers";
/** As often as KV takes it. */
const PUBLISHED_EVERY_MS = 1_000;
