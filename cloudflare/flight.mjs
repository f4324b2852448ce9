// What takes time: a request waits, or is under way to its upstream and the policy wants to know what becomes of it. It is done
// here and not in the instance, so that it goes on when that fails. `guarded` calls into the instance, and throws if it has failed.
import { deadline_ms, renewed_within_ms } from "./pkg/tidegate.js";

/** The verdict on a request that has to wait, within its deadline. */
export async function waited(wait, request, guarded) {
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

/** The answer to a request that goes where the policy says, or whose answer matters to it. */
export async function flown(flight, request, ctx, guarded) {
  const target = flight.target;
  const holds = flight.holds;
  // The instance may be gone by then, and what the request has held with it.
  const call = (step) => quietly(() => guarded(step));
  let beat;
  let over = false;
  const end = () => {
    if (over) return;
    over = true;
    clearInterval(beat);
    call(() => flight.free());
  };
  if (holds) {
    beat = setInterval(() => call(() => flight.renew(Date.now())), renewed_within_ms() / 2);
    request.signal.addEventListener("abort", end);
  }
  let answer;
  try {
    answer = await fetch(target === undefined ? request : new Request(target, request));
  } catch (error) {
    end();
    throw error;
  }
  const lines = call(() => flight.answered(answer, Date.now())) ?? "";
  if (!holds || answer.body === null) {
    end();
    return told(answer, lines);
  }
  // The runtime moves the bytes by itself, and the promise says when the last one has gone or nobody takes them any more.
  const length = answer.headers.has("content-encoding") ? null : answer.headers.get("content-length");
  const { readable, writable } = length === null ? new IdentityTransformStream() : new FixedLengthStream(Number(length));
  ctx.waitUntil(answer.body.pipeTo(writable, { signal: request.signal }).then(end, end));
  return told(new Response(readable, answer), lines);
}

/** The upstream's answer with what it says about limits: name and value by turns, a line each. */
export function told(answer, lines) {
  if (lines === "") return answer;
  const response = new Response(answer.body, answer);
  const fields = lines.split("\n");
  for (let at = 0; at + 1 < fields.length; at += 2) {
    // The structured fields are lists, to which an upstream with limits of its own may have contributed.
    if (fields[at].startsWith("x-")) response.headers.set(fields[at], fields[at + 1]);
    else response.headers.append(fields[at], fields[at + 1]);
  }
  return response;
}

function quietly(step) {
  try {
    return step();
  } catch (error) {
    console.error(`tidegate: ${error}`);
    return undefined;
  }
}
