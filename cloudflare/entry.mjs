// The Worker's entry. It asks the core once for each request, and stands guard over it: whatever goes wrong in there, a visitor
// gets what the policy's `on_failure` says, and the next request meets a fresh instance.
import module from "./pkg/tidegate_bg.wasm";
import * as tidegate from "./pkg/tidegate.js";
import policy from "./policy.json";

/** Whether a policy is in force in the instance at hand. */
let configured = false;
/** What to do with a request that cannot be decided, as the policy said when it was last read. */
let onFailure = "pass";
/** What ends each promise of the instance at hand, should the instance die: the promise would never end by itself. */
const pending = new Set();

/** Makes the instance ready, within a request: at global scope there is neither a clock nor a random source. */
function start() {
  tidegate.initSync({ module });
  configured = true;
  try {
    onFailure = tidegate.configure(JSON.stringify(policy));
  } catch (problems) {
    // Without a policy every request passes; said once, since it does not get better by itself.
    console.error(String(problems));
  }
}

/** Takes down an instance that has panicked: its memory is lost, and all that waits in it. */
function reset(error) {
  configured = false;
  tidegate.__wbg_reset_state();
  for (const end of pending) end(error);
  pending.clear();
}

/** The promise of an instance, ended if the instance dies. */
function guarded(promise) {
  return new Promise((resolve, reject) => {
    pending.add(reject);
    promise.then(resolve, reject).finally(() => pending.delete(reject));
  });
}

function failed(error, request) {
  console.error(`tidegate: the request is let ${onFailure === "pass" ? "pass" : "down"}: ${error}`);
  if (onFailure === "pass" && !request.bodyUsed) return fetch(request);
  return new Response('{"error":"service unavailable"}', {
    status: 503,
    headers: { "content-type": "application/json", "cache-control": "no-store", "retry-after": "1" },
  });
}

/** The upstream's answer with what it says about limits: name and value by turns, a line each. */
function told(answer, lines) {
  const response = new Response(answer.body, answer);
  const fields = lines.split("\n");
  for (let at = 0; at + 1 < fields.length; at += 2) response.headers.append(fields[at], fields[at + 1]);
  return response;
}

export default {
  async fetch(request, env, ctx) {
    let verdict;
    try {
      if (!configured) start();
      verdict = tidegate.decide(request, env, ctx, Date.now());
      if (verdict instanceof Promise) verdict = await guarded(verdict);
    } catch (error) {
      if (error instanceof WebAssembly.RuntimeError) reset(error);
      return failed(error, request);
    }
    if (verdict === undefined) return fetch(request);
    if (typeof verdict === "string") return told(await fetch(request), verdict);
    return verdict;
  },
};
