// The instance of the core that is in use, and the guard over it. One that fails is done for: its memory is lost, and with it all that
// was only there; whoever calls next meets a fresh one.
// Names alone, and never the whole module as a value: what nobody uses of it is left out of what is deployed.
import module from "./pkg/tidegate_bg.wasm";
import { __wbg_reset_state, initSync } from "./pkg/tidegate.js";

/** How many instances there were before the one in use, and whether that is there yet. */
let number = 0;
let isUp = false;

/** The instance in use, by its number. */
export const currentInstance = () => number;

/** Calls into this instance, for those whom it knows. Throws what the call throws, and when the instance has failed before. */
export function guard(instance = number) {
  return (call) => {
    if (instance !== number) throw new Error("the instance that knew the request has failed");
    try {
      // Not at global scope, where there is neither a clock nor a random source.
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

/** How to tell that an authority cannot be asked: not each time, since one that fails does so many times. */
export function failureLogger(what) {
  let loggedAt = -Infinity;
  return (error) => {
    if (Math.abs(Date.now() - loggedAt) < LOGGED_EVERY_MS) return;
    loggedAt = Date.now();
    console.error(`tidegate: the authority over shared ${what} cannot be asked: ${error}`);
  };
}

/** Takes a step that nobody can be helped with when it fails. */
export function quietly(step) {
  try {
    step();
  } catch (error) {
    console.error(`tidegate: ${error}`);
  }
}

const LOGGED_EVERY_MS = 10_000;
