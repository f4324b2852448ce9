// The Worker's entry. It asks the core once for each request, and stands guard over it: whatever goes wrong in there, a visitor
// gets what the policy's `on_failure` says, and the next request meets a fresh instance.
import * as tidegate from "./pkg/tidegate.js";
import { listen, spread } from "./breakers.mjs";
import { driven, told, waited } from "./flight.mjs";
import { current, guard } from "./instance.mjs";
import * as settings from "./settings.mjs";
import { asked, send } from "./sharing.mjs";

export { TidegateAuthority } from "./authority.mjs";

/** The instance that has been told the policy. */
let configured;

/** Puts in force what KV says by now. */
async function refresh(env) {
  if ((await settings.learn(env)) && configured === current()) guard()(() => settings.enforce(tidegate, env, false));
  if (env.TIDEGATE !== undefined && configured === current()) await listen(env, guard()).catch(console.error);
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
    const guarded = guard(current());
    try {
      if (configured !== current()) {
        guarded(() => settings.enforce(tidegate, env, true));
        configured = current();
        if (env.TIDEGATE !== undefined) ctx.waitUntil(listen(env, guarded).catch(console.error));
      }
      verdict = guarded(() => tidegate.decide(request, Date.now()));
      if (env.TIDEGATE_AUTHORITY !== undefined) {
        const sent = send(env, ctx, guarded);
        if (verdict instanceof tidegate.Asking) verdict = await asked(verdict, request, sent, env, ctx, guarded);
      }
      if (verdict instanceof tidegate.Wait) verdict = await waited(verdict, request, guarded);
      if (verdict instanceof tidegate.Task) {
        verdict = await driven(verdict, request, ctx, guarded);
        if (env.TIDEGATE !== undefined) spread(env, ctx, guarded);
      }
    } catch (error) {
      return failed(error, request);
    }
    if (verdict === undefined) return fetch(request);
    if (typeof verdict === "string") return told(await fetch(request), verdict);
    return verdict;
  },
};
