// A Worker with its own handler behind Tidegate. Requests over a limit never reach the handler.
import { protect, TidegateAuthority } from "../../entry.mjs";

async function handler(request, env) {
  const { pathname } = new URL(request.url);
  if (pathname === "/api/greeting") return Response.json({ greeting: env.GREETING ?? "hello" });
  return new Response("not found", { status: 404 });
}

// The Worker that binds the Durable Object for `global` limits must export its class.
export { TidegateAuthority };
export default protect(handler);
