// Loads the Worker that Cargo and wasm-bindgen have built.
import module from "./pkg/tidegate_bg.wasm";
import { fetch, initSync, TidegateAuthority } from "./pkg/tidegate.js";

initSync({ module });

export { TidegateAuthority };
export default { fetch };
