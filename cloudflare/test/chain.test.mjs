import assert from "node:assert/strict";
import { connect } from "node:net";
import { test } from "node:test";
import { asSent, direct, listen, raw, until, urlOf, worker } from "./worker.mjs";

const on = ["connect", "timeout", "reset", "5xx", "429"];

/** A policy with a route along these URLs. */
const along = (urls, route = {}, more = {}) => ({
  version: 1,
  upstreams: Object.fromEntries(Object.entries(urls).map(([name, it]) => [name, typeof it === "string" ? { url: it } : it])),
  routes: [{ name: "all", upstreams: Object.keys(urls), fallback: { on, ...route }, ...more.route }],
  response: { x_tidegate: true },
  ...more.policy,
});

const ok = (request, response) => response.end(`origin ${request.method} ${request.url}`);
const status = (code, headers = {}) => (_, response) => response.writeHead(code, headers).end(`${code}`);
const nowhere = "http://127.0.0.1:1";

test("whatever becomes of the first upstream, the next one answers", async (t) => {
  const origin = await listen(t, ok);
  const garbage = "HTTP/1.1 garbage\r\n\r\n";
  const servers = {
    refused: nowhere,
    failing: urlOf(await listen(t, status(500))),
    busy: urlOf(await listen(t, status(429))),
    hangs: urlOf(await listen(t, () => {})),
    resets: urlOf(await raw(t, (socket) => socket.resetAndDestroy())),
    closes: urlOf(await raw(t, (socket) => socket.end())),
    garbage: urlOf(await raw(t, garbage)),
    unreachable: urlOf(await listen(t, status(522))),
    nameless: "http://name.invalid",
  };
  for (const [name, url] of Object.entries(servers)) {
    const { get } = await direct(t, along({ cdn: { url, timeout: "300ms" }, origin: urlOf(origin) }));
    for (const method of ["GET", "HEAD"]) {
      const began = Date.now();
      const answer = await get("/a?b=%2f", { method });
      assert.equal(answer.status, 200, name);
      assert.equal(answer.headers.get("x-tidegate"), "upstream=origin; step=fallback", name);
      assert.equal(await answer.text(), method === "GET" ? "origin GET /a?b=%2f" : "", name);
      if (name === "hangs") assert.ok(Date.now() - began >= 290);
    }
  }
});

test("what a route does not call a failure is the answer", async (t) => {
  const origin = await listen(t, ok);
  const cdn = await listen(t, status(429, { "x-own": "1" }));
  const { get } = await direct(t, along({ cdn: urlOf(cdn), origin: urlOf(origin) }, { on: ["5xx"] }));
  const answer = await get("/");
  assert.equal(answer.status, 429);
  assert.equal(answer.headers.get("x-own"), "1");
  assert.equal(await answer.text(), "429");
  assert.equal(answer.headers.get("x-tidegate"), "upstream=cdn; step=first");
});

test("an upstream is asked for the path that limits have matched, however it is spelt", async (t) => {
  const origin = await listen(t, ok);
  const limits = [{ name: "api", match: { path: "/api" }, quota: { permits: 1, window: "31d" } }];
  const { base } = await direct(t, along({ origin: urlOf(origin) }, {}, { policy: { limits } }));
  const answers = async (target) => (await asSent(base, target)).split("\r\n\r\n").at(-1);
  assert.equal(await answers("/api"), "origin GET /api");
  for (const target of ["/api", "/x/../api", "/%61pi#x", "//api?y"]) assert.match(await answers(target), /rate limit exceeded/, target);
  // A URL parser would treat these as `/api` too; the rules of HTTP do not.
  assert.equal(await answers("/x\\..\\api"), "origin GET /x%5C..%5Capi");
  assert.equal(await answers("/api\u0001"), "origin GET /api%01");
});

test("a request with a body, or of another method, is sent once", async (t) => {
  const origin = await listen(t, ok);
  const cdn = await listen(t, status(503));
  const { get } = await direct(t, along({ cdn: urlOf(cdn), origin: urlOf(origin) }));
  for (const init of [{ method: "POST", body: "a" }, { method: "POST" }, { method: "DELETE" }, { method: "PUT", body: "b" }]) {
    assert.equal((await get("/", init)).status, 503);
  }
  assert.equal(cdn.seen, 4);
  assert.equal(origin.seen, 0);
});

test("the last failure is the answer, whole, when nothing is left; and 503 when nobody has answered", async (t) => {
  const [one, other] = [await listen(t, status(500)), await listen(t, status(502))];
  const { get } = await direct(t, along({ one: urlOf(one), other: urlOf(other), third: nowhere }));
  const answer = await get("/");
  assert.equal(answer.status, 502);
  assert.equal(await answer.text(), "502");
  const { get: ask } = await direct(t, along({ one: nowhere, other: nowhere }));
  const refused = await ask("/", { headers: { accept: "application/problem+json" } });
  assert.equal(refused.status, 503);
  assert.equal(refused.headers.get("content-type"), "application/problem+json");
  assert.equal(refused.headers.get("x-tidegate"), "step=unavailable");
  // The same if the route says nothing about failures.
  const alone = along({ one: nowhere });
  delete alone.routes[0].fallback;
  assert.equal((await (await direct(t, alone)).get("/")).status, 503);
});

test("the policy's own answer comes before a failure", async (t) => {
  const fixed = { status: 200, content_type: "text/html", headers: { "x-a": "b" }, body: "<p>soon</p>" };
  const { get } = await direct(t, along({ cdn: urlOf(await listen(t, status(500))) }, { static: fixed }));
  const answer = await get("/");
  assert.equal(answer.status, 200);
  assert.equal(answer.headers.get("content-type"), "text/html");
  assert.equal(answer.headers.get("x-a"), "b");
  assert.equal(await answer.text(), "<p>soon</p>");
  assert.equal(answer.headers.get("x-tidegate"), "step=static");
});

test("an answer that begins in time streams through and is not cut, and one that does not is given up", async (t) => {
  let end;
  const origin = await listen(t, (request, response) => {
    if (request.url === "/hang") return;
    response.write("first");
    end = () => response.end(" last");
  });
  const { get } = await direct(t, along({ origin: { url: urlOf(origin), timeout: "300ms" } }));
  const answer = await get("/");
  const reader = answer.body.getReader();
  const read = async () => Buffer.from((await reader.read()).value).toString();
  assert.equal(await read(), "first");
  // This does not wait for a state: the answer takes longer than the upstream's timeout.
  await new Promise((resolve) => setTimeout(resolve, 600));
  end();
  assert.equal(await read(), " last");
  const began = Date.now();
  assert.equal((await get("/hang")).status, 503);
  const took = Date.now() - began;
  assert.ok(took >= 290 && took < 5_000, `${took} ms`);
});

const breaker = {
  window: { time: "30s" },
  min_calls: 100,
  consecutive_failures: 3,
  open: { initial: "1s", jitter_percent: 0 },
  half_open: { probes: 1 },
  ramp: { from_percent: 100, over: "1s" },
};

test("a breaker opens, spares its upstream, and closes by a probe", async (t) => {
  let well = false;
  const cdn = await listen(t, (request, response) => (well ? response.end("cdn") : status(500)(request, response)));
  const origin = await listen(t, ok);
  const { get } = await direct(
    t,
    along({ cdn: { url: urlOf(cdn), breaker: "b" }, origin: urlOf(origin) }, {}, { policy: { breakers: { b: breaker } } }),
  );
  for (let left = 3; left > 0; left -= 1) assert.equal((await get("/")).status, 200);
  for (let left = 5; left > 0; left -= 1) {
    const spared = await get("/");
    assert.equal(spared.headers.get("x-tidegate"), "upstream=origin; step=fallback; breakers=cdn:open");
    await spared.text();
  }
  assert.equal(cdn.seen, 3);
  well = true;
  await until(async () => (await (await get("/")).text()) === "cdn");
  const answer = await get("/");
  assert.match(answer.headers.get("x-tidegate"), /^upstream=cdn; step=first; breakers=cdn:(ramping|closed)$/);
});

test("a route of one upstream whose breaker is open gets 503, and when to come back", async (t) => {
  const cdn = await listen(t, status(500));
  const { get } = await direct(
    t,
    along({ cdn: { url: urlOf(cdn), breaker: "b" } }, {}, { policy: { breakers: { b: { ...breaker, open: { initial: "60s" } } } } }),
  );
  for (let left = 3; left > 0; left -= 1) assert.equal((await get("/")).status, 500);
  const refused = await get("/");
  assert.equal(refused.status, 503);
  const wait = Number(refused.headers.get("retry-after"));
  assert.ok(wait > 40 && wait <= 60, `${wait}`);
});

test("further tries have a budget", async (t) => {
  const cdn = await listen(t, status(500));
  const origin = await listen(t, ok);
  const { get } = await direct(t, along({ cdn: urlOf(cdn), origin: urlOf(origin) }, { budget_percent: 0 }));
  const began = Date.now();
  await Promise.all(Array.from({ length: 40 }, async () => (await get("/")).text()));
  // Three per second are allowed, whatever the budget.
  const most = 3 * (Math.ceil((Date.now() - began) / 1_000) + 1);
  assert.equal(cdn.seen, 40);
  assert.ok(origin.seen >= 3 && origin.seen <= most, `${origin.seen}, at most ${most}`);
});

test("an upstream that asks to be left alone gets no further tries for so long", async (t) => {
  const cdn = await listen(t, status(500));
  const origin = await listen(t, status(503, { "retry-after": "30" }));
  const { get } = await direct(t, along({ cdn: urlOf(cdn), origin: urlOf(origin) }));
  assert.equal((await get("/")).status, 503);
  for (let left = 3; left > 0; left -= 1) assert.equal((await get("/")).status, 500);
  assert.equal(origin.seen, 1);
});

test("tries are apart by a backoff", async (t) => {
  const cdn = await listen(t, status(500));
  const origin = await listen(t, ok);
  const backoff = { initial: "400ms", max: "400ms" };
  const { get } = await direct(t, along({ cdn: urlOf(cdn), origin: urlOf(origin) }, { backoff, budget_percent: 100 }));
  const took = [];
  for (let left = 8; left > 0; left -= 1) {
    const began = Date.now();
    assert.equal((await get("/")).status, 200);
    took.push(Date.now() - began);
  }
  // Each wait is shortened by a random part. It is unlikely that all eight are short.
  assert.ok(Math.max(...took) > 100, `${took}`);
});

test("a client that goes away has its try given up, and its permit and its probe are free", async (t) => {
  let hangs = false;
  let closed = 0;
  const cdn = await listen(t, (request, response) => {
    if (!hangs) return status(500)(request, response);
    response.on("close", () => (closed += 1));
  });
  const { get, base } = await direct(
    t,
    along({ cdn: { url: urlOf(cdn), breaker: "b" } }, {}, {
      policy: {
        breakers: { b: breaker },
        limits: [{ name: "held", algorithm: "concurrency", key: [], quota: { permits: 1 } }],
      },
    }),
  );
  for (let left = 3; left > 0; left -= 1) assert.equal((await get("/")).status, 500);
  hangs = true;
  // The probe.
  const probed = async () => {
    const socket = connect(base.port, base.hostname);
    socket.on("error", () => {});
    const before = cdn.seen;
    socket.write("GET /probe HTTP/1.1\r\nhost: example.com\r\n\r\n");
    for (let left = 10; left > 0 && cdn.seen === before; left -= 1) await new Promise((resolve) => setTimeout(resolve, 50));
    if (cdn.seen > before) return socket;
    socket.destroy();
  };
  let socket;
  await until(async () => (socket = await probed()));
  assert.equal((await get("/")).status, 429, "the permit is held");
  socket.resetAndDestroy();
  await until(() => closed === 1);
  hangs = false;
  // Its place as a probe is free at once: this request is the probe, fails, and opens the breaker again.
  await until(async () => (await get("/")).status !== 429);
  assert.equal(cdn.seen, 5);
});

test("an upstream without a URL is the zone's own origin", async (t) => {
  const policy = along({ cdn: nowhere, origin: { cluster: "origin" } });
  const { get } = await worker(t, policy, (request, response) => {
    if (request.headers["x-asked"] !== "example.com") return response.writeHead(500).end();
    response.end(`${request.method} ${request.url}`);
  });
  const answer = await get("/a?b");
  assert.equal(await answer.text(), "GET /a?b");
  assert.equal(answer.headers.get("x-tidegate"), "upstream=origin; step=fallback");
});

test("a policy that only observes asks the first upstream, and delivers what it says", async (t) => {
  const cdn = await listen(t, status(500));
  const policy = along({ cdn: urlOf(cdn), origin: nowhere }, {}, { policy: { mode: "observe" } });
  const { get } = await direct(t, policy);
  assert.equal((await get("/")).status, 500);
});

test("the page of status tells how breakers stand, what served, and what was counted", async (t) => {
  const origin = await listen(t, ok);
  const policy = along(
    { cdn: { url: nowhere, breaker: "b" }, origin: urlOf(origin) },
    { static: { status: 503 } },
    {
      policy: {
        breakers: { b: { ...breaker, open: { initial: "60s", jitter_percent: 0 } } },
        limits: [{ name: "api", match: { path: "/limited" }, key: [], quota: { permits: 2, window: "31d" } }],
        status: { token_sha256: "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad" },
      },
    },
  );
  const { get } = await direct(t, policy);
  for (let left = 4; left > 0; left -= 1) await (await get("/limited")).text();
  for (let left = 3; left > 0; left -= 1) await (await get("/")).text();
  const status = await (await get("/tidegate/status", { headers: { authorization: "Bearer abc" } })).json();
  const [{ name, state, failures, rejected, opened }] = status.breakers;
  assert.deepEqual({ name, state, failures, rejected, opened }, { name: "cdn", state: "open", failures: 3, rejected: 2, opened: 1 });
  assert.deepEqual(
    status.upstreams.map(({ name, served }) => [name, served]),
    [
      ["cdn", 0],
      ["origin", 5],
    ],
  );
  assert.deepEqual(status.requests, [
    { limit: "api", tier: "default", admitted: 2, refused: 2, observed: 0, banned: 0, delayed: 0 },
  ]);
  assert.equal(status.totals.kept, 0);
  assert.ok("store_failures" in status.totals);
});
