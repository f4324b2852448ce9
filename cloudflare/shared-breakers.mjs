// Exchanges the state of shared breakers with their authority, which is Redis or a Durable Object: sends reports of
// local calls and receives the agreed states. No request waits for this.
import { Task, due_round, has_reports } from "./pkg/tidegate.js";
import { runInBackground } from "./flight.mjs";
import { failureLogger, quietly } from "./instance.mjs";
import { withTimeout } from "./settings.mjs";

let polledAt = -Infinity;
/** When the last background reporter started. Only one runs at a time. */
let reportingSince = -Infinity;
const logFailure = failureLogger("breakers");

/** Sends a round of reports if one is due. Called after requests, because nothing else wakes an isolate. */
export function sendReports(env, ctx, guarded) {
  quietly(() => {
    const round = dueRound(guarded);
    if (round !== undefined) ctx.waitUntil(exchange(round, env, guarded).catch(console.error));
    reportInBackground(env, ctx, guarded);
  });
}

/** The round that the core wants to send now, if any. Polled at most every 100 ms instead of on each request. */
function dueRound(guarded) {
  if (Math.abs(Date.now() - polledAt) < POLLED_EVERY_MS) return undefined;
  polledAt = Date.now();
  return guarded(() => due_round(Date.now()));
}

/** Keeps sending reports in the background while there are any, even if no further request arrives. */
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
/** A round without an answer by then is repeated by the next one. */
const ANSWER_TIMEOUT_MS = 1_000;
/** Then a later request takes over, because the runtime does not keep a request alive forever. */
const REPORTED_FOR_MS = 5_000;
