// Awaits promises on behalf of the core. This happens in JavaScript, so that requests under way continue when the wasm
// instance fails. `guarded` calls into the instance, and throws if the instance has failed.
import { deadline_ms } from "./pkg/tidegate.js";
import { quietly } from "./instance.mjs";

/** Waits with a request until its verdict is ready, or throws at the deadline. */
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
 * Runs a task and resolves with the response for its client. The task may continue in the background after that.
 * `flushAsks` is called at intervals while the request holds permits, and once at the end: permits may have to be
 * renewed with the authority or returned to it.
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
    // The client has gone and does not see this response.
    respond(new Response(null, { status: 499 }));
  } catch (error) {
    // The instance has failed. The client still gets the response of the upstream that was being called.
    const answer = await Promise.resolve(awaited).catch(() => undefined);
    if (!(answer instanceof Response)) throw error;
    respond(answer);
  } finally {
    request.signal.removeEventListener("abort", finish);
    finish();
  }
}

/** Runs a task that answers no client. */
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

/** Adds header fields to a response or to a promise of one. `fields` alternates names and values. */
export function withFields(answer, fields) {
  return answer instanceof Response ? addFields(answer, fields) : Promise.resolve(answer).then((answer) => addFields(answer, fields));
}

/**
 * Whether a response has had immutable headers. Most then have; finding it out by an exception takes several times as
 * long as copying the response.
 */
let isCopying = false;

function addFields(answer, fields) {
  try {
    // A handler may return the same response without a body again; fields would pile up on it.
    if (!isCopying && answer.body !== null) {
      append(answer.headers, fields);
      return answer;
    }
  } catch {
    // The headers of a fetched response are immutable: the first change throws, before any has been made.
    isCopying = answer instanceof Response;
  }
  try {
    const response = new Response(answer.body, answer);
    append(response.headers, fields);
    return response;
  } catch {
    // The response cannot be copied, for example because its status is 999. It passes unchanged.
    return answer;
  }
}

function append(headers, fields) {
  for (let at = 0; at + 1 < fields.length; at += 2) {
    // Structured fields are lists: an upstream with limits of its own may have added members.
    if (fields[at].startsWith("x-")) headers.set(fields[at], fields[at + 1]);
    else headers.append(fields[at], fields[at + 1]);
  }
}
