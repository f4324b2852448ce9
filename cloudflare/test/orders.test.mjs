import assert from "node:assert/strict";
import { test } from "node:test";
import { until, worker } from "./worker.mjs";

const TOKEN = { authorization: "Bearer abc" };
const policy = {
  version: 1,
  status: { token_sha256: "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad" },
  limits: [{ name: "api", algorithm: "fixed-window", quota: { permits: 1, window: "31d" } }],
};

const start = async (t, more = {}, { origin, ...options } = {}) => {
  const it = await worker(t, { ...policy, ...more }, origin, { world: "(env) => env", kvNamespaces: ["TIDEGATE"], ...options });
  const ask = async (method, path, headers = TOKEN) => {
    const answer = await it.get(path, { method, headers });
    return { status: answer.status, text: await answer.text() };
  };
  const status = async () => (await ask("GET", "/", {})).status;
  return { ...it, ask, status };
};

test("an operator sets the mode and clears it, and sees it", async (t) => {
  const { ask, status, server } = await start(t);
  assert.equal(await status(), 200);
  assert.equal(await status(), 429);
  assert.deepEqual(await ask("PUT", "/tidegate/mode/maintenance"), { status: 202, text: '{"in_force_within_s":60}\n' });
  await until(async () => (await status()) === 503);
  assert.equal(JSON.parse((await ask("GET", "/tidegate/status")).text).mode, "maintenance");
  assert.equal((await ask("DELETE", "/tidegate/mode")).status, 202);
  await until(async () => (await status()) === 429);
  assert.equal(server.seen, 1);
});

test("a dry run lets every request pass, and counts what it would have refused", async (t) => {
  const { ask, status } = await start(t);
  assert.equal((await ask("PUT", "/tidegate/mode/observe")).status, 202);
  const page = async () => JSON.parse((await ask("GET", "/tidegate/status")).text);
  await until(async () => (await page()).mode === "observe");
  for (let left = 3; left > 0; left -= 1) assert.equal(await status(), 200);
  const [{ admitted, refused, observed }] = (await page()).requests;
  assert.deepEqual({ admitted, refused, observed }, { admitted: 1, refused: 0, observed: 2 });
});

test("who does not bear the token changes nothing, and a slip is told", async (t) => {
  const { ask, status, server } = await start(t);
  assert.equal((await ask("PUT", "/tidegate/mode/maintenance", { authorization: "Bearer abd" })).text, "PUT /tidegate/mode/maintenance");
  assert.equal(server.seen, 1);
  const slip = await ask("PUT", "/tidegate/mode/maintenence");
  assert.equal(slip.status, 400);
  assert.match(JSON.parse(slip.text).error, /write one of "enforce"/);
  assert.equal(await status(), 429);
});

test("without KV, or when it fails, an operator is told", async (t) => {
  const none = await start(t, {}, { kvNamespaces: undefined });
  assert.equal((await none.ask("POST", "/tidegate/purge")).status, 503);
  const world = `(env) => ({ TIDEGATE: { get: async () => null, put: async () => { throw new Error("429 Too Many Requests") } } })`;
  const busy = await start(t, {}, { world });
  const answer = await busy.ask("PUT", "/tidegate/mode/strict");
  assert.equal(answer.status, 503);
  assert.match(JSON.parse(answer.text).error, /429 Too Many Requests/);
});

test("a purge has kept answers served no more", async (t) => {
  let well = true;
  const { ask, get } = await start(
    t,
    {
      limits: [],
      upstreams: { origin: { url: "http://origin.example.net" } },
      routes: [{ name: "all", upstreams: ["origin"], fallback: { on: ["5xx"], stale: "1h", static: { status: 503, body: "none" } } }],
    },
    {
      origin: (_, response) => {
        if (well) response.setHeader("cache-control", "max-age=60").end("kept");
        else response.writeHead(500).end();
      },
    },
  );
  const text = async () => (await ask("GET", "/page", {})).text;
  assert.equal(await text(), "kept");
  well = false;
  await until(async () => (await text()) === "kept");
  assert.equal((await ask("POST", "/tidegate/purge")).status, 202);
  await until(async () => (await text()) === "none");
});

test("a cron trigger learns of a new policy without a request", async (t) => {
  const { status, miniflare } = await start(t);
  assert.equal(await status(), 200);
  const kv = await miniflare.getKVNamespace("TIDEGATE");
  await kv.put("mode", "maintenance");
  const it = await miniflare.getWorker();
  assert.equal((await it.scheduled({ cron: "*/5 * * * *" })).outcome, "ok");
  await until(async () => (await status()) === 503);
});
