// The shipped Worker in the real workerd, with servers of this machine behind it.
import assert from "node:assert/strict";
import { readdirSync, readFileSync } from "node:fs";
import { createServer } from "node:http";
import { connect, createServer as createSocketServer } from "node:net";
import { Miniflare } from "miniflare";

const built = (directory) => new URL(`../../${directory}/`, import.meta.url);
/**
 * The Worker in Rust that uses Tidegate as a library: as shipped, and with a test clock and a trap. Its handler fetches
 * from the origin.
 */
export const rust = { shipped: built("target/cloudflare-rust"), clocked: built("target/cloudflare-rust-tests") };
/** The Worker under test: the deployed one or, with TIDEGATE_WORKER=rust, the one in Rust. */
export const { shipped, clocked } =
  process.env.TIDEGATE_WORKER === "rust"
    ? rust
    : { shipped: built("dist/cloudflare"), clocked: built("target/cloudflare-scenarios") };

/**
 * Starts the Worker with this policy in front of `origin`; both end with the test. `log` has the Worker's log lines.
 */
export async function worker(test, policy, origin = hello, { dist = shipped, world, main, ...options } = {}) {
  const server = await listen(test, origin);
  const log = [];
  const keep = (stream) => stream.on("data", (data) => log.push(...String(data).split("\n").filter((line) => line !== "")));
  const under = (policy) => ({
    modules: [...(main ? [main] : []), ...modules(policy, dist, world)],
    compatibilityDate: "2026-04-01",
    compatibilityFlags: ["enable_request_signal"],
    outboundService: (request) => forward(request, server),
    handleRuntimeStdio: (stdout, stderr) => [stdout, stderr].forEach(keep),
    ...withKv(dist),
    ...options,
  });
  const miniflare = new Miniflare(under(policy));
  test.after(() => miniflare.dispose());
  const base = await miniflare.ready;
  if (policy !== undefined) await instruct(miniflare, dist, policy);
  /** Sends a request from a client with this address. */
  const get = (path, { address = "192.0.2.1", headers = {}, ...init } = {}) =>
    miniflare.dispatchFetch(`http://example.com${path}`, {
      ...init,
      headers: { "cf-connecting-ip": address, ...headers },
    });
  /** Puts another policy in force, in a new process. */
  const deploy = async (policy) => {
    await miniflare.setOptions(under(policy));
    await instruct(miniflare, dist, policy);
  };
  return { get, base, miniflare, server, log, deploy };
}

/**
 * Three locations of a Worker with this policy, which share one KV namespace and the Durable Objects. Returns how to
 * send requests to each, and the object of each shard.
 */
export async function locations(test, policy, { origin = hello, dist = shipped, worlds = [], ...options } = {}) {
  const server = await listen(test, origin);
  const log = [];
  const keep = (stream) => stream.on("data", (data) => log.push(...String(data).split("\n").filter((line) => line !== "")));
  const names = ["hel", "osl", "rkv"];
  const miniflare = new Miniflare({
    handleRuntimeStdio: (stdout, stderr) => [stdout, stderr].forEach(keep),
    workers: names.map((name, at) => ({
      name,
      modules: modules(policy, dist, worlds[at] ?? "(env) => env"),
      compatibilityDate: "2026-04-01",
      compatibilityFlags: ["enable_request_signal"],
      outboundService: (request) => forward(request, server),
      kvNamespaces: { TIDEGATE: "shared" },
      durableObjects: { TIDEGATE_AUTHORITY: { className: "TidegateAuthority", scriptName: "hel", useSQLite: true } },
      ...options,
    })),
  });
  test.after(() => miniflare.dispose());
  await miniflare.ready;
  await instruct(miniflare, dist, policy, "hel");
  const workers = await Promise.all(names.map((name) => miniflare.getWorker(name)));
  const get = async (at, path, { address = "192.0.2.1", headers = {}, ...init } = {}) =>
    workers[at].fetch(`http://example.com${path}`, { ...init, headers: { "cf-connecting-ip": address, ...headers } });
  const hasObjects = !("durableObjects" in options);
  const namespace = hasObjects && (await miniflare.getDurableObjectNamespace("TIDEGATE_AUTHORITY", "hel"));
  const object = (name) => namespace.get(namespace.idFromName(name));
  const shards = Array.from({ length: hasObjects ? 32 : 0 }, (_, at) => object(`shard-${at}`));
  const kv = await miniflare.getKVNamespace("TIDEGATE", "hel");
  return { get, object, shards, kv, server, log };
}

/** Whether this is a Worker in Rust. Its policy is built in, so tests override it through KV. */
const isInRust = (dist) => Object.values(rust).some(({ href }) => href === dist.href);

/** The options that bind a KV namespace, if the Worker needs one for its policy. */
export const withKv = (dist, name = "policy") => (isInRust(dist) ? { kvNamespaces: { TIDEGATE: name } } : {});

/** Puts the policy into KV, before the first request. */
export async function instruct(miniflare, dist, policy, name) {
  if (isInRust(dist)) await (await miniflare.getKVNamespace("TIDEGATE", name)).put("policy", JSON.stringify(policy));
}

/** The whole response as text, to a request that is sent verbatim, which client libraries do not do. */
export const sent = (base, head, body = "") =>
  new Promise((resolve, reject) => {
    const { hostname, port } = new URL(base);
    let answer = "";
    connect(port, hostname)
      .on("data", (data) => (answer += data))
      .on("close", () => resolve(answer))
      .on("error", reject)
      // Closed by the client, because workerd keeps connections for 5 s more, even with `Connection: close`.
      .end(`${head}\r\n${body && `content-length: ${body.length}\r\n`}\r\n${body}`);
  });

/** The same for a GET with this target, verbatim. */
export const asSent = (base, target) => sent(base, `GET ${target} HTTP/1.1\r\nHost: ${new URL(base).host}`);

/** The status of a response. Discards the body. */
export const status = async (answer) => {
  const { status, body } = await answer;
  await body?.cancel();
  return status;
};

/** Sends `count` requests to the three locations, some at a time. Returns the number that pass. */
export const passing = async (get, count, init) => {
  let passed = 0;
  for (let sent = 0; sent < count; sent += 12) {
    const asked = Array.from({ length: Math.min(12, count - sent) }, (_, at) => status(get(at % 3, "/", init)));
    for (const status of await Promise.all(asked)) passed += status === 200 ? 1 : 0;
  }
  return passed;
};

/** Fails unless the three locations together have fifty permits for a client, and others for another client. */
export async function shareFifty(get, algorithm) {
  let passed = await passing(get, 120);
  assert.ok(passed <= 50 && passed >= 30, `${passed}`);
  // Permits that one location has drawn and does not use are returned and serve the others. Those of a token bucket
  // expire meanwhile.
  const least = algorithm === "token-bucket" ? 40 : 50;
  await until(async () => (passed += await passing(get, 3)) >= least);
  passed += await passing(get, 30);
  assert.ok(passed >= least && passed <= 50, `${passed}`);
  assert.equal(await passing(get, 9, { address: "192.0.2.2" }), 9);
}

/** The modules of the built Worker, with this policy. */
export function modules(policy, dist, world) {
  const scripts = readdirSync(new URL("pkg/", dist), { recursive: true }).filter((name) => name.endsWith(".js"));
  const file = (name) => readFileSync(new URL(name, dist));
  const beside = readdirSync(dist).filter((name) => name.endsWith(".mjs") && name !== "entry.mjs");
  return [
    ...(world ? [{ type: "ESModule", path: "world.mjs", contents: worldly(world) }] : []),
    { type: "ESModule", path: "entry.mjs", contents: file("entry.mjs") },
    ...beside.map((path) => ({ type: "ESModule", path, contents: file(path) })),
    ...scripts.map((name) => ({ type: "ESModule", path: `pkg/${name}`, contents: file(`pkg/${name}`) })),
    { type: "CompiledWasm", path: "pkg/tidegate_bg.wasm", contents: file("pkg/tidegate_bg.wasm") },
    { type: "ESModule", path: "policy.json", contents: `export default ${JSON.stringify(policy)}` },
  ];
}

/**
 * The Worker with a test wrapper: each request can move the clock to a number of ms ahead of the real one, and `world`,
 * a function as text, replaces its bindings. Its Durable Object can be evicted, and shows what it keeps.
 */
const worldly = (world) => `
  const now = Date.now;
  let ahead = 0;
  Date.now = () => now() + ahead;
  const world = ${world};
  import worker, { TidegateAuthority as Shipped } from "./entry.mjs";
  export class TidegateAuthority extends Shipped {
    leave() {
      this.ctx.abort("evicted");
    }
    // "hang", "throw", "slow", or none.
    fault(fault) {
      this.faulty = fault;
    }
    async ask(ask) {
      if (this.faulty === "hang") await new Promise(() => {});
      if (this.faulty === "throw") throw Object.assign(new Error("too many requests"), { overloaded: true });
      if (this.faulty === "slow") await new Promise((resolve) => setTimeout(resolve, 300));
      return super.ask(ask);
    }
    async agree(message) {
      if (this.faulty === "hang") await new Promise(() => {});
      return super.agree(message);
    }
    forget() {
      this.sql.exec("DELETE FROM breakers");
    }
    records() {
      return [...this.sql.exec("SELECT * FROM breakers")].map(({ record }) => [...new Uint8Array(record)]);
    }
    // As many keys more, whose counts end one after the other from then on; and breakers of which nobody has told anything since 1970.
    crowd(keys, ends) {
      const numbers = "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < ?) ";
      this.sql.exec(numbers + "INSERT INTO accounts SELECT CAST('key ' || i AS BLOB), x'00', ? + i FROM n", keys, ends);
      this.keys += keys;
    }
    crowdBreakers(breakers) {
      const numbers = "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < ?) ";
      this.sql.exec(numbers + "INSERT INTO breakers SELECT CAST('breaker ' || i AS BLOB), x'00', i FROM n", breakers);
    }
    tried(asks) {
      return this.ask(asks).catch(String);
    }
    ring() {
      return this.alarm();
    }
    async kept() {
      return { keys: this.sql.exec("SELECT count(*) AS keys FROM accounts").one().keys, alarm: await this.ctx.storage.getAlarm() };
    }
  }
  export default {
    ...worker,
    fetch(request, env, ctx) {
      ahead = Number(request.headers.get("x-test-ahead-ms") ?? ahead);
      return worker.fetch(request, world(env), ctx);
    },
  };
`;

/** Waits until `holds` returns true. Fails after 10 s. */
export async function until(holds) {
  for (let left = 200; left > 0; left -= 1) {
    if (await holds()) return;
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
  throw new Error(`it has not come to this in 10 s: ${holds}`);
}

/** A server on a free port; `server.seen` counts its requests. */
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

/** The Worker with this policy, whose `fetch` reaches servers of this machine directly. */
export async function direct(test, policy, options) {
  const sockets = { outboundService: undefined, unsafeDirectSockets: [{ host: "127.0.0.1", port: 0 }] };
  const all = await worker(test, policy, undefined, { ...sockets, ...options });
  // miniflare's own address drops the content length.
  let base = await all.miniflare.unsafeGetDirectURL();
  const deploy = async (policy) => {
    await all.deploy(policy);
    base = await all.miniflare.unsafeGetDirectURL();
  };
  return { ...all, base, deploy, get: (path, init) => fetch(new URL(path, base), init) };
}

/** The URL of a server. */
export const urlOf = (server) => `http://127.0.0.1:${server.address().port}`;

/** A server that answers every connection with these bytes, or calls `act` with its socket. */
export async function raw(test, act) {
  const sockets = new Set();
  const server = createSocketServer((socket) => {
    sockets.add(socket);
    socket.on("error", () => {});
    socket.once("data", () => {
      server.seen += 1;
      if (typeof act === "string") socket.end(act);
      else act(socket);
    });
  });
  server.seen = 0;
  await new Promise((resolve) => server.listen(0, "127.0.0.1", resolve));
  test.after(() => {
    sockets.forEach((socket) => socket.destroy());
    server.close();
  });
  return server;
}

/** Answers the Worker's fetches through this server; `x-asked` has the requested host. */
function forward(request, server) {
  const { pathname, search, host } = new URL(request.url);
  const headers = new Headers(request.headers);
  headers.set("x-asked", host);
  return fetch(`http://127.0.0.1:${server.address().port}${pathname}${search}`, {
    method: request.method,
    headers,
    body: request.body,
    duplex: "half",
    redirect: "manual",
  });
}

function hello(request, response) {
  response.end(`${request.method} ${request.url}`);
}
