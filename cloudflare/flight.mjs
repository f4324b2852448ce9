// What takes time. The awaiting is done here and not in the instance, so that it goes on when that fails. `guarded` calls into the
// instance, and throws if it has failed.
import { deadline_ms } from "./pkg/tidegate.js";
import { quietly } from "./instance.mjs";

/** The verdict on a request that has to wait, within its deadline. */
export async function awaitVerdict(wait, request, guarded) {
  const leave = () => quietly(() => guarded(() => wait.free()));
  request.signal.addEventListener("abort", leave);
  try {
    const deadline = Date.now() + guarded(deadline_ms);
    while (Date.now() < deadline) {
      const pause = guarded(() => wait.pause_ms);
      await new Promise((resolve) => setTimeout(resolve, pause));
      const verdict = guarded(() => wait.verdict(request, Date.now()));
      if (verdict !== null) return verdict;
    }
    throw new Error("there was no verdict within the deadline");
  } finally {
    request.signal.removeEventListener("abort", leave);
    leave();
  }
}

/**
 * The response that a task gives its client. What it does after that goes on beside it. `heed` is called now and then while it lasts,
 * and at its end: what it holds may have to be renewed or given back.
 */
export function runTask(task, request, ctx, guarded, flushAsks) {
  return new Promise((resolve, reject) => ctx.waitUntil(drive(task, request, guarded, resolve, flushAsks).catch(reject)));
}

async function drive(task, request, guarded, respond, flushAsks) {
  let ended = false;
  const finish = () => {
    if (ended) return;
    ended = true;
    quietly(() => guarded(() => task.free()));
    quietly(flushAsks);
  };
  request.signal.addEventListener("abort", finish);
  let outcome;
  let failed = false;
  let awaited;
  try {
    while (!ended) {
      const step = guarded(() => task.resume(outcome, failed));
      if (step === undefined) return;
      outcome = undefined;
      failed = false;
      if (step instanceof Response) {
        respond(step);
        continue;
      }
      awaited = Array.isArray(step) ? step[0] : step;
      try {
        outcome = await (step === awaited ? step : Promise.race(step));
      } catch (error) {
        outcome = error;
        failed = true;
      }
      if (step !== awaited) quietly(flushAsks);
    }
    // Nobody is there to see it.
    respond(new Response(null, { status: 499 }));
  } catch (error) {
    // The instance has failed. The upstream that was being asked still answers the client.
    const answer = await Promise.resolve(awaited).catch(() => undefined);
    if (!(answer instanceof Response)) throw error;
    respond(answer);
  } finally {
    request.signal.removeEventListener("abort", finish);
    finish();
  }
}

/** Sees a task through that has no client. */
export async function runInBackground(task, guarded) {
  try {
    let outcome;
    let failed = false;
    for (;;) {
      const step = guarded(() => task.resume(outcome, failed));
      if (step === undefined) return;
      try {
        [outcome, failed] = [await step, false];
      } catch (error) {
        [outcome, failed] = [error, true];
      }
    }
  } finally {
    quietly(() => guarded(() => task.free()));
  }
}

/** An answer, or what will be one, with what it says about limits: name and value by turns, a line each. */
export function withFields(answer, lines) {
  if (lines === "") return answer;
  return answer instanceof Response ? addFields(answer, lines) : Promise.resolve(answer).then((answer) => addFields(answer, lines));
}

function addFields(answer, lines) {
  const fields = lines.split("\n");
  try {
    // Without a body a handler can give the same one again, and it would grow.
    if (answer.body !== null) {
      append(answer.headers, fields);
      return answer;
    }
  } catch {
    // What was fetched cannot be changed, and says so before anything has been.
  }
  try {
    const response = new Response(answer.body, answer);
    append(response.headers, fields);
    return response;
  } catch {
    // None like it can be made: it has a status of 999, say. It goes as it came.
    return answer;
  }
}

function append(headers, fields) {
  for (let at = 0; at + 1 < fields.length; at += 2) {
    // The structured fields are lists, to which an upstream with limits of its own may have contributed.
    if (fields[at].startsWith("x-")) headers.set(fields[at], fields[at + 1]);
    else headers.append(fields[at], fields[at + 1]);
  }
}
