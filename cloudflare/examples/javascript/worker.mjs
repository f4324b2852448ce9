// A Worker with a handler of its own, behind Tidegate: what is over a limit never reaches it.
import { protect, TidegateAuthority } from "../../entry.mjs";

async function handler(request, env) {
  const { pathname } = new URL(request.url);
  if (pathname === "/api/greeting") return Response.json({ greeting: env.GREETING ?? "hello" });
  return new Response("not found", { status: 404 });
}

// The Durable Object that counts limits of the scope "global" must be exported by the Worker whose binding names it.
export { TidegateAuthority };
export default protect(handler);
