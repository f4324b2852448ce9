// The current wasm instance of the core, and the guard around calls into it. When a call throws, the instance and its
// memory are lost, and the next call gets a fresh instance.
// Only named imports, never the module as a value: the bundler then leaves out what is unused.
import module from "./pkg/tidegate_bg.wasm";
import { __wbg_reset_state, initSync } from "./pkg/tidegate.js";

/** The number of instances before the current one, and whether the current one is initialized. */
let number = 0;
let isUp = false;

/** The number of the current instance. */
export const currentInstance = () => number;

/**
 * Returns a function that calls into this instance. It rethrows what the call throws, and throws if the instance has
 * failed before.
 */
export function guard(instance = number) {
  return (call) => {
    if (instance !== number) throw new Error("the instance that knew the request has failed");
    try {
      // Not at global scope, where a Worker has neither a clock nor a random source.
      if (!isUp) initSync({ module });
      isUp = true;
      return call();
    } catch (error) {
      number += 1;
      isUp = false;
      __wbg_reset_state();
      throw error;
    }
  };
}

/**
 * Returns a function that logs that an authority cannot be asked. It logs at most once per 10 s: a failing authority
 * would otherwise flood the log.
 */
export function failureLogger(what) {
  let loggedAt = -Infinity;
  return (error) => {
    if (Math.abs(Date.now() - loggedAt) < LOGGED_EVERY_MS) return;
    loggedAt = Date.now();
    console.error(`tidegate: the authority over shared ${what} cannot be asked: ${error}`);
  };
}

/** Runs a step whose failure can only be logged. */
export function quietly(step) {
  try {
    step();
  } catch (error) {
    console.error(`tidegate: ${error}`);
  }
}

const LOGGED_EVERY_MS = 10_000;
