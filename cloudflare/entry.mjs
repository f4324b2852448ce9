// The Worker that is deployed in front of a zone's origin. A Worker with its own handler imports the same names; see
// `protect`.
import { protect } from "./protect.mjs";

export { TidegateAuthority } from "./authority.mjs";
export { protect };

export default protect();
