// The Worker's entry. It asks the core once for each request, and stands guard over it: whatever goes wrong in there, a visitor
// gets what the policy's `on_failure` says, and the next request meets a fresh instance.
import module from "./pkg/tidegate_bg.wasm";
import * as tidegate from "./pkg/tidegate.js";
import { driven, told, waited } from "./flight.mjs";
import * as settings from "./settings.mjs";

/** Which instance is in use: how many there were before. */
let instance = 0;
/** Whether the instance in use has been told the policy. */
let configured = false;

/** Makes the instance ready, within a request: at global scope there is neither a clock nor a random source. */
function start() {
  tidegate.initSync({ module });
  configured = true;
  settings.enforce(tidegate, true);
}

/** Puts in force what KV says by now. */
async function refresh(env) {
  if ((await settings.learn(env)) && configured) guard(instance)(() => settings.enforce(tidegate, false));
}

/** Calls into an instance for the requests that it knows. One that fails is done for: its memory is lost, and with it all counts. */
function guard(mine) {
  return (call) => {
    if (mine !== instance) throw new Error("the instance that knew the request has failed");
    try {
      return call();
    } catch (error) {
      instance += 1;
      configured = false;
      tidegate.__wbg_reset_state();
      throw error;
    }
  };
}

function failed(error, request) {
  // A body that an upstream has had cannot be sent again.
  const passes = settings.passes() && !request.bodyUsed;
  console.error(`tidegate: the request is ${passes ? "let pass" : "refused"}: ${error}`);
  if (passes) return fetch(request);
  return new Response('{"error":"service unavailable","retryAfter":1}', {
    status: 503,
    headers: { "content-type": "application/json", "cache-control": "no-store", "retry-after": "1" },
  });
}

export default {
  async fetch(request, env, ctx) {
    if (!settings.isKnown()) await refresh(env);
    else if (settings.isDue(env)) ctx.waitUntil(refresh(env));
    let verdict;
    const guarded = guard(instance);
    try {
      if (!configured) guarded(start);
      verdict = guarded(() => tidegate.decide(request, Date.now()));
      if (verdict instanceof tidegate.Wait) verdict = await waited(verdict, request, guarded);
      if (verdict instanceof tidegate.Task) verdict = await driven(verdict, request, ctx, guarded);
    } catch (error) {
      return failed(error, request);
    }
    if (verdict === undefined) return fetch(request);
    if (typeof verdict === "string") return told(await fetch(request), verdict);
    return verdict;
  },
};
