// The Worker as it is shipped, in the real workerd, with servers of this machine behind it.
import assert from "node:assert/strict";
import { readdirSync, readFileSync } from "node:fs";
import { createServer } from "node:http";
import { connect, createServer as createSocketServer } from "node:net";
import { Miniflare } from "miniflare";

const built = (directory) => new URL(`../../${directory}/`, import.meta.url);
/** The Worker in Rust that has Tidegate as a library, as it is and with a clock and a trap. Its handler asks the origin. */
export const rust = { shipped: built("target/cloudflare-rust"), clocked: built("target/cloudflare-rust-tests") };
/** What is tested: the Worker that is deployed or, with TIDEGATE_WORKER=rust, the one in Rust. */
export const { shipped, clocked } =
  process.env.TIDEGATE_WORKER === "rust"
    ? rust
    : { shipped: built("dist/cloudflare"), clocked: built("target/cloudflare-scenarios") };

/** Starts the Worker with this policy, in front of `origin`; both end with the test. `log` is what the Worker says. */
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
  /** Sends a request as a client of this address. */
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
 * Three locations of a Worker with this policy, that share one KV namespace and the Durable Objects. Answers with how to ask each,
 * and with its object of a shard.
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

/** Whether a Worker has its policy built in, so that another one comes from KV. */
const isInRust = (dist) => Object.values(rust).some(({ href }) => href === dist.href);

/** What binds to a Worker of this name the KV namespace that it needs for its policy, if it does. */
export const withKv = (dist, name = "policy") => (isInRust(dist) ? { kvNamespaces: { TIDEGATE: name } } : {});

/** Puts the policy there, before the first request. */
export async function instruct(miniflare, dist, policy, name) {
  if (isInRust(dist)) await (await miniflare.getKVNamespace("TIDEGATE", name)).put("policy", JSON.stringify(policy));
}

/** All of the answer, as text, to a request that is sent as it stands, which no client library would do. */
export const sent = (base, head, body = "") =>
  new Promise((resolve, reject) => {
    const { hostname, port } = new URL(base);
    let answer = "";
    connect(port, hostname)
      .on("data", (data) => (answer += data))
      .on("close", () => resolve(answer))
      .on("error", reject)
      // Ended, since workerd keeps a connection for 5 s more, whatever its client says of that.
      .end(`${head}\r\n${body && `content-length: ${body.length}\r\n`}\r\n${body}`);
  });

/** The same for a GET whose target is sent as it stands. */
export const asSent = (base, target) => sent(base, `GET ${target} HTTP/1.1\r\nHost: ${new URL(base).host}`);

/** The status of an answer, whose body nobody wants. */
export const status = async (answer) => {
  const { status, body } = await answer;
  await body?.cancel();
  return status;
};

/** How many of so many requests pass that come to all three locations, some at a time. */
export const passing = async (get, count, init) => {
  let passed = 0;
  for (let sent = 0; sent < count; sent += 12) {
    const asked = Array.from({ length: Math.min(12, count - sent) }, (_, at) => status(get(at % 3, "/", init)));
    for (const status of await Promise.all(asked)) passed += status === 200 ? 1 : 0;
  }
  return passed;
};

/** Fails unless the three locations have fifty permits together for a client, and others for another. */
export async function shareFifty(get, algorithm) {
  let passed = await passing(get, 120);
  assert.ok(passed <= 50 && passed >= 30, `${passed}`);
  // What one location has drawn ahead and does not use goes back, and serves the others. A bucket's permits expire meanwhile.
  const least = algorithm === "token-bucket" ? 40 : 50;
  await until(async () => (passed += await passing(get, 3)) >= least);
  passed += await passing(get, 30);
  assert.ok(passed >= least && passed <= 50, `${passed}`);
  assert.equal(await passing(get, 9, { address: "192.0.2.2" }), 9);
}

/** The modules of the Worker that was built here, with this policy. */
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
 * The Worker in a world of its own: each request can move the clock, to so many milliseconds after the real one, and `world`, a
 * function as text, makes its bindings of the real ones. Its Durable Object can be evicted, and tells what it keeps.
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

/** Waits until `holds` does, and fails if that takes too long. */
export async function until(holds) {
  for (let left = 200; left > 0; left -= 1) {
    if (await holds()) return;
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
  throw new Error(`it has not come to this in 10 s: ${holds}`);
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

/** The Worker with this policy, whose `fetch` reaches the servers of this machine itself. */
export async function direct(test, policy, options) {
  const sockets = { outboundService: undefined, unsafeDirectSockets: [{ host: "127.0.0.1", port: 0 }] };
  const all = await worker(test, policy, undefined, { ...sockets, ...options });
  // The address of miniflare itself drops the length of answers.
  let base = await all.miniflare.unsafeGetDirectURL();
  const deploy = async (policy) => {
    await all.deploy(policy);
    base = await all.miniflare.unsafeGetDirectURL();
  };
  return { ...all, base, deploy, get: (path, init) => fetch(new URL(path, base), init) };
}

/** The URL of a server. */
export const urlOf = (server) => `http://127.0.0.1:${server.address().port}`;

/** A server that answers whatever it is asked with these bytes, or does with its socket as `act` does. */
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

/** What the Worker fetches from `request`'s host, this server answers; `x-asked` tells the host. */
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
