import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";
import { until, worker } from "./worker.mjs";

/** A build whose instance a request can crash. */
const dist = new URL("../../target/cloudflare-panics/", import.meta.url);

const policy = (more) => ({
  version: 1,
  limits: [{ name: "api", algorithm: "fixed-window", quota: { permits: 2, window: "31d" } }],
  ...more,
});
const panics = { headers: { "x-tidegate-panic": "1" } };

test("a visitor never sees a panic, and the next request is limited, by counts that begin anew", async (t) => {
  const { get, log, server } = await worker(t, policy(), undefined, { dist });
  assert.equal((await get("/a")).status, 200);
  assert.equal((await get("/b")).status, 200);
  assert.equal((await get("/c")).status, 429);
  const saved = await get("/d", panics);
  assert.equal(saved.status, 200);
  assert.equal(await saved.text(), "GET /d");
  assert.equal((await get("/e", { ...panics, method: "POST", body: "kept" })).status, 200);
  const statuses = [];
  for (const path of ["/f", "/g", "/h"]) statuses.push((await get(path)).status);
  assert.deepEqual(statuses, [200, 200, 429]);
  assert.equal(server.seen, 6);
  await until(() => log.some((line) => line.includes("as the request asked")));
  assert.ok(log.some((line) => line.includes("tidegate: the request is let pass")));
});

test("a policy that says so refuses what cannot be decided", async (t) => {
  const { get, server } = await worker(t, policy({ on_failure: "refuse" }), undefined, { dist });
  const refused = await get("/a", panics);
  assert.equal(refused.status, 503);
  assert.equal(refused.headers.get("retry-after"), "1");
  assert.deepEqual(await refused.json(), { error: "service unavailable", retryAfter: 1 });
  assert.equal(server.seen, 0);
  assert.equal((await get("/a")).status, 200);
});

test("a request that is under way when the instance fails gets its answer", async (t) => {
  let answer;
  const holds = { limits: [{ name: "held", algorithm: "concurrency", quota: { permits: 1 } }] };
  const origin = (request, response) => {
    if (request.url === "/slow") answer = () => response.end("slow");
    else response.end("quick");
  };
  const { get } = await worker(t, policy(holds), origin, { dist });
  const slow = get("/slow");
  await until(() => answer);
  assert.equal((await get("/a")).status, 429);
  assert.equal((await get("/a", panics)).status, 200);
  assert.equal((await get("/a")).status, 200);
  answer();
  assert.equal(await (await slow).text(), "slow");
  assert.equal((await get("/a")).status, 200);
});

const delays = {
  limits: [
    {
      name: "turns",
      algorithm: "token-bucket",
      quota: { permits: 1, window: "900ms", burst: 1 },
      on_exceed: "delay",
      max_delay: "1s",
    },
  ],
};

test("a request whose wait does not end is let pass at the deadline", async (t) => {
  const { get, log } = await worker(t, policy(delays), undefined, { dist });
  assert.equal((await get("/a")).status, 200);
  const began = Date.now();
  const saved = await get("/b", { headers: { "x-tidegate-hang": "1" } });
  assert.equal(await saved.text(), "GET /b");
  const took = Date.now() - began;
  assert.ok(took >= 1_900 && took < 8_000, `${took} ms`);
  await until(() => log.some((line) => line.includes("no verdict within the deadline")));
});

test("a request that waits when the instance fails is let pass", async (t) => {
  const alone = { limits: [{ ...delays.limits[0], max_waiting: 1 }] };
  const { get } = await worker(t, policy(alone), undefined, { dist });
  assert.equal((await get("/a")).status, 200);
  // Only one can wait: as soon as either is refused, the other waits.
  const both = [get("/b"), get("/b")];
  assert.equal((await Promise.race(both)).status, 429);
  assert.equal((await get("/c", panics)).status, 200);
  const answers = await Promise.all(both);
  assert.equal(await answers.find(({ status }) => status !== 429).text(), "GET /b");
});

test("under a bad policy every request passes, and the log has every error, once", async (t) => {
  const bad = { version: 1, limits: [{ name: "A", quota: { permits: 0, window: "60s" } }] };
  const { get, log } = await worker(t, bad);
  for (let left = 3; left > 0; left -= 1) assert.equal(await (await get("/a")).text(), "GET /a");
  const errors = () => log.filter((line) => line.includes("tidegate: policy error"));
  await until(() => errors().length > 0);
  assert.equal(errors().length, 2, log.join("\n"));
  // Hints are left to the command line, because the Worker must be small.
  const [name, permits] = errors();
  assert.ok(name.endsWith('/limits/0/name: "A" is not a name; `tidegate check` says what would be right'), name);
  assert.ok(permits.endsWith("/limits/0/quota/permits: 0 is out of range; `tidegate check` says what would be right"), permits);
});

test("what is shipped cannot be asked to panic, or to hang", async (t) => {
  const wasm = (directory) => readFileSync(new URL("pkg/tidegate_bg.wasm", directory), "latin1");
  for (const header of ["x-tidegate-panic", "x-tidegate-hang"]) {
    assert.ok(wasm(dist).includes(header), "the test build lacks what the test looks for");
    assert.ok(!wasm(new URL("../../dist/cloudflare/", import.meta.url)).includes(header));
  }
  const { get } = await worker(t, policy({ on_failure: "refuse" }));
  assert.equal((await get("/a", panics)).status, 200);
});
