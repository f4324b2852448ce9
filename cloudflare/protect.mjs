// A Worker behind Tidegate. It asks the core once for each request, and stands guard over it: whatever goes wrong in there, a visitor
// gets what the policy's `on_failure` says, and the next request meets a fresh instance.
import * as tidegate from "./pkg/tidegate.js";
import { sendReports } from "./shared-breakers.mjs";
import { publish, receive } from "./breakers.mjs";
import { awaitVerdict, runTask, withFields } from "./flight.mjs";
import { currentInstance, guard, quietly } from "./instance.mjs";
import * as settings from "./settings.mjs";
import { awaitGrant, sendAsks } from "./shared-limits.mjs";

/** The instance that has been told the policy. */
let configured;

/** Puts in force what KV says by now. */
async function refresh(env) {
  if ((await settings.readKv(env)) && configured === currentInstance()) guard()(() => settings.apply(env, false));
  if (env.TIDEGATE !== undefined && configured === currentInstance()) await receive(env, guard()).catch(console.error);
}

function answerFailure(error, request, pass) {
  // A body that an upstream has had cannot be sent again.
  const passes = settings.passesOnFailure() && !request.bodyUsed;
  console.error(`tidegate: the request is ${passes ? "let pass" : "refused"}: ${error}`);
  if (passes) return pass();
  return new Response('{"error":"service unavailable","retryAfter":1}', {
    status: 503,
    headers: { "content-type": "application/json", "cache-control": "no-store", "retry-after": "1" },
  });
}

/** Makes the instance in use ready for its first request, in that request. */
function prepare(env, ctx, guarded, checkedHandle) {
  guarded(() => {
    settings.apply(env, true);
    if (checkedHandle !== undefined) tidegate.set_handler(checkedHandle);
  });
  configured = currentInstance();
  if (env.TIDEGATE !== undefined) ctx.waitUntil(receive(env, guarded).catch(console.error));
}

/** What becomes of a request whose verdict may take time: see `decide` in the core. */
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

/** What a verdict comes to that is there. */
function responseTo(verdict, pass, env) {
  if (verdict === undefined) return pass();
  if (verdict instanceof tidegate.Change) return settings.storeChange(verdict, env);
  if (typeof verdict === "string") return withFields(pass(), verdict);
  return verdict;
}

/**
 * The request for a handler that parses its URL, which takes a backslash for a slash and drops control characters at the end: it comes to
 * the path that limits have matched. The core does the same for upstreams (`path::escaped_for_parsers`); here it is not asked, since
 * whatever simply passes comes by.
 */
function escaped(request) {
  const { url } = request;
  return url.search(MISREAD) < 0 ? request : new Request(url.replace(MISREAD, encodeURIComponent), request);
}

const MISREAD = /[\\\0-\x20]/g;

/**
 * The handlers of a Worker behind Tidegate. What passes, `handler(request, env, ctx)` answers in place of the zone's origin; a route
 * of the policy leads past it.
 */
export function protect(handler) {
  /** The bindings and the context that a request came with. */
  const invocations = new WeakMap();
  const handle = handler ? (request, env, ctx) => handler(escaped(request), env, ctx) : (request) => fetch(request);
  /** The same where the policy looks at the answer. What is none that can be sent would take the instance down that looks. */
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
  /** The answer to a request. Most simply pass, and wait for nothing that the handler does not: not for a promise either. */
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
    if (typeof verdict !== "object" && !settings.hasSharedLimits()) return responseTo(verdict, pass, env);
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

    /** By a cron trigger: learns what KV says by now, and gives back what lies idle. */
    async scheduled(_controller, env, ctx) {
      await refresh(env);
      if (settings.hasSharedLimits() && configured === currentInstance()) quietly(() => sendAsks(env, ctx, guard()));
    },
  };
}
