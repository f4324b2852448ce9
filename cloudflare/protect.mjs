// A Worker behind Tidegate. It calls the core once per request and guards that call: if the core fails, the visitor
// gets what the policy's `on_failure` says, and the next request gets a fresh instance.
import * as tidegate from "./pkg/tidegate.js";
import { sendReports } from "./shared-breakers.mjs";
import { publish, receive } from "./breakers.mjs";
import { awaitVerdict, runTask, withFields } from "./flight.mjs";
import { currentInstance, guard, quietly } from "./instance.mjs";
import * as settings from "./settings.mjs";
import { awaitGrant, sendAsks } from "./shared-limits.mjs";

/** The number of the instance that has the policy. */
let configured;

/** Reads KV and applies what has changed. Never rejects: if the core fails, the next request gets a fresh instance. */
async function refresh(env) {
  try {
    if ((await settings.readKv(env)) && configured === currentInstance()) guard()(() => settings.apply(env, false));
    if (env.TIDEGATE !== undefined && configured === currentInstance()) await receive(env, guard());
  } catch (error) {
    console.error(`tidegate: what KV says could not be applied: ${error}`);
  }
}

function answerFailure(error, request, pass) {
  // A body that was already sent to an upstream cannot be sent again.
  const passes = settings.passesOnFailure() && !request.bodyUsed;
  console.error(`tidegate: the request is ${passes ? "let pass" : "refused"}: ${error}`);
  if (passes) return pass();
  return new Response('{"error":"service unavailable","retryAfter":1}', {
    status: 503,
    headers: { "content-type": "application/json", "cache-control": "no-store", "retry-after": "1" },
  });
}

/** Configures the current instance, within its first request. */
function prepare(env, ctx, guarded, checkedHandle) {
  guarded(() => {
    settings.apply(env, true);
    if (checkedHandle !== undefined) tidegate.set_handler(checkedHandle);
  });
  configured = currentInstance();
  if (env.TIDEGATE !== undefined) ctx.waitUntil(receive(env, guarded).catch(console.error));
}

/**
 * Resolves a verdict that needs waiting: for an authority's answer, for a delay, or for an upstream's response. See
 * `decide` in the core.
 */
async function resolve(verdict, request, env, ctx, guarded) {
  if (settings.hasSharedLimits()) {
    const sent = sendAsks(env, ctx, guarded);
    if (verdict instanceof tidegate.GrantWait) verdict = await awaitGrant(verdict, request, sent, env, ctx, guarded);
  }
  if (verdict instanceof tidegate.Wait) verdict = await awaitVerdict(verdict, request, guarded);
  if (verdict instanceof tidegate.Task) {
    const flushAsks = () => settings.hasSharedLimits() && sendAsks(env, ctx, guarded);
    verdict = await runTask(verdict, request, ctx, guarded, flushAsks);
    if (env.TIDEGATE !== undefined) publish(env, ctx, guarded);
    if (settings.hasSharedBreakers()) sendReports(env, ctx, guarded);
  }
  return verdict;
}

/** The response for a final verdict. */
function responseTo(verdict, pass, env) {
  if (verdict === undefined) return pass();
  if (Array.isArray(verdict)) return withFields(pass(), verdict);
  if (verdict instanceof tidegate.Change) return settings.storeChange(verdict, env);
  return verdict;
}

/**
 * The request as the handler gets it. A URL parser treats a backslash as a slash and drops trailing control characters;
 * escaping them makes the handler see the path that the limits matched. The core does the same for upstreams
 * (`path::escaped_for_parsers`), but is not called here because every passing request comes through.
 */
function escaped(request) {
  const { url } = request;
  return url.search(MISREAD) < 0 ? request : new Request(url.replace(MISREAD, encodeURIComponent), request);
}

const MISREAD = /[\\\0-\x20]/g;

/**
 * The handlers of a Worker behind Tidegate. Requests that pass go to `handler(request, env, ctx)` instead of the zone's
 * origin. Requests on a route of the policy go to its upstreams instead.
 */
export function protect(handler) {
  /** The bindings and the context of each request. */
  const invocations = new WeakMap();
  const handle = handler ? (request, env, ctx) => handler(escaped(request), env, ctx) : (request) => fetch(request);
  /**
   * The handler, for requests whose response the policy inspects. An invalid response would crash the wasm instance
   * that inspects it.
   */
  const checkedHandle = handler && (async (request) => {
    try {
      const answer = await handle(request, ...(invocations.get(request) ?? []));
      if (answer instanceof Response && answer.status !== 0 && !answer.bodyUsed && !answer.body?.locked) return answer;
      throw new TypeError("it gave no response that can be sent");
    } catch (error) {
      console.error(`tidegate: the handler has failed: ${error?.stack ?? error}`);
      throw error;
    }
  });
  /** Answers a request. Most requests simply pass; they wait for nothing but the handler, not even for a promise. */
  const answer = (request, env, ctx) => {
    const pass = () => handle(request, env, ctx);
    let verdict;
    const guarded = guard(currentInstance());
    try {
      if (configured !== currentInstance()) prepare(env, ctx, guarded, checkedHandle);
      verdict = guarded(() => tidegate.decide(request, Date.now()));
    } catch (error) {
      return answerFailure(error, request, pass);
    }
    const passes = verdict === undefined || Array.isArray(verdict);
    if (passes && !settings.hasSharedLimits()) return responseTo(verdict, pass, env);
    invocations.set(request, [env, ctx]);
    const resolved = resolve(verdict, request, env, ctx, guarded);
    return resolved.then((verdict) => responseTo(verdict, pass, env), (error) => answerFailure(error, request, pass));
  };
  return {
    fetch(request, env, ctx) {
      if (!settings.isLoaded()) return refresh(env).then(() => answer(request, env, ctx));
      if (settings.isReadDue(env)) ctx.waitUntil(refresh(env));
      return answer(request, env, ctx);
    },

    /** Called by a cron trigger: reads KV, and returns idle permits to the authority. */
    async scheduled(_controller, env, ctx) {
      await refresh(env);
      if (settings.hasSharedLimits() && configured === currentInstance()) quietly(() => sendAsks(env, ctx, guard()));
    },
  };
}
