// Asks the authority over breakers that are shared, a Durable Object, what stands, and tells it what has happened here. No request
// waits for that.
import { conference } from "./pkg/tidegate.js";
import { quietly } from "./instance.mjs";
import { within } from "./settings.mjs";

let lookedAt = -Infinity;
/** When the last error was told. */
let toldAt = -Infinity;

/** Sends a round of reports, if it is time for one: after a request, since nothing else wakes an isolate. */
export function confer(env, ctx, guarded) {
  if (Math.abs(Date.now() - lookedAt) < LOOKS_EVERY_MS) return;
  lookedAt = Date.now();
  quietly(() => {
    const round = guarded(() => conference(Date.now()));
    if (round !== undefined) ctx.waitUntil(run(round, env, guarded));
  });
}

async function run(round, env, guarded) {
  let standings;
  try {
    const message = guarded(() => round.message);
    const authority = env.TIDEGATE_AUTHORITY;
    standings = await within(LONGEST_MS, authority.get(authority.idFromName("breakers")).agree(message));
  } catch (error) {
    if (Math.abs(Date.now() - toldAt) >= TOLD_EVERY_MS) {
      toldAt = Date.now();
      console.error(`tidegate: the authority over shared breakers cannot be asked: ${error}`);
    }
  }
  quietly(() => guarded(() => round.done(standings, Date.now())));
}

/** The core says when a round is due: it need not be asked for each request. */
const LOOKS_EVERY_MS = 100;
/** What has not come by then is asked anew. */
const LONGEST_MS = 1_000;
const TOLD_EVERY_MS = 10_000;
