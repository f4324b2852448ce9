// The Worker as it is shipped, in the real workerd, with servers of this machine behind it.
import { readFileSync } from "node:fs";
import { createServer } from "node:http";
import { Miniflare } from "miniflare";

const dist = new URL("../../dist/cloudflare/", import.meta.url);
const file = (name) => readFileSync(new URL(name, dist));

/** Starts the Worker with this policy, in front of `origin`; both end with the test. */
export async function worker(test, policy, origin = hello, options = {}) {
  const server = await listen(test, origin);
  const miniflare = new Miniflare({
    modules: [
      { type: "ESModule", path: "entry.mjs", contents: file("entry.mjs") },
      { type: "ESModule", path: "pkg/tidegate.js", contents: file("pkg/tidegate.js") },
      { type: "CompiledWasm", path: "pkg/tidegate_bg.wasm", contents: file("pkg/tidegate_bg.wasm") },
      { type: "ESModule", path: "policy.json", contents: `export default ${JSON.stringify(policy)}` },
    ],
    compatibilityDate: "2026-04-01",
    outboundService: (request) => forward(request, server),
    ...options,
  });
  test.after(() => miniflare.dispose());
  await miniflare.ready;
  /** Sends a request as a client of this address. */
  const get = (path, { address = "192.0.2.1", headers = {}, ...init } = {}) =>
    miniflare.dispatchFetch(`http://example.com${path}`, {
      ...init,
      headers: { "cf-connecting-ip": address, ...headers },
    });
  return { get, miniflare, server };
}

/** A server on a port of its own; `server.seen` counts its requests. */
export async function listen(test, handler) {
  const server = createServer((request, response) => {
    server.seen += 1;
    handler(request, response);
  });
  server.seen = 0;
  await new Promise((resolve) => server.listen(0, "127.0.0.1", resolve));
  test.after(() => {
    server.closeAllConnections();
    server.close();
  });
  return server;
}

function forward(request, server) {
  const { pathname, search } = new URL(request.url);
  return fetch(`http://127.0.0.1:${server.address().port}${pathname}${search}`, {
    method: request.method,
    headers: request.headers,
    body: request.body,
    duplex: "half",
    redirect: "manual",
  });
}

function hello(request, response) {
  response.end(`${request.method} ${request.url}`);
}
