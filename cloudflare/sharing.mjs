// Asks the authority over limits that are shared, which is a Durable Object for each part of the keys, or Redis. The core says what
// to ask.
import { Task, errands, tend } from "./pkg/tidegate.js";
import { alone } from "./flight.mjs";
import { within } from "./settings.mjs";
import { quietly, teller } from "./instance.mjs";

/** Sends what there is to be asked. Resolves when all of it is answered, or will not be. */
export function send(env, ctx, guarded) {
  guarded(() => tend(Date.now()));
  const asks = guarded(() => errands(Date.now()));
  if (asks.length === 0) return Promise.resolve();
  const sent = Promise.all(asks.map((ask) => (ask instanceof Task ? call(ask, env, ctx, guarded) : run(ask, env, guarded))));
  // Also when the client goes away: what is granted then serves the next one.
  ctx.waitUntil(sent);
  attend(env, ctx, guarded);
  return sent;
}

/** The verdict on a request that waits for the authority. `sent` are the asks that it has made itself. */
export async function asked(asking, request, sent, env, ctx, guarded) {
  const leave = () => quietly(() => guarded(() => asking.free()));
  request.signal.addEventListener("abort", leave);
  try {
    const deadline = guarded(() => asking.deadline_ms);
    const last = Date.now() + deadline + SPARE_MS;
    await Promise.race([sent, after(deadline)]);
    while (Date.now() < last) {
      const verdict = guarded(() => asking.verdict(request, Date.now()));
      // It may have to ask again.
      send(env, ctx, guarded);
      if (verdict !== null) return verdict;
      await after(LOOKS_EVERY_MS);
    }
    throw new Error("there was no verdict within the deadline");
  } finally {
    request.signal.removeEventListener("abort", leave);
    leave();
  }
}

async function run(errand, env, guarded) {
  let grant;
  try {
    const [message, shard] = guarded(() => [errand.message, errand.shard(SHARDS)]);
    const authority = env.TIDEGATE_AUTHORITY;
    // An answer that comes after the request's deadline still is one.
    grant = await within(LONGEST_MS, authority.get(authority.idFromName(`shard-${shard}`)).ask(message));
  } catch (error) {
    tell(error);
  }
  quietly(() => guarded(() => errand.done(grant, Date.now())));
}

/** Sees a call to Redis through. Asks for which there was no room meanwhile are sent then. */
async function call(task, env, ctx, guarded) {
  await alone(task, guarded).catch(tell);
  quietly(() => send(env, ctx, guarded));
}

/** When somebody last began to see to what is due, of whom there is one at a time. */
let attendedAt = -Infinity;

/** Sees to it that permits which are not used are given back. */
function attend(env, ctx, guarded) {
  if (Math.abs(Date.now() - attendedAt) < ATTENDS_MS) return;
  const mine = (attendedAt = Date.now());
  const attending = async () => {
    while (attendedAt === mine && Date.now() - mine < ATTENDS_MS) {
      const due = guarded(() => tend(Date.now()));
      send(env, ctx, guarded);
      if (due === undefined) break;
      await after(Math.max(due, LOOKS_EVERY_MS));
    }
    if (attendedAt === mine) attendedAt = -Infinity;
  };
  ctx.waitUntil(attending().catch(() => (attendedAt = -Infinity)));
}

const tell = teller("limits");

const after = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

/** How many objects share the keys. Another number would have all of them counted anew. */
const SHARDS = 32;
/** So long an answer is awaited that no request waits for any more. */
const LONGEST_MS = 5_000;
/** A request that waits for what another one has asked looks so often. */
const LOOKS_EVERY_MS = 2;
/** Longer than the deadline by so much no verdict takes, or something has gone wrong. */
const SPARE_MS = 1_000;
/** After so long somebody else sees to what is due: no request lasts for ever. */
const ATTENDS_MS = 20_000;
