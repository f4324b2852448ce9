// What a hostile client can do to others: nothing.
import assert from "node:assert/strict";
import { connect } from "node:net";
import { test } from "node:test";
import { direct, listen, sent, until, urlOf } from "./worker.mjs";

test("what was kept for one client is served to nobody who asks otherwise", async (t) => {
  const server = await listen(t, (request, response) => response.writeHead(server.down ? 503 : 200).end(request.url));
  const { base, get } = await direct(t, {
    version: 1,
    client: {
      api_key: { header: "x-api-key" },
      claims: { header: "x-jwt-payload" },
      tier: { header: "x-plan" },
      trusted_headers: ["x-jwt-payload", "x-plan"],
    },
    tiers: ["free", "premium"],
    upstreams: { origin: { url: urlOf(server) } },
    routes: [{ name: "all", upstreams: ["origin"], fallback: { on: ["5xx"], stale: "1h" }, cache: { vary: [] } }],
  });
  const { host } = new URL(base);
  const plain = (path) => `GET ${path} HTTP/1.1\r\nHost: ${host}`;
  await sent(base, plain("/body"), "q=1");
  await sent(base, `${plain("/key")}\r\nx-api-key: k1`);
  await sent(base, `${plain("/claims")}\r\nx-jwt-payload: e30`);
  await sent(base, `${plain("/tier")}\r\nx-plan: premium`);
  await sent(base, `${plain("/forwarded")}\r\nx-forwarded-host: other.example`);
  await sent(base, "GET /host HTTP/1.1\r\nHost: other.example");
  // Sent last: when its response is kept, the others would be too.
  await sent(base, `${plain("/plain")}\r\nx-other: 1`);
  server.down = true;
  await until(async () => (await get("/plain")).status === 200);
  for (const path of ["/body", "/key", "/claims", "/tier", "/forwarded", "/host"]) assert.equal((await get(path)).status, 503, path);
});

test("clients that do not send their bodies, or do it slowly, open no breaker and have nobody shed", async (t) => {
  const server = await listen(t, (request, response) => {
    request.on("error", () => {});
    request.resume().on("end", () => response.end("all there"));
  });
  const impatient = (timeout) => ({
    version: 1,
    upstreams: { origin: { url: urlOf(server), timeout, breaker: "default" } },
    breakers: {
      default: { window: { time: "30s" }, min_calls: 5, slow_call: "200ms", slow_rate_percent: 20, open: { initial: "5m" } },
    },
    routes: [{ name: "all", upstreams: ["origin"] }],
    health: { latency: { degraded: "100ms", critical: "200ms" }, error_rate_percent: { degraded: 10, critical: 20 }, min_calls: 5 },
    shedding: { critical: { low_percent: 100, medium_percent: 100 }, rise: "100ms" },
  });
  // The clients leave, send the rest late, or send it after the call has timed out.
  for (const [timeout, rest] of [["10s", ""], ["10s", "123456789"], ["200ms", "123456789"]]) {
    const { base, get } = await direct(t, impatient(timeout));
    assert.equal((await get("/")).status, 200);
    const { hostname, port } = new URL(base);
    const slow = Array.from({ length: 20 }, () => connect(port, hostname).on("error", () => {}));
    const seen = server.seen;
    for (const socket of slow) socket.write("POST / HTTP/1.1\r\nHost: a.example\r\ncontent-length: 10\r\n\r\n0");
    await until(() => server.seen === seen + slow.length);
    // This does not wait for a state. It is the time that these clients take, longer than the policy allows.
    await new Promise((resolve) => setTimeout(resolve, 400));
    const answers = slow.map((socket) => new Promise((resolve) => socket.once("data", resolve).once("close", resolve)));
    for (const socket of slow) rest === "" ? socket.destroy() : socket.write(rest);
    await Promise.all(answers);
    for (const socket of slow) socket.destroy();
    for (let asked = 0; asked < 30; asked += 1) {
      // Counts are merged once a second.
      await new Promise((resolve) => setTimeout(resolve, 50));
      assert.equal((await get("/")).status, 200, `${timeout} ${rest}`);
    }
  }
});

test("a breaker closes though clients that do not send their bodies come before all others", async (t) => {
  const server = await listen(t, (request, response) => {
    request.on("error", () => {});
    request.resume().on("end", () => response.writeHead(server.down ? 500 : 200).end("answered"));
  });
  const half_open = { probes: 2, max_wait: "500ms" };
  const { base, get } = await direct(t, {
    version: 1,
    upstreams: { origin: { url: urlOf(server), breaker: "default" } },
    breakers: { default: { window: { time: "30s" }, consecutive_failures: 3, open: { initial: "500ms", max: "500ms" }, half_open } },
    routes: [{ name: "all", upstreams: ["origin"] }],
  });
  server.down = true;
  for (let asked = 0; asked < 3; asked += 1) assert.equal((await get("/")).status, 500);
  server.down = false;
  const { hostname, port } = new URL(base);
  const held = [];
  const crowd = setInterval(() => {
    const socket = connect(port, hostname).on("error", () => {});
    socket.write("POST / HTTP/1.1\r\nHost: a.example\r\ncontent-length: 10\r\n\r\n0");
    held.push(socket);
    if (held.length > 300) held.shift().destroy();
  }, 2);
  t.after(() => {
    clearInterval(crowd);
    for (const socket of held) socket.destroy();
  });
  // A single one may have passed as a probe.
  let passed = 0;
  await until(async () => (passed = (await get("/")).status === 200 ? passed + 1 : 0) === 10);
  clearInterval(crowd);
  // If all requests have bodies, their responses close the breaker.
  const post = async () => (await get("/", { method: "POST", body: "x" })).status;
  server.down = true;
  await until(async () => (await post()) === 503);
  server.down = false;
  await until(async () => (await post()) === 200);
});

test("no spelling of a path leads out of the path of an upstream's URL", async (t) => {
  const server = await listen(t, (request, response) => response.end(request.url));
  const { base } = await direct(t, {
    version: 1,
    upstreams: { origin: { url: `${urlOf(server)}/public` } },
    routes: [{ name: "all", upstreams: ["origin"] }],
  });
  for (const [target, asked] of [
    ["/a/../b", "/public/b"],
    ["/../secret", "/public/secret"],
    ["/%2e%2e/secret?a=%2e", "/public/secret?a=%2e"],
    ["/a/%2E./.%2e/%2e%2e/secret", "/public/secret"],
    ["/..\\secret", "/public/..%5Csecret"],
    ["/..%2fsecret", "/public/..%2fsecret"],
  ]) {
    assert.equal((await sent(base, `GET ${target} HTTP/1.1\r\nHost: a.example`)).split("\r\n\r\n")[1], asked);
  }
});
