// The policy and the mode in force: from the KV namespace, or else from the deployed policy.json. The texts are kept
// here and not in the wasm instance, so that a fresh instance can be configured after a failure.
import bundled from "./policy.json";
import * as tidegate from "./pkg/tidegate.js";

const deployed = { text: JSON.stringify(bundled) };
/** What KV held at the last read; the policy and mode to put in force; and those in force. */
let lastRead = {};
let wanted = { policy: deployed, mode: "" };
let inForce;
/** Policies that could not be put in force. */
const rejected = new WeakSet();
/** When KV was last read, and whether it ever was. */
let readAt = -Infinity;
let hasRead = false;
/** What happens to a request that cannot be decided, per the policy in force: `pass` or `refuse`. */
let onFailure = "pass";
/** Whether the policy in force has shared limits and shared breakers, with an authority for them. */
let sharesLimits = false;
let sharesBreakers = false;

/** Whether requests that cannot be decided pass. */
export const passesOnFailure = () => onFailure === "pass";

/** Whether there may be asks for the authority over shared limits. */
export const hasSharedLimits = () => sharesLimits;

/** Whether the policy in force has shared breakers. */
export const hasSharedBreakers = () => sharesBreakers;

/** Whether KV has been read once, so that requests need not wait for it. */
export const isLoaded = () => hasRead;

/** Whether KV is to be read again. */
export const isReadDue = (env) => env.TIDEGATE !== undefined && Math.abs(Date.now() - readAt) >= READ_EVERY_MS;

/** Reads KV. Resolves to whether anything has changed. */
export async function readKv(env) {
  // Set first, so that no other request reads as well.
  readAt = Date.now();
  try {
    if (env.TIDEGATE === undefined) return false;
    const keys = ["policy", "mode", "purge"].map((key) => env.TIDEGATE.get(key));
    const [policy, mode, purge] = await withTimeout(READ_TIMEOUT_MS, Promise.all(keys));
    if (policy === lastRead.policy && mode === lastRead.mode && purge === lastRead.purge) return false;
    lastRead = { policy, mode, purge };
    // An unchanged bad policy is not parsed again because the mode has changed.
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
 * Puts in force what was read last. A bad policy or mode is logged once, and the previous one stays in force; a fresh
 * instance (`isFresh`) is configured with it. A mode takes effect even if the policy read with it is bad: operators
 * need it most when something is wrong.
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
      // `configure` throws text; an `Error` means that the instance has failed.
      if (problems instanceof Error) throw problems;
      rejected.add(policy);
      console.error(inForce === undefined ? problems : `${problems}\ntidegate: the policy before stays in force`);
    }
  }
  // Logged once per instance, because only a new policy can change it.
  if (inForce === undefined) console.error("tidegate: without a policy every request passes");
}

/** Writes an operator's change to KV. It takes effect here with the next request, if KV shows it by then. */
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

/** Resolves like the promise, or rejects if that takes too long. */
export function withTimeout(ms, promise) {
  let timer;
  const late = new Promise((_, reject) => {
    timer = setTimeout(() => reject(new Error(`no answer within ${ms} ms`)), ms);
  });
  return Promise.race([promise, late]).finally(() => clearTimeout(timer));
}

/** KV shows a new value everywhere within a minute, so reading more often has no use. */
const READ_EVERY_MS = 30_000;
/** The longest time that the first request waits for KV. */
const READ_TIMEOUT_MS = 1_000;
