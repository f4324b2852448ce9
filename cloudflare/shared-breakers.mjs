// Asks the authority over breakers that are shared, Redis or a Durable Object, what stands, and tells it what has happened here. No request
// waits for that.
import { Task, due_round, has_reports } from "./pkg/tidegate.js";
import { runInBackground } from "./flight.mjs";
import { failureLogger, quietly } from "./instance.mjs";
import { withTimeout } from "./settings.mjs";

let polledAt = -Infinity;
/** When somebody last began to see to what is to be told, of whom there is one at a time. */
let reportingSince = -Infinity;
const logFailure = failureLogger("breakers");

/** Sends a round of reports, if it is time for one: after a request, since nothing else wakes an isolate. */
export function sendReports(env, ctx, guarded) {
  quietly(() => {
    const round = dueRound(guarded);
    if (round !== undefined) ctx.waitUntil(exchange(round, env, guarded).catch(console.error));
    reportInBackground(env, ctx, guarded);
  });
}

/** The core says when a round is due: it need not be asked for each request. */
function dueRound(guarded) {
  if (Math.abs(Date.now() - polledAt) < POLLED_EVERY_MS) return undefined;
  polledAt = Date.now();
  return guarded(() => due_round(Date.now()));
}

/** Sees to it that what has happened here is told, also when no other request comes. */
function reportInBackground(env, ctx, guarded) {
  if (Math.abs(Date.now() - reportingSince) < REPORTED_FOR_MS || !guarded(() => has_reports(Date.now()))) return;
  const mine = (reportingSince = Date.now());
  const reporting = async () => {
    while (reportingSince === mine && Date.now() - mine < REPORTED_FOR_MS && guarded(() => has_reports(Date.now()))) {
      await new Promise((resolve) => setTimeout(resolve, POLLED_EVERY_MS));
      const round = dueRound(guarded);
      if (round !== undefined) await exchange(round, env, guarded);
    }
  };
  const done = () => {
    if (reportingSince === mine) reportingSince = -Infinity;
  };
  ctx.waitUntil(reporting().catch(console.error).finally(done));
}

async function exchange(round, env, guarded) {
  if (round instanceof Task) return runInBackground(round, guarded);
  let standings;
  try {
    const message = guarded(() => round.message);
    const authority = env.TIDEGATE_AUTHORITY;
    standings = await withTimeout(ANSWER_TIMEOUT_MS, authority.get(authority.idFromName("breakers")).agree(message));
  } catch (error) {
    logFailure(error);
  }
  quietly(() => guarded(() => round.done(standings, Date.now())));
}

const POLLED_EVERY_MS = 100;
/** What has not come by then is asked anew. */
const ANSWER_TIMEOUT_MS = 1_000;
/** After so long somebody else sees to it: no request lasts for ever. */
const REPORTED_FOR_MS = 5_000;
