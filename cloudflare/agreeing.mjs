// Asks the authority over breakers that are shared, Redis or a Durable Object, what stands, and tells it what has happened here. No request
// waits for that.
import { Task, confer as conference, tells } from "./pkg/tidegate.js";
import { alone } from "./flight.mjs";
import { quietly, teller } from "./instance.mjs";
import { within } from "./settings.mjs";

let lookedAt = -Infinity;
/** When somebody last began to see to what is to be told, of whom there is one at a time. */
let attendedAt = -Infinity;
const tell = teller("breakers");

/** Sends a round of reports, if it is time for one: after a request, since nothing else wakes an isolate. */
export function confer(env, ctx, guarded) {
  quietly(() => {
    const round = due(guarded);
    if (round !== undefined) ctx.waitUntil(run(round, env, guarded).catch(console.error));
    attend(env, ctx, guarded);
  });
}

/** The core says when a round is due: it need not be asked for each request. */
function due(guarded) {
  if (Math.abs(Date.now() - lookedAt) < LOOKS_EVERY_MS) return undefined;
  lookedAt = Date.now();
  return guarded(() => conference(Date.now()));
}

/** Sees to it that what has happened here is told, also when no other request comes. */
function attend(env, ctx, guarded) {
  if (Math.abs(Date.now() - attendedAt) < ATTENDS_MS || !guarded(() => tells(Date.now()))) return;
  const mine = (attendedAt = Date.now());
  const attending = async () => {
    while (attendedAt === mine && Date.now() - mine < ATTENDS_MS && guarded(() => tells(Date.now()))) {
      await new Promise((resolve) => setTimeout(resolve, LOOKS_EVERY_MS));
      const round = due(guarded);
      if (round !== undefined) await run(round, env, guarded);
    }
  };
  const done = () => {
    if (attendedAt === mine) attendedAt = -Infinity;
  };
  ctx.waitUntil(attending().catch(console.error).finally(done));
}

async function run(round, env, guarded) {
  if (round instanceof Task) return alone(round, guarded);
  let standings;
  try {
    const message = guarded(() => round.message);
    const authority = env.TIDEGATE_AUTHORITY;
    standings = await within(LONGEST_MS, authority.get(authority.idFromName("breakers")).agree(message));
  } catch (error) {
    tell(error);
  }
  quietly(() => guarded(() => round.done(standings, Date.now())));
}

const LOOKS_EVERY_MS = 100;
/** What has not come by then is asked anew. */
const LONGEST_MS = 1_000;
/** After so long somebody else sees to it: no request lasts for ever. */
const ATTENDS_MS = 5_000;
