// Loads the Worker as built by Cargo and wasm-bindgen.
import module from "./pkg/tidegate_bg.wasm";
import { fetch, initSync, TidegateAuthority } from "./pkg/tidegate.js";

initSync({ module });

export { TidegateAuthority };
export default { fetch };
