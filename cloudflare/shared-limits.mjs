// Sends asks for shared limits to their authority: Redis, or one Durable Object per shard of the keys. The core
// determines the asks.
import { Task, asks_to_send, tend } from "./pkg/tidegate.js";
import { runInBackground } from "./flight.mjs";
import { failureLogger, quietly } from "./instance.mjs";
import { withTimeout } from "./settings.mjs";

/** Sends the pending asks. Resolves when each is answered or given up. */
export function sendAsks(env, ctx, guarded) {
  guarded(() => tend(Date.now()));
  const asks = guarded(() => asks_to_send(Date.now()));
  if (asks.length === 0) return Promise.resolve();
  const sent = Promise.all(asks.map((ask) => (ask instanceof Task ? callRedis(ask, env, ctx, guarded) : askObject(ask, env, guarded))));
  // Continues if the client goes away: the grants then serve later requests.
  ctx.waitUntil(sent);
  tendInBackground(env, ctx, guarded);
  return sent;
}

/**
 * Waits for the verdict on a request that needs the authority's answer. `sent` are the asks that this request has sent.
 */
export async function awaitGrant(wait, request, sent, env, ctx, guarded) {
  const leave = () => quietly(() => guarded(() => wait.free()));
  request.signal.addEventListener("abort", leave);
  try {
    const deadline = guarded(() => wait.deadline_ms);
    const last = Date.now() + deadline + GRACE_MS;
    await Promise.race([sent, delay(deadline)]);
    while (Date.now() < last) {
      const verdict = guarded(() => wait.verdict(request, Date.now()));
      // The new decision may need another ask.
      sendAsks(env, ctx, guarded);
      if (verdict !== null) return verdict;
      await delay(POLLED_EVERY_MS);
    }
    throw new Error("there was no verdict within the deadline");
  } finally {
    request.signal.removeEventListener("abort", leave);
    leave();
  }
}

async function askObject(outgoing, env, guarded) {
  let grant;
  try {
    const [message, shard] = guarded(() => [outgoing.message, outgoing.shard(SHARDS)]);
    const authority = env.TIDEGATE_AUTHORITY;
    // An answer after the request's deadline still counts.
    grant = await withTimeout(ANSWER_TIMEOUT_MS, authority.get(authority.idFromName(`shard-${shard}`)).ask(message));
  } catch (error) {
    logFailure(error);
  }
  quietly(() => guarded(() => outgoing.done(grant, Date.now())));
}

/** Runs a call to Redis. Then sends the asks that had no room in earlier calls. */
async function callRedis(task, env, ctx, guarded) {
  await runInBackground(task, guarded).catch(logFailure);
  quietly(() => sendAsks(env, ctx, guarded));
}

/** When the last background task started. Only one runs at a time. */
let tendingSince = -Infinity;

/** Returns unused permits to the authority in the background. */
function tendInBackground(env, ctx, guarded) {
  if (Math.abs(Date.now() - tendingSince) < TENDED_FOR_MS) return;
  const mine = (tendingSince = Date.now());
  const tending = async () => {
    while (tendingSince === mine && Date.now() - mine < TENDED_FOR_MS) {
      const due = guarded(() => tend(Date.now()));
      sendAsks(env, ctx, guarded);
      if (due === undefined) break;
      await delay(Math.max(due, POLLED_EVERY_MS));
    }
    if (tendingSince === mine) tendingSince = -Infinity;
  };
  ctx.waitUntil(tending().catch(() => (tendingSince = -Infinity)));
}

const logFailure = failureLogger("limits");

const delay = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

/** The number of objects that share the keys. A change moves keys to other objects, where their counts start afresh. */
const SHARDS = 32;
/** How long an answer is awaited. Requests stop waiting for it earlier, at the deadline. */
const ANSWER_TIMEOUT_MS = 5_000;
/** How often a request checks for an answer to an ask that another request has sent. */
const POLLED_EVERY_MS = 2;
/** A verdict that takes this much longer than the deadline will never come. */
const GRACE_MS = 1_000;
/** Then a later request takes over, because the runtime does not keep a request alive forever. */
const TENDED_FOR_MS = 20_000;
