import assert from "node:assert/strict";
import { test } from "node:test";
import { locations, passing, shareFifty, status, until, worker } from "./worker.mjs";

const policy = (limit, more) => ({
  version: 1,
  limits: [
    { name: "api", algorithm: "fixed-window", quota: { permits: 50, window: "31d" }, scope: "global", on_store_failure: "deny", ...limit },
  ],
  // The machine may be slow.
  stores: { deadline: "5s" },
  ...more,
});

for (const [algorithm, sharing] of [
  ["fixed-window", "lease"],
  ["sliding-window", "lease"],
  ["token-bucket", "lease"],
  ["fixed-window", "exact"],
]) {
  test(`three locations together have one quota (${algorithm}, ${sharing})`, async (t) => {
    const { get } = await locations(t, policy({ algorithm, sharing }));
    await shareFifty(get, algorithm);
  });
}

test("what a location has drawn ahead goes back though no request comes there any more", async (t) => {
  const { get } = await locations(t, policy());
  let passed = 0;
  for (let left = 12; left > 0; left -= 1) passed += (await status(get(0, "/"))) === 200 ? 1 : 0;
  assert.equal(passed, 12);
  await until(async () => (passed += (await status(get(1, "/"))) === 200 ? 1 : 0) === 50);
  assert.equal(await status(get(1, "/")), 429);
});

test("objects that are evicted between requests lose no count", async (t) => {
  const { get, shards } = await locations(t, policy({ sharing: "exact" }));
  let passed = 0;
  for (let round = 0; round < 6; round += 1) {
    passed += await passing(get, 12);
    await Promise.all(shards.map((shard) => shard.leave().catch(() => {})));
  }
  assert.equal(passed, 50);
});

test("an object that hangs costs a request the deadline, and then the policy decides", async (t) => {
  for (const [on_store_failure, expected] of [["allow", 200], ["deny", 503], ["local", 200]]) {
    const { get, shards, log } = await locations(t, policy({ on_store_failure, sharing: "exact" }, { stores: { deadline: "50ms" } }));
    await Promise.all(shards.map((shard) => shard.fault("hang")));
    const seen = [];
    const took = [];
    for (let left = 4; left > 0; left -= 1) {
      const began = Date.now();
      seen.push(await status(get(0, "/")));
      took.push(Date.now() - began);
    }
    assert.deepEqual(seen, [expected, expected, expected, expected], on_store_failure);
    assert.ok(took[0] >= 49 && took.slice(1).every((ms) => ms < 500), `${took}`);
  }
});

test("objects that throw leave it to the policy, and are asked again when they are well", async (t) => {
  const { get, shards, log } = await locations(t, policy({ on_store_failure: "deny", sharing: "exact" }));
  await Promise.all(shards.map((shard) => shard.fault("throw")));
  assert.equal(await status(get(0, "/")), 503);
  await until(() => log.some((line) => line.includes("the authority over shared limits cannot be asked")));
  await Promise.all(shards.map((shard) => shard.fault()));
  await until(async () => (await status(get(0, "/"))) === 200);
});

test("objects that are overloaded cost a request the deadline at most, and what they grant late is not lost", async (t) => {
  const slow = { on_store_failure: "deny", sharing: "exact" };
  const { get, shards } = await locations(t, policy(slow, { stores: { deadline: "100ms" } }));
  await Promise.all(shards.map((shard) => shard.fault("slow")));
  const began = Date.now();
  assert.deepEqual(await Promise.all(Array.from({ length: 12 }, (_, at) => status(get(at % 3, "/")))), Array(12).fill(503));
  assert.ok(Date.now() - began < 2_000);
  await Promise.all(shards.map((shard) => shard.fault()));
  await until(async () => (await status(get(0, "/"))) === 200);
  let passed = 1;
  await until(async () => (passed += await passing(get, 6)) >= 50);
  assert.equal(passed + (await passing(get, 12)), 50);
});

test("what objects have counted stays counted when the core fails, and the next request is limited as before", async (t) => {
  const dist = new URL("../../target/cloudflare-panics/", import.meta.url);
  const limit = { sharing: "exact", quota: { permits: 3, window: "31d" } };
  const { get, log } = await locations(t, policy(limit), { dist });
  assert.equal(await passing(get, 2), 2);
  assert.equal(await status(get(0, "/", { headers: { "x-tidegate-panic": "1" } })), 200);
  await until(() => log.some((line) => line.includes("as the request asked")));
  assert.equal(await status(get(0, "/")), 200);
  assert.equal(await status(get(0, "/")), 429);
});

test("without the objects every isolate counts by itself, and says so", async (t) => {
  const { get, log } = await worker(t, policy({ quota: { permits: 2, window: "31d" } }));
  const seen = [];
  for (let left = 3; left > 0; left -= 1) seen.push(await status(get("/")));
  assert.deepEqual(seen, [200, 200, 429]);
  const said = () => log.filter((line) => line.includes("there is no Durable Object"));
  await until(() => said().length > 0);
  assert.equal(said().length, 1);
});
