// What isolates and locations tell each other of their breakers, through KV: all of it under one key.
import { hear, may_have_news, news, untold } from "./pkg/tidegate.js";
import { quietly } from "./instance.mjs";

let toldAt = -Infinity;

/** Lets breakers learn what others have told. */
export async function listen(env, guarded) {
  const text = await env.TIDEGATE.get(KEY);
  if (text !== null) guarded(() => hear(text, Date.now()));
}

/** Tells others when a breaker here has opened or closed, at most once a second. */
export function spread(env, ctx, guarded) {
  if (Math.abs(Date.now() - toldAt) < TOLD_EVERY_MS) return;
  quietly(() => {
    if (!guarded(may_have_news)) return;
    toldAt = Date.now();
    ctx.waitUntil(tell(env, guarded));
  });
}

async function tell(env, guarded) {
  try {
    // What others have told meanwhile stays.
    await listen(env, guarded);
    const text = guarded(() => news(Date.now()));
    if (text === undefined) return;
    await env.TIDEGATE.put(KEY, text);
    guarded(() => hear(text, Date.now()));
  } catch (error) {
    // KV takes one write a second for a key, and another location may have had it.
    console.warn(`tidegate: other locations are told of breakers later: ${error}`);
    quietly(() => guarded(untold));
  }
}

const KEY = "breakers";
/** As often as KV takes it. */
const TOLD_EVERY_MS = 1_000;
