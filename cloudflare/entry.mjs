// The Worker that is deployed in front of a zone's origin. One with a handler of its own imports the same: see `protect`.
import { protect } from "./protect.mjs";

export { TidegateAuthority } from "./authority.mjs";
export { protect };

export default protect();
