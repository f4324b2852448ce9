import assert from "node:assert/strict";
import { readFileSync, readdirSync } from "node:fs";
import { request as send } from "node:http";
import { connect } from "node:net";
import { test } from "node:test";
import { gzipSync } from "node:zlib";
import { direct, listen, raw, until, urlOf, worker } from "./worker.mjs";

/** A build whose instance a request can crash. */
const dist = new URL("../../target/cloudflare-panics/", import.meta.url);
const panics = { headers: { "x-tidegate-panic": "1" } };

/** A policy with everything that can stand between a request and its response. */
const all = (urls, more = {}) => ({
  version: 1,
  upstreams: Object.fromEntries(Object.entries(urls).map(([name, url]) => [name, { url, timeout: "1s", breaker: "b" }])),
  breakers: { b: { window: { time: "30s" }, min_calls: 1_000 } },
  routes: [
    {
      name: "all",
      upstreams: Object.keys(urls),
      fallback: { on: ["connect", "timeout", "reset", "5xx"], stale: "1h" },
      cache: { ttl: "1h" },
    },
  ],
  limits: [{ name: "held", algorithm: "concurrency", key: [], quota: { permits: 50 } }],
  health: {},
  ...more,
});

/** The memory of the workerd processes of this test, in MiB. */
function resident() {
  const status = readdirSync("/proc")
    .filter((name) => /^\d+$/.test(name))
    .flatMap((pid) => {
      try {
        return [readFileSync(`/proc/${pid}/status`, "utf8")];
      } catch {
        return [];
      }
    });
  const field = (text, name) => Number(new RegExp(`^${name}:\\s+(\\d+)`, "m").exec(text)?.[1] ?? 0);
  const ours = status.filter((text) => text.startsWith("Name:\tworkerd\n") && field(text, "PPid") === process.pid);
  assert.ok(ours.length > 0, "there is no workerd to be measured");
  return ours.reduce((sum, text) => sum + field(text, "VmRSS"), 0) / 1_024;
}

test("300 MB stream through in flat memory, by the first upstream and by another", async (t) => {
  const size = 300 * 1_024 * 1_024;
  const piece = Buffer.alloc(64 * 1_024, "tide");
  const server = await listen(t, async (request, response) => {
    response.on("error", () => {});
    if (request.url === "/known") response.setHeader("content-length", size);
    for (let sent = 0; sent < size && !response.destroyed; sent += piece.length) {
      if (!response.write(piece)) await new Promise((resolve) => response.once("drain", resolve));
    }
    response.end();
  });
  for (const urls of [{ first: urlOf(server) }, { cdn: "http://127.0.0.1:1", origin: urlOf(server) }]) {
    const { get } = await direct(t, all(urls));
    // Each way to mark the end of a response.
    const path = "first" in urls ? "/known" : "/chunked";
    const answer = await get(path);
    assert.equal(answer.headers.get("content-length"), path === "/known" ? `${size}` : null);
    const before = resident();
    let [received, most] = [0, 0];
    for await (const bytes of answer.body) {
      if (received % (16 * piece.length) < bytes.length) most = Math.max(most, resident() - before);
      received += bytes.length;
    }
    assert.equal(received, size);
    assert.ok(most < 64, `${path}: workerd has grown by ${most} MiB`);
  }
});

test("answers keep what they are along a route: without a body, encoded, with many cookies, and header bytes that are no text", async (t) => {
  const text = "tide ".repeat(1_000);
  const plain = await listen(t, (request, response) => {
    if (request.url === "/204") return response.writeHead(204).end();
    if (request.url === "/304") return response.writeHead(304, { etag: '"a"' }).end();
    if (request.url === "/cookies") {
      return response.setHeader("set-cookie", Array.from({ length: 50 }, (_, at) => `c${at}=v; Path=/`)).end("ok");
    }
    if (request.url === "/request") return response.end(Buffer.from(request.headers["x-bytes"], "latin1"));
    if (request.url === "/response") return response.writeHead(200, { "x-bytes": "a\xe9\xff" }).end("ok");
    response.setHeader("content-encoding", "gzip").end(gzipSync(text));
  });
  const { base } = await direct(t, all({ origin: urlOf(plain) }));
  const ask = (path, options = {}) =>
    new Promise((resolve, reject) => {
      const request = send({ host: base.hostname, port: base.port, agent: false, path, ...options }, (answer) => {
        const pieces = [];
        answer.on("data", (piece) => pieces.push(piece));
        answer.on("end", () => resolve({ answer, body: Buffer.concat(pieces) }));
      });
      request.on("error", reject);
      request.end();
    });
  for (const status of [204, 304]) {
    const { answer, body } = await ask(`/${status}`);
    assert.equal(answer.statusCode, status);
    assert.equal(body.length, 0);
  }
  const { answer: cookies } = await ask("/cookies");
  assert.equal(cookies.headers["set-cookie"].length, 50);
  const bytes = Buffer.from([0x61, 0xe9, 0xff]);
  assert.deepEqual((await ask("/request", { headers: { "x-bytes": bytes.toString("latin1") } })).body, bytes);
  const { answer: odd } = await ask("/response");
  assert.equal(odd.statusCode, 200);
  assert.equal(odd.headers["x-bytes"], "a\xe9\xff");
  const encoded = await ask("/gzip", { headers: { "accept-encoding": "gzip" } });
  assert.deepEqual([encoded.answer.headers["content-encoding"], encoded.body], ["gzip", gzipSync(text)]);
  const head = await ask("/gzip", { method: "HEAD", headers: { "accept-encoding": "gzip" } });
  assert.equal(head.body.length, 0);
});

test("an answer that no response can be made like goes as it came, and the instance goes on with its counts", async (t) => {
  // RFC 9110 allows neither such a status nor a control character in the reason phrase.
  const heads = ["999 Odd", "600 Odd", "200 \x01"];
  const odd = await raw(t, (socket) => {
    socket.end(`HTTP/1.1 ${heads[(odd.seen - 1) % heads.length]}\r\nconnection: close\r\ncontent-length: 3\r\n\r\nodd`, "latin1");
  });
  const few = { name: "few", algorithm: "fixed-window", key: [], quota: { permits: 3, window: "31d" } };
  const held = { name: "held", algorithm: "concurrency", key: [], quota: { permits: 1 } };
  for (const limits of [[few], [few, held]]) {
    const { get, log } = await direct(t, all({ origin: urlOf(odd) }, { limits }));
    for (const head of heads) {
      const answer = await get("/");
      assert.deepEqual([answer.status, await answer.text()], [parseInt(head), "odd"]);
    }
    assert.equal((await get("/")).status, 429);
    assert.deepEqual(log, []);
  }
});

test("an answer that breaks in its body breaks for its client, and everything is given back", async (t) => {
  const broken = await raw(t, (socket) => {
    socket.write("HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\n01234");
    setTimeout(() => socket.resetAndDestroy(), 50);
  });
  const limits = [{ name: "held", algorithm: "concurrency", key: [], quota: { permits: 1 } }];
  const { get } = await direct(t, all({ origin: urlOf(broken) }, { limits }));
  for (let left = 3; left > 0; left -= 1) {
    let answer;
    await until(async () => (answer = await get("/")).status === 200);
    await assert.rejects(answer.text());
  }
});

test("clients that leave in the middle of an answer give back what they hold", async (t) => {
  const server = await listen(t, (request, response) => {
    response.on("error", () => {});
    if (request.url === "/quick") return response.end("quick");
    response.setHeader("content-length", 1_000_000).write("begins");
  });
  const limits = [{ name: "held", algorithm: "concurrency", key: [], quota: { permits: 5 } }];
  const { get, base } = await direct(t, all({ origin: urlOf(server) }, { limits }));
  const sockets = Array.from({ length: 5 }, () => {
    const socket = connect(base.port, base.hostname);
    socket.on("error", () => {});
    socket.write("GET /slow HTTP/1.1\r\nhost: example.com\r\n\r\n");
    return socket;
  });
  await Promise.all(sockets.map((socket) => new Promise((resolve) => socket.once("data", resolve))));
  assert.equal((await get("/quick")).status, 429);
  for (const socket of sockets) socket.resetAndDestroy();
  for (let left = 10; left > 0; left -= 1) await until(async () => (await get("/quick")).status === 200);
});

/** A server that holds its response until told to send it. */
async function held(t) {
  let go;
  const server = await listen(t, async (request, response) => {
    if (request.url === "/quick") return response.end("quick");
    let body = "";
    for await (const piece of request) body += piece;
    go = () => response.end(`held ${body}`);
  });
  return { server, isAsked: () => go !== undefined, go: () => go() };
}

/**
 * A request that crashes the instance is refused here. Letting it pass would fetch the Worker itself, which is its own
 * zone's origin in this test.
 */
const refuses = { on_failure: "refuse" };

const limited = { limits: [{ name: "api", algorithm: "fixed-window", match: { path: "/quick" }, quota: { permits: 2, window: "31d" } }] };

test("requests on their way along upstreams get their answers when the instance fails, and the next one is limited", async (t) => {
  const { server, isAsked, go } = await held(t);
  const policy = all({ cdn: "http://127.0.0.1:1", origin: urlOf(server) }, { ...limited, ...refuses });
  policy.upstreams.origin.timeout = "10s";
  const { get } = await direct(t, policy, { dist });
  const slow = get("/slow");
  await until(isAsked);
  assert.equal((await get("/quick", panics)).status, 503);
  go();
  const answer = await slow;
  assert.equal(answer.status, 200);
  assert.equal(await answer.text(), "held ");
  const statuses = [];
  for (let left = 3; left > 0; left -= 1) statuses.push((await get("/quick")).status);
  assert.deepEqual(statuses, [200, 200, 429]);
});

test("so does one whose body is with its upstream", async (t) => {
  const { server, isAsked, go } = await held(t);
  const policy = all({ origin: urlOf(server) }, { ...limited, ...refuses });
  policy.upstreams.origin.timeout = "10s";
  const { get } = await direct(t, policy, { dist });
  const slow = get("/slow", { method: "POST", body: "body" });
  await until(isAsked);
  assert.equal((await get("/quick", panics)).status, 503);
  go();
  assert.equal(await (await slow).text(), "held body");
});

test("a request whose body an upstream has had that does not answer, when the instance has failed, is refused and not sent again", async (t) => {
  let asked = 0;
  const { get } = await worker(
    t,
    all({ origin: "http://origin.example.net" }, limited),
    (request, response) => {
      if (request.headers["x-asked"] === "example.com") return response.end("zone");
      request.resume().on("end", () => (asked += 1));
    },
    { dist },
  );
  const slow = get("/slow", { method: "POST", body: "body" });
  await until(() => asked === 1);
  assert.equal(await (await get("/quick", panics)).text(), "zone");
  assert.deepEqual([(await slow).status, await (await slow).text()], [503, '{"error":"service unavailable","retryAfter":1}']);
  assert.equal(asked, 1);
});

test("a request whose upstream does not answer either, when the instance has failed, goes to the zone's origin", async (t) => {
  const policy = all({ cdn: "http://cdn.example.net", origin: "http://origin.example.net" }, limited);
  let asked = false;
  const { get } = await worker(
    t,
    policy,
    (request, response) => {
      if (request.headers["x-asked"] === "example.com") return response.end("zone");
      asked = true;
    },
    { dist },
  );
  const slow = get("/slow");
  await until(() => asked);
  assert.equal(await (await get("/quick", panics)).text(), "zone");
  assert.equal(await (await slow).text(), "zone");
});

test("an answer that streams when the instance fails streams on", async (t) => {
  let end;
  const server = await listen(t, (request, response) => {
    if (request.url === "/quick") return response.end("quick");
    response.write("first");
    end = () => response.end(" last");
  });
  const { get } = await direct(t, all({ origin: urlOf(server) }, refuses), { dist });
  const answer = await get("/slow");
  assert.equal((await get("/quick", panics)).status, 503);
  // Longer than the upstream's timeout, which ends when the response begins.
  await new Promise((resolve) => setTimeout(resolve, 1_200));
  end();
  assert.equal(await answer.text(), "first last");
});
