// The shipped Tidegate before a handler.
import { protect, TidegateAuthority } from "./entry.mjs";

export { TidegateAuthority };
export default protect(() => new Response("ok"));
