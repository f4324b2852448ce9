// Asks the authority over limits that are shared, which is a Durable Object for each part of the keys, or Redis. The core says what
// to ask.
import { Task, asks_to_send, tend } from "./pkg/tidegate.js";
import { runInBackground } from "./flight.mjs";
import { failureLogger, quietly } from "./instance.mjs";
import { withTimeout } from "./settings.mjs";

/** Sends what there is to be asked. Resolves when all of it is answered, or will not be. */
export function sendAsks(env, ctx, guarded) {
  guarded(() => tend(Date.now()));
  const asks = guarded(() => asks_to_send(Date.now()));
  if (asks.length === 0) return Promise.resolve();
  const sent = Promise.all(asks.map((ask) => (ask instanceof Task ? callRedis(ask, env, ctx, guarded) : askObject(ask, env, guarded))));
  // Also when the client goes away: what is granted then serves the next one.
  ctx.waitUntil(sent);
  tendInBackground(env, ctx, guarded);
  return sent;
}

/** The verdict on a request that waits for the authority. `sent` are the asks that it has made itself. */
export async function awaitGrant(wait, request, sent, env, ctx, guarded) {
  const leave = () => quietly(() => guarded(() => wait.free()));
  request.signal.addEventListener("abort", leave);
  try {
    const deadline = guarded(() => wait.deadline_ms);
    const last = Date.now() + deadline + GRACE_MS;
    await Promise.race([sent, delay(deadline)]);
    while (Date.now() < last) {
      const verdict = guarded(() => wait.verdict(request, Date.now()));
      // It may have to ask again.
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
    // An answer that comes after the request's deadline still is one.
    grant = await withTimeout(ANSWER_TIMEOUT_MS, authority.get(authority.idFromName(`shard-${shard}`)).ask(message));
  } catch (error) {
    logFailure(error);
  }
  quietly(() => guarded(() => outgoing.done(grant, Date.now())));
}

/** Sees a call to Redis through. Asks for which there was no room meanwhile are sent then. */
async function callRedis(task, env, ctx, guarded) {
  await runInBackground(task, guarded).catch(logFailure);
  quietly(() => sendAsks(env, ctx, guarded));
}

/** When somebody last began to see to what is due, of whom there is one at a time. */
let tendingSince = -Infinity;

/** Sees to it that permits which are not used are given back. */
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

/** How many objects share the keys. Another number would have all of them counted anew. */
const SHARDS = 32;
/** So long an answer is awaited that no request waits for any more. */
const ANSWER_TIMEOUT_MS = 5_000;
/** A request that waits for what another one has asked looks so often. */
const POLLED_EVERY_MS = 2;
/** Longer than the deadline by so much no verdict takes, or something has gone wrong. */
const GRACE_MS = 1_000;
/** After so long somebody else sees to what is due: no request lasts for ever. */
const TENDED_FOR_MS = 20_000;
