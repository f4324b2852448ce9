import assert from "node:assert/strict";
import { test } from "node:test";
import { listen, until, worker } from "./worker.mjs";

const limit = { name: "api", algorithm: "fixed-window", quota: { permits: 1, window: "31d" } };
const policy = (more) => ({ version: 1, limits: [limit], ...more });

test("a request goes to the upstream of its route, whole", async (t) => {
  const cdn = await listen(t, async (request, response) => {
    let body = "";
    for await (const piece of request) body += piece;
    response.setHeader("content-length", 3 + request.url.length + body.length).end(`cdn${request.url}${body}`);
  });
  const url = `http://127.0.0.1:${cdn.address().port}/base/`;
  const { miniflare } = await worker(
    t,
    {
      version: 1,
      limits: [{ name: "held", algorithm: "concurrency", quota: { permits: 9 } }],
      upstreams: { cdn: { url }, other: { url: "http://127.0.0.1:1" } },
      routes: [{ name: "assets", match: { path: "/assets/**" }, upstreams: ["cdn", "other"] }],
    },
    undefined,
    { outboundService: undefined, unsafeDirectSockets: [{ host: "127.0.0.1", port: 0 }] },
  );
  // miniflare's own address drops the content length.
  const base = await miniflare.unsafeGetDirectURL();
  const answer = await fetch(new URL("/assets/a%2fb?c=d&e", base), { method: "POST", body: "+body" });
  assert.equal(answer.headers.get("content-length"), "32");
  assert.equal(await answer.text(), "cdn/base/assets/a%2fb?c=d&e+body");
});

test("a request that no route is for goes to where it was going", async (t) => {
  const upstreams = { cdn: { url: "http://cdn.example.net" } };
  const routes = [{ name: "assets", match: { path: "/assets/**" }, upstreams: ["cdn"] }];
  const { get } = await worker(t, { version: 1, upstreams, routes }, (request, response) =>
    response.end(request.headers["x-asked"]),
  );
  assert.equal(await (await get("/assets/a")).text(), "cdn.example.net");
  assert.equal(await (await get("/a")).text(), "example.com");
});

test("modes, lists, tiers, bans and X-RateLimit are as in Envoy", async (t) => {
  const statuses = async (more, requests) => {
    const { get } = await worker(t, policy(more));
    const seen = [];
    for (const headers of requests) {
      const answer = await get("/", { headers });
      seen.push(answer.status);
      await answer.text();
    }
    return seen;
  };
  const cases = [
    [{ mode: "observe" }, [{}, {}], [200, 200]],
    [{ mode: "maintenance", maintenance: { body: "<p>soon</p>" } }, [{}], [503]],
    [{ mode: "maintenance", maintenance: { status: 204, body: "x" } }, [{}], [204]],
    [{ deny: { addresses: ["192.0.2.0/24"] } }, [{}], [403]],
    [{ allow: { headers: { "x-key": ["k"] } } }, [{ "x-key": "k" }, { "x-key": "k" }, {}, {}], [200, 200, 200, 429]],
    [
      {
        client: { tier: { header: "x-plan", default: "free" }, trusted_headers: ["x-plan"] },
        tiers: ["free", "gold"],
        limits: [{ ...limit, by_tier: { gold: { permits: 2, window: "31d" } } }],
      },
      [{ "x-plan": "gold" }, { "x-plan": "gold" }, { "x-plan": "gold" }],
      [200, 200, 429],
    ],
    [{ limits: [{ ...limit, ban: { after: 1, within: "1m", for: "10m" } }] }, [{}, {}, {}], [200, 429, 429]],
  ];
  for (const [more, requests, expected] of cases) {
    assert.deepEqual(await statuses(more, requests), expected, JSON.stringify(more));
  }
  const { get } = await worker(t, policy({ response: { x_ratelimit: true } }), (_, response) =>
    response.setHeader("x-ratelimit-limit", "77").setHeader("ratelimit", '"own";r=1').end("ok"),
  );
  const { headers } = await get("/");
  assert.equal(headers.get("x-ratelimit-limit"), "1");
  assert.equal(headers.get("x-ratelimit-remaining"), "0");
  assert.match(headers.get("ratelimit"), /^"own";r=1, "api";r=0;/);
});

test("countries, regions and locations have accounts of their own", async (t) => {
  const texas = { country: "US", regionCode: "TX", colo: "DFW" };
  const cases = [
    ["country", [texas, { ...texas, regionCode: "CA" }, { country: "NO" }], [200, 429, 200]],
    ["region", [texas, { ...texas, colo: "IAH" }, { ...texas, country: "XX" }], [200, 429, 200]],
    ["colo", [texas, { ...texas, country: "MX" }, { ...texas, colo: "IAH" }], [200, 429, 200]],
  ];
  for (const [part, requests, expected] of cases) {
    const { get } = await worker(t, policy({ limits: [{ ...limit, key: [part] }] }));
    const seen = [];
    for (const cf of requests) seen.push((await get("/", { cf })).status);
    assert.deepEqual(seen, expected, part);
  }
});

test("pages of status are there for those who may see them, and failing upstreams have requests shed", async (t) => {
  const { get } = await worker(
    t,
    {
      version: 1,
      status: { path: "/tidegate", addresses: ["192.0.2.1"] },
      health: { window: "10s", min_calls: 5, error_rate_percent: { degraded: 5, critical: 25 } },
      shedding: { degraded: { low_percent: 100 }, critical: { low_percent: 100, medium_percent: 100 }, rise: "1s" },
      limits: [{ ...limit, quota: { permits: 1_000_000, window: "31d" } }],
    },
    (_, response) => response.writeHead(500).end(),
  );
  const health = async () => (await (await get("/tidegate/health")).json()).health;
  assert.equal(await health(), "healthy");
  assert.equal((await get("/tidegate/status")).status, 200);
  assert.equal((await get("/tidegate/status", { address: "192.0.2.2" })).status, 500);
  await until(async () => (await get("/")).status === 503);
  assert.equal(await health(), "critical");
});
