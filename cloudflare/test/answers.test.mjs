import assert from "node:assert/strict";
import { once } from "node:events";
import { connect } from "node:net";
import { test } from "node:test";
import { gzipSync } from "node:zlib";
import { clocked, until, worker } from "./worker.mjs";

const only = (limit, more = {}) => ({ version: 1, limits: [{ name: "one", algorithm: "fixed-window", ...limit }], ...more });

/**
 * A client that can reset its connection. workerd treats one that is merely closed as half-open until it writes to it.
 */
const raw = (base, path) => {
  const socket = connect(base.port, base.hostname);
  socket.on("error", () => {});
  socket.write(`GET ${path} HTTP/1.1\r\nhost: example.com\r\n\r\n`);
  return socket;
};

const status = async (answer) => {
  const { status, body } = await answer;
  await body?.cancel();
  return status;
};

test("only answers that a limit counts are charged", async (t) => {
  const policy = only({ only_on: ["401"], quota: { permits: 2, window: "31d" } });
  const { get } = await worker(t, policy, (request, response) => {
    response.statusCode = Number(request.url.slice(1));
    response.end();
  });
  const statuses = [];
  for (const asked of [401, 200, 404, 401, 401, 200]) statuses.push(await status(get(`/${asked}`)));
  assert.deepEqual(statuses, [401, 200, 404, 401, 429, 429]);
});

test("an answer says what its request has cost", async (t) => {
  const policy = only({ cost: { response_header: "x-cost" }, quota: { permits: 10, window: "31d" } });
  const { get } = await worker(t, policy, (_, response) => response.setHeader("x-cost", "6").end("ok"));
  const statuses = [];
  for (let left = 3; left > 0; left -= 1) statuses.push(await status(get("/")));
  assert.deepEqual(statuses, [200, 200, 429]);
});

const held = only({ algorithm: "concurrency", quota: { permits: 1 } });

test("a request holds its permit until the last byte of its answer has gone", async (t) => {
  let end;
  const { get } = await worker(t, held, (request, response) => {
    if (request.url !== "/slow") return response.end("quick");
    response.write("sl");
    end = () => response.end("ow");
  });
  const slow = await get("/slow");
  assert.equal(await status(get("/")), 429);
  end();
  assert.equal(await slow.text(), "slow");
  await until(async () => (await status(get("/"))) === 200);
  assert.equal(await status(get("/", { method: "HEAD" })), 200);
  assert.equal(await status(get("/")), 200);
});

test("a client that goes away gives back what it holds", async (t) => {
  for (const begins of [true, false]) {
    let asked = false;
    const { base } = await worker(t, held, (request, response) => {
      if (request.url !== "/slow") return response.end("quick");
      asked = true;
      if (begins) response.write("sl");
    });
    const client = raw(base, "/slow");
    await until(() => asked);
    const other = () => status(fetch(new URL("/", base)));
    assert.equal(await other(), 429);
    client.resetAndDestroy();
    await until(async () => (await other()) === 200);
  }
});

test("answers keep what they are: encoded, without a body, with many cookies", async (t) => {
  const text = "tide ".repeat(1_000);
  const { base } = await worker(t, held, (request, response) => {
    if (request.url === "/204") return response.writeHead(204).end();
    if (request.url === "/304") return response.writeHead(304, { etag: '"a"' }).end();
    if (request.url === "/cookies") {
      const cookies = Array.from({ length: 20 }, (_, at) => `c${at}=v; Expires=Thu, 01 Jan 2037 00:00:00 GMT`);
      return response.setHeader("set-cookie", cookies).end("ok");
    }
    response.setHeader("content-encoding", "gzip").end(gzipSync(text));
  });
  // The next request may arrive before workerd has noticed the end of the last one.
  const ask = async (path, init) => {
    let answer;
    await until(async () => {
      answer = await fetch(new URL(path, base), init);
      if (answer.status === 429) await answer.text();
      return answer.status !== 429;
    });
    return answer;
  };
  assert.equal(await (await ask("/gzip")).text(), text);
  for (const path of ["/204", "/304"]) assert.equal((await ask(path)).status, Number(path.slice(1)));
  const cookies = await ask("/cookies");
  assert.equal(cookies.headers.getSetCookie().length, 20);
  assert.equal(await cookies.text(), "ok");
  assert.equal(await (await ask("/gzip", { method: "HEAD" })).text(), "");
});

test("requests wait for their turns, which are evenly spaced, and whoever would wait too long is refused", async (t) => {
  const turns = { algorithm: "token-bucket", quota: { permits: 1, window: "400ms", burst: 1 } };
  const { get, server } = await worker(t, only({ ...turns, on_exceed: "delay", max_delay: "900ms" }));
  const began = Date.now();
  const ended = await Promise.all(
    [1, 2, 3, 4, 5].map(async () => {
      const answer = await get("/");
      await answer.text();
      return { status: answer.status, after: Date.now() - began };
    }),
  );
  const passed = ended.filter(({ status }) => status === 200).map(({ after }) => after);
  assert.equal(passed.length, 3, JSON.stringify(ended));
  assert.equal(ended.filter(({ status }) => status === 429).length, 2);
  assert.equal(server.seen, 3);
  passed.sort((one, other) => one - other);
  assert.ok(passed[1] >= 390 && passed[2] >= 790, `${passed}`);
});

test("a request that comes when another one's turn has come is decided at once, also beside a limit that a service counts", async (t) => {
  const turns = { algorithm: "token-bucket", quota: { permits: 10, window: "1s", burst: 1 }, on_exceed: "delay", max_delay: "1s" };
  const served = { name: "served", scope: "global", store: "rls", quota: { permits: 9, window: "1h" } };
  const policy = { ...only(turns), stores: { rls: { cluster: "ratelimit", domain: "shop" } } };
  policy.limits.push(served);
  const { get } = await worker(t, policy, undefined, { dist: clocked });
  const at = (ms) => status(get("/", { headers: { "x-tidegate-test-now": `${1_800_014_400_000 + ms}` } }));
  const seen = async () => {
    const { headers } = await get("/", { headers: { "x-tidegate-test-asks": "1" } });
    return headers.get("x-tidegate-test-under-way");
  };
  assert.equal(await at(0), 200);
  const waits = at(0);
  await until(async () => (await seen()) === "1");
  assert.equal(await at(300), 200);
  assert.equal(await waits, 200);
});

test("a client that waits and goes away leaves its place", async (t) => {
  const turns = { algorithm: "token-bucket", quota: { permits: 1, window: "5s", burst: 1 } };
  const { base, server } = await worker(t, only({ ...turns, on_exceed: "delay", max_delay: "9s", max_waiting: 1 }));
  const long = AbortSignal.timeout(20_000);
  assert.equal(await status(fetch(base, { signal: long })), 200);
  // Only one can wait: as soon as either is refused, the other waits.
  const clients = [raw(base, "/a"), raw(base, "/b")];
  const refused = await Promise.race(clients.map(async (client) => [client, String(await once(client, "data"))]));
  assert.ok(refused[1].startsWith("HTTP/1.1 429 "), refused[1]);
  clients.forEach((client) => client.resetAndDestroy());
  const began = Date.now();
  await until(async () => (await status(fetch(base, { signal: long }))) === 200);
  const took = Date.now() - began;
  // The turn that the other request has left, and not the one after it.
  assert.ok(took > 2_000 && took < 5_500, `${took} ms`);
  assert.equal(server.seen, 2);
});

test("a client that comes near to its limit is slowed down", async (t) => {
  const slow_down = { slow_after: 1, step: "300ms", max_delay: "2s" };
  const { get } = await worker(t, only({ quota: { permits: 3, window: "31d" }, slow_down }));
  const took = [];
  for (let left = 3; left > 0; left -= 1) {
    const began = Date.now();
    assert.equal(await status(get("/")), 200);
    took.push(Date.now() - began);
  }
  assert.ok(took[1] >= 290 && took[2] >= 590, `${took}`);
  assert.equal(await status(get("/")), 429);
});
