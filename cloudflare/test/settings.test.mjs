import assert from "node:assert/strict";
import { test } from "node:test";
import { locations, until, worker } from "./worker.mjs";

const policy = (permits, more) => ({
  version: 1,
  limits: [{ name: "api", algorithm: "fixed-window", quota: { permits, window: "31d" } }],
  ...more,
});

/** A Worker with these values in its KV namespace when it starts. `later` moves its clock past the next read of KV. */
const withKv = async (t, values, { origin, ...options } = {}) => {
  const it = await worker(t, policy(2), origin, { world: "(env) => env", kvNamespaces: ["TIDEGATE"], ...options });
  const kv = await it.miniflare.getKVNamespace("TIDEGATE");
  const put = (key, value) => kv.put(key, typeof value === "string" ? value : JSON.stringify(value));
  for (const [key, value] of Object.entries(values)) await put(key, value);
  let ahead = 0;
  const status = async (headers) => {
    const answer = await it.get("/", { headers: { "x-test-ahead-ms": String(ahead), ...headers } });
    await answer.text();
    return answer.status;
  };
  const later = () => (ahead += 31_000);
  return { ...it, kv, put, status, later };
};

const times = async (count, ask) => {
  const seen = [];
  for (let left = count; left > 0; left -= 1) seen.push(await ask());
  return seen;
};

test("the first request goes by the policy in KV, and without one by that of the deployment", async (t) => {
  const three = await withKv(t, { policy: policy(3) });
  assert.deepEqual(await times(4, three.status), [200, 200, 200, 429]);
  const none = await withKv(t, {});
  assert.deepEqual(await times(3, none.status), [200, 200, 429]);
});

test("a new policy in KV is in force within a minute, and counts go on", async (t) => {
  const { status, put, later } = await withKv(t, {});
  assert.deepEqual(await times(3, status), [200, 200, 429]);
  await put("policy", policy(4));
  assert.equal(await status(), 429);
  later();
  await until(async () => (await status()) === 200);
  assert.deepEqual(await times(2, status), [200, 429]);
});

test("a request under way holds its permit under a new policy, and gives it back", async (t) => {
  const held = (more) => ({ version: 1, limits: [{ name: "held", algorithm: "concurrency", lease: "1h", quota: { permits: 1 } }], ...more });
  let end;
  const origin = (request, response) => {
    if (request.headers["x-slow"]) end = () => response.end("slow");
    else response.setHeader("x-old", "1").end("quick");
  };
  const { get, status, put, later } = await withKv(t, { policy: held() }, { origin });
  const slow = get("/", { headers: { "x-slow": "1" } });
  await until(() => end);
  assert.equal(await status(), 429);
  await put("policy", held({ deny: { addresses: ["192.0.2.9"] } }));
  later();
  assert.equal(await status(), 429);
  await until(async () => (await get("/", { address: "192.0.2.9" })).status === 403);
  assert.equal(await status(), 429);
  end();
  assert.equal(await (await slow).text(), "slow");
  await until(async () => (await status()) === 200);
});

test("a breaker that is open stays open under a new policy", async (t) => {
  const along = (more) => ({
    version: 1,
    upstreams: { origin: { url: "http://origin.example.net", breaker: "one" } },
    breakers: { one: { window: { time: "30s" }, consecutive_failures: 2, open: { initial: "5m" } } },
    routes: [{ name: "all", upstreams: ["origin"] }],
    ...more,
  });
  const { status, get, server, put, later } = await withKv(t, { policy: along() }, {
    origin: (_, response) => response.writeHead(500).end(),
  });
  await until(async () => (await status()) === 503);
  const seen = server.seen;
  await put("policy", along({ deny: { addresses: ["192.0.2.9"] } }));
  later();
  assert.equal(await status(), 503);
  await until(async () => (await get("/", { address: "192.0.2.9" })).status === 403);
  assert.equal(await status(), 503);
  assert.equal(server.seen, seen);
});

test("a bad policy in KV is refused with its errors, once, and the one before stays", async (t) => {
  const { status, put, later, log } = await withKv(t, { policy: policy(1) });
  assert.equal(await status(), 200);
  await put("policy", policy(0));
  for (let times = 3; times > 0; times -= 1) {
    later();
    assert.equal(await status(), 429);
    await until(() => log.some((line) => line.includes("the policy before stays in force")));
  }
  const errors = log.filter((line) => line.includes("policy error"));
  assert.equal(errors.length, 1, log.join("\n"));
  assert.ok(errors[0].includes("/limits/0/quota/permits"));
});

test("a bad policy in KV at the start leaves that of the deployment, and the log says which is in force", async (t) => {
  const { status, log } = await withKv(t, { policy: "{" });
  assert.deepEqual(await times(3, status), [200, 200, 429]);
  await until(() => log.some((line) => line.includes("policy error")));
  await until(() => log.some((line) => line.includes("KV's policy is bad, policy.json is in force")));
});

test("a mode in KV stands in place of the policy's, until it is cleared", async (t) => {
  const { status, put, later, kv, log } = await withKv(t, { mode: "maintenance\n" });
  assert.equal(await status(), 503);
  await put("mode", "observe");
  later();
  await until(async () => (await status()) === 200);
  assert.deepEqual(await times(3, status), [200, 200, 200]);
  await put("mode", "strct");
  later();
  assert.equal(await status(), 200);
  await until(() => log.some((line) => line.includes('"strct" is not a mode; write one of "enforce"')));
  assert.deepEqual(await times(3, status), [200, 200, 200]);
  await kv.delete("mode");
  later();
  await until(async () => (await status()) === 429);
});

test("a mode is in force though the policy beside it is bad, from the start or later", async (t) => {
  const later = await withKv(t, { policy: policy(1) });
  assert.deepEqual(await times(2, later.status), [200, 429]);
  await later.put("policy", policy(0));
  later.later();
  await until(async () => (await later.status()) === 429 && later.log.some((line) => line.includes("the policy before stays in force")));
  await later.put("mode", "maintenance");
  later.later();
  await until(async () => (await later.status()) === 503);
  await later.kv.delete("mode");
  later.later();
  // Still KV's earlier policy, and not the deployed one.
  await until(async () => (await later.status()) === 429);
  assert.equal(later.log.filter((line) => line.includes("policy error")).length, 1, later.log.join("\n"));
  const start = await withKv(t, { policy: "{", mode: "maintenance" });
  assert.deepEqual(await times(2, start.status), [503, 503]);
});

test("an instance that fails is followed by one that knows the policy in KV, without asking for it", async (t) => {
  const dist = new URL("../../target/cloudflare-panics/", import.meta.url);
  const { status, kv, log } = await withKv(t, { policy: policy(1), mode: "enforce" }, { dist });
  assert.deepEqual(await times(2, status), [200, 429]);
  await kv.delete("policy");
  assert.equal(await status({ "x-tidegate-panic": "1" }), 200);
  await until(() => log.some((line) => line.includes("as the request asked")));
  assert.deepEqual(await times(2, status), [200, 429]);
});

test("a KV namespace that hangs keeps the first request waiting for a second, and no other", async (t) => {
  const world = "() => ({ TIDEGATE: { get: () => new Promise(() => {}) } })";
  const { get, log } = await worker(t, policy(2), undefined, { world });
  const took = [];
  for (let left = 2; left > 0; left -= 1) {
    const began = Date.now();
    assert.equal((await get("/")).status, 200);
    took.push(Date.now() - began);
  }
  assert.ok(took[0] >= 990 && took[0] < 5_000 && took[1] < 900, `${took}`);
  assert.equal((await get("/")).status, 429);
  await until(() => log.some((line) => line.includes("KV cannot be read")));
});

const along = {
  version: 1,
  upstreams: { origin: { url: "http://origin.example.net", breaker: "one" } },
  breakers: { one: { window: { time: "30s" }, consecutive_failures: 2, open: { initial: "5m", jitter_percent: 0 } } },
  routes: [{ name: "all", upstreams: ["origin"] }],
};

const code = async (answer) => {
  const { status, body } = await answer;
  await body?.cancel();
  return status;
};

test("a breaker that opens in one location is open in the others when KV shows it", async (t) => {
  const { get, kv, server } = await locations(t, along, { origin: (_, response) => response.writeHead(500).end() });
  assert.equal(await code(get(1, "/")), 500);
  await until(async () => (await code(get(0, "/"))) === 503);
  await until(async () => (await kv.get("breakers")) !== null);
  const seen = server.seen;
  const later = { headers: { "x-test-ahead-ms": "31000" } };
  await until(async () => (await code(get(1, "/", later))) === 503);
  assert.ok(server.seen <= seen + 1, "the other location had one failure to go");
  // A location that starts later knows at once, or nearly so.
  await until(async () => (await code(get(2, "/"))) === 503);
});

test("a location that sees KV as it was a minute ago takes no breaker for open that is not", async (t) => {
  let well = false;
  const origin = (_, response) => response.writeHead(well ? 200 : 500).end();
  // The third location sees the values that the test puts under `seen/`.
  const world = `(env) => ({ ...env, TIDEGATE: { get: (key) => env.TIDEGATE.get("seen/" + key), put: () => {} } })`;
  const { get, kv, server } = await locations(t, along, { origin, worlds: [undefined, undefined, world] });
  await until(async () => (await code(get(0, "/"))) === 503);
  await until(async () => (await kv.get("breakers")) !== null);
  await kv.put("seen/breakers", await kv.get("breakers"));
  well = true;
  // By then the open state has been over for a minute.
  const later = { headers: { "x-test-ahead-ms": "360000" } };
  for (let left = 3; left > 0; left -= 1) {
    assert.equal(await code(get(2, "/", later)), 200);
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
});
