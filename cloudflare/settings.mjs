// What the Worker goes by: the policy and the mode that its KV namespace holds, or else the policy that it was deployed with. The texts
// are kept here and not in the instance, so that one that fails is followed by one that knows them.
import bundled from "./policy.json";
import * as tidegate from "./pkg/tidegate.js";

const deployed = { text: JSON.stringify(bundled) };
/** What was read last, what of it is to be put in force, and what was put in force last: a policy and a mode. */
let lastRead = {};
let wanted = { policy: deployed, mode: "" };
let inForce;
/** Policies that were to be put in force and could not. */
const rejected = new WeakSet();
/** When KV was asked last, and whether it ever was. */
let readAt = -Infinity;
let hasRead = false;
/** What to do with a request that cannot be decided, as the policy in force says. */
let onFailure = "pass";
/** Whether the policy in force has limits to share, and an authority over them. */
let sharesLimits = false;
let sharesBreakers = false;

/** Whether requests that cannot be decided go on. */
export const passesOnFailure = () => onFailure === "pass";

/** Whether there may be something to ask of the authority over shared limits. */
export const hasSharedLimits = () => sharesLimits;

/** Whether the policy in force has breakers that others share. */
export const hasSharedBreakers = () => sharesBreakers;

/** Whether KV has been asked, so that no request need wait for it. */
export const isLoaded = () => hasRead;

/** Whether KV is to be asked again. */
export const isReadDue = (env) => env.TIDEGATE !== undefined && Math.abs(Date.now() - readAt) >= READ_EVERY_MS;

/** Reads KV, and answers whether it says something new. */
export async function readKv(env) {
  // First, so that no other request asks as well.
  readAt = Date.now();
  try {
    if (env.TIDEGATE === undefined) return false;
    const keys = ["policy", "mode", "purge"].map((key) => env.TIDEGATE.get(key));
    const [policy, mode, purge] = await withTimeout(READ_TIMEOUT_MS, Promise.all(keys));
    if (policy === lastRead.policy && mode === lastRead.mode && purge === lastRead.purge) return false;
    lastRead = { policy, mode, purge };
    // A policy that is still the same, and bad, is not read again because of a new mode.
    const { policy: known } = wanted;
    wanted = { policy: policy === null ? deployed : policy === known.text ? known : { text: policy }, mode: mode ?? "" };
    return true;
  } catch (error) {
    console.error(`tidegate: KV cannot be read, what was in force stays: ${error}`);
    return false;
  } finally {
    hasRead = true;
  }
}

/**
 * Puts in force what was read last. What is bad is told once, and what was in force before stays; a fresh instance is told that. A mode
 * is in force whatever becomes of the policy beside it: an operator needs it most when something is wrong.
 */
export function apply(env, isFresh) {
  tidegate.set_cache_suffix(lastRead.purge ?? "");
  const problem = tidegate.mode_problem(wanted.mode);
  if (problem !== undefined) {
    console.error(problem);
    wanted = { policy: wanted.policy, mode: inForce?.mode ?? "" };
  }
  const { mode } = wanted;
  for (const policy of [wanted.policy, inForce?.policy, deployed]) {
    if (policy === undefined || rejected.has(policy)) continue;
    if (!isFresh && policy.text === inForce?.policy.text && mode === inForce.mode) return;
    try {
      onFailure = tidegate.configure(policy.text, mode, env);
      sharesLimits = tidegate.has_shared_limits();
      sharesBreakers = tidegate.has_shared_breakers();
      inForce = { policy, mode };
      if (policy === deployed && wanted.policy !== deployed) console.error("tidegate: KV's policy is bad, policy.json is in force");
      return;
    } catch (problems) {
      // What the instance throws is text, unless it has failed.
      if (problems instanceof Error) throw problems;
      rejected.add(policy);
      console.error(inForce === undefined ? problems : `${problems}\ntidegate: the policy before stays in force`);
    }
  }
  // Said once for each instance, since it does not get better by itself.
  if (inForce === undefined) console.error("tidegate: without a policy every request passes");
}

/** Sets what an operator has changed. It is in force here with the next request, if KV shows it by then. */
export async function storeChange(change, env) {
  if (env.TIDEGATE === undefined) return tidegate.change_response("there is no KV namespace bound as TIDEGATE to keep it");
  const [key, value] = [change.key, change.value(Date.now())];
  try {
    await (value === undefined ? env.TIDEGATE.delete(key) : env.TIDEGATE.put(key, value));
  } catch (error) {
    return tidegate.change_response(`KV does not keep it: ${error}`);
  }
  console.warn(`tidegate: an operator has ${value === undefined ? "cleared " + key : `set ${key} to ${value}`}`);
  readAt = -Infinity;
  return tidegate.change_response();
}

/** What comes of a promise, or an error if that takes too long. */
export function withTimeout(ms, promise) {
  let timer;
  const late = new Promise((_, reject) => {
    timer = setTimeout(() => reject(new Error(`no answer within ${ms} ms`)), ms);
  });
  return Promise.race([promise, late]).finally(() => clearTimeout(timer));
}

/** KV shows a new value everywhere within a minute: to ask more often would be of no use. */
const READ_EVERY_MS = 30_000;
/** So long the first request waits for KV at most. */
const READ_TIMEOUT_MS = 1_000;
